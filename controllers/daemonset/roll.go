package daemonset

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"tinykube/controllers/harness"
)

// roll adds one step of a rolling update to a plan.
//
//	maxUnavailable   an old pod is deleted, and when it is gone the plan makes a
//	                 new one; at most so many nodes are without an available pod
//	maxSurge         a new pod is made beside the old one, which is deleted when
//	                 the new one is available
//
// An old pod that does not work anyway is replaced at once: nothing is lost.
//
// Upstream: kubernetes/kubernetes pkg/controller/daemon/update.go rollingUpdate
func roll(s snapshot, p plan) plan {
	if s.ds.Spec.UpdateStrategy.Type != appsv1.RollingUpdateDaemonSetStrategyType {
		return p
	}
	if maxSurge(s) > 0 {
		return surge(s, p)
	}
	unavailable := 0
	var broken, working []deletion
	for _, node := range s.nodes {
		if !s.verdicts[node.Name].run {
			continue
		}
		current, old := split(s, s.pods[node.Name])
		switch {
		case current == nil && old != nil && isAvailable(s, old):
			working = append(working, deletion{pod: old})
		case current == nil && old != nil:
			unavailable++
			broken = append(broken, deletion{pod: old})
		case current == nil || old != nil || !isAvailable(s, current):
			unavailable++
		}
	}
	p.delete = append(p.delete, broken...)
	room := min(max(0, maxUnavailable(s)-unavailable), len(working))
	p.delete = append(p.delete, working[:room]...)
	return p
}

func surge(s snapshot, p plan) plan {
	surging := 0
	var candidates []string
	for _, node := range s.nodes {
		if !s.verdicts[node.Name].run {
			continue
		}
		current, old := split(s, s.pods[node.Name])
		switch {
		case current != nil && old != nil && (isAvailable(s, current) || !isAvailable(s, old)):
			p.delete = append(p.delete, deletion{pod: old})
		case current != nil && old != nil:
			surging++
		case current == nil && old != nil && !isAvailable(s, old):
			p.create = append(p.create, node.Name)
			p.delete = append(p.delete, deletion{pod: old})
		case current == nil && old != nil:
			candidates = append(candidates, node.Name)
		}
	}
	room := min(max(0, maxSurge(s)-surging), len(candidates))
	p.create = append(p.create, candidates[:room]...)
	return p
}

// split finds, of a node's pods that live, one of the current revision and one
// of another.
func split(s snapshot, pods []*corev1.Pod) (current, old *corev1.Pod) {
	for _, pod := range pods {
		switch {
		case !harness.IsActive(pod):
		case isCurrent(s, pod):
			current = pod
		default:
			old = pod
		}
	}
	return current, old
}

func isAvailable(s snapshot, pod *corev1.Pod) bool {
	ok, _ := harness.Available(pod, s.ds.Spec.MinReadySeconds, s.now)
	return ok
}

func maxUnavailable(s snapshot) int {
	rolling := s.ds.Spec.UpdateStrategy.RollingUpdate
	if rolling == nil || rolling.MaxUnavailable == nil {
		return 1
	}
	return resolve(rolling.MaxUnavailable, s)
}

func maxSurge(s snapshot) int {
	rolling := s.ds.Spec.UpdateStrategy.RollingUpdate
	if s.ds.Spec.UpdateStrategy.Type != appsv1.RollingUpdateDaemonSetStrategyType || rolling == nil || rolling.MaxSurge == nil {
		return 0
	}
	return resolve(rolling.MaxSurge, s)
}

// resolve turns a number or a percentage of the nodes that should run a pod
// into a number, rounded up.
func resolve(value *intstr.IntOrString, s snapshot) int {
	n, err := intstr.GetScaledValueFromIntOrPercent(value, s.desired, true)
	if err != nil {
		return 0 // the server does not let such a value in
	}
	return n
}
