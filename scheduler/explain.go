package scheduler

import (
	"errors"
	"slices"

	"tinykube/scheduler/framework"
)

// Explanation is one decision with all its reasons: what every filter said of
// every node, not only the first no, and every score in its three stages.
type Explanation struct {
	Pod   *framework.PodInfo
	Nodes []NodeVerdicts
	// Feasible are the nodes that passed; Totals and each of Scores follow
	// their order.
	Feasible []string
	Scores   []framework.PluginScores
	Totals   []int64
	// Best are the feasible nodes with the highest total. The scheduler picks
	// any of them.
	Best []string
	// Message says why there is no such node, in the words of the
	// FailedScheduling event.
	Message string
	// Room is what preemption would do about that; nil if nothing.
	Room *framework.Room
}

// NodeVerdicts is what the filters said of one node.
type NodeVerdicts struct {
	Node     string
	Verdicts []*framework.Status
}

// Feasible says whether nobody objected.
func (v NodeVerdicts) Feasible() bool {
	return !slices.ContainsFunc(v.Verdicts, func(s *framework.Status) bool { return !s.IsSuccess() })
}

// Explain decides about a pod as the scheduler would, but looks at every node
// and asks every plugin. It changes nothing.
func Explain(profile *framework.Profile, snapshot *framework.Snapshot, pod *framework.PodInfo) (*Explanation, error) {
	e := &Explanation{Pod: pod}
	if gate := profile.RunPreEnqueue(pod.Pod); gate != nil {
		e.Message = gate.Message()
		return e, nil
	}
	cycle := framework.NewCycle(pod, snapshot)
	feasible := e.filter(profile, cycle)
	if len(feasible) == 0 {
		return e, nil
	}
	var status *framework.Status
	if e.Totals, e.Scores, status = profile.RunScore(cycle, feasible, true); !status.IsSuccess() {
		return nil, errors.New(status.Message())
	}
	highest := slices.Max(e.Totals)
	for i, node := range e.Feasible {
		if e.Totals[i] == highest {
			e.Best = append(e.Best, node)
		}
	}
	if nominated := pod.Status.NominatedNodeName; slices.Contains(e.Feasible, nominated) {
		e.Best = []string{nominated}
	}
	return e, nil
}

// filter collects the verdicts, and the sentence if all are bad.
func (e *Explanation) filter(profile *framework.Profile, cycle *framework.Cycle) (feasible []*framework.NodeInfo) {
	diagnosis := framework.NewDiagnosis(len(cycle.Snapshot.Nodes))
	run, status := profile.RunPreFilter(cycle)
	if status != nil {
		diagnosis.PreFilter = status
		e.giveUp(profile, cycle, nil, diagnosis)
		return nil
	}
	for _, node := range cycle.Snapshot.Nodes {
		v := NodeVerdicts{Node: node.Node.Name}
		if run.Nodes != nil && !run.Nodes[v.Node] {
			v.Verdicts = []*framework.Status{run.OtherNodes()}
		} else {
			v.Verdicts = run.CheckAll(cycle, node)
		}
		e.Nodes = append(e.Nodes, v)
		if v.Feasible() {
			e.Feasible = append(e.Feasible, v.Node)
			feasible = append(feasible, node)
			continue
		}
		// The sentence counts the first objection only, as upstream's does.
		first := slices.IndexFunc(v.Verdicts, func(s *framework.Status) bool { return !s.IsSuccess() })
		diagnosis.Set(v.Node, v.Verdicts[first])
	}
	if len(feasible) == 0 {
		e.giveUp(profile, cycle, run, diagnosis)
	}
	return feasible
}

func (e *Explanation) giveUp(profile *framework.Profile, cycle *framework.Cycle, run *framework.FilterRun, d *framework.Diagnosis) {
	if d.AllNodes > 0 {
		e.Room = makeRoom(profile, cycle, run, d)
	}
	e.Message = d.Error()
}
