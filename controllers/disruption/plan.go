package disruption

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"tinykube/controllers/harness"
)

// deletionTimeout is how long a pod whose eviction was allowed may take to get
// its deletionTimestamp; then it counts again.
// Upstream: kubernetes/kubernetes pkg/controller/disruption DeletionTimeout
const deletionTimeout = 2 * time.Minute

// expectation is how many pods there should be, and how many must be healthy.
type expectation struct{ expected, desired int32 }

// needsScale says whether the budget is about what the owners ask for, not
// about a fixed number.
func needsScale(b *policyv1.PodDisruptionBudget) bool {
	return b.Spec.MaxUnavailable != nil || b.Spec.MinAvailable != nil && b.Spec.MinAvailable.Type == intstr.String
}

// expect computes the expectation; scale is the sum of the owners' sizes.
func expect(b *policyv1.PodDisruptionBudget, pods, scale int32) (expectation, error) {
	switch {
	case b.Spec.MaxUnavailable != nil:
		n, err := intstr.GetScaledValueFromIntOrPercent(b.Spec.MaxUnavailable, int(scale), true)
		return expectation{scale, max(0, scale-int32(n))}, err
	case b.Spec.MinAvailable == nil:
		return expectation{}, nil
	case b.Spec.MinAvailable.Type == intstr.Int:
		return expectation{pods, b.Spec.MinAvailable.IntVal}, nil
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(b.Spec.MinAvailable, int(scale), true)
	return expectation{scale, int32(n)}, err
}

// makeStatus counts. again is when a pod whose eviction was allowed counts
// again; overdue are those that do so now.
func makeStatus(b *policyv1.PodDisruptionBudget, pods []*corev1.Pod, e expectation, now time.Time) (status policyv1.PodDisruptionBudgetStatus, overdue []*corev1.Pod, again time.Duration) {
	status = policyv1.PodDisruptionBudgetStatus{
		ObservedGeneration: b.Generation, ExpectedPods: e.expected, DesiredHealthy: e.desired, DisruptedPods: map[string]metav1.Time{},
	}
	for _, pod := range pods {
		if pod.DeletionTimestamp != nil {
			continue
		}
		if since, disrupted := b.Status.DisruptedPods[pod.Name]; disrupted {
			if left := since.Add(deletionTimeout).Sub(now); left > 0 {
				status.DisruptedPods[pod.Name] = since
				again = harness.Sooner(again, left)
				continue
			}
			overdue = append(overdue, pod)
		}
		if harness.IsReady(pod) {
			status.CurrentHealthy++
		}
	}
	if e.expected > 0 {
		status.DisruptionsAllowed = max(0, status.CurrentHealthy-e.desired)
	}
	state, reason := metav1.ConditionFalse, policyv1.InsufficientPodsReason
	if status.DisruptionsAllowed > 0 {
		state, reason = metav1.ConditionTrue, policyv1.SufficientPodsReason
	}
	status.Conditions = withCondition(b, state, reason, "", b.Generation)
	return status, overdue, again
}

func withCondition(b *policyv1.PodDisruptionBudget, state metav1.ConditionStatus, reason, message string, generation int64) []metav1.Condition {
	conditions := b.DeepCopy().Status.Conditions
	meta.SetStatusCondition(&conditions, metav1.Condition{
		Type: policyv1.DisruptionAllowedCondition, Status: state, Reason: reason, Message: message, ObservedGeneration: generation,
	})
	return conditions
}

// staleTarget says whether a pod carries the condition DisruptionTarget of a
// disruption that never came: whoever marked it gave up. left is how long it
// may still come.
func staleTarget(pod *corev1.Pod, now time.Time) (stale bool, left time.Duration) {
	c := harness.PodCondition(pod, corev1.DisruptionTarget)
	if pod.DeletionTimestamp != nil || harness.IsFinished(pod) || c == nil || c.Status != corev1.ConditionTrue || c.Reason == corev1.PodReasonTerminationByKubelet {
		return false, 0
	}
	left = max(0, c.LastTransitionTime.Add(deletionTimeout).Sub(now))
	return left == 0, left
}
