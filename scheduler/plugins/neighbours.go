package plugins

import (
	"fmt"
	"maps"
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	configv1 "k8s.io/kube-scheduler/config/v1"

	"tinykube/scheduler/framework"
)

// InterPodAffinity places pods by which pods are near: in the same domain,
// that is, on nodes with the same value of a term's topology key. Pods say
// whom they need, whom they refuse, and whom they like how much. A refusal
// holds both ways: whoever is there already may refuse the newcomer.
//
// All of it is counting, once per pod: how many matches lie in which domain.
// Only the pods with terms matter to a pod without; the snapshot lists their
// nodes, so that in most clusters this costs most pods nothing.
//
// Upstream: kubernetes pkg/scheduler/framework/plugins/interpodaffinity
type InterPodAffinity struct {
	// hardWeight is what a required term of a pod that is there already is
	// worth to a newcomer whom it matches.
	hardWeight int64
	// onlyOwn: pods without wishes are not scored by the wishes of others.
	onlyOwn bool
	objects framework.Objects
}

var (
	friendsMissing = framework.NewStatus(framework.UnschedulableAndUnresolvable, "node(s) didn't match pod affinity rules")
	foesThere      = framework.NewStatus(framework.Unschedulable, "node(s) didn't match pod anti-affinity rules")
	unwelcome      = framework.NewStatus(framework.Unschedulable, "node(s) didn't satisfy existing pods anti-affinity rules")
)

// noAffinity is that of pods without any.
var noAffinity = &framework.PodAffinity{}

func affinityOf(pod *framework.PodInfo) *framework.PodAffinity {
	if pod.Affinity == nil {
		return noAffinity
	}
	return pod.Affinity
}

func newInterPodAffinity(raw []byte, handle framework.Handle) (framework.Plugin, error) {
	weight := int32(1)
	args := configv1.InterPodAffinityArgs{HardPodAffinityWeight: &weight}
	if err := decodeArgs(raw, &args); err != nil {
		return nil, err
	}
	if args.HardPodAffinityWeight != nil {
		weight = *args.HardPodAffinityWeight
	}
	if weight < 0 || weight > 100 {
		return nil, fmt.Errorf("hardPodAffinityWeight: Invalid value: %d: not in valid range [0, 100]", weight)
	}
	return InterPodAffinity{int64(weight), args.IgnorePreferredTermsOfExistingPods, handle.Known()}, nil
}

// Name is the plugin's name in configuration files.
func (InterPodAffinity) Name() string { return "InterPodAffinity" }

// domains is a number per domain: topology key, value of that label, sum.
type domains map[string]map[string]int64

// add counts in the node's domain; a node without the label is in none.
func (d domains) add(node *corev1.Node, key string, n int64) {
	value, ok := node.Labels[key]
	if !ok {
		return
	}
	if d[key] == nil {
		d[key] = map[string]int64{}
	}
	if d[key][value] += n; d[key][value] == 0 {
		if delete(d[key], value); len(d[key]) == 0 {
			delete(d, key)
		}
	}
}

func (d domains) clone() domains {
	c := domains{}
	for key, values := range d {
		c[key] = maps.Clone(values)
	}
	return c
}

// of sums over all domains in which the node is.
func (d domains) of(node *corev1.Node) (sum int64) {
	for key, values := range d {
		if value, ok := node.Labels[key]; ok {
			sum += values[value]
		}
	}
	return sum
}

// neighbours is what PreFilter counted: pods that match all the newcomer's
// required terms, matches of its refusals, and refusals of it by others.
type neighbours struct {
	friends, foes, refusals domains
	// self: the newcomer matches its own required terms.
	self bool
}

// first: nobody matches the required terms but the newcomer itself would.
func (s *neighbours) first() bool { return s.self && len(s.friends) == 0 }

// Clone is for what-if questions.
func (s *neighbours) Clone() any {
	return &neighbours{s.friends.clone(), s.foes.clone(), s.refusals.clone(), s.self}
}

// PreFilter counts.
func (p InterPodAffinity) PreFilter(c *framework.Cycle) (map[string]bool, *framework.Status) {
	own := affinityOf(c.Pod)
	refusals := domains{}
	for _, n := range c.Snapshot.WithAntiAffinity {
		for _, other := range n.WithAntiAffinity {
			p.addMatches(refusals, n.Node, other.Affinity.AntiRequired, c.Pod.Pod, 1)
		}
	}
	if len(own.Required)+len(own.AntiRequired) == 0 {
		if len(refusals) == 0 {
			return nil, skip
		}
		c.Set(p.Name(), &neighbours{refusals: refusals})
		return nil, nil
	}
	s := &neighbours{friends: domains{}, foes: domains{}, refusals: refusals}
	for _, n := range c.Snapshot.Nodes {
		for _, other := range n.Pods {
			p.addFriend(s, n.Node, own.Required, other.Pod, 1)
			p.addMatches(s.foes, n.Node, own.AntiRequired, other.Pod, 1)
		}
	}
	s.self = p.matchesAll(own.Required, c.Pod.Pod)
	c.Set(p.Name(), s)
	return nil, nil
}

// Update counts one pod more or less.
func (p InterPodAffinity) Update(c *framework.Cycle, other *framework.PodInfo, n *framework.NodeInfo, sign int64) {
	own, s := affinityOf(c.Pod), c.Get(p.Name()).(*neighbours)
	p.addMatches(s.refusals, n.Node, affinityOf(other).AntiRequired, c.Pod.Pod, sign)
	p.addFriend(s, n.Node, own.Required, other.Pod, sign)
	p.addMatches(s.foes, n.Node, own.AntiRequired, other.Pod, sign)
}

func (p InterPodAffinity) addFriend(s *neighbours, node *corev1.Node, terms []framework.AffinityTerm, pod *corev1.Pod, sign int64) {
	if p.matchesAll(terms, pod) {
		for i := range terms {
			s.friends.add(node, terms[i].TopologyKey, sign)
		}
	}
}

// addMatches counts the terms that speak of the pod in the node's domains.
func (p InterPodAffinity) addMatches(d domains, node *corev1.Node, terms []framework.AffinityTerm, pod *corev1.Pod, sign int64) {
	for i := range terms {
		if terms[i].Matches(pod, p.objects) {
			d.add(node, terms[i].TopologyKey, sign)
		}
	}
}

// matchesAll says whether there are terms and all of them speak of the pod.
// It takes one pod to satisfy all terms, not one for each.
func (p InterPodAffinity) matchesAll(terms []framework.AffinityTerm, pod *corev1.Pod) bool {
	for i := range terms {
		if !terms[i].Matches(pod, p.objects) {
			return false
		}
	}
	return len(terms) > 0
}

// Filter looks up the node's domains. The first pod of a group whose members
// need each other may go wherever the labels are: somebody has to begin.
func (p InterPodAffinity) Filter(c *framework.Cycle, n *framework.NodeInfo) *framework.Status {
	s := c.Get(p.Name()).(*neighbours)
	for _, term := range affinityOf(c.Pod).Required {
		value, ok := n.Node.Labels[term.TopologyKey]
		if !ok || s.friends[term.TopologyKey][value] == 0 && !s.first() {
			return friendsMissing
		}
	}
	if s.foes.of(n.Node) > 0 {
		return foesThere
	}
	if s.refusals.of(n.Node) > 0 {
		return unwelcome
	}
	return nil
}

// likingsKey is where PreScore leaves the sums for Score.
const likingsKey = "InterPodAffinity/score"

// PreScore sums up who likes whom. With wishes of its own, a pod looks at all
// others; without, only at those that have wishes.
func (p InterPodAffinity) PreScore(c *framework.Cycle, _ []*framework.NodeInfo) *framework.Status {
	own := affinityOf(c.Pod).Preferred
	if p.onlyOwn && len(own) == 0 {
		return skip
	}
	likings := domains{}
	for _, n := range c.Snapshot.WithAffinity {
		for _, other := range n.WithAffinity {
			p.like(likings, n.Node, other.Affinity.Preferred, c.Pod.Pod, 0)
			if p.hardWeight > 0 {
				p.like(likings, n.Node, other.Affinity.Required, c.Pod.Pod, p.hardWeight)
			}
		}
	}
	if len(own) > 0 {
		for _, n := range c.Snapshot.Nodes {
			for _, other := range n.Pods {
				p.like(likings, n.Node, own, other.Pod, 0)
			}
		}
	}
	if len(likings) == 0 {
		return skip
	}
	c.Set(likingsKey, likings)
	return nil
}

// like adds the weights of the terms that speak of the pod, each with a bonus.
func (p InterPodAffinity) like(likings domains, node *corev1.Node, terms []framework.AffinityTerm, pod *corev1.Pod, bonus int64) {
	for i := range terms {
		if terms[i].Matches(pod, p.objects) {
			likings.add(node, terms[i].TopologyKey, terms[i].Weight+bonus)
		}
	}
}

// Score may be negative: dislikes weigh less than nothing.
func (InterPodAffinity) Score(c *framework.Cycle, n *framework.NodeInfo) (int64, *framework.Status) {
	return c.Get(likingsKey).(domains).of(n.Node), nil
}

// NormalizeScore stretches from the least liked, 0, to the most liked, 100.
func (InterPodAffinity) NormalizeScore(_ *framework.Cycle, scores []int64) *framework.Status {
	least, most := int64(math.MaxInt64), int64(math.MinInt64)
	for _, score := range scores {
		least, most = min(least, score), max(most, score)
	}
	for i, score := range scores {
		scores[i] = 0
		if most > least {
			scores[i] = int64(float64(framework.MaxNodeScore) * (float64(score-least) / float64(most-least)))
		}
	}
	return nil
}

// Hints: somebody comes who was needed, goes who was refused or who refused,
// or becomes or ceases to be such by his labels; domains change; or the pod
// itself is not what was refused any more.
func (p InterPodAffinity) Hints() []framework.Hint {
	return []framework.Hint{
		{On: framework.AssignedAdd | framework.AssignedLabels, Helps: func(pod *framework.PodInfo, e framework.Event) bool {
			terms := affinityOf(pod).Required
			return p.matchesAll(terms, e.NewPod) && (e.OldPod == nil || !p.matchesAll(terms, e.OldPod))
		}},
		{On: framework.AssignedDelete | framework.AssignedLabels, Helps: func(pod *framework.PodInfo, e framework.Event) bool {
			return p.refuse(pod, e.OldPod)
		}},
		{On: framework.NodeAdd, Helps: func(pod *framework.PodInfo, e framework.Event) bool {
			for _, term := range affinityOf(pod).Required {
				if _, ok := e.NewNode.Labels[term.TopologyKey]; !ok {
					return false
				}
			}
			return true
		}},
		// Either may bring a domain to life or empty it, for any node in it.
		{On: framework.NodeLabels | framework.NodeDelete | framework.OwnLabels},
	}
}

// refuse says whether one of two pods refuses the other.
func (p InterPodAffinity) refuse(pod *framework.PodInfo, other *corev1.Pod) bool {
	matches := func(affinity *framework.PodAffinity, pod *corev1.Pod) bool {
		return affinity != nil && slices.ContainsFunc(affinity.AntiRequired, func(t framework.AffinityTerm) bool { return t.Matches(pod, p.objects) })
	}
	return matches(pod.Affinity, other) || matches(framework.NewPodAffinity(other), pod.Pod)
}
