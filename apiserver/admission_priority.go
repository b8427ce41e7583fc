package apiserver

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
)

// admitPriority turns a pod's priority class into the number that the
// scheduler and the kubelet compare.
func admitPriority(a *admission) error {
	if was, update := a.old.(*corev1.Pod); update && a.obj != nil && a.subresource == "" {
		keepPriority(a.obj.(*corev1.Pod), was)
	}
	if !a.creates("pods") {
		return nil
	}
	pod := a.obj.(*corev1.Pod)
	name, value, policy := pod.Spec.PriorityClassName, int32(0), corev1.PreemptLowerPriority
	class, err := priorityClass(a, name)
	switch {
	case err != nil:
		return err
	case class != nil:
		value, name = class.Value, class.Name
		if class.PreemptionPolicy != nil {
			policy = *class.PreemptionPolicy
		}
	}
	if pod.Spec.Priority != nil && *pod.Spec.Priority != value {
		return a.refuse(fmt.Errorf("the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name", *pod.Spec.Priority, value))
	}
	if pod.Spec.PreemptionPolicy != nil && *pod.Spec.PreemptionPolicy != policy {
		return a.refuse(fmt.Errorf("the string value of PreemptionPolicy (%s) must not be provided in pod spec; priority admission controller computed %s from the given PriorityClass name", *pod.Spec.PreemptionPolicy, policy))
	}
	pod.Spec.PriorityClassName, pod.Spec.Priority, pod.Spec.PreemptionPolicy = name, &value, &policy
	return nil
}

// priorityClass finds a class by name, or the default for "".
func priorityClass(a *admission, name string) (*schedulingv1.PriorityClass, error) {
	if name == "" { // of several defaults, as after a race, the lowest counts
		var chosen *schedulingv1.PriorityClass
		for _, class := range allCached[*schedulingv1.PriorityClass](a.server, schedulingv1.GroupName, "priorityclasses", "") {
			if class.GlobalDefault && (chosen == nil || class.Value < chosen.Value) {
				chosen = class
			}
		}
		return chosen, nil
	}
	if class, ok := current[*schedulingv1.PriorityClass](a.Context(), a.server, schedulingv1.GroupName, "priorityclasses", name); ok {
		return class, nil
	}
	return nil, a.refuse(fmt.Errorf("no PriorityClass with name %v was found", name))
}

// keepPriority completes an update by those who know a pod's class only.
func keepPriority(pod, was *corev1.Pod) {
	if pod.Spec.Priority == nil {
		pod.Spec.Priority = was.Spec.Priority
	}
	if pod.Spec.PreemptionPolicy == nil {
		pod.Spec.PreemptionPolicy = was.Spec.PreemptionPolicy
	}
}

// checkPriorityClass allows one default only: two would be none.
func checkPriorityClass(a *admission) error {
	class, ok := a.obj.(*schedulingv1.PriorityClass)
	if !ok || !class.GlobalDefault {
		return nil
	}
	for _, other := range allCached[*schedulingv1.PriorityClass](a.server, schedulingv1.GroupName, "priorityclasses", "") {
		if other.GlobalDefault && other.Name != class.Name {
			return a.refuse(fmt.Errorf("PriorityClass %v is already marked as default. Only one default can exist", other.Name))
		}
	}
	return nil
}
