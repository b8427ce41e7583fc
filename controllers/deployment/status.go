package deployment

import (
	"fmt"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Reasons of the condition Progressing.
const (
	reasonCreated = "NewReplicaSetCreated"
	// reasonNotCreated is also that of an event.
	reasonNotCreated = "ReplicaSetCreateError"
	reasonFound      = "FoundNewReplicaSet"
	reasonUpdated    = "ReplicaSetUpdated"
	reasonAvailable  = "NewReplicaSetAvailable"
	reasonTimedOut   = "ProgressDeadlineExceeded"
	reasonPaused     = "DeploymentPaused"
	reasonResumed    = "DeploymentResumed"
)

// count adds up what the ReplicaSets report.
func count(d *appsv1.Deployment, owned []*appsv1.ReplicaSet) appsv1.DeploymentStatus {
	s := sortSets(d, owned)
	all := s.all()
	status := appsv1.DeploymentStatus{
		ObservedGeneration: d.Generation,
		CollisionCount:     d.Status.CollisionCount,
		Replicas:           sum(all, func(rs *appsv1.ReplicaSet) int32 { return rs.Status.Replicas }),
		ReadyReplicas:      sum(all, func(rs *appsv1.ReplicaSet) int32 { return rs.Status.ReadyReplicas }),
		AvailableReplicas:  sum(all, available),
	}
	gone := sum(all, terminating)
	status.TerminatingReplicas = &gone
	status.UnavailableReplicas = max(0, sum(all, size)-status.AvailableReplicas)
	if s.new != nil {
		status.UpdatedReplicas = s.new.Status.Replicas
	}
	return status
}

// complete says whether a rollout is over: every pod there is is new, and
// there are as many as were asked for, available.
func complete(d *appsv1.Deployment, status *appsv1.DeploymentStatus) bool {
	want := *d.Spec.Replicas
	return status.UpdatedReplicas == want && status.Replicas == want && status.AvailableReplicas == want
}

// makeStatus computes the status after a plan has been carried out. again is
// when the progress deadline has to be looked at.
func makeStatus(d *appsv1.Deployment, owned []*appsv1.ReplicaSet, p plan, now time.Time) (status appsv1.DeploymentStatus, again time.Duration) {
	status = count(d, owned)
	for _, c := range d.Status.Conditions {
		if c.Type != appsv1.DeploymentReplicaFailure {
			status.Conditions = append(status.Conditions, c)
		}
	}
	conditions := conditionSetter{&status.Conditions, metav1.NewTime(now)}
	if failure := replicaFailure(owned); failure != nil {
		status.Conditions = append(status.Conditions, *failure)
	}
	setAvailable(d, &status, conditions)
	if p.rollout && !hasDeadline(d) { // who wants no deadline is told of no progress
		status.Conditions = slices.DeleteFunc(status.Conditions, func(c appsv1.DeploymentCondition) bool { return c.Type == appsv1.DeploymentProgressing })
	}
	if d.DeletionTimestamp != nil || !hasDeadline(d) {
		return status, 0
	}
	if p.failure != "" {
		conditions.set(appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonNotCreated, p.failure)
		return status, 0
	}
	if newSet := sortSets(d, owned).new; newSet != nil && p.create != nil {
		conditions.set(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonCreated, fmt.Sprintf("Created new replica set %q", newSet.Name))
	} else if newSet != nil && conditionOf(status.Conditions, appsv1.DeploymentProgressing) == nil {
		conditions.set(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonFound, fmt.Sprintf("Found new replica set %q", newSet.Name))
	}
	setPaused(d, &status, conditions)
	if p.rollout {
		again = setProgress(d, owned, &status, conditions, now)
	}
	return status, again
}

func setAvailable(d *appsv1.Deployment, status *appsv1.DeploymentStatus, conditions conditionSetter) {
	if status.AvailableReplicas >= *d.Spec.Replicas-maxUnavailable(d) {
		conditions.set(appsv1.DeploymentAvailable, corev1.ConditionTrue, "MinimumReplicasAvailable", "Deployment has minimum availability.")
	} else {
		conditions.set(appsv1.DeploymentAvailable, corev1.ConditionFalse, "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
	}
}

// setPaused stops the clock of the progress deadline while nobody wants
// progress, and starts it again. A lack of progress that has been reported
// stays reported.
func setPaused(d *appsv1.Deployment, status *appsv1.DeploymentStatus, conditions conditionSetter) {
	progressing := conditionOf(status.Conditions, appsv1.DeploymentProgressing)
	wasPaused := progressing != nil && progressing.Reason == reasonPaused
	switch {
	case progressing != nil && progressing.Reason == reasonTimedOut:
	case d.Spec.Paused && !wasPaused:
		conditions.set(appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonPaused, "Deployment is paused")
	case !d.Spec.Paused && wasPaused:
		conditions.set(appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonResumed, "Deployment is resumed")
	}
}

// setProgress judges a rollout: over, moving, or stuck for longer than
// progressDeadlineSeconds since it last moved.
//
// Upstream: kubernetes/kubernetes pkg/controller/deployment/progress.go syncRolloutStatus
func setProgress(d *appsv1.Deployment, owned []*appsv1.ReplicaSet, status *appsv1.DeploymentStatus, conditions conditionSetter, now time.Time) (again time.Duration) {
	was := conditionOf(status.Conditions, appsv1.DeploymentProgressing)
	if was != nil && was.Reason == reasonAvailable && status.Replicas == status.UpdatedReplicas {
		return 0 // it is over; pods that die later are not a rollout's problem
	}
	name := fmt.Sprintf("Deployment %q", d.Name)
	if newSet := sortSets(d, owned).new; newSet != nil {
		name = fmt.Sprintf("ReplicaSet %q", newSet.Name)
	}
	switch {
	case complete(d, status):
		conditions.set(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonAvailable, name+" has successfully progressed.")
		return 0
	case moved(&d.Status, status):
		conditions.renew(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonUpdated, name+" is progressing.")
		was = conditionOf(status.Conditions, appsv1.DeploymentProgressing)
	}
	if was == nil || was.Reason == reasonTimedOut || was.Reason == reasonAvailable {
		return 0
	}
	left := was.LastUpdateTime.Add(time.Duration(*d.Spec.ProgressDeadlineSeconds) * time.Second).Sub(now)
	if left <= 0 {
		conditions.set(appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonTimedOut, name+" has timed out progressing.")
		return 0
	}
	return left
}

// moved says whether a rollout got closer to its end between two statuses.
func moved(before, after *appsv1.DeploymentStatus) bool {
	return after.UpdatedReplicas > before.UpdatedReplicas ||
		after.Replicas-after.UpdatedReplicas < before.Replicas-before.UpdatedReplicas ||
		after.ReadyReplicas > before.ReadyReplicas ||
		after.AvailableReplicas > before.AvailableReplicas
}

func hasDeadline(d *appsv1.Deployment) bool {
	return d.Spec.ProgressDeadlineSeconds != nil && *d.Spec.ProgressDeadlineSeconds != math.MaxInt32
}

// replicaFailure passes on a ReplicaSet's reason for not making pods; the new
// ReplicaSet's comes first.
func replicaFailure(owned []*appsv1.ReplicaSet) *appsv1.DeploymentCondition {
	for i := len(owned) - 1; i >= 0; i-- {
		for _, c := range owned[i].Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure {
				return &appsv1.DeploymentCondition{
					Type: appsv1.DeploymentReplicaFailure, Status: c.Status, Reason: c.Reason, Message: c.Message,
					LastTransitionTime: c.LastTransitionTime, LastUpdateTime: c.LastTransitionTime,
				}
			}
		}
	}
	return nil
}

// conditionSetter changes a list of conditions at one moment.
type conditionSetter struct {
	list *[]appsv1.DeploymentCondition
	now  metav1.Time
}

// set changes a condition unless it has this status and reason already.
func (s conditionSetter) set(t appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) {
	if c := conditionOf(*s.list, t); c != nil && c.Status == status && c.Reason == reason {
		return
	}
	s.renew(t, status, reason, message)
}

// renew sets a condition and its LastUpdateTime, whatever it was.
func (s conditionSetter) renew(t appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) {
	c := appsv1.DeploymentCondition{Type: t, Status: status, Reason: reason, Message: message, LastUpdateTime: s.now, LastTransitionTime: s.now}
	have := conditionOf(*s.list, t)
	if have == nil {
		*s.list = append(*s.list, c)
		return
	}
	if have.Status == status {
		c.LastTransitionTime = have.LastTransitionTime
	}
	*have = c
}

func conditionOf(list []appsv1.DeploymentCondition, t appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range list {
		if list[i].Type == t {
			return &list[i]
		}
	}
	return nil
}
