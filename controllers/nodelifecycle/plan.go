package nodelifecycle

import (
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Config is how patient to be, with upstream's defaults in brackets.
type Config struct {
	MonitorPeriod      time.Duration // --node-monitor-period [5 s]
	GracePeriod        time.Duration // --node-monitor-grace-period [50 s]
	StartupGracePeriod time.Duration // --node-startup-grace-period [60 s]
	// Nodes per second given up in a zone: [0.1], and when many are gone [0.01].
	EvictionRate, SecondaryEvictionRate float64
	LargeClusterThreshold               int     // [50]
	UnhealthyZoneThreshold              float64 // [0.55]
}

// heartbeat is everything by which a kubelet shows that it lives. It is
// compared for change only: the times in it are the node's, not ours.
type heartbeat struct {
	lease, status time.Time
}

// observation is the last heartbeat of a node, and when we saw it, by our clock.
type observation struct {
	heartbeat
	at time.Time
}

// observe updates an observation: a heartbeat that is new restarts the clock.
func (o observation) observe(seen heartbeat, now time.Time) observation {
	if o.at.IsZero() || seen != o.heartbeat {
		return observation{seen, now}
	}
	return o
}

// patience is how long a node may still be silent; at or below zero its time is
// over. A node that has never posted a status has longer.
func (c Config) patience(node *corev1.Node, o observation, now time.Time) time.Duration {
	grace := c.GracePeriod
	if condition(node, corev1.NodeReady) == nil {
		grace = c.StartupGracePeriod
	}
	return grace - now.Sub(o.at)
}

// kubeletConditions are those that a kubelet posts; when it is silent, none of
// them is known any more.
var kubeletConditions = []corev1.NodeConditionType{
	corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure,
}

// silence returns the conditions of a node whose kubelet has fallen silent.
//
// Upstream: kubernetes/kubernetes pkg/controller/nodelifecycle tryUpdateNodeHealth
func silence(node *corev1.Node, now metav1.Time) []corev1.NodeCondition {
	conditions := append([]corev1.NodeCondition(nil), node.Status.Conditions...)
	for _, t := range kubeletConditions {
		c := find(conditions, t)
		switch {
		case c == nil:
			conditions = append(conditions, corev1.NodeCondition{
				Type: t, Status: corev1.ConditionUnknown,
				Reason: "NodeStatusNeverUpdated", Message: "Kubelet never posted node status.",
				LastHeartbeatTime: node.CreationTimestamp, LastTransitionTime: now,
			})
		case c.Status != corev1.ConditionUnknown:
			c.Status, c.LastTransitionTime = corev1.ConditionUnknown, now
			c.Reason, c.Message = "NodeStatusUnknown", "Kubelet stopped posting node status."
		}
	}
	return conditions
}

// taintOf maps a condition and its status to the taint it deserves.
//
// Upstream: kubernetes/kubernetes pkg/controller/nodelifecycle nodeConditionToTaintKeyStatusMap
var taintOf = map[corev1.NodeConditionType]map[corev1.ConditionStatus]string{
	corev1.NodeReady: {
		corev1.ConditionFalse:   corev1.TaintNodeNotReady,
		corev1.ConditionUnknown: corev1.TaintNodeUnreachable,
	},
	corev1.NodeMemoryPressure:     {corev1.ConditionTrue: corev1.TaintNodeMemoryPressure},
	corev1.NodeDiskPressure:       {corev1.ConditionTrue: corev1.TaintNodeDiskPressure},
	corev1.NodePIDPressure:        {corev1.ConditionTrue: corev1.TaintNodePIDPressure},
	corev1.NodeNetworkUnavailable: {corev1.ConditionTrue: corev1.TaintNodeNetworkUnavailable},
}

// taintID is what makes two taints the same one.
type taintID struct {
	key    string
	effect corev1.TaintEffect
}

// deserved returns the taints that a node's conditions ask for.
//
// Invariant: at most one of not-ready:NoExecute and unreachable:NoExecute.
//
// LAB 09 deserved: taintOf knows the key. Every one of them keeps pods away;
// only what Ready says drives off those that are there. A cordoned node
// deserves one, too, whatever its conditions.
func deserved(node *corev1.Node) map[taintID]bool {
	want := map[taintID]bool{}
	for _, c := range node.Status.Conditions {
		key := taintOf[c.Type][c.Status]
		if key == "" {
			continue
		}
		want[taintID{key, corev1.TaintEffectNoSchedule}] = true
		if c.Type == corev1.NodeReady {
			want[taintID{key, corev1.TaintEffectNoExecute}] = true
		}
	}
	if node.Spec.Unschedulable {
		want[taintID{corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule}] = true
	}
	return want
}

// managed says whether a taint is ours to put and to take away.
func managed(t corev1.Taint) bool {
	switch t.Key {
	case corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable:
		return t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute
	case corev1.TaintNodeMemoryPressure, corev1.TaintNodeDiskPressure, corev1.TaintNodePIDPressure,
		corev1.TaintNodeNetworkUnavailable, corev1.TaintNodeUnschedulable:
		return t.Effect == corev1.TaintEffectNoSchedule
	}
	return false
}

// evictionChoice is what may happen to a node's NoExecute taints now.
type evictionChoice int

const (
	evict evictionChoice = iota // put the one that is deserved
	wait                        // the zone's rate is used up: leave them as they are
	spare                       // nobody is ready: take them away
)

// makeTaints returns the taints a node should have. Foreign taints stay, and a
// taint that stays keeps the time it was added, from which evictions count.
//
// LAB 09 taints: keep what is not ours (managed), and what is still deserved,
// as it is; add what is deserved and missing. NoExecute depends on choice: wait
// adds none, spare leaves none.
func makeTaints(node *corev1.Node, choice evictionChoice, now metav1.Time) []corev1.Taint {
	want := deserved(node)
	var taints []corev1.Taint
	for _, t := range node.Spec.Taints {
		id := taintID{t.Key, t.Effect}
		keep := !managed(t) || want[id]
		if managed(t) && t.Effect == corev1.TaintEffectNoExecute && choice == spare {
			keep = false
		}
		if keep {
			taints = append(taints, t)
		}
		delete(want, id)
	}
	for _, id := range sorted(want) {
		if id.effect == corev1.TaintEffectNoExecute && choice != evict {
			continue
		}
		taints = append(taints, corev1.Taint{Key: id.key, Effect: id.effect, TimeAdded: &now})
	}
	return taints
}

// sinceFirst lets a node that was not ready and falls silent, or the other way
// round, keep the time from which its pods' tolerations count: they have been
// on a failing node since then.
//
// Upstream: kubernetes/kubernetes pkg/controller/tainteviction processPodOnNode, which keeps its appointment
func sinceFirst(taints, had []corev1.Taint) []corev1.Taint {
	for _, old := range had {
		for i, t := range taints {
			if t.Effect == corev1.TaintEffectNoExecute && old.Effect == t.Effect && managed(t) && managed(old) {
				taints[i].TimeAdded = old.TimeAdded
			}
		}
	}
	return taints
}

// oldLabels returns a node's labels with those of before Kubernetes 1.14 that
// selectors out there still use.
//
// Upstream: kubernetes/kubernetes pkg/controller/nodelifecycle reconcileNodeLabels
func oldLabels(node *corev1.Node) (labels map[string]string, changed bool) {
	labels = node.Labels
	for old, name := range map[string]string{"beta.kubernetes.io/os": corev1.LabelOSStable, "beta.kubernetes.io/arch": corev1.LabelArchStable} {
		if value, ok := node.Labels[name]; ok && node.Labels[old] != value {
			if !changed {
				labels, changed = maps.Clone(node.Labels), true
			}
			labels[old] = value
		}
	}
	return labels, changed
}

// needsEviction says whether a NoExecute taint is deserved and none is there
// yet: a node that was given up when it was not ready is not given up again
// when it falls silent.
//
// Upstream: kubernetes/kubernetes pkg/controller/nodelifecycle processTaintBaseEviction, which swaps at once
func needsEviction(node *corev1.Node) bool {
	want := deserved(node)
	for _, t := range node.Spec.Taints {
		if managed(t) && t.Effect == corev1.TaintEffectNoExecute {
			return false
		}
	}
	for id := range want {
		if id.effect == corev1.TaintEffectNoExecute {
			return true
		}
	}
	return false
}

func condition(node *corev1.Node, t corev1.NodeConditionType) *corev1.NodeCondition {
	return find(node.Status.Conditions, t)
}

func find(conditions []corev1.NodeCondition, t corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range conditions {
		if conditions[i].Type == t {
			return &conditions[i]
		}
	}
	return nil
}

func isReady(node *corev1.Node) bool {
	c := condition(node, corev1.NodeReady)
	return c != nil && c.Status == corev1.ConditionTrue
}
