package plugins

import (
	corev1 "k8s.io/api/core/v1"

	"tinykube/api/placement"
	"tinykube/scheduler/framework"
)

// TaintToleration refuses nodes with a hard taint the pod does not tolerate,
// and prefers nodes with few soft ones.
type TaintToleration struct{}

var untolerated = framework.NewStatus(framework.UnschedulableAndUnresolvable, "node(s) had untolerated taint(s)")

// Name is the plugin's name in configuration files.
func (TaintToleration) Name() string { return "TaintToleration" }

// Filter looks at NoSchedule and NoExecute.
func (TaintToleration) Filter(c *framework.Cycle, n *framework.NodeInfo) *framework.Status {
	if repelled(c.Pod, n.Node) {
		return untolerated
	}
	return nil
}

func repelled(pod *framework.PodInfo, node *corev1.Node) bool {
	return placement.Untolerated(node.Spec.Taints, pod.Spec.Tolerations,
		corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute) != nil
}

// Score counts the PreferNoSchedule taints that are not tolerated: here, a
// high score is bad until it is normalized.
func (TaintToleration) Score(c *framework.Cycle, n *framework.NodeInfo) (int64, *framework.Status) {
	var count int64
	for i := range n.Node.Spec.Taints {
		taint := &n.Node.Spec.Taints[i]
		if taint.Effect == corev1.TaintEffectPreferNoSchedule && !placement.Tolerated(taint, c.Pod.Spec.Tolerations) {
			count++
		}
	}
	return count, nil
}

// NormalizeScore gives the node with most such taints 0.
func (TaintToleration) NormalizeScore(_ *framework.Cycle, scores []int64) *framework.Status {
	normalize(scores, true)
	return nil
}

// Hints: a node appears or loses the taint, or the pod learns to tolerate.
func (TaintToleration) Hints() []framework.Hint {
	return []framework.Hint{
		{On: framework.NodeAdd | framework.NodeTaints, Helps: func(pod *framework.PodInfo, e framework.Event) bool {
			return !repelled(pod, e.NewNode) && (e.OldNode == nil || repelled(pod, e.OldNode))
		}},
		{On: framework.OwnTolerations},
	}
}

// normalize stretches scores to 0..MaxNodeScore by the highest of them;
// reverse turns them around. All zero means that nobody is worse than another.
//
// Upstream: kubernetes pkg/scheduler/framework/plugins/helper DefaultNormalizeScore
func normalize(scores []int64, reverse bool) {
	var highest int64
	for _, s := range scores {
		highest = max(highest, s)
	}
	for i, s := range scores {
		if highest > 0 {
			s = s * framework.MaxNodeScore / highest
		}
		if reverse {
			s = framework.MaxNodeScore - s
		}
		scores[i] = s
	}
}
