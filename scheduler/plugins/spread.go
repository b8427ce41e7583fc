package plugins

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	configv1 "k8s.io/kube-scheduler/config/v1"

	"tinykube/api/placement"
	"tinykube/scheduler/framework"
)

// PodTopologySpread spreads like pods evenly over domains. A domain is all
// nodes with one value of a label: a zone, or a single node. Counting pods that
// match a constraint's selector, with the new one included,
//
//	skew of a domain = its pods − pods of the emptiest domain  ≤  maxSkew
//
// is demanded by Filter (DoNotSchedule), and crowded domains score less
// (ScheduleAnyway). Pods that declare nothing are spread by default: likeness
// is then what their Services and their owner select.
//
// Upstream: kubernetes pkg/scheduler/framework/plugins/podtopologyspread
type PodTopologySpread struct {
	// defaults are for pods without constraints.
	defaults []corev1.TopologySpreadConstraint
	// lenient: nodes without some of the labels are scored by the others. It
	// comes with the built-in defaults, as most clusters have no zones.
	lenient bool
	objects framework.Objects
}

var (
	skewed        = framework.NewStatus(framework.Unschedulable, "node(s) didn't match pod topology spread constraints")
	noTopology    = framework.NewStatus(framework.UnschedulableAndUnresolvable, "node(s) didn't match pod topology spread constraints (missing required label)")
	systemSpreads = []corev1.TopologySpreadConstraint{
		{TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.ScheduleAnyway, MaxSkew: 3},
		{TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.ScheduleAnyway, MaxSkew: 5},
	}
)

// spread is a constraint made ready.
type spread struct {
	key                       string
	maxSkew, minDomains       int
	selector                  labels.Selector
	honorAffinity, honorTaint bool
}

func newSpread(raw []byte, handle framework.Handle) (framework.Plugin, error) {
	var args configv1.PodTopologySpreadArgs
	if err := decodeArgs(raw, &args); err != nil {
		return nil, err
	}
	switch args.DefaultingType {
	case "", configv1.SystemDefaulting:
		if len(args.DefaultConstraints) > 0 {
			return nil, errors.New(`defaultingType: Invalid value: "System": when .defaultConstraints are not empty`)
		}
		return PodTopologySpread{systemSpreads, true, handle.Known()}, nil
	case configv1.ListDefaulting:
		return PodTopologySpread{args.DefaultConstraints, false, handle.Known()}, checkSpreads(args.DefaultConstraints)
	}
	return nil, fmt.Errorf("defaultingType: unsupported value %q: supported values: %q, %q", args.DefaultingType, configv1.SystemDefaulting, configv1.ListDefaulting)
}

func checkSpreads(constraints []corev1.TopologySpreadConstraint) error {
	var errs []error
	seen := map[string]bool{}
	for i, c := range constraints {
		check := func(ok bool, message string) {
			if !ok {
				errs = append(errs, fmt.Errorf("defaultConstraints[%d].%s", i, message))
			}
		}
		check(c.MaxSkew > 0, "maxSkew: must be greater than 0")
		check(c.TopologyKey != "", "topologyKey: can not be empty")
		check(c.WhenUnsatisfiable == corev1.DoNotSchedule || c.WhenUnsatisfiable == corev1.ScheduleAnyway, "whenUnsatisfiable: must be DoNotSchedule or ScheduleAnyway")
		check(c.LabelSelector == nil, "labelSelector: constraint must not define a selector, as they deduced for each pod")
		id := fmt.Sprintf("{%s, %s}", c.TopologyKey, c.WhenUnsatisfiable)
		check(!seen[id], "topologyKey: duplicate "+id)
		seen[id] = true
	}
	return errors.Join(errs...)
}

// Name is the plugin's name in configuration files.
func (PodTopologySpread) Name() string { return "PodTopologySpread" }

// spreads returns the constraints on the pod that call for one action.
func (p PodTopologySpread) spreads(pod *corev1.Pod, action corev1.UnsatisfiableConstraintAction) (ready []spread) {
	declared := pod.Spec.TopologySpreadConstraints
	var deduced labels.Selector
	if len(declared) == 0 {
		declared = p.defaults
	}
	for i := range declared {
		c := &declared[i]
		if c.WhenUnsatisfiable != action {
			continue
		}
		s := spread{key: c.TopologyKey, maxSkew: int(c.MaxSkew), minDomains: 1, selector: deduced, honorAffinity: true}
		if len(pod.Spec.TopologySpreadConstraints) > 0 {
			s.selector = ownSelector(c, pod)
		} else if deduced == nil {
			if deduced = p.deduceSelector(pod); deduced.Empty() {
				return nil
			}
			s.selector = deduced
		}
		if c.MinDomains != nil {
			s.minDomains = int(*c.MinDomains)
		}
		if c.NodeAffinityPolicy != nil {
			s.honorAffinity = *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor
		}
		if c.NodeTaintsPolicy != nil {
			s.honorTaint = *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor
		}
		ready = append(ready, s)
	}
	return ready
}

// ownSelector adds the pod's own values of matchLabelKeys.
func ownSelector(c *corev1.TopologySpreadConstraint, pod *corev1.Pod) labels.Selector {
	selector := framework.ParseSelector(c.LabelSelector)
	same := labels.Set{}
	for _, key := range c.MatchLabelKeys {
		if value, ok := pod.Labels[key]; ok {
			same[key] = value
		}
	}
	return narrowed(selector, same)
}

// narrowed is a selector that also wants these labels.
func narrowed(selector labels.Selector, with labels.Set) labels.Selector {
	more, _ := labels.SelectorFromValidatedSet(with).Requirements()
	if _, selectable := selector.Requirements(); !selectable || len(more) == 0 {
		return selector
	}
	return selector.Add(more...)
}

// deduceSelector says which pods are like this one: those that all its
// Services and its owner select. It is empty when there are none of these.
//
// Upstream: kubernetes pkg/scheduler/framework/plugins/helper DefaultSelector
func (p PodTopologySpread) deduceSelector(pod *corev1.Pod) labels.Selector {
	with := labels.Set{}
	for _, service := range p.objects.Services(pod.Namespace) {
		if contains(pod.Labels, service.Spec.Selector) {
			for key, value := range service.Spec.Selector {
				with[key] = value
			}
		}
	}
	selector := labels.Everything()
	if owner := metav1.GetControllerOfNoCopy(pod); owner != nil {
		if s := p.objects.Selector(pod.Namespace, owner); s != nil {
			selector = framework.ParseSelector(s)
		}
	}
	return narrowed(selector, with)
}

func contains(all, part map[string]string) bool {
	for key, value := range part {
		if got, ok := all[key]; !ok || got != value {
			return false
		}
	}
	return true
}

// considers says whether the node's pods count, by the inclusion policies.
func (s *spread) considers(pod *framework.PodInfo, required placement.Required, node *corev1.Node) bool {
	return (!s.honorAffinity || required.Match(node)) && (!s.honorTaint || !repelled(pod, node))
}

// count counts the pods that are alike. Those on their way out do not count,
// and an empty selector selects nothing here.
func (s *spread) count(pods []*framework.PodInfo, namespace string) (n int) {
	if s.selector.Empty() {
		return 0
	}
	for _, p := range pods {
		if p.Namespace == namespace && p.DeletionTimestamp == nil && s.selector.Matches(labels.Set(p.Labels)) {
			n++
		}
	}
	return n
}

// labelled says whether the node is in a domain of every constraint.
func labelled(node *corev1.Node, spreads []spread) bool {
	if node == nil {
		return false
	}
	for i := range spreads {
		if _, ok := node.Labels[spreads[i].key]; !ok {
			return false
		}
	}
	return true
}

// spreadState is what PreFilter or PreScore knows: for each constraint, the
// pods in each domain.
type spreadState struct {
	spreads []spread
	// strict: nodes that miss a label of any constraint count for none.
	strict bool
	// domains[i] is nil where Score counts by itself, because a domain is a node.
	domains []map[string]int
	least   []int     // Filter: pods in the emptiest domain
	weights []float64 // Score: what a pod weighs
}

// count counts the pods of all nodes, in domains that are known or, if asked,
// in all of them.
func (s *spreadState) count(c *framework.Cycle, all bool) {
	required := placement.ForPod(c.Pod.Pod)
	for _, n := range c.Snapshot.Nodes {
		if s.strict && !labelled(n.Node, s.spreads) {
			continue
		}
		for i := range s.spreads {
			value, ok := n.Node.Labels[s.spreads[i].key]
			_, known := s.domains[i][value]
			if ok && (all || known) && s.spreads[i].considers(c.Pod, required, n.Node) {
				s.domains[i][value] += s.spreads[i].count(n.Pods, c.Pod.Namespace)
			}
		}
	}
}

// PreFilter counts, once per pod.
func (p PodTopologySpread) PreFilter(c *framework.Cycle) (map[string]bool, *framework.Status) {
	spreads := p.spreads(c.Pod.Pod, corev1.DoNotSchedule)
	if len(spreads) == 0 {
		return nil, skip
	}
	s := &spreadState{spreads: spreads, strict: true, domains: make([]map[string]int, len(spreads)), least: make([]int, len(spreads))}
	for i := range spreads {
		s.domains[i] = map[string]int{}
	}
	s.count(c, true)
	for i := range spreads {
		s.findLeast(i)
	}
	c.Set(p.Name(), s)
	return nil, nil
}

// findLeast finds the emptiest domain. While domains are missing that should
// be there, it has no pods.
func (s *spreadState) findLeast(i int) {
	s.least[i] = 0
	if len(s.domains[i]) >= max(1, s.spreads[i].minDomains) {
		s.least[i] = slices.Min(slices.Collect(maps.Values(s.domains[i])))
	}
}

// Clone is for what-if questions.
func (s *spreadState) Clone() any {
	c := *s
	c.domains, c.least = slices.Clone(s.domains), slices.Clone(s.least)
	for i := range c.domains {
		c.domains[i] = maps.Clone(c.domains[i])
	}
	return &c
}

// Update counts one pod more or less. Unlike count, it does not ask whether
// the pod is on its way out, and an empty selector selects all: so does
// upstream, and victims must be the same.
//
// Upstream: kubernetes pkg/scheduler/framework/plugins/podtopologyspread updateWithPod
func (p PodTopologySpread) Update(c *framework.Cycle, other *framework.PodInfo, n *framework.NodeInfo, sign int64) {
	s := c.Get(p.Name()).(*spreadState)
	if other.Namespace != c.Pod.Namespace || !labelled(n.Node, s.spreads) {
		return
	}
	required := placement.ForPod(c.Pod.Pod)
	for i := range s.spreads {
		if s.spreads[i].selector.Matches(labels.Set(other.Labels)) && s.spreads[i].considers(c.Pod, required, n.Node) {
			s.domains[i][n.Node.Labels[s.spreads[i].key]] += int(sign)
			s.findLeast(i)
		}
	}
}

// Filter refuses nodes where a domain would hold too many.
func (p PodTopologySpread) Filter(c *framework.Cycle, n *framework.NodeInfo) *framework.Status {
	s := c.Get(p.Name()).(*spreadState)
	for i := range s.spreads {
		value, ok := n.Node.Labels[s.spreads[i].key]
		if !ok {
			return noTopology
		}
		skew := s.domains[i][value] - s.least[i]
		if s.spreads[i].selector.Matches(labels.Set(c.Pod.Labels)) {
			skew++
		}
		if skew > s.spreads[i].maxSkew {
			return skewed
		}
	}
	return nil
}

// spreadScoresKey is where PreScore leaves them.
const spreadScoresKey = "PodTopologySpread/score"

// unscored is the raw score of a node that misses a label; it becomes 0.
const unscored = -1

// PreScore counts the pods in the domains of the feasible nodes. A topology of
// many domains weighs more, lest its small counts be drowned.
func (p PodTopologySpread) PreScore(c *framework.Cycle, feasible []*framework.NodeInfo) *framework.Status {
	spreads := p.spreads(c.Pod.Pod, corev1.ScheduleAnyway)
	if len(spreads) == 0 {
		return skip
	}
	s := &spreadState{spreads: spreads, strict: !p.lenient || len(c.Pod.Spec.TopologySpreadConstraints) > 0,
		domains: make([]map[string]int, len(spreads)), weights: make([]float64, len(spreads))}
	scored := slices.DeleteFunc(slices.Clone(feasible), func(n *framework.NodeInfo) bool { return s.strict && !labelled(n.Node, spreads) })
	for i := range spreads {
		size := len(scored)
		if spreads[i].key != corev1.LabelHostname {
			s.domains[i] = map[string]int{}
			for _, n := range scored {
				s.domains[i][n.Node.Labels[spreads[i].key]] = 0
			}
			size = len(s.domains[i])
		}
		s.weights[i] = math.Log(float64(size + 2))
	}
	s.count(c, false)
	c.Set(spreadScoresKey, s)
	return nil
}

// Score is how crowded the node's domains are: here, a high score is bad until
// it is normalized. A large maxSkew levels differences.
func (p PodTopologySpread) Score(c *framework.Cycle, n *framework.NodeInfo) (int64, *framework.Status) {
	s := c.Get(spreadScoresKey).(*spreadState)
	if s.strict && !labelled(n.Node, s.spreads) {
		return unscored, nil
	}
	var score float64
	for i := range s.spreads {
		value, ok := n.Node.Labels[s.spreads[i].key]
		if !ok {
			continue
		}
		count := s.domains[i][value]
		if s.domains[i] == nil {
			count = s.spreads[i].count(n.Pods, c.Pod.Namespace)
		}
		score += float64(count)*s.weights[i] + float64(s.spreads[i].maxSkew-1)
	}
	return int64(math.Round(score)), nil
}

// NormalizeScore gives the emptiest 100 and the others less in proportion.
func (p PodTopologySpread) NormalizeScore(_ *framework.Cycle, scores []int64) *framework.Status {
	least, most := int64(math.MaxInt64), int64(0)
	for _, score := range scores {
		if score != unscored {
			least, most = min(least, score), max(most, score)
		}
	}
	for i, score := range scores {
		switch {
		case score == unscored:
			scores[i] = 0
		case most == 0:
			scores[i] = framework.MaxNodeScore
		default:
			scores[i] = framework.MaxNodeScore * (most + least - score) / most
		}
	}
	return nil
}

// Hints: a like pod comes, goes or changes its likeness; a node of a domain
// does, which may also move the emptiest domain; or the pod itself changes.
func (p PodTopologySpread) Hints() []framework.Hint {
	return []framework.Hint{
		{On: framework.AssignedAdd | framework.AssignedDelete | framework.AssignedLabels, Helps: func(pod *framework.PodInfo, e framework.Event) bool {
			spreads := p.spreads(pod.Pod, corev1.DoNotSchedule)
			for i := range spreads {
				alike := func(other *corev1.Pod) bool {
					return other != nil && other.Namespace == pod.Namespace && spreads[i].selector.Matches(labels.Set(other.Labels))
				}
				if alike(e.OldPod) != alike(e.NewPod) {
					return true
				}
			}
			return false
		}},
		{On: framework.NodeAdd | framework.NodeDelete | framework.NodeLabels | framework.NodeTaints, Helps: func(pod *framework.PodInfo, e framework.Event) bool {
			spreads := p.spreads(pod.Pod, corev1.DoNotSchedule)
			return labelled(e.OldNode, spreads) || labelled(e.NewNode, spreads)
		}},
		{On: framework.OwnLabels | framework.OwnTolerations},
	}
}
