package replicaset

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"tinykube/controllers/harness"
)

// burst bounds what one reconcile creates or deletes, so that one large
// ReplicaSet does not hold a worker for minutes.
// Upstream: kubernetes/kubernetes pkg/controller/replicaset BurstReplicas
const burst = 500

// plan is what has to happen to the pods: one of create and delete is empty.
type plan struct {
	create int
	delete []*corev1.Pod
}

// makePlan compares the pods that a ReplicaSet owns with what it asks for.
// perNode counts, for ranking, the active pods on each node that do the same
// work: its own and those of its sibling ReplicaSets.
//
// LAB 08 plan: count who is active, and compare. Too few: say how many to
// create. Too many: rank them, and delete from the front. At most burst of
// either; and nothing at all for who is being deleted.
func makePlan(rs *appsv1.ReplicaSet, owned []*corev1.Pod, perNode map[string]int, now time.Time) plan {
	if rs.DeletionTimestamp != nil {
		return plan{}
	}
	active := filter(owned, harness.IsActive)
	difference := len(active) - int(*rs.Spec.Replicas)
	switch {
	case difference < 0:
		return plan{create: min(-difference, burst)}
	case difference > 0:
		rank(active, perNode, now)
		return plan{delete: active[:min(difference, burst)]}
	}
	return plan{}
}

// makeStatus counts. The conditions are the ones there were, but for
// ReplicaFailure, which says why the last apply failed, if it did. again is
// when the passing of time alone will make another pod available.
func makeStatus(rs *appsv1.ReplicaSet, owned []*corev1.Pod, failure *appsv1.ReplicaSetCondition, now time.Time) (status appsv1.ReplicaSetStatus, again time.Duration) {
	status.ObservedGeneration = rs.Generation
	status.TerminatingReplicas = new(int32)
	template := labels.Set(rs.Spec.Template.Labels).AsSelectorPreValidated()
	for _, pod := range owned {
		if pod.DeletionTimestamp != nil && !harness.IsFinished(pod) {
			*status.TerminatingReplicas++
		}
		if !harness.IsActive(pod) {
			continue
		}
		status.Replicas++
		if template.Matches(labels.Set(pod.Labels)) {
			status.FullyLabeledReplicas++
		}
		if harness.IsReady(pod) {
			status.ReadyReplicas++
		}
		ok, in := harness.Available(pod, rs.Spec.MinReadySeconds, now)
		if ok {
			status.AvailableReplicas++
		}
		again = harness.Sooner(again, in)
	}
	for _, c := range rs.Status.Conditions {
		switch {
		case c.Type != appsv1.ReplicaSetReplicaFailure:
			status.Conditions = append(status.Conditions, c)
		case failure != nil && c.Reason == failure.Reason:
			status.Conditions = append(status.Conditions, c) // the first failure of a row stays
			failure = nil
		}
	}
	if failure != nil {
		status.Conditions = append(status.Conditions, *failure)
	}
	return status, again
}

// sameWork counts the active pods per node of several ReplicaSets.
func sameWork(pods []*corev1.Pod) map[string]int {
	perNode := map[string]int{}
	for _, pod := range pods {
		if harness.IsActive(pod) && pod.Spec.NodeName != "" {
			perNode[pod.Spec.NodeName]++
		}
	}
	return perNode
}

func filter(pods []*corev1.Pod, keep func(*corev1.Pod) bool) []*corev1.Pod {
	var kept []*corev1.Pod
	for _, pod := range pods {
		if keep(pod) {
			kept = append(kept, pod)
		}
	}
	return kept
}
