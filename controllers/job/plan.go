package job

import (
	"cmp"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"tinykube/controllers/harness"
)

// burst bounds what one reconcile creates or deletes.
// Upstream: kubernetes/kubernetes pkg/controller/job MaxPodCreateDeletePerSync
const burst = 500

// plan is what has to happen to the pods.
type plan struct {
	create []int // completion indexes; -1 for a pod without one
	delete []*corev1.Pod
	// uncounted says that what is deleted was not wanted any more: it is not a
	// failure and loses its finalizer first.
	uncounted bool
	again     time.Duration // when a failed pod may be replaced
}

// makePlan compares the pods that run with those that should.
//
// Upstream: kubernetes/kubernetes pkg/controller/job manageJob
func makePlan(s snapshot, t tally, decided *batchv1.JobCondition) plan {
	switch {
	case s.job.DeletionTimestamp != nil:
		return plan{}
	case decided != nil:
		return plan{delete: t.active}
	case s.suspended():
		return plan{delete: t.active, uncounted: true}
	}
	want := wanted(s.job, t)
	if remove := superfluous(s, t.active, want); len(remove) > 0 {
		return plan{delete: remove[:min(len(remove), burst)], uncounted: true}
	}
	missing := want - len(t.active)
	if replacesOnlyFailed(s.job) {
		missing -= int(t.terminating)
	}
	if missing <= 0 {
		return plan{}
	}
	missing = min(missing, burst)
	if !s.perIndex() {
		failures, last := failuresInARow(s.job, s.pods)
		if wait := backoff(failures, last, s.now); wait > 0 {
			return plan{again: wait}
		}
	}
	if !s.indexed() {
		return plan{create: slices.Repeat([]int{-1}, missing)}
	}
	return createIndexes(s, t, missing)
}

// wanted is how many pods should run at the same time now.
func wanted(job *batchv1.Job, t tally) int {
	parallelism := int(*job.Spec.Parallelism)
	if job.Spec.Completions != nil {
		return max(0, min(parallelism, int(*job.Spec.Completions)-t.succeeded))
	}
	if t.succeeded > 0 {
		return len(t.active) // let them end, start no more
	}
	return parallelism
}

// superfluous picks the pods to stop: two of one index, indexes that are not
// asked for, and of the rest those that got the least far.
func superfluous(s snapshot, active []*corev1.Pod, want int) []*corev1.Pod {
	active = slices.Clone(active)
	slices.SortStableFunc(active, func(a, b *corev1.Pod) int {
		return cmp.Or(cmp.Compare(progress(a), progress(b)), b.CreationTimestamp.Compare(a.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	var remove, keep []*corev1.Pod
	seen := map[int]bool{}
	for _, pod := range slices.Backward(active) {
		if i, ok := indexOf(pod); s.indexed() && (!ok || i >= int(*s.job.Spec.Completions) || seen[i]) {
			remove = append(remove, pod)
		} else {
			keep, seen[i] = append(keep, pod), true
		}
	}
	if len(keep) > want {
		remove = append(remove, keep[want:]...)
	}
	return remove
}

// progress orders pods by how much is lost when they are stopped.
func progress(pod *corev1.Pod) int {
	switch {
	case pod.Spec.NodeName == "":
		return 0
	case pod.Status.Phase != corev1.PodRunning:
		return 1
	case !harness.IsReady(pod):
		return 2
	}
	return 3
}

// createIndexes picks the lowest indexes that have no pod. Where each index
// has its own backoff, those that still wait are passed over.
func createIndexes(s snapshot, t tally, missing int) plan {
	taken := t.done.with(t.lost)
	var busy indexes
	for _, pod := range s.pods {
		i, ok := indexOf(pod)
		if ok && (harness.IsActive(pod) || replacesOnlyFailed(s.job) && !harness.IsFinished(pod)) {
			busy = append(busy, span{i, i})
		}
	}
	var p plan
	for _, i := range taken.with(busy).missing(missing, int(*s.job.Spec.Completions)) {
		if before := t.replaced[i]; before != nil {
			if wait := backoff(indexFailures(before)+1, finishedAt(before), s.now); wait > 0 {
				p.again = harness.Sooner(p.again, wait)
				continue
			}
		}
		p.create = append(p.create, i)
	}
	return p
}
