package tainteviction

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"tinykube/api/placement"
)

// makePlan says when a pod has to leave a node with these taints; ok is false
// if it may stay for ever. firstSeen stands in for the time of a taint that
// does not carry one (kubectl taint writes none).
//
// Upstream: kubernetes/kubernetes pkg/controller/tainteviction processPodOnNode
func makePlan(pod *corev1.Pod, taints []corev1.Taint, firstSeen time.Time) (leave time.Time, ok bool) {
	for i := range taints {
		taint := &taints[i]
		if taint.Effect != corev1.TaintEffectNoExecute {
			continue
		}
		deadline, limited := tolerated(pod, taint, firstSeen)
		if limited && (!ok || deadline.Before(leave)) {
			leave, ok = deadline, true
		}
	}
	return leave, ok
}

// Leave is when a pod has to leave a node with these taints, all of which carry
// a time; false means never.
func Leave(pod *corev1.Pod, taints []corev1.Taint) (time.Time, bool) {
	return makePlan(pod, taints, time.Time{})
}

// tolerated says until when a pod tolerates one taint; limited is false if it
// always does. The first toleration that fits counts.
func tolerated(pod *corev1.Pod, taint *corev1.Taint, firstSeen time.Time) (until time.Time, limited bool) {
	since := firstSeen
	if taint.TimeAdded != nil {
		since = taint.TimeAdded.Time
	}
	// A pod that came after the taint tolerates it from when it came.
	if pod.CreationTimestamp.After(since) {
		since = pod.CreationTimestamp.Time
	}
	for _, t := range pod.Spec.Tolerations {
		if !placement.Tolerated(taint, []corev1.Toleration{t}) {
			continue
		}
		if t.TolerationSeconds == nil {
			return time.Time{}, false
		}
		return since.Add(time.Duration(max(0, *t.TolerationSeconds)) * time.Second), true
	}
	return since, true
}
