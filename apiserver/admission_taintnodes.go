package apiserver

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// admitTaintNodes keeps pods off a node until it has once said that it is
// ready.
func admitTaintNodes(a *admission) error {
	if !a.creates("nodes") {
		return nil
	}
	node := a.obj.(*corev1.Node)
	taint := corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}
	if !slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.MatchTaint(&taint) }) {
		node.Spec.Taints = append(node.Spec.Taints, taint)
	}
	return nil
}
