package job

import (
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// maxUncounted bounds how many pods are being counted at a time, so that the
// status stays small.
// Upstream: kubernetes/kubernetes pkg/controller/job MaxUncountedPods
const maxUncounted = 500

// makeStatus computes the status, and the pods that may lose their finalizer
// once it is written.
//
// Invariant: no finalizer is removed before the write that counts its pod, and
// no UID leaves uncountedTerminatedPods before its finalizer is gone.
func makeStatus(s snapshot, t tally, decided *batchv1.JobCondition) (status batchv1.JobStatus, release []*corev1.Pod) {
	status = *s.job.Status.DeepCopy()
	if status.StartTime == nil && !s.suspended() {
		status.StartTime = &metav1.Time{Time: s.now}
	}
	active, ready, terminating := int32(len(t.active)), t.ready, t.terminating
	status.Active, status.Ready, status.Terminating = active, &ready, &terminating
	if status.UncountedTerminatedPods == nil {
		status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
	}
	s.finishCounting(&status)
	release = s.startCounting(&status, t, decided)
	if s.indexed() {
		status.CompletedIndexes, status.Succeeded = t.done.String(), int32(t.done.count())
		if s.perIndex() {
			lost := t.lost.String()
			status.FailedIndexes = &lost
		}
	}
	switch uncounted := status.UncountedTerminatedPods; {
	case decided == nil:
		s.setSuspended(&status)
	case condition(s.job, decided.Type) == nil:
		status.Conditions = append(status.Conditions, *decided)
	case len(uncounted.Succeeded)+len(uncounted.Failed)+len(release) == 0 && active+terminating == 0:
		s.end(&status, decided)
	}
	return status, release
}

// finishCounting is step 3: whose finalizer is gone is counted.
func (s snapshot) finishCounting(status *batchv1.JobStatus) {
	tracked := s.trackedUIDs()
	counted := func(uids *[]types.UID, counter *int32) {
		left := slices.DeleteFunc(slices.Clone(*uids), func(uid types.UID) bool { return !tracked[uid] })
		*counter += int32(len(*uids) - len(left))
		if *uids = left; len(left) == 0 {
			*uids = nil
		}
	}
	counted(&status.UncountedTerminatedPods.Succeeded, &status.Succeeded)
	counted(&status.UncountedTerminatedPods.Failed, &status.Failed)
}

// startCounting is step 1. Once a Job is decided, a pod that is stopped counts
// as failed if the Job failed, and not at all if it succeeded.
func (s snapshot) startCounting(status *batchv1.JobStatus, t tally, decided *batchv1.JobCondition) (release []*corev1.Pod) {
	uncounted := status.UncountedTerminatedPods
	for _, pod := range s.pods {
		if len(uncounted.Succeeded)+len(uncounted.Failed) >= maxUncounted {
			break
		}
		succeeded, failed := pod.Status.Phase == corev1.PodSucceeded, hasFailed(s.job, pod)
		i, _ := indexOf(pod)
		waits := failed && t.replaced[i] != nil && t.replaced[i].UID == pod.UID
		if !tracked(pod) || s.job.DeletionTimestamp == nil && decided == nil && !succeeded && (!failed || waits) {
			continue
		}
		release = append(release, pod)
		known := slices.Contains(uncounted.Failed, pod.UID) || slices.Contains(uncounted.Succeeded, pod.UID)
		lost := failed || decided != nil && decided.Type == batchv1.JobFailureTarget
		switch {
		case known || !s.counts(pod):
		case succeeded && !s.indexed(): // an index that is done speaks for itself
			uncounted.Succeeded = append(uncounted.Succeeded, pod.UID)
		case !succeeded && lost && judgeFailure(s.job, pod).counts():
			uncounted.Failed = append(uncounted.Failed, pod.UID)
		}
	}
	return release
}

// setSuspended says in a condition whether the Job is suspended. The clock of
// activeDeadlineSeconds starts anew when it resumes.
func (s snapshot) setSuspended(status *batchv1.JobStatus) {
	if s.job.DeletionTimestamp != nil {
		return
	}
	state, reason, message := corev1.ConditionFalse, "JobResumed", "Job resumed"
	if s.suspended() {
		state, reason, message = corev1.ConditionTrue, "JobSuspended", "Job suspended"
	}
	i := slices.IndexFunc(status.Conditions, func(c batchv1.JobCondition) bool { return c.Type == batchv1.JobSuspended })
	switch {
	case i < 0 && !s.suspended() || i >= 0 && status.Conditions[i].Status == state:
		return
	case i < 0:
		i = len(status.Conditions)
		status.Conditions = append(status.Conditions, batchv1.JobCondition{})
	}
	c := newCondition(s.now, batchv1.JobSuspended, reason, message)
	c.Status = state
	status.Conditions[i], status.StartTime = *c, nil
	if !s.suspended() {
		status.StartTime = &metav1.Time{Time: s.now}
	}
}

// end writes the condition that nothing follows.
func (s snapshot) end(status *batchv1.JobStatus, decided *batchv1.JobCondition) {
	kind := batchv1.JobFailed
	if decided.Type == batchv1.JobSuccessCriteriaMet {
		kind = batchv1.JobComplete
		status.CompletionTime = &metav1.Time{Time: s.now}
	}
	status.Conditions = append(status.Conditions, *newCondition(s.now, kind, decided.Reason, decided.Message))
}
