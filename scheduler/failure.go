package scheduler

import (
	"context"
	"encoding/json"
	"errors"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"tinykube/client"
	"tinykube/scheduler/framework"
)

// maxEventMessage is upstream's limit for an event's note.
const maxEventMessage = 1024

// unschedulable reports that no node would do, and parks the pod.
func (s *Scheduler) unschedulable(ctx context.Context, a *attempt, d *framework.Diagnosis) {
	s.metrics.unschedulable(a)
	s.report(ctx, a, corev1.PodReasonUnschedulable, d.Error(), d.Rejectors)
}

// failed reports that the attempt itself went wrong; the pod is retried.
func (s *Scheduler) failed(ctx context.Context, a *attempt, err error) {
	s.metrics.failed(a)
	s.log.Warn("scheduling failed", "key", client.Key(a.pod), "attempt", a.pod.Attempts, "err", err)
	s.report(ctx, a, corev1.PodReasonSchedulerError, err.Error(), nil)
}

// turnedDown handles a no that came after the choice of a node.
func (s *Scheduler) turnedDown(ctx context.Context, a *attempt, status *framework.Status) {
	a.room = &framework.Room{} // a nomination did not hold what it promised
	if status.IsRejected() {
		d := framework.NewDiagnosis(1)
		d.Set(a.node, status)
		s.unschedulable(ctx, a, d)
		return
	}
	s.failed(ctx, a, errors.New(status.Message()))
}

// report tells the user and returns the pod to the queue, in this order: while
// the condition is being written the pod is still in flight, so that a late
// "unschedulable" never overwrites what the next attempt achieved.
func (s *Scheduler) report(ctx context.Context, a *attempt, reason, message string, rejectors map[string]bool) {
	pod, there := s.podInformer.Get(client.Key(a.pod))
	if !there || pod.UID != a.pod.UID || !s.isWaiting(pod) {
		s.queue.Done(a.pod.UID)
		return
	}
	short := message
	if len(short) > maxEventMessage {
		short = short[:maxEventMessage-4] + " ..."
	}
	s.recorder.Event(pod, corev1.EventTypeWarning, "FailedScheduling", "%s", short)
	if err := s.setCondition(ctx, pod, reason, message, a.room); err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
		s.log.Warn("pod condition not written", "key", client.Key(pod), "err", err)
	}
	if a.room != nil && a.room.Node != "" {
		if err := s.evict(ctx, a); err != nil {
			s.log.Warn("preemption failed", "key", client.Key(pod), "node", a.room.Node, "err", err)
			rejectors = nil // to be tried again soon, whatever happens
		}
	}
	s.queue.Requeue(pod, rejectors)
}

// setCondition writes PodScheduled=False and the nomination, unless the pod
// says so already: a pod that stays unschedulable for the same reason causes no
// more writes.
func (s *Scheduler) setCondition(ctx context.Context, pod *corev1.Pod, reason, message string, room *framework.Room) error {
	status := map[string]any{}
	if room != nil && room.Node != pod.Status.NominatedNodeName {
		status["nominatedNodeName"] = room.Node
	}
	condition := corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: reason, Message: message,
		ObservedGeneration: pod.Generation, LastTransitionTime: metav1.Now(),
	}
	for i := range pod.Status.Conditions {
		old := &pod.Status.Conditions[i]
		if old.Type != condition.Type {
			continue
		}
		if old.Status == condition.Status && old.Reason == reason && old.Message == message {
			if len(status) == 0 {
				return nil
			}
		}
		if old.Status == condition.Status {
			condition.LastTransitionTime = old.LastTransitionTime
		}
	}
	status["conditions"] = []corev1.PodCondition{condition}
	return s.patchStatus(ctx, pod, status)
}

func (s *Scheduler) patchStatus(ctx context.Context, pod *corev1.Pod, status map[string]any) error {
	// A strategic merge patch: conditions are merged by type, so those of
	// others stay. The UID makes the patch fail for a namesake.
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID},
		"status":   status,
	})
	if err != nil {
		return err
	}
	_, err = client.For(s.api, client.Pods).Patch(ctx, pod.Namespace, pod.Name, types.StrategicMergePatchType, patch, "status")
	return err
}
