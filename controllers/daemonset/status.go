package daemonset

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"

	"tinykube/controllers/harness"
)

// makeStatus counts nodes, not pods: of those that should have a pod, how many
// have one, and in which state the oldest is. again is when the passing of
// time alone will make another one available.
//
// Upstream: kubernetes/kubernetes pkg/controller/daemon updateDaemonSetStatus
func makeStatus(s snapshot) (status appsv1.DaemonSetStatus, again time.Duration) {
	status = appsv1.DaemonSetStatus{
		ObservedGeneration: s.ds.Generation,
		CollisionCount:     s.ds.Status.CollisionCount,
		Conditions:         s.ds.Status.Conditions,
	}
	for _, node := range s.nodes {
		pods := s.pods[node.Name]
		if !s.verdicts[node.Name].run {
			if len(pods) > 0 {
				status.NumberMisscheduled++
			}
			continue
		}
		status.DesiredNumberScheduled++
		if len(pods) == 0 {
			continue
		}
		status.CurrentNumberScheduled++
		pod := pods[0]
		if harness.IsReady(pod) {
			status.NumberReady++
		}
		ok, in := harness.Available(pod, s.ds.Spec.MinReadySeconds, s.now)
		if ok {
			status.NumberAvailable++
		}
		again = harness.Sooner(again, in)
		if isCurrent(s, pod) {
			status.UpdatedNumberScheduled++
		}
	}
	status.NumberUnavailable = status.DesiredNumberScheduled - status.NumberAvailable
	return status, again
}
