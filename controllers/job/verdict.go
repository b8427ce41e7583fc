package job

import (
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// verdict decides whether a Job is over. It returns the condition that says
// so, SuccessCriteriaMet or FailureTarget, or nil; again is when a deadline
// has to be looked at.
//
// A condition that has been written stays: what a user has seen is not taken
// back.
//
// Upstream: kubernetes/kubernetes pkg/controller/job syncJob
func verdict(s snapshot, t tally) (decided *batchv1.JobCondition, again time.Duration) {
	for _, kind := range []batchv1.JobConditionType{batchv1.JobSuccessCriteriaMet, batchv1.JobFailureTarget} {
		if c := condition(s.job, kind); c != nil && c.Status == corev1.ConditionTrue {
			return c, 0
		}
	}
	fail := func(reason, message string) (*batchv1.JobCondition, time.Duration) {
		return newCondition(s.now, batchv1.JobFailureTarget, reason, message), 0
	}
	for _, pod := range s.pods {
		if !hasFailed(s.job, pod) {
			continue
		}
		if j := judgeFailure(s.job, pod); j.action == batchv1.PodFailurePolicyActionFailJob {
			return fail(batchv1.JobReasonPodFailurePolicy, j.message)
		}
	}
	if t.failed > int(*s.job.Spec.BackoffLimit) || restartedTooOften(s) {
		return fail(batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit")
	}
	if limit, start := s.job.Spec.ActiveDeadlineSeconds, s.job.Status.StartTime; limit != nil && start != nil && !s.suspended() {
		if again = start.Add(time.Duration(*limit) * time.Second).Sub(s.now); again <= 0 {
			return fail(batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline")
		}
	}
	if lost := t.lost.count(); s.perIndex() && lost > 0 {
		switch limit := s.job.Spec.MaxFailedIndexes; {
		case limit != nil && lost > int(*limit):
			return fail(batchv1.JobReasonMaxFailedIndexesExceeded, "Job has exceeded the specified maximal number of failed indexes")
		case lost+t.succeeded >= int(*s.job.Spec.Completions):
			return fail(batchv1.JobReasonFailedIndexes, "Job has failed indexes")
		}
	}
	if message := successPolicyMet(s, t); message != "" {
		return newCondition(s.now, batchv1.JobSuccessCriteriaMet, batchv1.JobReasonSuccessPolicy, message), 0
	}
	if len(t.active) == 0 && enough(s.job, t) {
		return newCondition(s.now, batchv1.JobSuccessCriteriaMet, batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods"), 0
	}
	return nil, again
}

// enough says whether as many pods succeeded as were asked for. Without
// completions the pods agree among themselves, and the first success tells.
func enough(job *batchv1.Job, t tally) bool {
	if job.Spec.Completions == nil {
		return t.succeeded > 0
	}
	return t.succeeded >= int(*job.Spec.Completions)
}

// restartedTooOften counts the restarts of containers that a pod makes itself.
func restartedTooOften(s snapshot) bool {
	if s.job.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyOnFailure {
		return false
	}
	restarts := int32(0)
	for _, pod := range s.pods {
		if pod.Status.Phase != corev1.PodRunning && pod.Status.Phase != corev1.PodPending {
			continue
		}
		for _, c := range pod.Status.InitContainerStatuses {
			restarts += c.RestartCount
		}
		for _, c := range pod.Status.ContainerStatuses {
			restarts += c.RestartCount
		}
	}
	return restarts > 0 && restarts >= *s.job.Spec.BackoffLimit
}

// successPolicyMet says which rule of the success policy holds.
func successPolicyMet(s snapshot, t tally) string {
	if s.job.Spec.SuccessPolicy == nil || len(t.done) == 0 {
		return ""
	}
	for i, rule := range s.job.Spec.SuccessPolicy.Rules {
		have, all := t.done.count(), -1
		if rule.SucceededIndexes != nil {
			required := s.parse(*rule.SucceededIndexes)
			have, all = required.common(t.done), required.count()
		}
		if have == all || rule.SucceededCount != nil && have >= int(*rule.SucceededCount) {
			return fmt.Sprintf("Matched rules at index %d", i)
		}
	}
	return ""
}

func newCondition(now time.Time, kind batchv1.JobConditionType, reason, message string) *batchv1.JobCondition {
	return &batchv1.JobCondition{
		Type: kind, Status: corev1.ConditionTrue, Reason: reason, Message: message,
		LastProbeTime: metav1.NewTime(now), LastTransitionTime: metav1.NewTime(now),
	}
}

// condition returns a Job's condition of a type, or nil.
func condition(job *batchv1.Job, kind batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range job.Status.Conditions {
		if job.Status.Conditions[i].Type == kind {
			return &job.Status.Conditions[i]
		}
	}
	return nil
}

// finished says whether a Job has ended, one way or the other.
func finished(job *batchv1.Job) bool {
	for _, c := range job.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return true
		}
	}
	return false
}
