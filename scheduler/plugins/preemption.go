package plugins

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/labels"
	configv1 "k8s.io/kube-scheduler/config/v1"

	"tinykube/scheduler/framework"
)

// DefaultPreemption makes room by letting less important pods go. On each node
// that turned the pod down for a reason which can be mended so, it asks in
// thought: would the pod fit if everything less important left? If so, it
// takes back one after another, the most important first, as long as the pod
// still fits; those for whom there is no room are the node's victims. Among
// the nodes, the one is best where least is lost.
//
//	node        all less important gone   taken back   victims
//	n1  fits?   yes                       a, b         c        ─┐
//	n2  fits?   no                        –            –         ├─▶ least lost
//	n3  fits?   yes                       d            e, f     ─┘
//
// The plan is the scheduler's to carry out; it nominates the node, and the pod
// comes back when the victims are gone. It may then go elsewhere if there is a
// better place, and nobody as unimportant as it may take the room meanwhile
// (FilterRun.Check).
//
// Upstream: kubernetes pkg/scheduler/framework/preemption, plugins/defaultpreemption
type DefaultPreemption struct {
	// Of many nodes, only so many candidates are sought.
	percent, atLeast int32
	objects          framework.Objects
}

func newPreemption(raw []byte, handle framework.Handle) (framework.Plugin, error) {
	var args configv1.DefaultPreemptionArgs
	if err := decodeArgs(raw, &args); err != nil {
		return nil, err
	}
	p := DefaultPreemption{percent: 10, atLeast: 100, objects: handle.Known()}
	if args.MinCandidateNodesPercentage != nil {
		p.percent = *args.MinCandidateNodesPercentage
	}
	if args.MinCandidateNodesAbsolute != nil {
		p.atLeast = *args.MinCandidateNodesAbsolute
	}
	switch {
	case p.percent < 0 || p.percent > 100:
		return nil, fmt.Errorf("minCandidateNodesPercentage: Invalid value: %d: not in valid range [0, 100]", p.percent)
	case p.atLeast < 0:
		return nil, fmt.Errorf("minCandidateNodesAbsolute: Invalid value: %d: not in valid range [0, inf)", p.atLeast)
	case p.percent == 0 && p.atLeast == 0:
		return nil, fmt.Errorf("minCandidateNodesPercentage: Invalid value: 0: cannot be zero at the same time as minCandidateNodesAbsolute")
	}
	return p, nil
}

// Name is the plugin's name in configuration files.
func (DefaultPreemption) Name() string { return "DefaultPreemption" }

// Hints: none. Who was turned down waits for what the filters hope for; the
// victims' end is among that.
func (DefaultPreemption) Hints() []framework.Hint { return nil }

// candidate is a node that could be emptied far enough.
type candidate struct {
	node    *framework.NodeInfo
	victims []*framework.PodInfo
	// violations counts the victims whose disruption budget is exhausted.
	violations int
}

// PostFilter plans.
func (p DefaultPreemption) PostFilter(c *framework.Cycle, run *framework.FilterRun, d *framework.Diagnosis) (*framework.Room, *framework.Status) {
	if reason := notEligible(c, d); reason != "" {
		return nil, preemptionFails(reason)
	}
	var hopeful []*framework.NodeInfo
	for _, n := range c.Snapshot.Nodes {
		if run != nil && d.StatusOf(n.Node.Name).Code == framework.Unschedulable {
			hopeful = append(hopeful, n)
		}
	}
	candidates, dryRun := p.tryAll(c, run, hopeful)
	if len(candidates) == 0 {
		return &framework.Room{}, preemptionFails(dryRun.Error())
	}
	rooms := leastLost(candidates)
	best := rooms[0]
	best.Equals = rooms[1:]
	return &best, nil
}

func preemptionFails(reason string) *framework.Status {
	return framework.NewStatus(framework.Unschedulable, "preemption: "+reason)
}

// notEligible says why the pod may not drive out others: it does not want to,
// or it did already and they are still on their way out.
func notEligible(c *framework.Cycle, d *framework.Diagnosis) string {
	if policy := c.Pod.Spec.PreemptionPolicy; policy != nil && *policy == corev1.PreemptNever {
		return "not eligible due to preemptionPolicy=Never."
	}
	nominated := c.Snapshot.ByName[c.Pod.Status.NominatedNodeName]
	if nominated == nil || d.StatusOf(nominated.Node.Name).Code == framework.UnschedulableAndUnresolvable {
		return ""
	}
	for _, other := range nominated.Pods {
		if lessImportant(other, c.Pod) && leavesForAnother(other.Pod) {
			return "not eligible due to a terminating pod on the nominated node."
		}
	}
	return ""
}

func lessImportant(victim, pod *framework.PodInfo) bool {
	return framework.Priority(victim.Pod) < framework.Priority(pod.Pod)
}

func leavesForAnother(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp != nil && slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && c.Reason == corev1.PodReasonPreemptionByScheduler
	})
}

// tryAll tries nodes until there are enough candidates, one of which violates
// no budget; with fewer than a hundred nodes, it tries all. Where it begins is
// random, so that the same nodes are not always emptied.
func (p DefaultPreemption) tryAll(c *framework.Cycle, run *framework.FilterRun, nodes []*framework.NodeInfo) ([]candidate, *framework.Diagnosis) {
	dryRun := framework.NewDiagnosis(len(c.Snapshot.Nodes))
	dryRun.Others = framework.NewStatus(framework.UnschedulableAndUnresolvable, "Preemption is not helpful for scheduling")
	enough := min(max(len(nodes)*int(p.percent)/100, int(p.atLeast)), len(nodes))
	start := 0
	if enough < len(nodes) {
		start = rand.IntN(len(nodes))
	}
	budgets := p.objects.DisruptionBudgets()
	var candidates []candidate
	harmless := false
	for i := range nodes {
		if harmless && len(candidates) >= enough {
			break
		}
		node := nodes[(start+i)%len(nodes)]
		found, status := chooseVictims(c.Clone(), run, node.Clone(), budgets)
		if status != nil {
			dryRun.Set(node.Node.Name, status)
			continue
		}
		candidates, harmless = append(candidates, found), harmless || found.violations == 0
	}
	return candidates, dryRun
}

var (
	noVictims    = framework.NewStatus(framework.UnschedulableAndUnresolvable, "No preemption victims found for incoming pod")
	allTakenBack = framework.NewStatus(framework.Error, "the pod fits without any victim")
)

// chooseVictims finds whom one node must lose. Those with an exhausted
// disruption budget are taken back first, then the most important.
func chooseVictims(c *framework.Cycle, run *framework.FilterRun, node *framework.NodeInfo, budgets []*policyv1.PodDisruptionBudget) (candidate, *framework.Status) {
	var potential, unstarted []*framework.PodInfo
	for _, other := range node.Pods {
		switch {
		case !lessImportant(other, c.Pod):
		case other.Status.StartTime == nil:
			unstarted = append(unstarted, other)
		default:
			potential = append(potential, other)
		}
	}
	// Of those that have not even started, who came last counts most: so does
	// upstream, where each is taken to start when it is asked about.
	slices.Reverse(unstarted)
	potential = append(potential, unstarted...)
	if len(potential) == 0 {
		return candidate{}, noVictims
	}
	for _, other := range potential {
		run.Remove(c, node, other)
	}
	if status := run.Check(c, node); status != nil {
		return candidate{}, status
	}
	now := time.Now()
	slices.SortStableFunc(potential, func(a, b *framework.PodInfo) int { return byImportance(a, b, now) })
	found := candidate{node: node}
	protected, others := byBudget(potential, budgets)
	for i, other := range append(protected, others...) {
		run.Place(c, node, other)
		if run.Check(c, node) == nil {
			continue
		}
		run.Remove(c, node, other)
		found.victims = append(found.victims, other)
		if i < len(protected) {
			found.violations++
		}
	}
	if len(found.victims) == 0 {
		return candidate{}, allTakenBack
	}
	slices.SortStableFunc(found.victims, func(a, b *framework.PodInfo) int { return byImportance(a, b, now) })
	return found, nil
}

// byImportance puts the higher priority first, then who has run longer.
func byImportance(a, b *framework.PodInfo, now time.Time) int {
	if pa, pb := framework.Priority(a.Pod), framework.Priority(b.Pod); pa != pb {
		return int(pb) - int(pa)
	}
	return started(a, now).Compare(started(b, now))
}

func started(pod *framework.PodInfo, now time.Time) time.Time {
	if pod.Status.StartTime == nil {
		return now
	}
	return pod.Status.StartTime.Time
}

// byBudget parts the pods whose going their disruption budgets forbid from the
// others; both keep their order. Budgets are used up in that order.
func byBudget(pods []*framework.PodInfo, budgets []*policyv1.PodDisruptionBudget) (protected, others []*framework.PodInfo) {
	allowed := make([]int32, len(budgets))
	selectors := make([]labels.Selector, len(budgets))
	for i, budget := range budgets {
		allowed[i], selectors[i] = budget.Status.DisruptionsAllowed, framework.ParseSelector(budget.Spec.Selector)
	}
	for _, pod := range pods {
		violates := false
		for i, budget := range budgets {
			if budget.Namespace != pod.Namespace || len(pod.Labels) == 0 || selectors[i].Empty() || !selectors[i].Matches(labels.Set(pod.Labels)) {
				continue
			}
			if _, counted := budget.Status.DisruptedPods[pod.Name]; counted {
				continue // its going has been granted and taken off already
			}
			allowed[i]--
			violates = violates || allowed[i] < 0
		}
		if violates {
			protected = append(protected, pod)
		} else {
			others = append(others, pod)
		}
	}
	return protected, others
}

// leastLost picks the nodes where least is lost: the fewest violated budgets,
// the least important of the most important victims, the smallest sum of
// priorities, the fewest victims, the latest start of those most important.
//
// Upstream: kubernetes pkg/scheduler/framework/preemption pickOneNodeForPreemption
func leastLost(candidates []candidate) (rooms []framework.Room) {
	now := time.Now()
	var least [5]int64
	for _, c := range candidates {
		loss := c.loss(now)
		order := slices.Compare(loss[:], least[:])
		if len(rooms) > 0 && order > 0 {
			continue
		}
		if order != 0 {
			rooms, least = nil, loss
		}
		rooms = append(rooms, framework.Room{Node: c.node.Node.Name, Victims: c.victims})
	}
	return rooms
}

// loss is what leastLost compares, number by number. Victims are sorted.
func (c candidate) loss(now time.Time) [5]int64 {
	highest := framework.Priority(c.victims[0].Pod)
	earliest := started(c.victims[0], now)
	var sum int64
	for _, victim := range c.victims {
		// The offset lets each victim count, whatever the sign of its priority.
		sum += int64(framework.Priority(victim.Pod)) + math.MaxInt32 + 1
		if at := started(victim, now); framework.Priority(victim.Pod) == highest && at.Before(earliest) {
			earliest = at
		}
	}
	return [5]int64{int64(c.violations), int64(highest), sum, int64(len(c.victims)), -earliest.UnixNano()}
}
