package tainteviction

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"tinykube/client"
	"tinykube/controllers/harness"
)

const workers = 8

type controller struct {
	*harness.Scope
	nodes *harness.Store[*corev1.Node]
	pods  *harness.Store[*corev1.Pod]

	mu sync.Mutex // guards pending
	// pending notes when we first saw that a pod has to leave later.
	pending map[types.UID]time.Time
}

// Register adds the controller to a manager.
func Register(m *harness.Manager) {
	s := m.Scope(harness.Identity{Name: "taint-eviction-controller", Account: "node-controller", Source: "taint-eviction-controller"})
	c := &controller{
		Scope:   s,
		nodes:   harness.StoreOf(s, client.Nodes),
		pods:    harness.StoreOf(s, client.Pods),
		pending: map[types.UID]time.Time{},
	}
	loop := harness.NewLoop(s, workers, c.reconcile)
	harness.Watch(loop, c.pods, c.podKeys)
	harness.Watch(loop, c.nodes, c.nodeKeys)
}

// podKeys looks at a pod when it arrives on a node, or its tolerations change.
func (c *controller) podKeys(old, new *corev1.Pod) []string {
	switch {
	case new == nil:
		c.callOff(old)
		return nil
	case new.Spec.NodeName == "",
		old != nil && old != new && old.Spec.NodeName == new.Spec.NodeName && equality.Semantic.DeepEqual(old.Spec.Tolerations, new.Spec.Tolerations):
		return nil
	}
	return []string{client.Key(new)}
}

// nodeKeys are all pods of a node whose taints changed.
func (c *controller) nodeKeys(old, new *corev1.Node) []string {
	if new == nil || old != nil && old != new && equality.Semantic.DeepEqual(old.Spec.Taints, new.Spec.Taints) {
		return nil
	}
	var keys []string
	for _, pod := range c.pods.ByIndex(harness.ByNode, new.Name) {
		keys = append(keys, client.Key(pod))
	}
	return keys
}

func (c *controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	pod, ok := c.pods.Get(client.SplitKey(key))
	if !ok || pod.DeletionTimestamp != nil || pod.Spec.NodeName == "" {
		return 0, nil
	}
	node, ok := c.nodes.Get("", pod.Spec.NodeName)
	if !ok {
		return 0, nil // pod garbage collection's
	}
	now := time.Now()
	seen := c.firstSeen(pod.UID, now)
	leave, ok := makePlan(pod, node.Spec.Taints, seen)
	switch {
	case !ok:
		c.callOff(pod)
		return 0, nil
	case leave.After(now):
		c.plan(pod.UID, seen)
		return leave.Sub(now), nil
	}
	c.forget(pod.UID) // first, or its disappearance would call it off
	if err := c.evict(ctx, pod); err != nil {
		c.plan(pod.UID, seen)
		return 0, err
	}
	return 0, nil
}

func (c *controller) evict(ctx context.Context, pod *corev1.Pod) error {
	key := client.Key(pod)
	c.Events.Event(pod, corev1.EventTypeNormal, "TaintManagerEviction", "Marking for deletion Pod %s", key)
	_, err := harness.PatchPodStatus(ctx, c.pods, pod, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue,
		Reason: "DeletionByTaintManager", Message: "Taint manager: deleting due to NoExecute taint",
	}, "")
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("mark pod for eviction: %w", err)
	}
	c.Log.Info("Evicting pod", "key", key, "node", pod.Spec.NodeName)
	if err := c.pods.Delete(ctx, pod, metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("evict pod: %w", err)
	}
	return nil
}

// firstSeen is when we planned that a pod leaves; now if we have not.
func (c *controller) firstSeen(uid types.UID, now time.Time) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if seen, ok := c.pending[uid]; ok {
		return seen
	}
	return now
}

func (c *controller) plan(uid types.UID, seen time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pending[uid] = seen
}

func (c *controller) forget(uid types.UID) (planned bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, planned = c.pending[uid]
	delete(c.pending, uid)
	return planned
}

// callOff forgets that a pod has to leave, and tells if that was planned.
func (c *controller) callOff(pod *corev1.Pod) {
	if c.forget(pod.UID) {
		c.Events.Event(pod, corev1.EventTypeNormal, "TaintManagerEviction", "Cancelling deletion of Pod %s", client.Key(pod))
	}
}
