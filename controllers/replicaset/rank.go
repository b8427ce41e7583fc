package replicaset

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"tinykube/controllers/harness"
)

// rank sorts pods by who should die first. Each rule breaks the ties of those
// before it:
//
//  1. not on a node yet, before those that are
//  2. Pending, then Unknown, then Running
//  3. not ready, before ready
//  4. the smaller controller.kubernetes.io/pod-deletion-cost
//  5. on the node that has more pods doing the same work
//  6. ready for a shorter time, by powers of ten of seconds, so that among
//     pods of about one age chance decides and no node is singled out
//  7. restarted more often
//  8. younger, again by powers of ten, then by UID
//
// Upstream: kubernetes/kubernetes pkg/controller ActivePodsWithRanks.Less
func rank(pods []*corev1.Pod, perNode map[string]int, now time.Time) {
	slices.SortStableFunc(pods, func(a, b *corev1.Pod) int {
		return cmp.Or(
			falseFirst(a.Spec.NodeName != "", b.Spec.NodeName != ""),
			cmp.Compare(phaseOrder[a.Status.Phase], phaseOrder[b.Status.Phase]),
			falseFirst(harness.IsReady(a), harness.IsReady(b)),
			cmp.Compare(deletionCost(a), deletionCost(b)),
			-cmp.Compare(perNode[a.Spec.NodeName], perNode[b.Spec.NodeName]),
			cmp.Compare(readyMagnitude(a, now), readyMagnitude(b, now)),
			-cmp.Compare(restarts(a), restarts(b)),
			cmp.Compare(magnitude(now.Sub(a.CreationTimestamp.Time)), magnitude(now.Sub(b.CreationTimestamp.Time))),
			cmp.Compare(a.UID, b.UID),
		)
	})
}

var phaseOrder = map[corev1.PodPhase]int{corev1.PodPending: 0, corev1.PodUnknown: 1, corev1.PodRunning: 2}

func falseFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// deletionCost is what the user says losing this pod costs; nonsense is 0.
func deletionCost(pod *corev1.Pod) int32 {
	n, err := strconv.ParseInt(pod.Annotations[corev1.PodDeletionCost], 10, 32)
	if err != nil {
		return 0
	}
	return int32(n)
}

func readyMagnitude(pod *corev1.Pod, now time.Time) int {
	if !harness.IsReady(pod) {
		return 0
	}
	return magnitude(now.Sub(harness.PodCondition(pod, corev1.PodReady).LastTransitionTime.Time))
}

// magnitude is the age in powers of ten of seconds: 1–9 s, 10–99 s, …
func magnitude(age time.Duration) int {
	return int(math.Log10(max(age.Seconds(), 1)))
}

func restarts(pod *corev1.Pod) int32 {
	var n int32
	for _, c := range pod.Status.ContainerStatuses {
		n = max(n, c.RestartCount)
	}
	return n
}
