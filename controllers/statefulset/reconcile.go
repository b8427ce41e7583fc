package statefulset

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

const workers = 5

type controller struct {
	*harness.Scope
	sets      *harness.Store[*appsv1.StatefulSet]
	revisions *harness.Store[*appsv1.ControllerRevision]
	pods      *harness.Store[*corev1.Pod]
	claims    *harness.Store[*corev1.PersistentVolumeClaim]
}

func selectorOf(owner *appsv1.StatefulSet) *metav1.LabelSelector { return owner.Spec.Selector }

// Register adds the controller to a manager.
func Register(m *harness.Manager) {
	s := m.Scope(harness.Identity{Name: "statefulset-controller", Account: "statefulset-controller", Source: "statefulset-controller"})
	c := &controller{
		Scope:     s,
		sets:      harness.StoreOf(s, client.StatefulSets),
		revisions: harness.StoreOf(s, client.ControllerRevisions),
		pods:      harness.StoreOf(s, client.Pods),
		claims:    harness.StoreOf(s, client.PersistentVolumeClaims),
	}
	loop := harness.NewLoop(s, workers, c.reconcile)
	harness.WatchWorkload(loop, c.sets, c.pods, selectorOf)
	harness.WatchOwned(loop, c.revisions, "StatefulSet", nil)
	waiting := harness.Selecting[*corev1.PersistentVolumeClaim](c.sets, selectorOf)
	harness.Watch(loop, c.claims, func(old, new *corev1.PersistentVolumeClaim) []string {
		if new != nil {
			return nil
		}
		return waiting(old) // an ordinal may wait for it to be gone
	})
}

func (c *controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	set, ok := c.sets.Get(client.SplitKey(key))
	if !ok {
		return 0, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil || selector.Empty() {
		return 0, nil // the server does not let such a one in
	}
	claims := harness.Claim(set, selector, harness.Candidates(c.pods, set))
	claims.Adopt = named(set, claims.Adopt)
	pods, err := harness.Settle(ctx, c.pods, c.sets, set, claims)
	if err != nil {
		return 0, err
	}
	s := snapshot{set: set, pods: pods, claims: c.claimsByName(set), now: time.Now()}
	if s.current, s.update, err = c.keepHistory(ctx, set, selector, pods); errors.Is(err, harness.ErrCollision) {
		status := set.Status.DeepCopy()
		status.CollisionCount = counted(status.CollisionCount)
		return 0, c.updateStatus(ctx, set, *status)
	} else if err != nil {
		return 0, err
	}
	failure := c.apply(ctx, s, makePlan(s))

	// Look again: the store shows what apply did.
	s.pods = harness.Claim(set, selector, c.pods.ByIndex(harness.ByController, string(set.UID))).Owned
	status, again := makeStatus(s)
	return again, errors.Join(failure, c.updateStatus(ctx, set, status))
}

// named keeps the pods whose names are ones that the set gives: it adopts no
// others.
func named(set *appsv1.StatefulSet, pods []*corev1.Pod) []*corev1.Pod {
	var kept []*corev1.Pod
	for _, pod := range pods {
		if _, ok := ordinalOf(set, pod); ok {
			kept = append(kept, pod)
		}
	}
	return kept
}

func counted(collisions *int32) *int32 {
	next := int32(1)
	if collisions != nil {
		next += *collisions
	}
	return &next
}

func (c *controller) claimsByName(set *appsv1.StatefulSet) map[string]*corev1.PersistentVolumeClaim {
	claims := map[string]*corev1.PersistentVolumeClaim{}
	if len(set.Spec.VolumeClaimTemplates) > 0 {
		for _, claim := range c.claims.ByIndex(harness.ByNamespace, set.Namespace) {
			claims[claim.Name] = claim
		}
	}
	return claims
}

// keepHistory brings the ControllerRevisions up to date and returns the one
// that the set's pods are made of now, and the one that they should be.
func (c *controller) keepHistory(ctx context.Context, set *appsv1.StatefulSet, selector labels.Selector, pods []*corev1.Pod) (current, update revision, err error) {
	inUse := map[string]bool{set.Status.CurrentRevision: true, set.Status.UpdateRevision: true}
	for _, pod := range pods {
		inUse[pod.Labels[revisionLabel]] = true
	}
	newest, all, err := harness.KeepHistory(ctx, c.revisions, c.sets, set, harness.History{
		Selector: selector, Template: &set.Spec.Template, HashLabel: hashLabel,
		Collisions: set.Status.CollisionCount, Limit: set.Spec.RevisionHistoryLimit,
		InUse: func(r *appsv1.ControllerRevision) bool { return inUse[r.Name] },
	})
	if err != nil {
		return current, update, err
	}
	update = revision{newest.Name, &set.Spec.Template}
	for _, r := range all {
		if r.Name == set.Status.CurrentRevision {
			template, err := harness.TemplateOf(r.Data.Raw)
			return revision{r.Name, template}, update, err
		}
	}
	return update, update, nil
}

func (c *controller) updateStatus(ctx context.Context, set *appsv1.StatefulSet, status appsv1.StatefulSetStatus) error {
	if equality.Semantic.DeepEqual(set.Status, status) {
		return nil
	}
	updated := set.DeepCopy()
	updated.Status = status
	_, err := c.sets.UpdateStatus(ctx, updated)
	return err
}

// apply carries a plan out. Claims come before the pods that use them, and
// learn their owners before the pods that own them are deleted.
func (c *controller) apply(ctx context.Context, s snapshot, p plan) error {
	for _, pod := range p.provide {
		if err := c.provideClaims(ctx, s, pod); err != nil {
			return err
		}
	}
	for _, claim := range p.owners {
		if _, err := c.claims.Update(ctx, claim); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("update claim %s: %w", claim.Name, err)
		}
	}
	createErr := harness.SlowStart(len(p.create), func(i int) error { return c.createPod(ctx, s, p.create[i]) })
	repairErr := harness.Parallel(len(p.repair), func(i int) error {
		_, err := c.pods.Update(ctx, p.repair[i])
		c.tell(ctx, s.set, "Update", p.repair[i], err)
		return err
	})
	deleteErr := harness.Parallel(len(p.delete), func(i int) error { return c.deletePod(ctx, s.set, p.delete[i]) })
	return errors.Join(createErr, repairErr, deleteErr)
}

func (c *controller) createPod(ctx context.Context, s snapshot, pod *corev1.Pod) error {
	err := c.provideClaims(ctx, s, pod)
	if err == nil {
		_, err = c.pods.Create(ctx, pod)
	}
	c.tell(ctx, s.set, "Create", pod, err)
	if err != nil {
		return fmt.Errorf("create pod %s: %w", pod.Name, err)
	}
	return nil
}

// provideClaims makes the claims that a pod has not got yet.
func (c *controller) provideClaims(ctx context.Context, s snapshot, pod *corev1.Pod) error {
	ordinal, _ := ordinalOf(s.set, pod)
	for _, claim := range claimsOf(s.set, ordinal) {
		if there := s.claims[claim.Name]; there != nil && there.DeletionTimestamp == nil {
			continue
		} else if there != nil {
			return fmt.Errorf("pvc %s is being deleted", claim.Name)
		}
		_, err := c.claims.Create(ctx, claim)
		switch {
		case apierrors.IsAlreadyExists(err):
		case err != nil:
			c.Events.Event(s.set, corev1.EventTypeWarning, "FailedCreate", "Create Claim %s for Pod %s in StatefulSet %s failed error: %s", claim.Name, pod.Name, s.set.Name, err)
			return fmt.Errorf("create claim %s: %w", claim.Name, err)
		default:
			c.Events.Event(s.set, corev1.EventTypeNormal, "SuccessfulCreate", "Create Claim %s Pod %s in StatefulSet %s success", claim.Name, pod.Name, s.set.Name)
		}
	}
	return nil
}

func (c *controller) deletePod(ctx context.Context, set *appsv1.StatefulSet, pod *corev1.Pod) error {
	err := c.pods.Delete(ctx, pod, metav1.DeleteOptions{})
	c.tell(ctx, set, "Delete", pod, err)
	if err != nil {
		return fmt.Errorf("delete pod %s: %w", pod.Name, err)
	}
	return nil
}

// tell reports what was done to a pod.
func (c *controller) tell(ctx context.Context, set *appsv1.StatefulSet, verb string, pod *corev1.Pod, err error) {
	switch {
	case err == nil:
		c.Events.Event(set, corev1.EventTypeNormal, "Successful"+verb, "%s Pod %s in StatefulSet %s successful", verb, pod.Name, set.Name)
	case ctx.Err() == nil && !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		c.Events.Event(set, corev1.EventTypeWarning, "Failed"+verb, "%s Pod %s in StatefulSet %s failed error: %s", verb, pod.Name, set.Name, err)
	}
}
