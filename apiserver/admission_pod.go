package apiserver

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
)

// defaultTolerationSeconds is how long a pod stays on a node that is not
// ready, or not heard of, unless it says otherwise.
const defaultTolerationSeconds = int64(300)

// admitDefaultTolerations writes that default into the pod, where everybody
// can see it.
func admitDefaultTolerations(a *admission) error {
	if !a.creates("pods") {
		return nil
	}
	pod := a.obj.(*corev1.Pod)
	for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		if toleratesNoExecute(pod, key) {
			continue
		}
		seconds := defaultTolerationSeconds
		pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{
			Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds,
		})
	}
	return nil
}

func toleratesNoExecute(pod *corev1.Pod, key string) bool {
	for _, t := range pod.Spec.Tolerations {
		if (t.Key == key || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "") {
			return true
		}
	}
	return false
}

// admitPriority turns a pod's priority class into the number that the
// scheduler and the kubelet compare.
func admitPriority(a *admission) error {
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
	if name == "" {
		for _, class := range allCached[*schedulingv1.PriorityClass](a.server, schedulingv1.GroupName, "priorityclasses", "") {
			if class.GlobalDefault {
				return class, nil
			}
		}
		return nil, nil
	}
	if class, ok := current[*schedulingv1.PriorityClass](a.Context(), a.server, schedulingv1.GroupName, "priorityclasses", name); ok {
		return class, nil
	}
	return nil, a.refuse(fmt.Errorf("no PriorityClass with name %v was found", name))
}
