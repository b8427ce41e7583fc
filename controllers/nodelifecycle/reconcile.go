package nodelifecycle

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"
	coordinationv1 "k8s.io/api/coordination/v1"
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
	cfg    Config
	zones  *zones
	nodes  *harness.Store[*corev1.Node]
	leases *harness.Store[*coordinationv1.Lease]
	pods   *harness.Store[*corev1.Pod]

	mu sync.Mutex // guards seen, uids
	// seen is our memory of heartbeats. It cannot be anywhere else: it is
	// about our clock, and it is only ever wrong towards patience.
	seen map[string]observation
	uids map[string]types.UID // of the nodes in seen, to speak of them when they are gone
}

// Register adds the controller to a manager.
func Register(m *harness.Manager, cfg Config) {
	s := m.Scope(harness.Identity{Name: "node-lifecycle-controller", Account: "node-controller", Source: "node-controller"})
	c := &controller{
		Scope: s, cfg: cfg,
		zones:  &zones{cfg: cfg, limiters: map[string]*rate.Limiter{}},
		nodes:  harness.StoreOf(s, client.Nodes),
		leases: harness.StoreOf(s, client.Leases),
		pods:   harness.StoreOf(s, client.Pods),
		seen:   map[string]observation{}, uids: map[string]types.UID{},
	}
	loop := harness.NewLoop(s, workers, c.reconcile)
	harness.WatchSelf(loop, c.nodes)
	harness.Watch(loop, c.leases, func(old, new *coordinationv1.Lease) []string {
		if new == nil || new.Namespace != corev1.NamespaceNodeLease {
			return nil
		}
		return []string{new.Name}
	})
	harness.Watch(loop, c.pods, c.podOnSilentNode)
}

// podOnSilentNode wakes the node of a pod that claims to be ready where nobody
// can know.
func (c *controller) podOnSilentNode(_, pod *corev1.Pod) []string {
	if pod == nil || pod.Spec.NodeName == "" || !harness.IsReady(pod) {
		return nil
	}
	if node, ok := c.nodes.Get("", pod.Spec.NodeName); ok && isSilent(node) {
		return []string{pod.Spec.NodeName}
	}
	return nil
}

func (c *controller) reconcile(ctx context.Context, name string) (time.Duration, error) {
	node, ok := c.nodes.Get("", name)
	if !ok {
		c.forget(name)
		return 0, nil
	}
	now := time.Now()
	observed := c.observe(node, now)
	if c.cfg.patience(node, observed, now) <= 0 {
		var err error
		if node, err = c.markSilent(ctx, node, metav1.NewTime(now)); err != nil {
			return 0, err
		}
	}
	if err := c.mark(ctx, node, now); err != nil {
		return 0, err
	}
	if isSilent(node) {
		if err := c.markPodsNotReady(ctx, node); err != nil {
			return 0, err
		}
	}
	return c.cfg.MonitorPeriod, nil
}

// observe compares the node's heartbeats with what we remember of it.
func (c *controller) observe(node *corev1.Node, now time.Time) observation {
	var h heartbeat
	if ready := condition(node, corev1.NodeReady); ready != nil {
		h.status = ready.LastHeartbeatTime.Time
	}
	if lease, ok := c.leases.Get(corev1.NamespaceNodeLease, node.Name); ok && lease.Spec.RenewTime != nil {
		h.lease = lease.Spec.RenewTime.Time
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	was, known := c.seen[node.Name]
	if !known {
		c.event(node.Name, node.UID, "RegisteredNode", "Node %s event: Registered Node %s in Controller", node.Name, node.Name)
	}
	is := was.observe(h, now)
	c.seen[node.Name], c.uids[node.Name] = is, node.UID
	return is
}

func (c *controller) forget(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if uid, known := c.uids[name]; known {
		c.event(name, uid, "RemovingNode", "Node %s event: Removing Node %s from Controller", name, name)
	}
	delete(c.seen, name)
	delete(c.uids, name)
}

// event tells of a node, which may be gone.
func (c *controller) event(name string, uid types.UID, reason, format string, args ...any) {
	ref := corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: name, UID: uid}
	c.Events.EventRef(ref, corev1.EventTypeNormal, reason, format, args...)
}

func (c *controller) markSilent(ctx context.Context, node *corev1.Node, now metav1.Time) (*corev1.Node, error) {
	conditions := silence(node, now)
	if equality.Semantic.DeepEqual(conditions, node.Status.Conditions) {
		return node, nil
	}
	updated := node.DeepCopy()
	updated.Status.Conditions = conditions
	updated, err := c.nodes.UpdateStatus(ctx, updated)
	if err != nil {
		return nil, fmt.Errorf("mark node %s silent: %w", node.Name, err)
	}
	c.Log.Info("Node has fallen silent", "node", node.Name)
	if isReady(node) {
		c.event(node.Name, node.UID, "NodeNotReady", "Node %s status is now: NodeNotReady", node.Name)
	}
	return updated, nil
}

// mark writes what a node's own fields ask for: its taints and its old labels.
func (c *controller) mark(ctx context.Context, node *corev1.Node, now time.Time) error {
	taints := makeTaints(node, c.zones.choose(node, c.nodes.List, now), metav1.NewTime(now))
	labels, relabelled := oldLabels(node)
	if !relabelled && equality.Semantic.DeepEqual(taints, node.Spec.Taints) {
		return nil
	}
	updated := node.DeepCopy()
	updated.Labels, updated.Spec.Taints = labels, sinceFirst(taints, node.Spec.Taints)
	if _, err := c.nodes.Update(ctx, updated); err != nil {
		return fmt.Errorf("mark node %s: %w", node.Name, err)
	}
	c.Log.Info("Marked node", "node", node.Name, "taints", describe(taints))
	return nil
}

// markPodsNotReady takes a silent node's pods out of their Services at once;
// whether they are to be replaced is decided much later.
func (c *controller) markPodsNotReady(ctx context.Context, node *corev1.Node) error {
	for _, pod := range c.pods.ByIndex(harness.ByNode, node.Name) {
		if !harness.IsReady(pod) {
			continue
		}
		ready := *harness.PodCondition(pod, corev1.PodReady)
		ready.Status = corev1.ConditionFalse
		_, err := harness.PatchPodStatus(ctx, c.pods, pod, ready, "")
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("mark pod %s not ready: %w", client.Key(pod), err)
		}
		c.Events.Event(pod, corev1.EventTypeWarning, "NodeNotReady", "Node is not ready")
	}
	return nil
}

// isSilent says whether we have given up hearing from a node's kubelet.
func isSilent(node *corev1.Node) bool {
	c := condition(node, corev1.NodeReady)
	return c != nil && c.Status == corev1.ConditionUnknown
}

func describe(taints []corev1.Taint) []string {
	var s []string
	for _, t := range taints {
		s = append(s, t.ToString())
	}
	return s
}
