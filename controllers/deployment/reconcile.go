package deployment

import (
	"context"
	"errors"
	"fmt"
	"strconv"
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
	deployments *harness.Store[*appsv1.Deployment]
	replicaSets *harness.Store[*appsv1.ReplicaSet]
}

func selectorOf(owner *appsv1.Deployment) *metav1.LabelSelector { return owner.Spec.Selector }

// Register adds the controller to a manager.
func Register(m *harness.Manager) {
	s := m.Scope(harness.Identity{Name: "deployment-controller", Account: "deployment-controller", Source: "deployment-controller"})
	c := &controller{
		Scope:       s,
		deployments: harness.StoreOf(s, client.Deployments),
		replicaSets: harness.StoreOf(s, client.ReplicaSets),
	}
	loop := harness.NewLoop(s, workers, c.reconcile)
	harness.WatchWorkload(loop, c.deployments, c.replicaSets, selectorOf)
}

func (c *controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	d, ok := c.deployments.Get(client.SplitKey(key))
	if !ok {
		return 0, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil || selector.Empty() {
		c.Events.Event(d, corev1.EventTypeWarning, "SelectingAll", "This deployment is selecting all pods. A non-empty selector is required.")
		return 0, nil
	}
	claims := harness.Claim(d, selector, harness.Candidates(c.replicaSets, d))
	owned, err := harness.Settle(ctx, c.replicaSets, c.deployments, d, claims)
	if err != nil {
		return 0, err
	}
	p := makePlan(d, owned)
	failure := c.apply(ctx, d, &p, owned)
	if errors.Is(failure, errCollision) {
		return 0, c.countCollision(ctx, d)
	}
	// Look again: the store shows what apply did.
	owned = harness.Claim(d, selector, c.replicaSets.ByIndex(harness.ByController, string(d.UID))).Owned
	status, again := makeStatus(d, owned, p, time.Now())
	return again, errors.Join(failure, c.updateStatus(ctx, d, owned, status))
}

func (c *controller) apply(ctx context.Context, d *appsv1.Deployment, p *plan, owned []*appsv1.ReplicaSet) (err error) {
	if p.create != nil {
		if p.failure, err = c.createReplicaSet(ctx, d, p.create); err != nil {
			return err
		}
	}
	for _, rs := range p.update {
		was := size(find(owned, rs))
		if _, err := c.replicaSets.Update(ctx, rs); err != nil {
			return fmt.Errorf("update ReplicaSet %s: %w", rs.Name, err)
		}
		c.sayScaled(d, rs.Name, was, size(rs))
	}
	for _, rs := range p.remove {
		if err := c.replicaSets.Delete(ctx, rs, metav1.DeleteOptions{}); err != nil {
			return fmt.Errorf("delete old ReplicaSet %s: %w", rs.Name, err)
		}
	}
	return nil
}

// errCollision says that the name we want is another ReplicaSet's.
var errCollision = errors.New("hash collision")

// createReplicaSet returns, beside the error, what the Deployment should tell of it.
func (c *controller) createReplicaSet(ctx context.Context, d *appsv1.Deployment, rs *appsv1.ReplicaSet) (failure string, err error) {
	_, err = c.replicaSets.Create(ctx, rs)
	switch {
	case err == nil:
		c.sayScaled(d, rs.Name, 0, size(rs))
		return "", nil
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return "", err
	case !apierrors.IsAlreadyExists(err):
		failure = fmt.Sprintf("Failed to create new replica set %q: %v", rs.Name, err)
		c.Events.Event(d, corev1.EventTypeWarning, reasonNotCreated, "%s", failure)
		return failure, fmt.Errorf("create ReplicaSet %s: %w", rs.Name, err)
	}
	there, err := c.replicaSets.Live(ctx, rs.Namespace, rs.Name)
	if err != nil {
		return "", err
	}
	if metav1.IsControlledBy(there, d) && sameTemplate(&there.Spec.Template, &d.Spec.Template) {
		return "", fmt.Errorf("ReplicaSet %s exists but is not in the cache yet", rs.Name)
	}
	return "", errCollision
}

// countCollision makes the next hash another one.
func (c *controller) countCollision(ctx context.Context, d *appsv1.Deployment) error {
	updated := d.DeepCopy()
	if updated.Status.CollisionCount == nil {
		updated.Status.CollisionCount = new(int32)
	}
	*updated.Status.CollisionCount++
	c.Log.Info("Hash collision, counting", "key", client.Key(d), "count", *updated.Status.CollisionCount)
	_, err := c.deployments.UpdateStatus(ctx, updated)
	return err
}

func (c *controller) sayScaled(d *appsv1.Deployment, name string, from, to int32) {
	switch {
	case to > from:
		c.Events.Event(d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled up replica set %s from %d to %d", name, from, to)
	case to < from:
		c.Events.Event(d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled down replica set %s from %d to %d", name, from, to)
	}
}

// updateStatus writes the status, and the new ReplicaSet's revision into the
// Deployment's annotation, in one request.
func (c *controller) updateStatus(ctx context.Context, d *appsv1.Deployment, owned []*appsv1.ReplicaSet, status appsv1.DeploymentStatus) error {
	updated := d.DeepCopy()
	updated.Status = status
	if rs := sortSets(d, owned).new; rs != nil && revision(rs) > 0 {
		if updated.Annotations == nil {
			updated.Annotations = map[string]string{}
		}
		updated.Annotations[revisionAnnotation] = strconv.FormatInt(revision(rs), 10)
	}
	if equality.Semantic.DeepEqual(d, updated) {
		return nil
	}
	_, err := c.deployments.UpdateStatus(ctx, updated)
	return err
}
