package apiserver

import (
	corev1 "k8s.io/api/core/v1"
)

// admitDefaultTolerations, of creates and updates, writes into a pod how long it stays on a node that is
// not ready, or not heard of, where everybody can see it.
func admitDefaultTolerations(a *admission) error {
	pod, ok := a.obj.(*corev1.Pod)
	if !ok || a.subresource != "" {
		return nil
	}
	for _, taint := range []struct {
		key     string
		seconds int64
	}{{corev1.TaintNodeNotReady, a.server.cfg.NotReadySeconds}, {corev1.TaintNodeUnreachable, a.server.cfg.UnreachableSeconds}} {
		if !toleratesNoExecute(pod, taint.key) {
			pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{
				Key: taint.key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &taint.seconds,
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
