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

type controller struct {
	*harness.Scope
	replicaSets *harness.Store[*appsv1.ReplicaSet]
	pods        *harness.Store[*corev1.Pod]
}

func selectorOf(owner *appsv1.ReplicaSet) *metav1.LabelSelector { return owner.Spec.Selector }

// Register adds the controller to a manager.
func Register(m *harness.Manager) {
	s := m.Scope(harness.Identity{Name: "replicaset-controller", Account: "replicaset-controller", Source: "replicaset-controller"})
	c := &controller{
		Scope:       s,
		replicaSets: harness.StoreOf(s, client.ReplicaSets),
		pods:        harness.StoreOf(s, client.Pods),
	}
	loop := harness.NewLoop(s, workers, c.reconcile)
	harness.WatchSelf(loop, c.replicaSets)
	harness.WatchOwned(loop, c.pods, "ReplicaSet", harness.Adopters[*corev1.Pod](c.replicaSets, selectorOf))
}

func (c *controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	rs, ok := c.replicaSets.Get(client.SplitKey(key))
	if !ok {
		return 0, nil // its pods are the garbage collector's
	}
	selector, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	if err != nil || selector.Empty() {
		return 0, nil // the server does not let such a one in
	}
	claims := harness.Claim(rs, selector, harness.Candidates(c.pods, rs))
	owned, err := harness.Settle(ctx, c.pods, c.replicaSets, rs, claims)
	if err != nil {
		return 0, err
	}
	failure := c.apply(ctx, rs, makePlan(rs, owned, c.perNode(rs, owned), time.Now()))

	// Look again: the store shows what apply did.
	owned = harness.Claim(rs, selector, c.pods.ByIndex(harness.ByController, string(rs.UID))).Owned
	status, again := makeStatus(rs, owned, condition(failure), time.Now())
	return again, errors.Join(failure, c.updateStatus(ctx, rs, status))
}

func (c *controller) updateStatus(ctx context.Context, rs *appsv1.ReplicaSet, status appsv1.ReplicaSetStatus) error {
	if equality.Semantic.DeepEqual(rs.Status, status) {
		return nil
	}
	updated := rs.DeepCopy()
	updated.Status = status
	_, err := c.replicaSets.UpdateStatus(ctx, updated)
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

func (c *controller) apply(ctx context.Context, rs *appsv1.ReplicaSet, p plan) error {
	if err := harness.SlowStart(p.create, func(int) error { return c.createPod(ctx, rs) }); err != nil {
		return &failedPlan{"FailedCreate", err}
	}
	if err := harness.Parallel(len(p.delete), func(i int) error { return c.deletePod(ctx, rs, p.delete[i]) }); err != nil {
		return &failedPlan{"FailedDelete", err}
	}
	return nil
}

func (c *controller) createPod(ctx context.Context, rs *appsv1.ReplicaSet) error {
	pod, err := c.pods.Create(ctx, harness.NewPod(rs, c.replicaSets.Kind().GVK(), &rs.Spec.Template))
	if err != nil {
		if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) && ctx.Err() == nil {
			c.Events.Event(rs, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
		}
		return fmt.Errorf("create pod: %w", err)
	}
	c.Events.Event(rs, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %s", pod.Name)
	return nil
}

func (c *controller) deletePod(ctx context.Context, rs *appsv1.ReplicaSet, pod *corev1.Pod) error {
	if err := c.pods.Delete(ctx, pod, metav1.DeleteOptions{}); err != nil {
		c.Events.Event(rs, corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
		return fmt.Errorf("delete pod %s: %w", pod.Name, err)
	}
	c.Events.Event(rs, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %s", pod.Name)
	return nil
}

// perNode counts the pods that do the same work as rs's: its own and those of
// the other ReplicaSets of its Deployment. During a rollout it spreads the
// deletions over nodes by where the new pods are.
func (c *controller) perNode(rs *appsv1.ReplicaSet, owned []*corev1.Pod) map[string]int {
	deployment := metav1.GetControllerOfNoCopy(rs)
	if deployment == nil || len(owned) <= int(*rs.Spec.Replicas) {
		return sameWork(owned)
	}
	var pods []*corev1.Pod
	for _, sibling := range c.replicaSets.ByIndex(harness.ByController, string(deployment.UID)) {
		pods = append(pods, c.pods.ByIndex(harness.ByController, string(sibling.UID))...)
	}
	return sameWork(pods)
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
