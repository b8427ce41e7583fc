package plugins

import (
	corev1 "k8s.io/api/core/v1"
	configv1 "k8s.io/kube-scheduler/config/v1"

	"tinykube/api/placement"
	"tinykube/scheduler/framework"
)

// NodeAffinity keeps pods to the nodes that nodeSelector and required node
// affinity admit, and scores the preferred ones by the sum of their weights.
type NodeAffinity struct {
	// added is a demand on every pod of the profile, from its configuration.
	added placement.Required
	// addedPreferred likewise, for scoring.
	addedPreferred []preferredTerm
}

// preferredTerm is a term that is worth something when it matches.
type preferredTerm struct {
	placement.Term
	weight int64
}

var (
	notWanted  = framework.NewStatus(framework.UnschedulableAndUnresolvable, "node(s) didn't match Pod's node affinity/selector")
	notAdded   = framework.NewStatus(framework.UnschedulableAndUnresolvable, "node(s) didn't match scheduler-enforced node affinity")
	namesClash = framework.NewStatus(framework.UnschedulableAndUnresolvable, "pod affinity terms conflict")
)

// preferredKey is where PreScore leaves the preferences for Score.
const preferredKey = "NodeAffinity/preferred"

func newNodeAffinity(raw []byte, _ framework.Handle) (framework.Plugin, error) {
	var args configv1.NodeAffinityArgs
	if err := decodeArgs(raw, &args); err != nil {
		return nil, err
	}
	p := NodeAffinity{}
	if args.AddedAffinity != nil {
		// Borrow the pod's parser: the demand has the same form.
		p.added = placement.ForPod(&corev1.Pod{Spec: corev1.PodSpec{Affinity: &corev1.Affinity{NodeAffinity: args.AddedAffinity}}})
		p.addedPreferred = preferredTerms(args.AddedAffinity)
	}
	return p, nil
}

// Name is the plugin's name in configuration files.
func (NodeAffinity) Name() string { return "NodeAffinity" }

// PreFilter parses the pod's demands once. A pod confined to nodes by name
// (each DaemonSet pod is) is then tried on those only.
func (p NodeAffinity) PreFilter(c *framework.Cycle) (map[string]bool, *framework.Status) {
	required := placement.ForPod(c.Pod.Pod)
	if !required.Any() && !p.added.Any() {
		return nil, skip
	}
	c.Set(p.Name(), required)
	names, confined := required.NodeNames()
	if !confined {
		return nil, nil
	}
	if len(names) == 0 {
		return nil, namesClash
	}
	return names, nil
}

// Filter matches the node's labels and name.
func (p NodeAffinity) Filter(c *framework.Cycle, n *framework.NodeInfo) *framework.Status {
	if !p.added.Match(n.Node) {
		return notAdded
	}
	if !c.Get(p.Name()).(placement.Required).Match(n.Node) {
		return notWanted
	}
	return nil
}

// PreScore parses the preferences and stands aside when there are none.
func (p NodeAffinity) PreScore(c *framework.Cycle, _ []*framework.NodeInfo) *framework.Status {
	terms := p.addedPreferred
	if a := c.Pod.Spec.Affinity; a != nil {
		terms = append(terms[:len(terms):len(terms)], preferredTerms(a.NodeAffinity)...)
	}
	if len(terms) == 0 {
		return skip
	}
	c.Set(preferredKey, terms)
	return nil
}

// Score adds up the weights of the terms that match.
func (p NodeAffinity) Score(c *framework.Cycle, n *framework.NodeInfo) (int64, *framework.Status) {
	var sum int64
	for _, term := range c.Get(preferredKey).([]preferredTerm) {
		if term.Match(n.Node) {
			sum += term.weight
		}
	}
	return sum, nil
}

// NormalizeScore gives the best node 100.
func (NodeAffinity) NormalizeScore(_ *framework.Cycle, scores []int64) *framework.Status {
	normalize(scores, false)
	return nil
}

// Hints: a node appears, or is labelled so that it matches now.
func (p NodeAffinity) Hints() []framework.Hint {
	return []framework.Hint{{On: framework.NodeAdd | framework.NodeLabels, Helps: func(pod *framework.PodInfo, e framework.Event) bool {
		required := placement.ForPod(pod.Pod)
		matches := func(node *corev1.Node) bool { return p.added.Match(node) && required.Match(node) }
		return matches(e.NewNode) && (e.OldNode == nil || !matches(e.OldNode))
	}}}
}

// preferredTerms parses what an affinity prefers. Terms that are worth nothing
// or say nothing are left out.
func preferredTerms(a *corev1.NodeAffinity) []preferredTerm {
	if a == nil {
		return nil
	}
	var terms []preferredTerm
	for i := range a.PreferredDuringSchedulingIgnoredDuringExecution {
		t := &a.PreferredDuringSchedulingIgnoredDuringExecution[i]
		if t.Weight == 0 || len(t.Preference.MatchExpressions)+len(t.Preference.MatchFields) == 0 {
			continue
		}
		terms = append(terms, preferredTerm{placement.NewTerm(&t.Preference), int64(t.Weight)})
	}
	return terms
}
