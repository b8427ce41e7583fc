package scheduler

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"golang.org/x/sync/errgroup"

	"tinykube/client"
	"tinykube/scheduler/framework"
)

// maxEvicting bounds the deletions under way for one pod.
const maxEvicting = 8

// evict carries out what PostFilter planned: the victims are deleted as a user
// would delete them, with their grace period. The pod for which it happens is
// in flight meanwhile, so that their going is remembered and wakes it.
//
// Upstream: kubernetes pkg/scheduler/framework/preemption Executor
func (s *Scheduler) evict(ctx context.Context, a *attempt) error {
	s.denominate(ctx, a)
	group := new(errgroup.Group)
	group.SetLimit(maxEvicting)
	for _, victim := range a.room.Victims {
		if victim.DeletionTimestamp == nil {
			group.Go(func() error { return s.evictOne(ctx, a, victim.Pod) })
		}
	}
	return group.Wait()
}

func (s *Scheduler) evictOne(ctx context.Context, a *attempt, victim *corev1.Pod) error {
	if w := s.waiting.Get(victim.UID); w != nil && w.Reject("DefaultPreemption", "preempted") {
		// It has a node in our mind only: no need to delete it.
		s.recorder.Event(victim, corev1.EventTypeNormal, "Preempted", "Preempted by pod %s on node %s (in kube-scheduler memory).", a.pod.UID, a.room.Node)
		return nil
	}
	err := s.patchStatus(ctx, victim, map[string]any{"conditions": []corev1.PodCondition{{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler,
		Message:            a.profile.Name + ": preempting to accommodate a higher priority pod",
		ObservedGeneration: victim.Generation, LastTransitionTime: metav1.Now(),
	}}})
	if err == nil {
		err = client.For(s.api, client.Pods).Delete(ctx, victim.Namespace, victim.Name,
			metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(victim.UID))})
	}
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // gone already, perhaps with a namesake in its place
	}
	if err != nil {
		return fmt.Errorf("evict %s: %w", client.Key(victim), err)
	}
	s.log.Info("preempted pod", "key", client.Key(victim), "node", a.room.Node, "by", client.Key(a.pod))
	s.recorder.Event(victim, corev1.EventTypeNormal, "Preempted", "Preempted by pod %s on node %s", a.pod.UID, a.room.Node)
	return nil
}

// denominate tells less important pods that wait for the same node not to:
// they may not fit any more, and had better look elsewhere at once.
func (s *Scheduler) denominate(ctx context.Context, a *attempt) {
	for _, other := range s.cache.NominatedTo(a.room.Node) {
		if framework.Priority(other.Pod) >= framework.Priority(a.pod.Pod) {
			continue
		}
		s.cache.NoLongerWaits(other.UID)
		s.queue.Activate(other.UID)
		if err := s.patchStatus(ctx, other.Pod, map[string]any{"nominatedNodeName": ""}); err != nil && !apierrors.IsNotFound(err) {
			s.log.Warn("nomination not taken back", "key", client.Key(other), "err", err)
		}
	}
}
