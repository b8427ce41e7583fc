package kubelet

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"tinykube/client"
)

// nodeReporter keeps the API's picture of this node: that it exists (the Node),
// how it is (its status), that it lives (its Lease) and which static pods it
// runs (mirrors). Each of the four retries by itself: an API server that is
// away, or a Node that somebody deleted, stops none of the others.
type nodeReporter struct {
	k *Kubelet

	runtimeVersion string // set before run

	statusNow, mirrorsNow chan struct{} // capacity 1: do not wait for the tick

	mu       sync.Mutex   // guards what follows
	node     *corev1.Node // as last read or written; nil before registration
	reported time.Time    // when the status was last written
	network  error        // why pods cannot have a network; nil: they can
	runtime  error        // why the runtime runs nothing
	answered time.Time    // when the runtime last answered
	checked  bool         // the two above have been asked for
	features *corev1.NodeFeatures
	handlers []corev1.NodeRuntimeHandler
}

const (
	leaseNamespace = corev1.NamespaceNodeLease
	mirrorPeriod   = 5 * time.Second
	apiTimeout     = 10 * time.Second
)

func newNodeReporter(k *Kubelet) *nodeReporter {
	return &nodeReporter{k: k, statusNow: make(chan struct{}, 1), mirrorsNow: make(chan struct{}, 1)}
}

// run reports until ctx ends.
func (n *nodeReporter) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return n.every(ctx, n.k.cfg.StatusUpdateFrequency, n.statusNow, "node status", n.syncStatus)
	})
	group.Go(func() error { return n.every(ctx, mirrorPeriod, n.mirrorsNow, "mirror pods", n.k.syncMirrors) })
	group.Go(func() error { return n.every(ctx, n.k.cfg.LeaseDuration/4, nil, "node lease", n.renewLease) })
	return group.Wait()
}

// every calls sync each period, or when told; after a failure sooner, with a
// growing pause.
func (n *nodeReporter) every(ctx context.Context, period time.Duration, now <-chan struct{}, what string, sync func(context.Context) error) error {
	failures := 0
	for {
		callCtx, cancel := context.WithTimeout(ctx, apiTimeout)
		err := sync(callCtx)
		cancel()
		pause := period
		switch {
		case err == nil:
			failures = 0
		case ctx.Err() == nil:
			// A new cluster waits for its nodes, so not for long; with jitter,
			// so that they do not all come at once.
			pause = jitter(min(100*time.Millisecond<<min(failures, 10), time.Second))
			failures++
			n.k.log.Debug(what+" not written", "attempt", failures, "err", err)
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		case <-now:
			timer.Stop()
		}
	}
}

func (n *nodeReporter) touchStatus() { touch(n.statusNow) }

func (n *nodeReporter) touchMirrors() { touch(n.mirrorsNow) }

// syncStatus brings the Node's status up to date, and makes the Node first if
// there is none.
func (n *nodeReporter) syncStatus(ctx context.Context) error {
	k := n.k
	nodes := client.For(k.client, client.Nodes)
	node, err := nodes.Get(ctx, "", k.cfg.NodeName)
	if apierrors.IsNotFound(err) {
		if !k.cfg.RegisterNode {
			return fmt.Errorf("node %s does not exist and registerNode is false", k.cfg.NodeName)
		}
		node, err = n.register(ctx)
	}
	if err != nil {
		return err
	}
	n.remember(node)
	if node, err = n.reconcileMeta(ctx, node); err != nil {
		return err
	}
	desired := node.DeepCopy()
	n.fillStatus(ctx, desired)
	n.mu.Lock()
	due := time.Since(n.reported) >= k.cfg.StatusReportFrequency
	n.mu.Unlock()
	if !due && !statusDiffers(&node.Status, &desired.Status) {
		return nil
	}
	patch, err := twoWayPatch(corev1.Node{Status: node.Status}, corev1.Node{Status: desired.Status})
	if err != nil {
		return err
	}
	updated, err := nodes.Patch(ctx, "", node.Name, types.StrategicMergePatchType, patch, "status")
	if err != nil {
		return err
	}
	n.announce(&node.Status, &updated.Status)
	n.mu.Lock()
	n.node, n.reported = updated, time.Now()
	n.mu.Unlock()
	return nil
}

// register creates the Node.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/kubelet_node_status.go initialNode.
func (n *nodeReporter) register(ctx context.Context) (*corev1.Node, error) {
	k := n.k
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: k.cfg.NodeName, Labels: n.defaultLabels(),
		Annotations: map[string]string{"volumes.kubernetes.io/controller-managed-attach-detach": "true"}}}
	for key, value := range k.cfg.NodeLabels {
		node.Labels[key] = value
	}
	node.Spec.Taints = k.cfg.RegisterWithTaints
	node.Spec.ProviderID = k.cfg.ProviderID
	n.fillStatus(ctx, node)
	created, err := client.For(k.client, client.Nodes).Create(ctx, node)
	if err != nil {
		return nil, fmt.Errorf("register node: %w", err)
	}
	k.log.Info("node registered", "node", node.Name)
	n.touchMirrors()
	return created, nil
}

func (n *nodeReporter) defaultLabels() map[string]string {
	return map[string]string{
		corev1.LabelHostname: n.k.cfg.NodeName,
		corev1.LabelOSStable: runtime.GOOS, corev1.LabelArchStable: runtime.GOARCH,
		"beta.kubernetes.io/os": runtime.GOOS, "beta.kubernetes.io/arch": runtime.GOARCH,
	}
}

// reconcileMeta gives an existing Node the labels that this kubelet vouches
// for. Everything else on it belongs to others.
func (n *nodeReporter) reconcileMeta(ctx context.Context, node *corev1.Node) (*corev1.Node, error) {
	labels := map[string]string{}
	for key, value := range n.defaultLabels() {
		if node.Labels[key] != value {
			labels[key] = value
		}
	}
	for key, value := range n.k.cfg.NodeLabels {
		if _, found := node.Labels[key]; !found {
			labels[key] = value
		}
	}
	if len(labels) == 0 {
		return node, nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": labels}})
	if err != nil {
		return nil, err
	}
	return client.For(n.k.client, client.Nodes).Patch(ctx, "", node.Name, types.StrategicMergePatchType, patch)
}

func (n *nodeReporter) remember(node *corev1.Node) {
	n.mu.Lock()
	first := n.node == nil || n.node.UID != node.UID
	n.node = node
	n.mu.Unlock()
	if first {
		n.touchMirrors() // they waited for the node's UID
	}
}

// registeredNode is the Node as last seen, or nil.
func (k *Kubelet) registeredNode() *corev1.Node {
	k.node.mu.Lock()
	defer k.node.mu.Unlock()
	return k.node.node
}

// announce tells of conditions that changed.
func (n *nodeReporter) announce(old, new *corev1.NodeStatus) {
	for _, c := range new.Conditions {
		before := findNodeCondition(old, c.Type)
		if before != nil && before.Status == c.Status {
			continue
		}
		if text := conditionEvent(c); text != "" && (before != nil || c.Status == goodStatus(c.Type)) {
			n.k.eventNode(corev1.EventTypeNormal, text, "Node %s status is now: %s", n.k.cfg.NodeName, text)
		}
	}
}

func goodStatus(kind corev1.NodeConditionType) corev1.ConditionStatus {
	if kind == corev1.NodeReady {
		return corev1.ConditionTrue
	}
	return corev1.ConditionFalse
}

func conditionEvent(c corev1.NodeCondition) string {
	good := c.Status == goodStatus(c.Type)
	switch c.Type {
	case corev1.NodeReady:
		if good {
			return "NodeReady"
		}
		return "NodeNotReady"
	case corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure:
		return "Node" + strings.TrimPrefix(c.Reason, "Kubelet")
	}
	return ""
}

// eventNode reports an event about the node itself. Its UID is its name: so
// kubectl describe node looks for it.
func (k *Kubelet) eventNode(eventType, reason, format string, args ...any) {
	ref := corev1.ObjectReference{Kind: "Node", Name: k.cfg.NodeName, UID: types.UID(k.cfg.NodeName)}
	k.report(ref, eventType, reason, format, args...)
}

// renewLease says that this node lives: the cheapest write there is.
//
// Upstream: kubernetes@v1.36 component-helpers apimachinery/lease.
func (n *nodeReporter) renewLease(ctx context.Context) error {
	node := n.k.registeredNode()
	if node == nil {
		return fmt.Errorf("the lease waits for the node")
	}
	leases := client.For(n.k.client, client.Leases)
	now, duration := metav1.NowMicro(), int32(n.k.cfg.LeaseDuration/time.Second)
	lease, err := leases.Get(ctx, leaseNamespace, node.Name)
	missing := apierrors.IsNotFound(err)
	if err != nil && !missing {
		return err
	}
	if missing {
		lease = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: leaseNamespace, Name: node.Name}}
	}
	lease.OwnerReferences = ownedBy(node)
	lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds, lease.Spec.RenewTime = &node.Name, &duration, &now
	if missing {
		_, err = leases.Create(ctx, lease)
		return err
	}
	_, err = leases.Update(ctx, lease)
	return err
}

// ownedBy says that something goes with a node.
func ownedBy(node *corev1.Node) []metav1.OwnerReference {
	return []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}}
}

func twoWayPatch[T any](before, after T) ([]byte, error) {
	old, err := json.Marshal(before)
	if err != nil {
		return nil, err
	}
	new, err := json.Marshal(after)
	if err != nil {
		return nil, err
	}
	var dataStruct T // its tags say how lists merge
	return strategicpatch.CreateTwoWayMergePatch(old, new, dataStruct)
}
