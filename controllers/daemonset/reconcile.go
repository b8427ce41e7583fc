package daemonset

import (
	"context"
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"tinykube/client"
	"tinykube/controllers/harness"
)

const workers = 2

// burst bounds what one reconcile creates or deletes.
// Upstream: kubernetes/kubernetes pkg/controller/daemon BurstReplicas
const burst = 250

type controller struct {
	*harness.Scope
	daemonSets *harness.Store[*appsv1.DaemonSet]
	revisions  *harness.Store[*appsv1.ControllerRevision]
	pods       *harness.Store[*corev1.Pod]
	nodes      *harness.Store[*corev1.Node]
	failed     *backoff
}

func selectorOf(owner *appsv1.DaemonSet) *metav1.LabelSelector { return owner.Spec.Selector }

// Register adds the controller to a manager.
func Register(m *harness.Manager) {
	s := m.Scope(harness.Identity{Name: "daemonset-controller", Account: "daemon-set-controller", Source: "daemonset-controller"})
	c := &controller{
		Scope:      s,
		daemonSets: harness.StoreOf(s, client.DaemonSets),
		revisions:  harness.StoreOf(s, client.ControllerRevisions),
		pods:       harness.StoreOf(s, client.Pods),
		nodes:      harness.StoreOf(s, client.Nodes),
		failed:     &backoff{entries: map[string]*failures{}},
	}
	loop := harness.NewLoop(s, workers, c.reconcile)
	harness.WatchWorkload(loop, c.daemonSets, c.pods, selectorOf)
	harness.WatchOwned(loop, c.revisions, "DaemonSet", nil)
	harness.Watch(loop, c.nodes, c.concerned)
}

// concerned are the DaemonSets to look at when a node changes: all, if
// something changed that decides where pods run.
func (c *controller) concerned(old, new *corev1.Node) []string {
	if old != nil && new != nil && old != new && equality.Semantic.DeepEqual(old.Labels, new.Labels) && equality.Semantic.DeepEqual(old.Spec.Taints, new.Spec.Taints) {
		return nil
	}
	var keys []string
	for _, ds := range c.daemonSets.List() {
		keys = append(keys, client.Key(ds))
	}
	return keys
}

func (c *controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	ds, ok := c.daemonSets.Get(client.SplitKey(key))
	if !ok {
		return 0, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(ds.Spec.Selector)
	if err != nil || selector.Empty() {
		c.Events.Event(ds, corev1.EventTypeWarning, "SelectingAll", "This daemon set is selecting all pods. A non-empty selector is required.")
		return 0, nil
	}
	pods, err := harness.Settle(ctx, c.pods, c.daemonSets, ds, harness.Claim(ds, selector, harness.Candidates(c.pods, ds)))
	if err != nil {
		return 0, err
	}
	hash, err := c.keepHistory(ctx, ds, selector, pods)
	if errors.Is(err, harness.ErrCollision) {
		return 0, c.countCollision(ctx, ds)
	}
	if err != nil {
		return 0, err
	}
	retry, failure := c.apply(ctx, ds, hash, makePlan(newSnapshot(ds, hash, c.nodes.List(), pods, time.Now())))

	// Look again: the store shows what apply did.
	pods = harness.Claim(ds, selector, c.pods.ByIndex(harness.ByController, string(ds.UID))).Owned
	status, again := makeStatus(newSnapshot(ds, hash, c.nodes.List(), pods, time.Now()))
	return harness.Sooner(retry, again), errors.Join(failure, c.updateStatus(ctx, ds, status))
}

func (c *controller) updateStatus(ctx context.Context, ds *appsv1.DaemonSet, status appsv1.DaemonSetStatus) error {
	if equality.Semantic.DeepEqual(ds.Status, status) {
		return nil
	}
	updated := ds.DeepCopy()
	updated.Status = status
	_, err := c.daemonSets.UpdateStatus(ctx, updated)
	return err
}

// keepHistory brings the ControllerRevisions up to date and returns the hash
// of the current one.
func (c *controller) keepHistory(ctx context.Context, ds *appsv1.DaemonSet, selector labels.Selector, pods []*corev1.Pod) (string, error) {
	inUse := map[string]bool{}
	for _, pod := range pods {
		inUse[pod.Labels[hashLabel]] = true
	}
	current, _, err := harness.KeepHistory(ctx, c.revisions, c.daemonSets, ds, harness.History{
		Selector: selector, Template: &ds.Spec.Template, HashLabel: hashLabel,
		Collisions: ds.Status.CollisionCount, Limit: ds.Spec.RevisionHistoryLimit,
		InUse: func(revision *appsv1.ControllerRevision) bool { return inUse[revision.Labels[hashLabel]] },
	})
	if err != nil {
		return "", err
	}
	return current.Labels[hashLabel], nil
}

// countCollision makes the next hash another one.
func (c *controller) countCollision(ctx context.Context, ds *appsv1.DaemonSet) error {
	status := ds.Status.DeepCopy()
	if status.CollisionCount == nil {
		status.CollisionCount = new(int32)
	}
	*status.CollisionCount++
	return c.updateStatus(ctx, ds, *status)
}

// apply carries a plan out. retry is when a failed pod may be replaced.
func (c *controller) apply(ctx context.Context, ds *appsv1.DaemonSet, hash string, p plan) (retry time.Duration, failure error) {
	var remove []deletion
	for _, d := range p.delete {
		if d.finished == corev1.PodFailed {
			if ok, in := c.failed.allow(string(ds.UID)+"/"+nodeOf(d.pod), time.Now()); !ok {
				retry = harness.Sooner(retry, in)
				continue
			}
		}
		remove = append(remove, d)
	}
	remove = remove[:min(len(remove), burst)]
	create := p.create[:min(len(p.create), burst)]
	createErr := harness.SlowStart(len(create), func(i int) error { return c.createPod(ctx, ds, create[i], hash) })
	deleteErr := harness.Parallel(len(remove), func(i int) error { return c.deletePod(ctx, ds, remove[i]) })
	return retry, errors.Join(createErr, deleteErr)
}

func (c *controller) createPod(ctx context.Context, ds *appsv1.DaemonSet, node, hash string) error {
	pod, err := c.pods.Create(ctx, newPod(ds, node, hash))
	if err != nil {
		if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) && ctx.Err() == nil {
			c.Events.Event(ds, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
		}
		return fmt.Errorf("create pod for node %s: %w", node, err)
	}
	c.Events.Event(ds, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %s", pod.Name)
	return nil
}

func (c *controller) deletePod(ctx context.Context, ds *appsv1.DaemonSet, d deletion) error {
	switch d.finished {
	case corev1.PodFailed:
		c.Events.Event(ds, corev1.EventTypeWarning, "FailedDaemonPod", "Found failed daemon pod %s on node %s, will try to kill it", client.Key(d.pod), nodeOf(d.pod))
	case corev1.PodSucceeded:
		c.Events.Event(ds, corev1.EventTypeNormal, "SucceededDaemonPod", "Found succeeded daemon pod %s on node %s, will try to delete it", client.Key(d.pod), nodeOf(d.pod))
	}
	if err := c.pods.Delete(ctx, d.pod, metav1.DeleteOptions{}); err != nil {
		c.Events.Event(ds, corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
		return fmt.Errorf("delete pod %s: %w", d.pod.Name, err)
	}
	c.Events.Event(ds, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %s", d.pod.Name)
	return nil
}
