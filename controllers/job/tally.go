package job

import (
	"slices"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"tinykube/controllers/harness"
)

// snapshot is all that is decided from.
type snapshot struct {
	job  *batchv1.Job
	pods []*corev1.Pod // what the Job owns
	now  time.Time
}

// tally is what the pods and the status say together.
type tally struct {
	active      []*corev1.Pod
	ready       int32
	terminating int32
	succeeded   int // whether or not the status has it yet
	failed      int
	done, lost  indexes // of an Indexed Job
	// replaced are failed pods of indexes that have no other pod: the next one
	// takes over their count of failures, so they must stay until it exists.
	replaced map[int]*corev1.Pod
}

func count(s snapshot) tally {
	t := tally{succeeded: int(s.job.Status.Succeeded), failed: int(s.job.Status.Failed)}
	uncounted := s.uncounted()
	t.succeeded += len(uncounted.Succeeded)
	t.failed += len(uncounted.Failed)
	for _, pod := range s.pods {
		switch {
		case harness.IsActive(pod):
			t.active = append(t.active, pod)
			if harness.IsReady(pod) {
				t.ready++
			}
		case !harness.IsFinished(pod):
			t.terminating++
		}
		if !s.counts(pod) || slices.Contains(uncounted.Succeeded, pod.UID) || slices.Contains(uncounted.Failed, pod.UID) {
			continue
		}
		if pod.Status.Phase == corev1.PodSucceeded {
			t.succeeded++
		} else if hasFailed(s.job, pod) && judgeFailure(s.job, pod).counts() {
			t.failed++
		}
	}
	if s.indexed() {
		t.countIndexes(s)
	}
	return t
}

// countIndexes finds out which indexes are done, and which are given up.
func (t *tally) countIndexes(s snapshot) {
	t.done = s.parse(s.job.Status.CompletedIndexes)
	if s.job.Status.FailedIndexes != nil {
		t.lost = s.parse(*s.job.Status.FailedIndexes)
	}
	var done, lost indexes
	for _, pod := range s.pods {
		i, _ := indexOf(pod)
		switch {
		case !s.counts(pod):
		case pod.Status.Phase == corev1.PodSucceeded:
			done = append(done, span{i, i})
		case s.perIndex() && hasFailed(s.job, pod) && indexLost(s.job, pod):
			lost = append(lost, span{i, i})
		}
	}
	t.done, t.lost = t.done.with(done), t.lost.with(lost)
	t.succeeded = t.done.count()
	if s.perIndex() {
		t.findReplaced(s)
	}
}

// indexLost says whether a failed pod is the last that its index may have.
func indexLost(job *batchv1.Job, pod *corev1.Pod) bool {
	j := judgeFailure(job, pod)
	return j.action == batchv1.PodFailurePolicyActionFailIndex ||
		j.counts() && numberIn(pod, batchv1.JobIndexFailureCountAnnotation) >= int(*job.Spec.BackoffLimitPerIndex)
}

func (t *tally) findReplaced(s snapshot) {
	t.replaced = map[int]*corev1.Pod{}
	var active indexes
	for _, pod := range t.active {
		if i, ok := indexOf(pod); ok {
			active = append(active, span{i, i})
		}
	}
	settled := t.done.with(t.lost, active)
	for _, pod := range s.pods {
		i, _ := indexOf(pod)
		if !s.counts(pod) || !hasFailed(s.job, pod) || settled.has(i) {
			continue
		}
		if before := t.replaced[i]; before == nil || indexFailures(pod) >= indexFailures(before) {
			t.replaced[i] = pod
		}
	}
}

// indexFailures is how many pods of its index failed before a pod.
func indexFailures(pod *corev1.Pod) int {
	return numberIn(pod, batchv1.JobIndexFailureCountAnnotation) + numberIn(pod, batchv1.JobIndexIgnoredFailureCountAnnotation)
}

// uncounted are the pods that are in step 1 or 2 of being counted.
func (s snapshot) uncounted() batchv1.UncountedTerminatedPods {
	if s.job.Status.UncountedTerminatedPods == nil {
		return batchv1.UncountedTerminatedPods{}
	}
	return *s.job.Status.UncountedTerminatedPods
}

// counts says whether a pod has not been counted for good: it has the
// finalizer, and an index if it needs one.
func (s snapshot) counts(pod *corev1.Pod) bool {
	if !tracked(pod) {
		return false
	}
	i, ok := indexOf(pod)
	return !s.indexed() || ok && i < int(*s.job.Spec.Completions)
}

// tracked says whether a pod has the finalizer.
func tracked(pod *corev1.Pod) bool {
	return slices.Contains(pod.Finalizers, batchv1.JobTrackingFinalizer)
}

// trackedUIDs are the pods that still have the finalizer.
func (s snapshot) trackedUIDs() map[types.UID]bool {
	uids := map[types.UID]bool{}
	for _, pod := range s.pods {
		if tracked(pod) {
			uids[pod.UID] = true
		}
	}
	return uids
}

func (s snapshot) indexed() bool {
	return s.job.Spec.CompletionMode != nil && *s.job.Spec.CompletionMode == batchv1.IndexedCompletion
}

func (s snapshot) perIndex() bool { return s.indexed() && s.job.Spec.BackoffLimitPerIndex != nil }

func (s snapshot) suspended() bool { return s.job.Spec.Suspend != nil && *s.job.Spec.Suspend }

func (s snapshot) parse(text string) indexes { return parseIndexes(text, int(*s.job.Spec.Completions)) }

// indexOf is a pod's completion index.
func indexOf(pod *corev1.Pod) (int, bool) {
	i, err := strconv.Atoi(pod.Annotations[batchv1.JobCompletionIndexAnnotation])
	return i, err == nil && i >= 0
}

func numberIn(pod *corev1.Pod, annotation string) int {
	n, _ := strconv.ParseUint(pod.Annotations[annotation], 10, 31)
	return int(n)
}
