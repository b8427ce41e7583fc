package scheduler

import (
	"errors"
	"math/rand/v2"
	"strings"

	"tinykube/scheduler/framework"
)

// How many feasible nodes are enough. With thousands of nodes the best of
// some hundreds is good enough, and looking at all of them takes its time.
//
// Upstream: kubernetes pkg/scheduler schedule_one.go numFeasibleNodesToFind
const (
	minFeasibleNodes   = 100
	minFeasiblePercent = 5
)

func enoughNodes(percentage int32, nodes int) int {
	if nodes < minFeasibleNodes {
		return nodes
	}
	percent := int(percentage)
	if percent == 0 {
		percent = max(50-nodes/125, minFeasiblePercent)
	}
	return max(nodes*percent/100, minFeasibleNodes)
}

// choose finds the best node. When there is none, the diagnosis says why.
func (s *Scheduler) choose(a *attempt) (node string, diagnosis *framework.Diagnosis, err error) {
	run, feasible, diagnosis, err := s.filter(a)
	if err != nil {
		return "", nil, err
	}
	switch len(feasible) {
	case 0:
		if diagnosis.AllNodes > 0 {
			a.room = makeRoom(a.profile, a.cycle, run, diagnosis)
		}
		return "", diagnosis, nil
	case 1:
		return feasible[0].Node.Name, nil, nil
	}
	totals, _, status := a.profile.RunScore(a.cycle, feasible, false)
	if !status.IsSuccess() {
		return "", nil, errors.New(status.Message())
	}
	return feasible[pickHighest(totals)].Node.Name, nil, nil
}

// filter looks at nodes, starting where the last search ended so that all get
// their turn, until enough are found.
func (s *Scheduler) filter(a *attempt) (*framework.FilterRun, []*framework.NodeInfo, *framework.Diagnosis, error) {
	all := a.cycle.Snapshot.Nodes
	diagnosis := framework.NewDiagnosis(len(all))
	if len(all) == 0 {
		return nil, nil, diagnosis, nil
	}
	run, status := a.profile.RunPreFilter(a.cycle)
	if status != nil {
		if !status.IsRejected() {
			return nil, nil, nil, errors.New(status.Message())
		}
		diagnosis.PreFilter = status
		diagnosis.Rejectors[status.Plugin] = true
		return nil, nil, diagnosis, nil
	}
	// The node that was emptied for the pod is the one it most likely gets.
	if emptied := a.cycle.Snapshot.ByName[a.pod.Status.NominatedNodeName]; emptied != nil && run.Check(a.cycle, emptied) == nil {
		return run, []*framework.NodeInfo{emptied}, diagnosis, nil
	}
	nodes := all
	if run.Nodes != nil {
		nodes = named(a.cycle.Snapshot, run.Nodes)
		diagnosis.Others = run.OtherNodes()
		for _, plugin := range run.NarrowedBy {
			diagnosis.Rejectors[plugin] = true
		}
	}
	enough := enoughNodes(a.profile.PercentageOfNodesToScore, len(nodes))
	feasible := make([]*framework.NodeInfo, 0, enough)
	looked := 0
	for ; looked < len(nodes) && len(feasible) < enough; looked++ {
		node := nodes[(s.startNode+looked)%len(nodes)]
		status := run.Check(a.cycle, node)
		switch {
		case status == nil:
			feasible = append(feasible, node)
		case status.IsRejected():
			diagnosis.Set(node.Node.Name, status)
		default:
			return nil, nil, nil, errors.New(status.Message())
		}
	}
	s.startNode = (s.startNode + looked) % len(all)
	return run, feasible, diagnosis, nil
}

func named(snapshot *framework.Snapshot, names map[string]bool) []*framework.NodeInfo {
	var nodes []*framework.NodeInfo
	for name := range names {
		if node := snapshot.ByName[name]; node != nil {
			nodes = append(nodes, node)
		}
	}
	return nodes
}

// makeRoom asks the PostFilter plugins for a plan; the pod waits for its next
// turn either way. What they say ends the sentence that says why.
//
// Upstream: kubernetes pkg/scheduler/framework/runtime RunPostFilterPlugins
func makeRoom(profile *framework.Profile, c *framework.Cycle, run *framework.FilterRun, d *framework.Diagnosis) (room *framework.Room) {
	var reasons []string
	for _, plugin := range profile.PostFilter {
		planned, status := plugin.PostFilter(c, run, d)
		if status.IsSuccess() {
			return planned
		}
		if planned != nil {
			room = planned
		}
		reasons = append(reasons, status.Reasons...)
		if status.Code != framework.Unschedulable {
			break
		}
	}
	d.PostFilter = strings.Join(reasons, ", ")
	return room
}

// pickHighest returns the index of the highest total; among equals, one at
// random, so that equal pods do not all meet on the first node.
func pickHighest(totals []int64) int {
	best, ties := 0, 1
	for i := 1; i < len(totals); i++ {
		switch {
		case totals[i] > totals[best]:
			best, ties = i, 1
		case totals[i] == totals[best]:
			ties++
			if rand.IntN(ties) == 0 {
				best = i
			}
		}
	}
	return best
}
