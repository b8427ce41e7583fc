package plugins

import (
	corev1 "k8s.io/api/core/v1"

	"tinykube/api/placement"
	"tinykube/scheduler/framework"
)

// NodeUnschedulable refuses cordoned nodes.
type NodeUnschedulable struct{}

var cordoned = framework.NewStatus(framework.UnschedulableAndUnresolvable, "node(s) were unschedulable")

// Name is the plugin's name in configuration files.
func (NodeUnschedulable) Name() string { return "NodeUnschedulable" }

// Filter lets pods through that tolerate the taint which the node lifecycle
// controller makes of spec.unschedulable.
func (NodeUnschedulable) Filter(c *framework.Cycle, n *framework.NodeInfo) *framework.Status {
	if !n.Node.Spec.Unschedulable || toleratesCordon(c.Pod) {
		return nil
	}
	return cordoned
}

func toleratesCordon(pod *framework.PodInfo) bool {
	taint := corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}
	return placement.Tolerated(&taint, pod.Spec.Tolerations)
}

// Hints: a schedulable node appears, or the pod learns to tolerate.
func (NodeUnschedulable) Hints() []framework.Hint {
	return []framework.Hint{
		{On: framework.NodeAdd | framework.NodeTaints, Helps: func(_ *framework.PodInfo, e framework.Event) bool {
			return !e.NewNode.Spec.Unschedulable && (e.OldNode == nil || e.OldNode.Spec.Unschedulable)
		}},
		{On: framework.OwnTolerations, Helps: func(pod *framework.PodInfo, _ framework.Event) bool { return toleratesCordon(pod) }},
	}
}

// NodeName keeps a pod that names its node away from all others. (A pod whose
// spec.nodeName is set at creation never comes here; it is bound already.)
type NodeName struct{}

var otherName = framework.NewStatus(framework.UnschedulableAndUnresolvable, "node(s) didn't match the requested node name")

// Name is the plugin's name in configuration files.
func (NodeName) Name() string { return "NodeName" }

// Filter compares names.
func (NodeName) Filter(c *framework.Cycle, n *framework.NodeInfo) *framework.Status {
	if c.Pod.Spec.NodeName == "" || c.Pod.Spec.NodeName == n.Node.Name {
		return nil
	}
	return otherName
}

// Hints: the node appears.
func (NodeName) Hints() []framework.Hint { return []framework.Hint{{On: framework.NodeAdd}} }

// NodePorts refuses nodes where a host port of the pod is taken.
type NodePorts struct{}

var portTaken = framework.NewStatus(framework.Unschedulable, "node(s) didn't have free ports for the requested pod ports")

// Name is the plugin's name in configuration files.
func (NodePorts) Name() string { return "NodePorts" }

// PreFilter skips the many pods without host ports.
func (NodePorts) PreFilter(c *framework.Cycle) (map[string]bool, *framework.Status) {
	if len(c.Pod.Ports) == 0 {
		return nil, skip
	}
	return nil, nil
}

// Filter looks for a collision.
func (NodePorts) Filter(c *framework.Cycle, n *framework.NodeInfo) *framework.Status {
	if conflict(c.Pod.Ports, n.Ports) {
		return portTaken
	}
	return nil
}

func conflict(wanted, taken []framework.HostPort) bool {
	for _, w := range wanted {
		for _, t := range taken {
			if w.Conflicts(t) {
				return true
			}
		}
	}
	return false
}

// Hints: a node appears, or a pod goes that held one of the ports.
func (NodePorts) Hints() []framework.Hint {
	return []framework.Hint{
		{On: framework.NodeAdd},
		{On: framework.AssignedDelete, Helps: func(pod *framework.PodInfo, e framework.Event) bool {
			return conflict(pod.Ports, framework.HostPorts(e.OldPod))
		}},
	}
}

// skip is the answer of every plugin that has nothing to say about a pod.
var skip = framework.NewStatus(framework.Skip)
