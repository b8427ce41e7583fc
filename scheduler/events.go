package scheduler

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"tinykube/api/requests"
	"tinykube/client"
	"tinykube/scheduler/framework"
)

// watch connects the informers with cache and queue. This is where objects
// become facts: a pod either occupies a node, or waits for us, or is nobody's
// business here.
func (s *Scheduler) watch() {
	s.nodeInformer = client.NewInformer(client.For(s.api, client.Nodes).Protobuf(), client.InformerOptions[*corev1.Node]{Logger: s.log, Trim: client.TrimManagedFields[*corev1.Node]})
	s.podInformer = client.NewInformer(client.For(s.api, client.Pods).Protobuf(), client.InformerOptions[*corev1.Pod]{Logger: s.log, Trim: client.TrimManagedFields[*corev1.Pod]})
	s.nodeInformer.OnChange(s.nodeChanged)
	s.podInformer.OnChange(s.podChanged)
	s.objects.storage.onChange(s.queue.Happened)
}

func (s *Scheduler) nodeChanged(old, new *corev1.Node) {
	if new == nil {
		s.cache.RemoveNode(old.Name)
		s.queue.Happened(framework.Event{Action: framework.NodeDelete, OldNode: old})
		return
	}
	s.cache.SetNode(new)
	s.queue.Happened(framework.Event{Action: nodeActions(old, new), OldNode: old, NewNode: new})
}

func nodeActions(old, new *corev1.Node) framework.Action {
	if old == nil {
		return framework.NodeAdd
	}
	var actions framework.Action
	if !equality.Semantic.DeepEqual(old.Status.Allocatable, new.Status.Allocatable) {
		actions |= framework.NodeAllocatable
	}
	if !maps.Equal(old.Labels, new.Labels) {
		actions |= framework.NodeLabels
	}
	if old.Spec.Unschedulable != new.Spec.Unschedulable || !equality.Semantic.DeepEqual(old.Spec.Taints, new.Spec.Taints) {
		actions |= framework.NodeTaints
	}
	return actions
}

// occupies says that the pod takes up room on a node.
func occupies(pod *corev1.Pod) bool {
	return pod != nil && pod.Spec.NodeName != "" && !finished(pod)
}

func finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// isWaiting says that the pod wants a node from us.
func (s *Scheduler) isWaiting(pod *corev1.Pod) bool {
	return pod != nil && pod.Spec.NodeName == "" && !finished(pod) && s.profileOf(pod) != nil
}

func (s *Scheduler) podChanged(old, new *corev1.Pod) {
	switch {
	case occupies(new):
		s.cache.AddPod(new)
		s.cache.NoLongerWaits(new.UID)
		if occupies(old) {
			s.queue.Happened(framework.Event{Action: assignedActions(old, new), OldPod: old, NewPod: new})
			return
		}
		s.queue.Delete(new.UID)
		s.queue.Happened(framework.Event{Action: framework.AssignedAdd, NewPod: new})
	case occupies(old):
		s.cache.RemovePod(old.UID)
		s.queue.Happened(framework.Event{Action: framework.AssignedDelete, OldPod: old})
	case s.isWaiting(new) && s.cache.Assumed(new.UID):
		// Our own decision is on its way; this version is older than it.
	case s.isWaiting(old) && s.isWaiting(new):
		s.cache.Waits(old, new)
		s.queue.Update(old, new)
	case s.isWaiting(new):
		s.cache.Waits(nil, new)
		s.queue.Add(new)
	case s.isWaiting(old):
		s.cache.NoLongerWaits(old.UID)
		s.queue.Delete(old.UID)
		if s.cache.Assumed(old.UID) {
			// Deleted while its binding was under way.
			s.cache.Forget(old.UID)
			s.queue.Happened(framework.Event{Action: framework.AssignedDelete, OldPod: old})
		}
	}
}

func assignedActions(old, new *corev1.Pod) framework.Action {
	var actions framework.Action
	if !maps.Equal(old.Labels, new.Labels) {
		actions |= framework.AssignedLabels
	}
	if scaledDown(old, new) {
		actions |= framework.AssignedScaledDown
	}
	return actions
}

// ownActions says what changed in a pod that waits.
func ownActions(old, new *corev1.Pod) framework.Action {
	var actions framework.Action
	if !maps.Equal(old.Labels, new.Labels) {
		actions |= framework.OwnLabels
	}
	if !slices.EqualFunc(old.Spec.Tolerations, new.Spec.Tolerations, func(a, b corev1.Toleration) bool { return equality.Semantic.DeepEqual(a, b) }) {
		actions |= framework.OwnTolerations
	}
	if scaledDown(old, new) {
		actions |= framework.OwnScaledDown
	}
	if len(old.Spec.SchedulingGates) > 0 && len(new.Spec.SchedulingGates) == 0 {
		actions |= framework.OwnGatesGone
	}
	return actions
}

// scaledDown says that the pod asks for less of something than before.
func scaledDown(old, new *corev1.Pod) bool {
	after := requests.Pod(new)
	for name, before := range requests.Pod(old) {
		if now := after[name]; now.Cmp(before) < 0 {
			return true
		}
	}
	return false
}
