package apiserver

import (
	corev1 "k8s.io/api/core/v1"
)

const defaultTolerationSeconds = int64(300)

// admitDefaultTolerations writes into a pod how long it stays on a node that is
// not ready, or not heard of, where everybody can see it.
func admitDefaultTolerations(a *admission) error {
	if !a.creates("pods") {
		return nil
	}
	pod := a.obj.(*corev1.Pod)
	for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		if seconds := defaultTolerationSeconds; !toleratesNoExecute(pod, key) {
			pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{
				Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds,
			})
		}
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
