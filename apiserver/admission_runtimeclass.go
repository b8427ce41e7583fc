package apiserver

import (
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// admitRuntimeClass writes into a pod what its runtime class costs and where it
// can run, so that scheduler and quota see it.
func admitRuntimeClass(a *admission) error {
	if !a.creates("pods") {
		return nil
	}
	pod := a.obj.(*corev1.Pod)
	class, err := runtimeClass(a, pod)
	if err != nil || class == nil {
		return err
	}
	if class.Overhead != nil {
		if len(pod.Spec.Overhead) > 0 && !equality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead) {
			return a.refuse(errOtherOverhead)
		}
		pod.Spec.Overhead = class.Overhead.PodFixed.DeepCopy()
	}
	if class.Scheduling == nil {
		return nil
	}
	for key, value := range class.Scheduling.NodeSelector {
		if own, ok := pod.Spec.NodeSelector[key]; ok && own != value {
			return a.refuse(fmt.Errorf("conflict: runtimeClass.scheduling.nodeSelector[%s] = %s; pod.spec.nodeSelector[%s] = %s", key, value, key, own))
		}
		if pod.Spec.NodeSelector == nil {
			pod.Spec.NodeSelector = map[string]string{}
		}
		pod.Spec.NodeSelector[key] = value
	}
	for _, toleration := range class.Scheduling.Tolerations {
		same := func(own corev1.Toleration) bool { return equality.Semantic.DeepEqual(own, toleration) }
		if !slices.ContainsFunc(pod.Spec.Tolerations, same) {
			pod.Spec.Tolerations = append(pod.Spec.Tolerations, toleration)
		}
	}
	return nil
}

var (
	errOtherOverhead = errors.New("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
	errOwnOverhead   = errors.New("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")
)

// checkOverhead makes sure that nobody declares an overhead of their own.
func checkOverhead(a *admission) error {
	if !a.creates("pods") {
		return nil
	}
	pod := a.obj.(*corev1.Pod)
	class, err := runtimeClass(a, pod)
	switch {
	case err != nil:
		return err
	case class != nil && class.Overhead != nil:
		if !equality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead) {
			return a.refuse(errOtherOverhead)
		}
	case pod.Spec.Overhead != nil:
		return a.refuse(errOwnOverhead)
	}
	return nil
}

// runtimeClass is the class that a pod names, nil if it names none.
func runtimeClass(a *admission, pod *corev1.Pod) (*nodev1.RuntimeClass, error) {
	if pod.Spec.RuntimeClassName == nil {
		return nil, nil
	}
	name := *pod.Spec.RuntimeClassName
	class, ok := current[*nodev1.RuntimeClass](a.Context(), a.server, nodev1.GroupName, "runtimeclasses", name)
	if !ok {
		return nil, a.refuse(fmt.Errorf("pod rejected: RuntimeClass %q not found", name))
	}
	return class, nil
}
