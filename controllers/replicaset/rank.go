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
//  6. ready for a shorter time, by powers of two, so that among pods of about
//     one age chance (their UIDs) decides and no node is singled out
//  7. restarted more often; then, whose sidecars were
//  8. younger, again by powers of two and then by chance
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
			youngerFirst(a, b, readySince(a), readySince(b), now),
			-cmp.Compare(restarts(a.Status.ContainerStatuses), restarts(b.Status.ContainerStatuses)),
			-cmp.Compare(restarts(sidecars(a)), restarts(sidecars(b))),
			youngerFirst(a, b, a.CreationTimestamp.Time, b.CreationTimestamp.Time, now),
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

// readySince is when a pod became ready; both of two are, or none, when it is asked.
func readySince(pod *corev1.Pod) time.Time {
	if !harness.IsReady(pod) {
		return time.Time{}
	}
	return harness.PodCondition(pod, corev1.PodReady).LastTransitionTime.Time
}

func youngerFirst(a, b *corev1.Pod, sinceA, sinceB, now time.Time) int {
	if sinceA.Equal(sinceB) {
		return 0
	}
	return cmp.Or(cmp.Compare(magnitude(now.Sub(sinceA)), magnitude(now.Sub(sinceB))), cmp.Compare(a.UID, b.UID))
}

// magnitude is the age in powers of two.
func magnitude(age time.Duration) int {
	if age <= 0 {
		return -1
	}
	return int(math.Log2(float64(age)))
}

func restarts(containers []corev1.ContainerStatus) (most int32) {
	for _, c := range containers {
		most = max(most, c.RestartCount)
	}
	return most
}

// sidecars are the statuses of the init containers that run on.
func sidecars(pod *corev1.Pod) (found []corev1.ContainerStatus) {
	for _, c := range pod.Status.InitContainerStatuses {
		if slices.ContainsFunc(pod.Spec.InitContainers, func(i corev1.Container) bool {
			return i.Name == c.Name && i.RestartPolicy != nil && *i.RestartPolicy == corev1.ContainerRestartPolicyAlways
		}) {
			found = append(found, c)
		}
	}
	return found
}
