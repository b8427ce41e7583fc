package simulate

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"tinykube/scheduler"
	"tinykube/scheduler/framework"
)

// Outcome is what a scheduler did about a pod, as its users can see it.
type Outcome struct {
	// Node is where the pod was bound, in the end.
	Node string `json:"n,omitempty"`
	// Sentence is why it could not be, at first.
	Sentence string `json:"s,omitempty"`
	// Nominated is the node that was emptied for it, Victims are the names of
	// the pods that had to go.
	Nominated string   `json:"m,omitempty"`
	Victims   []string `json:"v,omitempty"`
}

// Judge compares what another scheduler did with what ours would do, pod by
// pod, and then goes on as the other one did.
type Judge struct {
	cache    *scheduler.Cache
	profiles []*framework.Profile
	// Uses counts how often each plugin had more than one opinion of nodes, or
	// turned one down; a comparison that no plugin took part in proves nothing.
	Uses map[string]int
}

// NewJudge begins with the world's nodes and running pods; its other pods are
// given to Decide.
func NewJudge(profiles []*framework.Profile, world *World) *Judge {
	j := &Judge{cache: scheduler.NewCache(), profiles: profiles, Uses: map[string]int{}}
	for _, node := range world.Nodes {
		j.cache.SetNode(node)
	}
	for _, pod := range world.Pods {
		if pod.Spec.NodeName != "" {
			j.cache.AddPod(pod)
		}
	}
	return j
}

// Decide returns what is wrong with an outcome.
func (j *Judge) Decide(pod *corev1.Pod, theirs Outcome) error {
	ours, err := j.explain(pod)
	if err != nil {
		return err
	}
	if theirs.Sentence != ours.Message {
		return fmt.Errorf("%s:\n they say %q\n we say   %q", pod.Name, theirs.Sentence, ours.Message)
	}
	if theirs.Sentence != "" {
		if err := j.makeRoom(pod, ours, theirs); err != nil || theirs.Node == "" {
			return err
		}
		// With the room made, the pod is tried again.
		pod = pod.DeepCopy()
		pod.Status.NominatedNodeName = theirs.Nominated
		if ours, err = j.explain(pod); err != nil {
			return err
		}
	}
	if !slices.Contains(ours.Best, theirs.Node) {
		return fmt.Errorf("%s: they chose %s, we %v of %v with totals %v (%s)", pod.Name, theirs.Node, ours.Best, ours.Feasible, ours.Totals, ours.Message)
	}
	bound := pod.DeepCopy()
	bound.Spec.NodeName = theirs.Node
	j.cache.AddPod(bound)
	return nil
}

func (j *Judge) explain(pod *corev1.Pod) (*scheduler.Explanation, error) {
	profile := profileFor(j.profiles, pod)
	e, err := scheduler.Explain(profile, j.cache.Snapshot(), framework.NewPodInfo(pod))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", pod.Name, err)
	}
	for _, n := range e.Nodes {
		for _, verdict := range n.Verdicts {
			if !verdict.IsSuccess() {
				j.Uses[verdict.Plugin+" filters"]++
			}
		}
	}
	for _, s := range e.Scores {
		if slices.Min(s.Normalized) < slices.Max(s.Normalized) {
			j.Uses[s.Plugin+" scores"]++
		}
	}
	if e.Room != nil && e.Room.Node != "" {
		j.Uses["DefaultPreemption makes room"]++
	}
	return e, nil
}

// makeRoom compares the victims and lets them go.
func (j *Judge) makeRoom(pod *corev1.Pod, ours *scheduler.Explanation, theirs Outcome) error {
	var plans []framework.Room
	if ours.Room != nil && ours.Room.Node != "" {
		plans = append([]framework.Room{*ours.Room}, ours.Room.Equals...)
	}
	if theirs.Nominated == "" && len(plans) == 0 {
		return nil
	}
	var all []string
	for _, plan := range plans {
		var victims []string
		for _, victim := range plan.Victims {
			victims = append(victims, victim.Name)
		}
		slices.Sort(victims)
		all = append(all, plan.Node+" without "+strings.Join(victims, ","))
		if plan.Node == theirs.Nominated && slices.Equal(victims, theirs.Victims) {
			for _, victim := range plan.Victims {
				j.cache.RemovePod(victim.UID)
			}
			return nil
		}
	}
	return fmt.Errorf("%s: they choose %s without %s, we %v", pod.Name, theirs.Nominated, strings.Join(theirs.Victims, ","), all)
}
