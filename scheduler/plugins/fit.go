package plugins

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	configv1 "k8s.io/kube-scheduler/config/v1"

	"tinykube/scheduler/framework"
)

// NodeResourcesFit admits a pod to nodes with enough left of everything it
// requests, and scores them by how full they would be.
type NodeResourcesFit struct {
	ignored       map[corev1.ResourceName]bool
	ignoredGroups map[string]bool
	scorer
}

func newFit(raw []byte, _ framework.Handle) (framework.Plugin, error) {
	var args configv1.NodeResourcesFitArgs
	if err := decodeArgs(raw, &args); err != nil {
		return nil, err
	}
	p := NodeResourcesFit{ignored: map[corev1.ResourceName]bool{}, ignoredGroups: map[string]bool{}}
	for _, name := range args.IgnoredResources {
		p.ignored[corev1.ResourceName(name)] = true
	}
	for _, group := range args.IgnoredResourceGroups {
		p.ignoredGroups[group] = true
	}
	strategy := args.ScoringStrategy
	if strategy == nil {
		strategy = &configv1.ScoringStrategy{Type: configv1.LeastAllocated}
	}
	resources, err := checkResources("scoringStrategy.resources", strategy.Resources)
	if err != nil {
		return nil, err
	}
	p.scorer = scorer{key: p.Name(), resources: resources}
	switch strategy.Type {
	case configv1.LeastAllocated, "":
		p.formula = leastAllocated
	case configv1.MostAllocated:
		p.formula = mostAllocated
	case configv1.RequestedToCapacityRatio:
		var shape []configv1.UtilizationShapePoint
		if strategy.RequestedToCapacityRatio == nil {
			return nil, errors.New("scoringStrategy.requestedToCapacityRatio: Required value: must be specified when type is RequestedToCapacityRatio")
		}
		shape = strategy.RequestedToCapacityRatio.Shape
		if err := checkShape("scoringStrategy.requestedToCapacityRatio.shape", shape); err != nil {
			return nil, err
		}
		p.formula = requestedToCapacityRatio(shape)
	default:
		return nil, fmt.Errorf("scoringStrategy.type: Unsupported value: %q: supported values: %q, %q, %q", strategy.Type,
			configv1.LeastAllocated, configv1.MostAllocated, configv1.RequestedToCapacityRatio)
	}
	return p, nil
}

// Name is the plugin's name in configuration files.
func (NodeResourcesFit) Name() string { return "NodeResourcesFit" }

// Filter compares what is asked with what is left. Asking for more than the
// whole node has cannot be mended by evicting others.
func (p NodeResourcesFit) Filter(c *framework.Cycle, n *framework.NodeInfo) *framework.Status {
	if reasons, unresolvable := p.lacking(c.Pod, n); reasons != nil {
		code := framework.Unschedulable
		if unresolvable {
			code = framework.UnschedulableAndUnresolvable
		}
		return framework.NewStatus(code, reasons...)
	}
	return nil
}

// lacking lists what the node is short of. A resource nobody asks for never
// counts, even on a node that is overcommitted already.
func (p NodeResourcesFit) lacking(pod *framework.PodInfo, n *framework.NodeInfo) (reasons []string, unresolvable bool) {
	if int64(len(n.Pods))+1 > n.Allocatable.Pods {
		reasons = append(reasons, "Too many pods")
	}
	check := func(name corev1.ResourceName, asked, used, has int64) {
		if asked > 0 && asked > has-used {
			reasons = append(reasons, "Insufficient "+string(name))
			unresolvable = unresolvable || asked > has
		}
	}
	check(corev1.ResourceCPU, pod.Requests.MilliCPU, n.Requested.MilliCPU, n.Allocatable.MilliCPU)
	check(corev1.ResourceMemory, pod.Requests.Memory, n.Requested.Memory, n.Allocatable.Memory)
	check(corev1.ResourceEphemeralStorage, pod.Requests.EphemeralStorage, n.Requested.EphemeralStorage, n.Allocatable.EphemeralStorage)
	for name, asked := range pod.Requests.Scalar {
		if !p.ignores(name) {
			check(name, asked, n.Requested.Scalar[name], n.Allocatable.Scalar[name])
		}
	}
	return reasons, unresolvable
}

func (p NodeResourcesFit) ignores(name corev1.ResourceName) bool {
	if len(p.ignored) == 0 && len(p.ignoredGroups) == 0 {
		return false
	}
	group, _, _ := strings.Cut(string(name), "/")
	return p.ignored[name] || p.ignoredGroups[group]
}

// Hints: room appears where there was none.
func (p NodeResourcesFit) Hints() []framework.Hint {
	return []framework.Hint{
		{On: framework.AssignedDelete | framework.AssignedScaledDown},
		{On: framework.OwnScaledDown},
		{On: framework.NodeAdd | framework.NodeAllocatable, Helps: func(pod *framework.PodInfo, e framework.Event) bool {
			// Would it fit if the node were empty? The rest is for Filter.
			var node framework.NodeInfo
			node.SetNode(e.NewNode)
			reasons, _ := p.lacking(pod, &node)
			return reasons == nil
		}},
	}
}

// NodeResourcesBalancedAllocation scores how evenly the pod uses up a node.
type NodeResourcesBalancedAllocation struct{ scorer }

func newBalanced(raw []byte, _ framework.Handle) (framework.Plugin, error) {
	var args configv1.NodeResourcesBalancedAllocationArgs
	if err := decodeArgs(raw, &args); err != nil {
		return nil, err
	}
	resources, err := checkResources("resources", args.Resources)
	if err != nil {
		return nil, err
	}
	p := NodeResourcesBalancedAllocation{}
	p.scorer = scorer{key: p.Name(), resources: resources, formula: balanced, trueRequests: true}
	return p, nil
}

// Name is the plugin's name in configuration files.
func (NodeResourcesBalancedAllocation) Name() string { return "NodeResourcesBalancedAllocation" }

// PreScore stands aside for pods that request nothing: they cannot unbalance
// a node, and scoring them would send them all to the same one.
func (p NodeResourcesBalancedAllocation) PreScore(c *framework.Cycle, feasible []*framework.NodeInfo) *framework.Status {
	if !slices.ContainsFunc(p.resources, func(r configv1.ResourceSpec) bool {
		return c.Pod.Requests.Get(corev1.ResourceName(r.Name)) != 0
	}) {
		return skip
	}
	return p.scorer.PreScore(c, feasible)
}

// scorer applies a formula to nodes; the two plugins above are made of it.
type scorer struct {
	key       string
	resources []configv1.ResourceSpec
	formula   formula
	// trueRequests counts only what pods ask for. Otherwise containers that
	// ask for no CPU or memory count with an assumed amount.
	trueRequests bool
}

// PreScore makes room for the shares once, not once per node.
func (s scorer) PreScore(c *framework.Cycle, _ []*framework.NodeInfo) *framework.Status {
	shares := make([]share, 0, len(s.resources))
	c.Set(s.key, &shares)
	return nil
}

// Score applies the formula to the node as it would be with the pod.
func (s scorer) Score(c *framework.Cycle, n *framework.NodeInfo) (int64, *framework.Status) {
	shares := c.Get(s.key).(*[]share)
	*shares = (*shares)[:0]
	for i := range s.resources {
		name := corev1.ResourceName(s.resources[i].Name)
		asked, used := c.Pod.Requests.Get(name), n.Requested.Get(name)
		if !s.trueRequests && (name == corev1.ResourceCPU || name == corev1.ResourceMemory) {
			asked, used = c.Pod.Assumed.Get(name), n.Assumed.Get(name)
		}
		allocatable := n.Allocatable.Get(name)
		// An extended resource is nobody's business who does not ask for it.
		if allocatable == 0 || asked == 0 && isExtended(name) {
			continue
		}
		*shares = append(*shares, share{requested: used + asked, before: used, allocatable: allocatable, weight: s.resources[i].Weight})
	}
	return s.formula(*shares), nil
}

func isExtended(name corev1.ResourceName) bool {
	return name != corev1.ResourceCPU && name != corev1.ResourceMemory && name != corev1.ResourceEphemeralStorage
}
