package kubelet

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"tinykube/client"
)

// statusWriter tells the API server what became of the pods. Workers leave
// their newest status here and go on; the writer compares it with what the API
// shows and patches the difference, as often as it takes. It also does the very
// last step of a pod's life: to delete its object, once nothing of it runs.
//
// A static pod's status goes to its mirror pod.
type statusWriter struct {
	pods  *client.Resource[*corev1.Pod] // nil without an API server
	find  func(*corev1.Pod) *corev1.Pod // the API's object of a pod: itself or its mirror
	queue *client.Queue[types.UID]
	log   *slog.Logger

	mu      sync.Mutex // guards entries
	entries map[types.UID]statusEntry
}

type statusEntry struct {
	pod     *corev1.Pod
	status  corev1.PodStatus
	stopped bool // nothing of it runs: its object may go
}

const statusWriters = 4

func newStatusWriter(c *client.Client, find func(*corev1.Pod) *corev1.Pod, log *slog.Logger) *statusWriter {
	s := &statusWriter{find: find, log: log, entries: map[types.UID]statusEntry{},
		queue: client.NewQueue[types.UID](client.QueueOptions{Base: 200 * time.Millisecond, Max: 10 * time.Second})}
	if c != nil {
		s.pods = client.For(c, client.Pods)
	}
	return s
}

// set leaves a pod's newest status. That a pod has ended is not told before the
// last of its containers has: whoever replaces it then shall not meet its
// sidecar.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/status mergePodStatus.
func (s *statusWriter) set(pod *corev1.Pod, status corev1.PodStatus, ended bool) {
	s.mu.Lock()
	e, found := s.entries[pod.UID]
	if isTerminal(status.Phase) && !ended {
		told := e.status
		if !found {
			told = pod.Status
		}
		status.Phase, status.Reason, status.Message = told.Phase, told.Reason, told.Message
	}
	e.pod, e.status = pod, status
	s.entries[pod.UID] = e
	s.mu.Unlock()
	s.queue.Add(pod.UID)
}

// stopped says that nothing of the pod is left but its records.
func (s *statusWriter) stopped(uid types.UID) {
	s.mu.Lock()
	e := s.entries[uid]
	e.stopped = true
	s.entries[uid] = e
	s.mu.Unlock()
	s.queue.Add(uid)
}

func (s *statusWriter) forget(uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.entries, uid)
}

// work writes until the queue is shut down.
func (s *statusWriter) work(ctx context.Context) {
	for {
		uid, ok := s.queue.Get()
		if !ok {
			return
		}
		err := s.write(ctx, uid)
		switch {
		case err == nil:
			s.queue.Forget(uid)
		case ctx.Err() == nil:
			s.log.Debug("pod status not written", "key", uid, "attempt", s.queue.Failures(uid)+1, "err", err)
			s.queue.AddRateLimited(uid)
		}
		s.queue.Done(uid)
	}
}

// write brings the API's view of one pod up to date.
func (s *statusWriter) write(ctx context.Context, uid types.UID) error {
	s.mu.Lock()
	e, found := s.entries[uid]
	s.mu.Unlock()
	if !found || e.pod == nil || s.pods == nil {
		return nil
	}
	target := s.find(e.pod)
	if target == nil { // no object (yet); when there is one, we are told
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	patch, err := statusPatch(target, e.status)
	if err != nil {
		return err
	}
	if patch != nil {
		_, err = s.pods.Patch(ctx, target.Namespace, target.Name, types.StrategicMergePatchType, patch, "status")
		if ignoreGone(err) != nil {
			return fmt.Errorf("patch status of %s: %w", client.Key(target), err)
		}
	}
	if e.stopped && target.DeletionTimestamp != nil && target.UID == uid {
		if err := deleteNow(ctx, s.pods, target); err != nil {
			return fmt.Errorf("delete %s: %w", client.Key(target), err)
		}
	}
	return nil
}

// deleteNow deletes the object of a pod of which nothing runs: this one, and not
// a later one of its name.
func deleteNow(ctx context.Context, pods *client.Resource[*corev1.Pod], pod *corev1.Pod) error {
	return ignoreGone(pods.Delete(ctx, pod.Namespace, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: to[int64](0), Preconditions: &metav1.Preconditions{UID: &pod.UID}}))
}

// ignoreGone: it is gone, or another pod of the same name by now, and not ours.
func ignoreGone(err error) error {
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// statusPatch is the difference between what the API shows and the status, or
// nil. Conditions that are not the kubelet's stay as they are, and the UID in
// the patch keeps it from reaching a later pod of the same name.
func statusPatch(target *corev1.Pod, status corev1.PodStatus) ([]byte, error) {
	desired := *status.DeepCopy()
	for _, c := range target.Status.Conditions {
		if !kubeletCondition(c.Type) {
			upsertKeeping(&desired, c)
		}
	}
	desired.NominatedNodeName = target.Status.NominatedNodeName
	desired.ResourceClaimStatuses = target.Status.ResourceClaimStatuses
	desired.Resize = target.Status.Resize
	if equal(target.Status, desired) {
		return nil, nil
	}
	return twoWayPatch(corev1.Pod{Status: target.Status}, corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: target.UID}, Status: desired})
}

// kubeletCondition lists the conditions that the kubelet owns.
func kubeletCondition(kind corev1.PodConditionType) bool {
	switch kind {
	case corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled,
		corev1.PodResizePending, corev1.PodResizeInProgress, corev1.AllContainersRestarting:
		return true
	}
	return false
}

// upsertKeeping takes a foreign condition over as it is. DisruptionTarget may
// be anybody's, so ours stays.
func upsertKeeping(status *corev1.PodStatus, c corev1.PodCondition) {
	i := slices.IndexFunc(status.Conditions, func(own corev1.PodCondition) bool { return own.Type == c.Type })
	if i < 0 {
		status.Conditions = append(status.Conditions, c)
	} else if c.Type != corev1.DisruptionTarget {
		status.Conditions[i] = c
	}
}
