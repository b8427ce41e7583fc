package plugins

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"tinykube/scheduler/framework"
)

// SchedulingGates keeps a pod out of the queue while spec.schedulingGates
// names anybody who still has to prepare something for it.
type SchedulingGates struct{}

// Name is the plugin's name in configuration files.
func (SchedulingGates) Name() string { return "SchedulingGates" }

// PreEnqueue lists the gates that are left.
func (SchedulingGates) PreEnqueue(pod *corev1.Pod) *framework.Status {
	if len(pod.Spec.SchedulingGates) == 0 {
		return nil
	}
	var gates []string
	for _, g := range pod.Spec.SchedulingGates {
		gates = append(gates, g.Name)
	}
	return framework.NewStatus(framework.UnschedulableAndUnresolvable, fmt.Sprintf("waiting for scheduling gates: %v", gates))
}

// Hints: only the pod itself can lose its gates.
func (SchedulingGates) Hints() []framework.Hint {
	return []framework.Hint{{On: framework.OwnGatesGone}}
}

// PrioritySort puts important pods first, and among equals those that have
// waited longer.
type PrioritySort struct{}

// Name is the plugin's name in configuration files.
func (PrioritySort) Name() string { return "PrioritySort" }

// Less says whether a goes before b.
func (PrioritySort) Less(a, b *framework.QueuedPod) bool {
	pa, pb := framework.Priority(a.Pod), framework.Priority(b.Pod)
	return pa > pb || pa == pb && a.Added.Before(b.Added)
}
