package disruption

import (
	"context"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"tinykube/client"
	"tinykube/controllers/harness"
)

type controller struct {
	*harness.Scope
	budgets                *harness.Store[*policyv1.PodDisruptionBudget]
	pods                   *harness.Store[*corev1.Pod]
	replicaSets            *harness.Store[*appsv1.ReplicaSet]
	deployments            *harness.Store[*appsv1.Deployment]
	statefulSets           *harness.Store[*appsv1.StatefulSet]
	replicationControllers *harness.Store[*corev1.ReplicationController]
}

func selectorOf(b *policyv1.PodDisruptionBudget) *metav1.LabelSelector { return b.Spec.Selector }

// Register adds the controller to a manager.
func Register(m *harness.Manager) {
	s := m.Scope(harness.Identity{Name: "disruption-controller", Account: "disruption-controller", Source: "controllermanager"})
	c := &controller{
		Scope:                  s,
		budgets:                harness.StoreOf(s, client.PodDisruptionBudgets),
		pods:                   harness.StoreOf(s, client.Pods),
		replicaSets:            harness.StoreOf(s, client.ReplicaSets),
		deployments:            harness.StoreOf(s, client.Deployments),
		statefulSets:           harness.StoreOf(s, client.StatefulSets),
		replicationControllers: harness.StoreOf(s, client.ReplicationControllers),
	}
	loop := harness.NewLoop(s, 1, c.reconcile)
	harness.WatchSelf(loop, c.budgets)
	concerned := harness.Selecting[*corev1.Pod](c.budgets, selectorOf)
	harness.Watch(loop, c.pods, func(old, new *corev1.Pod) []string {
		var keys []string
		for _, pod := range []*corev1.Pod{old, new} {
			if pod != nil {
				keys = append(keys, concerned(pod)...)
			}
		}
		if new != nil && old != new {
			c.warnOfSeveral(new, concerned(new))
		}
		return keys
	})
	watchScale(c, loop, c.deployments)
	watchScale(c, loop, c.statefulSets)
	watchScale(c, loop, c.replicaSets)
	watchScale(c, loop, c.replicationControllers)

	stale := harness.NewLoop(s, 1, c.clearStale)
	harness.WatchSelf(stale, c.pods)
}

// warnOfSeveral tells that a pod cannot be evicted: the eviction API serves
// pods of one budget only.
func (c *controller) warnOfSeveral(pod *corev1.Pod, budgets []string) {
	if len(budgets) < 2 {
		return
	}
	_, first := client.SplitKey(slices.Min(budgets))
	c.Events.Event(pod, corev1.EventTypeWarning, "MultiplePodDisruptionBudgets",
		"Pod %q/%q matches multiple PodDisruptionBudgets.  Chose %q arbitrarily.", pod.Namespace, pod.Name, first)
}

// watchScale looks at a namespace's budgets when one of its workloads is
// resized: the pods alone would tell too late.
func watchScale[T client.Object](c *controller, loop *harness.Loop[string], store *harness.Store[T]) {
	harness.Watch(loop, store, func(old, new T) []string {
		var none T
		if any(old) == any(none) || any(new) == any(none) || old.GetGeneration() == new.GetGeneration() {
			return nil
		}
		var keys []string
		for _, b := range c.budgets.ByIndex(harness.ByNamespace, new.GetNamespace()) {
			keys = append(keys, client.Key(b))
		}
		return keys
	})
}

func (c *controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	b, ok := c.budgets.Get(client.SplitKey(key))
	if !ok {
		return 0, nil
	}
	again, err := c.sync(ctx, b)
	if err == nil || apierrors.IsConflict(err) || ctx.Err() != nil {
		return again, err
	}
	// Who cannot be counted may not be disrupted.
	failed := b.DeepCopy()
	failed.Status.DisruptionsAllowed = 0
	failed.Status.Conditions = withCondition(b, metav1.ConditionFalse, policyv1.SyncFailedReason, err.Error(), b.Status.ObservedGeneration)
	if statusErr := c.updateStatus(ctx, b, failed.Status); statusErr != nil {
		return 0, statusErr
	}
	c.Log.Warn("Cannot count, nobody may be disrupted", "key", key, "err", err)
	return retry, nil
}

// retry is how soon a budget that could not be counted is looked at again,
// though nothing we watch has changed.
const retry = time.Minute

func (c *controller) sync(ctx context.Context, b *policyv1.PodDisruptionBudget) (time.Duration, error) {
	selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	if err != nil {
		return 0, err
	}
	var pods []*corev1.Pod
	for _, pod := range c.pods.ByIndex(harness.ByNamespace, b.Namespace) {
		if selector.Matches(labels.Set(pod.Labels)) {
			pods = append(pods, pod)
		}
	}
	if len(pods) == 0 {
		c.Events.Event(b, corev1.EventTypeNormal, "NoPods", "No matching pods found")
	}
	scale := int32(0)
	if needsScale(b) {
		if scale, err = c.scaleOf(ctx, b, pods); err != nil {
			c.Events.Event(b, corev1.EventTypeWarning, "CalculateExpectedPodCountFailed", "Failed to calculate the number of expected pods: %v", err)
			return 0, err
		}
	}
	e, err := expect(b, int32(len(pods)), scale)
	if err != nil {
		return 0, err
	}
	status, overdue, again := makeStatus(b, pods, e, time.Now())
	for _, pod := range overdue {
		c.Events.Event(pod, corev1.EventTypeWarning, "NotDeleted", "Pod was expected by PDB %s/%s to be deleted but it wasn't", b.Namespace, b.Name)
	}
	return again, c.updateStatus(ctx, b, status)
}

func (c *controller) updateStatus(ctx context.Context, b *policyv1.PodDisruptionBudget, status policyv1.PodDisruptionBudgetStatus) error {
	if equality.Semantic.DeepEqual(b.Status, status) {
		return nil
	}
	updated := b.DeepCopy()
	updated.Status = status
	_, err := c.budgets.UpdateStatus(ctx, updated)
	return err
}

// scaleOf sums up how many pods the owners of these ask for.
func (c *controller) scaleOf(ctx context.Context, b *policyv1.PodDisruptionBudget, pods []*corev1.Pod) (int32, error) {
	sizes := map[string]int32{} // by owner
	unmanaged := false
	for _, pod := range pods {
		ref := metav1.GetControllerOfNoCopy(pod)
		if ref == nil {
			unmanaged = true
			continue
		}
		if _, known := sizes[string(ref.UID)]; known {
			continue
		}
		uid, size, err := c.sizeOf(ctx, pod.Namespace, ref)
		if err != nil {
			return 0, err
		}
		if uid == "" {
			return 0, fmt.Errorf("found no controllers for pod %q", pod.Name)
		}
		sizes[uid] = size
	}
	if unmanaged {
		c.Events.Event(b, corev1.EventTypeWarning, "UnmanagedPods", "Pods selected by this PodDisruptionBudget (selector: %v) were found "+
			"to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. "+
			"To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.", b.Spec.Selector)
	}
	total := int32(0)
	for _, size := range sizes {
		total += size
	}
	return total, nil
}

func (c *controller) clearStale(ctx context.Context, key string) (time.Duration, error) {
	pod, ok := c.pods.Get(client.SplitKey(key))
	if !ok {
		return 0, nil
	}
	stale, left := staleTarget(pod, time.Now())
	if !stale {
		return left, nil
	}
	_, err := harness.PatchPodStatus(ctx, c.pods, pod, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionFalse}, "")
	return 0, err
}
