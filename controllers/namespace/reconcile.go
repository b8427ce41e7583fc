package namespace

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
	"tinykube/controllers/harness"
)

const (
	workers = 10
	// While something is left, look again after a quarter of the time it has
	// taken so far: soon for what goes quickly, not in a hurry for what hangs.
	minWait = 100 * time.Millisecond
	maxWait = 15 * time.Second
	// pageSize bounds what one answer holds.
	pageSize = 500
)

type controller struct {
	*harness.Scope
	namespaces *harness.Store[*corev1.Namespace]
}

// Register adds the controller to a manager.
func Register(m *harness.Manager) {
	s := m.Scope(harness.Identity{Name: "namespace-controller", Account: "namespace-controller", Source: "namespace-controller"})
	c := &controller{Scope: s, namespaces: harness.StoreOf(s, client.Namespaces)}
	harness.WatchSelf(harness.NewLoop(s, workers, c.reconcile), c.namespaces)
}

func (c *controller) reconcile(ctx context.Context, name string) (time.Duration, error) {
	namespace, ok := c.namespaces.Get("", name)
	if !ok || namespace.DeletionTimestamp == nil || len(namespace.Spec.Finalizers) == 0 {
		return 0, nil
	}
	namespace, err := c.setStatus(ctx, namespace, namespace.Status.Conditions)
	if err != nil {
		return 0, err
	}
	f, err := c.deleteContent(ctx, name)
	if err != nil {
		return 0, err
	}
	if namespace, err = c.setStatus(ctx, namespace, f.conditions(namespace.Status.Conditions, metav1.Now())); err != nil {
		return 0, err
	}
	if f.empty() {
		return 0, c.finalize(ctx, namespace)
	}
	wait := time.Since(namespace.DeletionTimestamp.Time) / 4
	return min(max(wait, minWait), maxWait), nil
}

func (c *controller) setStatus(ctx context.Context, namespace *corev1.Namespace, conditions []corev1.NamespaceCondition) (*corev1.Namespace, error) {
	updated := namespace.DeepCopy()
	updated.Status.Phase, updated.Status.Conditions = corev1.NamespaceTerminating, conditions
	if equality.Semantic.DeepEqual(updated, namespace) {
		return namespace, nil
	}
	return c.namespaces.UpdateStatus(ctx, updated)
}

// deleteContent deletes what is there, and says what is left.
func (c *controller) deleteContent(ctx context.Context, name string) (*findings, error) {
	resources, stale, err := harness.Discover(ctx, c.Client)
	if err != nil {
		return nil, err
	}
	f := newFindings()
	f.unknown = stale
	slices.SortStableFunc(resources, podsFirst)
	for _, r := range resources {
		if !r.Namespaced || !r.Can("list", "delete") {
			continue
		}
		if !isPods(r) && f.remaining["pods."] > 0 {
			break // everything else waits for the pods
		}
		if err := c.deleteAll(ctx, r, name, f); err != nil {
			f.failures = append(f.failures, fmt.Sprintf("%s: %v", r.GroupResource(), err))
		}
	}
	return f, nil
}

// deleteAll deletes a namespace's objects of one resource. Only a resource that
// has some costs more than one request.
func (c *controller) deleteAll(ctx context.Context, r harness.Resource, name string, f *findings) error {
	api := client.For(c.Client, r.Metadata())
	left, err := api.List(ctx, name, metav1.ListOptions{Limit: pageSize})
	if err != nil || len(left.Items) == 0 {
		return ignoreMissing(err)
	}
	if err := c.deleteObjects(ctx, api, r, name, left.Items); err != nil {
		return err
	}
	for options := (metav1.ListOptions{Limit: pageSize}); ; options.Continue = left.Continue {
		if left, err = api.List(ctx, name, options); err != nil {
			return err
		}
		for _, obj := range left.Items {
			f.note(r, obj)
		}
		if left.Continue == "" {
			return nil
		}
	}
}

func (c *controller) deleteObjects(ctx context.Context, api *client.Resource[*metav1.PartialObjectMetadata], r harness.Resource, name string, objects []*metav1.PartialObjectMetadata) error {
	background := metav1.DeletePropagationBackground
	options := metav1.DeleteOptions{PropagationPolicy: &background}
	if r.Can("deletecollection") {
		return ignoreMissing(api.DeleteCollection(ctx, name, options, metav1.ListOptions{}))
	}
	err := harness.Parallel(len(objects), func(i int) error {
		return ignoreMissing(api.Delete(ctx, name, objects[i].Name, options))
	})
	return err
}

// note counts an object that is left.
func (f *findings) note(r harness.Resource, obj *metav1.PartialObjectMetadata) {
	f.remaining[r.Plural+"."+r.Group]++
	for _, finalizer := range obj.Finalizers {
		f.finalizers[finalizer]++
	}
}

// finalize gives up our claim; the server removes the namespace when no one
// else has one.
func (c *controller) finalize(ctx context.Context, namespace *corev1.Namespace) error {
	updated := namespace.DeepCopy()
	updated.Spec.Finalizers = slices.DeleteFunc(updated.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
	if len(updated.Spec.Finalizers) == len(namespace.Spec.Finalizers) {
		return nil
	}
	if _, err := c.namespaces.UpdateSub(ctx, updated, "finalize"); ignoreMissing(err) != nil {
		return fmt.Errorf("finalize namespace %s: %w", namespace.Name, err)
	}
	c.Log.Info("Namespace is empty, let go", "key", namespace.Name)
	return nil
}

func podsFirst(a, b harness.Resource) int {
	switch {
	case isPods(a) == isPods(b):
		return 0
	case isPods(a):
		return -1
	}
	return 1
}

func isPods(r harness.Resource) bool { return r.Group == "" && r.Plural == "pods" }

// ignoreMissing: what is not there need not be deleted; and a resource whose
// definition went away in between has no objects.
func ignoreMissing(err error) error {
	if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
		return nil
	}
	return err
}
