package job

import (
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"tinykube/controllers/harness"
)

// replacesOnlyFailed says whether a pod that is on its way out holds its place
// until it is gone, instead of counting as failed at once.
func replacesOnlyFailed(job *batchv1.Job) bool {
	return job.Spec.PodFailurePolicy != nil || job.Spec.PodReplacementPolicy != nil && *job.Spec.PodReplacementPolicy == batchv1.Failed
}

// hasFailed says whether a pod counts as failed.
func hasFailed(job *batchv1.Job, pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodFailed ||
		pod.DeletionTimestamp != nil && pod.Status.Phase != corev1.PodSucceeded && !replacesOnlyFailed(job)
}

// judgement is what a Job's pod failure policy says of a failed pod.
type judgement struct {
	action  batchv1.PodFailurePolicyAction // empty if no rule fits
	message string                         // for FailJob
}

// counts says whether the failure counts towards backoffLimit.
func (j judgement) counts() bool { return j.action != batchv1.PodFailurePolicyActionIgnore }

// judgeFailure finds the first rule that fits.
//
// Upstream: kubernetes/kubernetes pkg/controller/job/pod_failure_policy.go matchPodFailurePolicy
func judgeFailure(job *batchv1.Job, pod *corev1.Pod) judgement {
	if job.Spec.PodFailurePolicy == nil {
		return judgement{}
	}
	for i, rule := range job.Spec.PodFailurePolicy.Rules {
		if rule.OnExitCodes != nil {
			if status := exited(pod, rule.OnExitCodes); status != nil {
				return judgement{rule.Action, fmt.Sprintf("Container %s for pod %s/%s failed with exit code %v matching %v rule at index %d",
					status.Name, pod.Namespace, pod.Name, status.State.Terminated.ExitCode, rule.Action, i)}
			}
			continue
		}
		for _, pattern := range rule.OnPodConditions {
			if c := harness.PodCondition(pod, pattern.Type); c != nil && c.Status == pattern.Status {
				return judgement{rule.Action, fmt.Sprintf("Pod %s/%s has condition %v matching %v rule at index %d",
					pod.Namespace, pod.Name, c.Type, rule.Action, i)}
			}
		}
	}
	return judgement{}
}

// exited finds a container that ended with one of a rule's exit codes. Zero
// never fits: it is no failure.
func exited(pod *corev1.Pod, rule *batchv1.PodFailurePolicyOnExitCodesRequirement) *corev1.ContainerStatus {
	statuses := slices.Concat(pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses)
	i := slices.IndexFunc(statuses, func(s corev1.ContainerStatus) bool {
		end := s.State.Terminated
		if end == nil || end.ExitCode == 0 || rule.ContainerName != nil && *rule.ContainerName != s.Name {
			return false
		}
		return slices.Contains(rule.Values, end.ExitCode) == (rule.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn)
	})
	if i < 0 {
		return nil
	}
	return &statuses[i]
}

// A pod that failed is replaced after 10 s, 20 s, 40 s … up to ten minutes.
//
// Upstream: kubernetes/kubernetes pkg/controller/job DefaultJobPodFailureBackOff, MaxJobPodFailureBackOff
const (
	firstBackoff = 10 * time.Second
	maxBackoff   = 10 * time.Minute
)

// backoff is how long to wait after so many failures, the last at a time.
func backoff(failures int, last, now time.Time) time.Duration {
	if failures == 0 {
		return 0
	}
	delay := firstBackoff
	for range failures - 1 {
		if delay *= 2; delay >= maxBackoff {
			delay = maxBackoff
			break
		}
	}
	return max(0, last.Add(delay).Sub(now))
}

// failuresInARow counts what failed since anything last succeeded. It is read
// off the pods, so a restart forgets nothing.
//
// Simplified: pods that were deleted are forgotten; upstream remembers them
// until it restarts.
func failuresInARow(job *batchv1.Job, pods []*corev1.Pod) (n int, last time.Time) {
	var success time.Time
	for _, pod := range pods {
		if at := finishedAt(pod); pod.Status.Phase == corev1.PodSucceeded && at.After(success) {
			success = at
		}
	}
	for _, pod := range pods {
		at := finishedAt(pod)
		if !hasFailed(job, pod) || !at.After(success) {
			continue
		}
		n++
		if at.After(last) {
			last = at
		}
	}
	return n, last
}

// finishedAt is when a pod ended: when its last container did, or else when it
// stopped being ready, was deleted, or was made.
func finishedAt(pod *corev1.Pod) time.Time {
	var last time.Time
	for _, s := range pod.Status.ContainerStatuses {
		if s.State.Terminated == nil || s.State.Terminated.FinishedAt.IsZero() {
			last = time.Time{}
			break
		}
		if end := s.State.Terminated.FinishedAt.Time; end.After(last) {
			last = end
		}
	}
	switch c := harness.PodCondition(pod, corev1.PodReady); {
	case !last.IsZero():
		return last
	case c != nil && c.Status == corev1.ConditionFalse && !c.LastTransitionTime.IsZero():
		return c.LastTransitionTime.Time
	case pod.DeletionTimestamp != nil:
		grace := int64(0)
		if pod.DeletionGracePeriodSeconds != nil {
			grace = *pod.DeletionGracePeriodSeconds
		}
		return pod.DeletionTimestamp.Add(-time.Duration(grace) * time.Second)
	}
	return pod.CreationTimestamp.Time
}
