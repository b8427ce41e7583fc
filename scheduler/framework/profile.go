package framework

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// WeightedScore is a score plugin with the weight its profile gives it.
type WeightedScore struct {
	ScorePlugin
	Weight int64
}

// Profile is one configured scheduler: which plugins are asked, at which
// point, in which order. Pods choose it by spec.schedulerName.
type Profile struct {
	Name string
	// PercentageOfNodesToScore ends the search for feasible nodes early;
	// 0 chooses by the size of the cluster.
	PercentageOfNodesToScore int32

	PreEnqueue []PreEnqueuePlugin
	QueueSort  QueueSortPlugin
	PreFilter  []PreFilterPlugin
	Filter     []FilterPlugin
	PostFilter []PostFilterPlugin
	PreScore   []PreScorePlugin
	Score      []WeightedScore
	Reserve    []ReservePlugin
	Permit     []PermitPlugin
	PreBind    []PreBindPlugin
	Bind       []BindPlugin
	PostBind   []PostBindPlugin

	// Hints holds each plugin's rows, by its name.
	Hints map[string][]Hint
}

// firstNo asks one plugin after another and returns the first answer that is
// not a yes, signed.
func firstNo[P Plugin](plugins []P, ask func(P) *Status) *Status {
	for _, plugin := range plugins {
		if s := ask(plugin); s != nil && s.Code != Success {
			return s.from(plugin.Name())
		}
	}
	return nil
}

// Priority is a pod's importance.
func Priority(pod *corev1.Pod) int32 {
	if pod.Spec.Priority == nil {
		return 0
	}
	return *pod.Spec.Priority
}

// RunPreEnqueue says whether the pod may enter the queue.
func (p *Profile) RunPreEnqueue(pod *corev1.Pod) *Status {
	return firstNo(p.PreEnqueue, func(plugin PreEnqueuePlugin) *Status { return plugin.PreEnqueue(pod) })
}

// FilterRun is the filters that are left for one pod after PreFilter.
type FilterRun struct {
	// Nodes names the only nodes worth looking at; nil means all of them.
	Nodes map[string]bool
	// NarrowedBy are the plugins that named them.
	NarrowedBy []string
	filters    []FilterPlugin
	updates    []UpdatePlugin
}

// RunPreFilter prepares the filters for the pod. Plugins that Skip take no
// part in filtering it. What several plugins say about nodes is intersected.
func (p *Profile) RunPreFilter(c *Cycle) (*FilterRun, *Status) {
	run := &FilterRun{}
	skipped := map[string]bool{}
	for _, plugin := range p.PreFilter {
		nodes, s := plugin.PreFilter(c)
		if s.IsSkip() {
			skipped[plugin.Name()] = true
			continue
		}
		if !s.IsSuccess() {
			return nil, s.from(plugin.Name())
		}
		if nodes == nil {
			continue
		}
		run.NarrowedBy = append(run.NarrowedBy, plugin.Name())
		run.Nodes = intersect(run.Nodes, nodes)
		if len(run.Nodes) == 0 {
			return nil, conflictingNodes(run.NarrowedBy)
		}
	}
	for _, f := range p.Filter {
		if !skipped[f.Name()] {
			run.filters = append(run.filters, f)
			if u, ok := f.(UpdatePlugin); ok {
				run.updates = append(run.updates, u)
			}
		}
	}
	return run, nil
}

func intersect(a, b map[string]bool) map[string]bool {
	if a == nil {
		return b
	}
	both := map[string]bool{}
	for name := range a {
		if b[name] {
			both[name] = true
		}
	}
	return both
}

// Upstream: kubernetes pkg/scheduler/framework/runtime RunPreFilterPlugins
func conflictingNodes(plugins []string) *Status {
	reason := fmt.Sprintf("node(s) didn't satisfy plugin(s) [%s] simultaneously", strings.Join(plugins, " "))
	if len(plugins) == 1 {
		reason = fmt.Sprintf("node(s) didn't satisfy plugin %s", plugins[0])
	}
	s := NewStatus(UnschedulableAndUnresolvable, reason)
	s.Plugin = plugins[0]
	return s
}

// OtherNodes is the verdict on every node that PreFilter left out.
func (r *FilterRun) OtherNodes() *Status {
	s := NewStatus(UnschedulableAndUnresolvable,
		fmt.Sprintf("node(s) didn't satisfy plugin(s) [%s]", strings.Join(r.NarrowedBy, " ")))
	s.Plugin = r.NarrowedBy[0]
	return s
}

// Place adds a pod to a node in thought. Both node and cycle must be clones.
func (r *FilterRun) Place(c *Cycle, node *NodeInfo, pod *PodInfo) {
	node.AddPod(pod)
	for _, u := range r.updates {
		u.Update(c, pod, node, +1)
	}
}

// Remove takes a pod away in thought, likewise.
func (r *FilterRun) Remove(c *Cycle, node *NodeInfo, pod *PodInfo) {
	node.RemovePod(pod.Pod)
	for _, u := range r.updates {
		u.Update(c, pod, node, -1)
	}
}

// Check asks about one node, on which pods count that it is being emptied for
// if they are at least as important. The pod must fit with them, lest it take
// their place, and without, since they may yet go elsewhere.
//
// Upstream: kubernetes pkg/scheduler/framework/runtime RunFilterPluginsWithNominatedPods
func (r *FilterRun) Check(c *Cycle, node *NodeInfo) *Status {
	if len(c.Snapshot.Nominated) == 0 { // as nearly always
		return r.check(c, node)
	}
	with, on := c, node
	for _, pod := range c.Snapshot.Nominated[node.Node.Name] {
		if Priority(pod.Pod) < Priority(c.Pod.Pod) || pod.UID == c.Pod.UID {
			continue
		}
		if on == node {
			with, on = c.Clone(), node.Clone()
		}
		r.Place(with, on, pod)
	}
	status := r.check(with, on)
	if on != node && status == nil {
		status = r.check(c, node)
	}
	return status
}

// check asks the filters about one node and returns the first no.
func (r *FilterRun) check(c *Cycle, node *NodeInfo) *Status {
	for _, f := range r.filters { // no closure: this runs for every node
		if s := f.Filter(c, node); s != nil && s.Code != Success {
			return s.from(f.Name())
		}
	}
	return nil
}

// CheckAll asks every filter, for those who want to see all verdicts.
func (r *FilterRun) CheckAll(c *Cycle, node *NodeInfo) []*Status {
	verdicts := make([]*Status, 0, len(r.filters))
	for _, f := range r.filters {
		s := f.Filter(c, node)
		if s == nil {
			s = &Status{}
		}
		verdicts = append(verdicts, s.from(f.Name()))
	}
	return verdicts
}

// PluginScores is one plugin's judgement of all feasible nodes, in their order.
type PluginScores struct {
	Plugin string
	Weight int64
	// Raw is kept only when asked for. Normalized lies in 0..MaxNodeScore.
	Raw, Normalized []int64
}

// RunScore judges the feasible nodes. Total of node i is the sum over plugins
// of Weight × Normalized[i].
func (p *Profile) RunScore(c *Cycle, feasible []*NodeInfo, keepRaw bool) (totals []int64, details []PluginScores, status *Status) {
	skipped := map[string]bool{}
	for _, plugin := range p.PreScore {
		s := plugin.PreScore(c, feasible)
		if s.IsSkip() {
			skipped[plugin.Name()] = true
		} else if !s.IsSuccess() {
			return nil, nil, s.from(plugin.Name())
		}
	}
	totals = make([]int64, len(feasible))
	scores := make([]int64, len(feasible)) // reused by every plugin unless kept
	for _, plugin := range p.Score {
		if skipped[plugin.Name()] {
			continue
		}
		detail := PluginScores{Plugin: plugin.Name(), Weight: plugin.Weight, Normalized: scores}
		if s := runScorePlugin(c, plugin, feasible, &detail, keepRaw); !s.IsSuccess() {
			return nil, nil, s.from(plugin.Name())
		}
		for i, score := range detail.Normalized {
			totals[i] += plugin.Weight * score
		}
		if keepRaw {
			details = append(details, detail)
			scores = make([]int64, len(feasible))
		}
	}
	return totals, details, nil
}

func runScorePlugin(c *Cycle, plugin WeightedScore, feasible []*NodeInfo, detail *PluginScores, keepRaw bool) *Status {
	for i, node := range feasible {
		score, s := plugin.Score(c, node)
		if !s.IsSuccess() {
			return s
		}
		detail.Normalized[i] = score
	}
	if keepRaw {
		detail.Raw = append([]int64(nil), detail.Normalized...)
	}
	if n, ok := plugin.ScorePlugin.(NormalizePlugin); ok {
		if s := n.NormalizeScore(c, detail.Normalized); !s.IsSuccess() {
			return s
		}
	}
	// Invariant: a plugin outside the range would silently outvote the others.
	for i, score := range detail.Normalized {
		if score < 0 || score > MaxNodeScore {
			return NewStatus(Error, fmt.Sprintf("plugin %q scored node %q with %d, outside 0..%d",
				plugin.Name(), feasible[i].Node.Name, score, MaxNodeScore))
		}
	}
	return nil
}

// RunReserve claims the node in every plugin, or in none.
func (p *Profile) RunReserve(c *Cycle, node string) *Status {
	no := firstNo(p.Reserve, func(plugin ReservePlugin) *Status { return plugin.Reserve(c, node) })
	if no != nil {
		p.RunUnreserve(c, node)
	}
	return no
}

// RunUnreserve gives back in the opposite order.
func (p *Profile) RunUnreserve(c *Cycle, node string) {
	for _, plugin := range slices.Backward(p.Reserve) {
		plugin.Unreserve(c, node)
	}
}

// RunPermit asks for the last word: no from one, or how long to wait for whom.
func (p *Profile) RunPermit(c *Cycle, node string) (wait map[string]time.Duration, no *Status) {
	for _, plugin := range p.Permit {
		s, patience := plugin.Permit(c, node)
		switch {
		case s.IsSuccess():
		case s.Code == Wait:
			if wait == nil {
				wait = map[string]time.Duration{}
			}
			wait[plugin.Name()] = min(patience, maxPermitWait)
		default:
			return nil, s.from(plugin.Name())
		}
	}
	return wait, nil
}

// maxPermitWait bounds what a plugin may ask for.
//
// Upstream: kubernetes pkg/scheduler/framework/runtime maxTimeout
const maxPermitWait = 15 * time.Minute

// Slow says whether some PreBind will wait for others.
func (p *Profile) Slow(c *Cycle, node string) bool {
	return slices.ContainsFunc(p.PreBind, func(plugin PreBindPlugin) bool {
		s, ok := plugin.(SlowPlugin)
		return ok && s.Slow(c, node)
	})
}

// RunBind does what is left to do outside: PreBind, Bind, PostBind.
func (p *Profile) RunBind(ctx context.Context, c *Cycle, node string) *Status {
	if no := firstNo(p.PreBind, func(plugin PreBindPlugin) *Status { return plugin.PreBind(ctx, c, node) }); no != nil {
		return no
	}
	no := NewStatus(Error, "no bind plugin took the pod")
	for _, plugin := range p.Bind {
		if no = plugin.Bind(ctx, c, node).from(plugin.Name()); !no.IsSkip() {
			break
		}
	}
	if !no.IsSuccess() {
		return no
	}
	for _, plugin := range p.PostBind {
		plugin.PostBind(c, node)
	}
	return nil
}
