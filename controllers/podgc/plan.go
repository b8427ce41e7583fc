package podgc

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"tinykube/controllers/harness"
)

// removal is a pod to delete by force. One that has not finished is declared
// Failed first, so that who waits for it knows.
type removal struct {
	pod *corev1.Pod
	// message of the condition DisruptionTarget; none is set if it is empty.
	message string
}

// makePlan finds the pods to remove. gone are the names of nodes known not to
// exist; threshold is how many finished pods may stay, 0 for any number.
//
// Upstream: kubernetes/kubernetes pkg/controller/podgc gc
func makePlan(pods []*corev1.Pod, nodes map[string]*corev1.Node, gone map[string]bool, threshold int) []removal {
	var remove []removal
	var finished []*corev1.Pod
	for _, pod := range pods {
		name := pod.Spec.NodeName
		switch {
		case name != "" && gone[name]:
			remove = append(remove, removal{pod, "PodGC: node no longer exists"})
		case pod.DeletionTimestamp != nil && (name == "" || outOfService(nodes[name])):
			remove = append(remove, removal{pod: pod})
		case harness.IsFinished(pod) && pod.DeletionTimestamp == nil:
			finished = append(finished, pod)
		}
	}
	if threshold <= 0 || len(finished) <= threshold {
		return remove
	}
	slices.SortFunc(finished, func(a, b *corev1.Pod) int { // evicted ones go first: nobody counts them
		return cmp.Or(cmp.Compare(notEvicted(a), notEvicted(b)), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	for _, pod := range finished[:len(finished)-threshold] {
		remove = append(remove, removal{pod: pod})
	}
	return remove
}

func notEvicted(pod *corev1.Pod) int {
	if pod.Status.Phase == corev1.PodFailed && pod.Status.Reason == "Evicted" {
		return 0
	}
	return 1
}

// outOfService says whether someone declared that a node which is not ready is
// switched off, and will not come back with its pods still running.
func outOfService(node *corev1.Node) bool {
	if node == nil {
		return false
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			return false
		}
	}
	return slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}
