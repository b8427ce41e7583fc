package replicaset

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

	"tinykube/client"
	"tinykube/controllers/harness"
)

const workers = 5

// controller keeps the pods of owners of kind T, which it looks at as
// ReplicaSets: a ReplicationController is one in other words.
type controller[T client.Object] struct {
	*harness.Scope
	owners *harness.Store[T]
	pods   *harness.Store[*corev1.Pod]
	view   func(T) *appsv1.ReplicaSet
	// withStatus is a copy of an owner with another status.
	withStatus func(T, appsv1.ReplicaSetStatus) T
	siblings   func(*appsv1.ReplicaSet) []*corev1.Pod
}

// Register adds the controller of ReplicaSets to a manager.
func Register(m *harness.Manager) {
	s := m.Scope(harness.Identity{Name: "replicaset-controller", Account: "replicaset-controller", Source: "replicaset-controller"})
	sets, pods := harness.StoreOf(s, client.ReplicaSets), harness.StoreOf(s, client.Pods)
	run(&controller[*appsv1.ReplicaSet]{
		Scope: s, owners: sets, pods: pods,
		view: func(rs *appsv1.ReplicaSet) *appsv1.ReplicaSet { return rs },
		withStatus: func(rs *appsv1.ReplicaSet, status appsv1.ReplicaSetStatus) *appsv1.ReplicaSet {
			rs = rs.DeepCopy()
			rs.Status = status
			return rs
		},
		siblings: func(rs *appsv1.ReplicaSet) []*corev1.Pod { return siblings(sets, pods, rs) },
	})
}

func run[T client.Object](c *controller[T]) {
	loop := harness.NewLoop(c.Scope, workers, c.reconcile)
	selectorOf := func(owner T) *metav1.LabelSelector { return c.view(owner).Spec.Selector }
	harness.WatchWorkload(loop, c.owners, c.pods, selectorOf)
}

func (c *controller[T]) reconcile(ctx context.Context, key string) (time.Duration, error) {
	owner, ok := c.owners.Get(client.SplitKey(key))
	if !ok {
		return 0, nil // its pods are the garbage collector's
	}
	rs := c.view(owner)
	selector, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	if err != nil || selector.Empty() {
		return 0, nil // the server does not let such a one in
	}
	claims := harness.Claim(rs, selector, harness.Candidates(c.pods, rs))
	owned, err := harness.Settle(ctx, c.pods, c.owners, owner, claims)
	if err != nil {
		return 0, err
	}
	failure := c.apply(ctx, rs, makePlan(rs, owned, c.perNode(rs, owned), time.Now()))

	// Look again: the store shows what apply did.
	owned = harness.Claim(rs, selector, c.pods.ByIndex(harness.ByController, string(rs.UID))).Owned
	status, again := makeStatus(rs, owned, condition(failure), time.Now())
	return again, errors.Join(failure, c.updateStatus(ctx, owner, status))
}

func (c *controller[T]) updateStatus(ctx context.Context, owner T, status appsv1.ReplicaSetStatus) error {
	updated := c.withStatus(owner, status)
	if equality.Semantic.DeepEqual(owner, updated) {
		return nil
	}
	_, err := c.owners.UpdateStatus(ctx, updated)
	return err
}

// failedPlan is an apply that failed, with the reason that the condition
// ReplicaFailure carries.
type failedPlan struct {
	reason string
	err    error
}

func (f *failedPlan) Error() string { return f.err.Error() }
func (f *failedPlan) Unwrap() error { return f.err }

func (c *controller[T]) apply(ctx context.Context, rs *appsv1.ReplicaSet, p plan) error {
	if err := harness.SlowStart(p.create, func(int) error { return c.createPod(ctx, rs) }); err != nil {
		return &failedPlan{"FailedCreate", err}
	}
	if err := harness.Parallel(len(p.delete), func(i int) error { return c.deletePod(ctx, rs, p.delete[i]) }); err != nil {
		return &failedPlan{"FailedDelete", err}
	}
	return nil
}

func (c *controller[T]) createPod(ctx context.Context, rs *appsv1.ReplicaSet) error {
	pod, err := c.pods.Create(ctx, harness.NewPod(rs, c.owners.Kind().GVK(), &rs.Spec.Template))
	if err != nil {
		if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) && ctx.Err() == nil {
			c.Events.Event(rs, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
		}
		return fmt.Errorf("create pod: %w", err)
	}
	c.Events.Event(rs, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %s", pod.Name)
	return nil
}

func (c *controller[T]) deletePod(ctx context.Context, rs *appsv1.ReplicaSet, pod *corev1.Pod) error {
	if err := c.pods.Delete(ctx, pod, metav1.DeleteOptions{}); err != nil {
		c.Events.Event(rs, corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
		return fmt.Errorf("delete pod %s: %w", pod.Name, err)
	}
	c.Events.Event(rs, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %s", pod.Name)
	return nil
}

// perNode counts the pods that do the same work as rs's: its own and those of
// its siblings. During a rollout it spreads the deletions over nodes by where
// the new pods are.
func (c *controller[T]) perNode(rs *appsv1.ReplicaSet, owned []*corev1.Pod) map[string]int {
	if len(owned) <= int(*rs.Spec.Replicas) {
		return nil // none has to go
	}
	return sameWork(append(c.siblings(rs), owned...))
}

// siblings are the pods of the other ReplicaSets of rs's Deployment.
func siblings(sets *harness.Store[*appsv1.ReplicaSet], pods *harness.Store[*corev1.Pod], rs *appsv1.ReplicaSet) []*corev1.Pod {
	deployment := metav1.GetControllerOfNoCopy(rs)
	if deployment == nil {
		return nil
	}
	var found []*corev1.Pod
	for _, sibling := range sets.ByIndex(harness.ByController, string(deployment.UID)) {
		if sibling.UID != rs.UID {
			found = append(found, pods.ByIndex(harness.ByController, string(sibling.UID))...)
		}
	}
	return found
}

func condition(failure error) *appsv1.ReplicaSetCondition {
	var failed *failedPlan
	if !errors.As(failure, &failed) {
		return nil
	}
	return &appsv1.ReplicaSetCondition{
		Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now(),
		Reason: failed.reason, Message: failed.err.Error(),
	}
}
