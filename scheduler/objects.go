package scheduler

import (
	"context"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	appsv1 "k8s.io/api/apps/v1"
	policyv1 "k8s.io/api/policy/v1"

	"golang.org/x/sync/errgroup"

	"tinykube/client"
)

// byNamespace is the index of services by their namespace.
const byNamespace = "namespace"

// objects watches what plugins want to know beyond nodes and pods: namespaces
// for their labels, and what selects pods, so that pods of one kind can be
// told from others. Changes of these wake nobody, except those of storage; a
// pod that hoped for one is flushed from the queue in time.
type objects struct {
	namespaces  *client.Informer[*corev1.Namespace]
	services    *client.Informer[*corev1.Service]
	controllers *client.Informer[*corev1.ReplicationController]
	replicaSets *client.Informer[*appsv1.ReplicaSet]
	stateful    *client.Informer[*appsv1.StatefulSet]
	budgets     *client.Informer[*policyv1.PodDisruptionBudget]
	*storage
}

func newObjects(api *client.Client, log *slog.Logger) *objects {
	return &objects{
		namespaces: informer(api, client.Namespaces, log),
		services: client.NewInformer(client.For(api, client.Services), client.InformerOptions[*corev1.Service]{Logger: log,
			Indexers: map[string]func(*corev1.Service) []string{byNamespace: func(s *corev1.Service) []string { return []string{s.Namespace} }}}),
		controllers: informer(api, client.ReplicationControllers, log),
		replicaSets: informer(api, client.ReplicaSets, log),
		stateful:    informer(api, client.StatefulSets, log),
		budgets:     informer(api, client.PodDisruptionBudgets, log),
		storage:     newStorage(api, log),
	}
}

func informer[T client.Object](api *client.Client, kind client.Kind[T], log *slog.Logger) *client.Informer[T] {
	return client.NewInformer(client.For(api, kind), client.InformerOptions[T]{Logger: log})
}

// Run watches until ctx ends.
func (o *objects) Run(ctx context.Context) error {
	return together(ctx, o.namespaces.Run, o.services.Run, o.controllers.Run, o.replicaSets.Run, o.stateful.Run, o.budgets.Run, o.storage.Run)
}

// together runs all until ctx ends or one fails.
func together(ctx context.Context, runs ...func(context.Context) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, run := range runs {
		g.Go(func() error { return run(ctx) })
	}
	return g.Wait()
}

// Synced are closed once everything has been seen.
func (o *objects) Synced() []<-chan struct{} {
	return append(o.storage.Synced(), o.namespaces.Synced(), o.services.Synced(), o.controllers.Synced(), o.replicaSets.Synced(), o.stateful.Synced(), o.budgets.Synced())
}

// NamespaceLabels is for framework.Objects.
func (o *objects) NamespaceLabels(name string) map[string]string {
	if namespace, ok := o.namespaces.Get(name); ok {
		return namespace.Labels
	}
	return nil
}

// DisruptionBudgets is for framework.Objects.
func (o *objects) DisruptionBudgets() []*policyv1.PodDisruptionBudget { return o.budgets.List() }

// Services is for framework.Objects.
func (o *objects) Services(namespace string) []*corev1.Service {
	return o.services.ByIndex(byNamespace, namespace)
}

// Selector is for framework.Objects.
func (o *objects) Selector(namespace string, owner *metav1.OwnerReference) *metav1.LabelSelector {
	key := namespace + "/" + owner.Name
	switch owner.APIVersion + " " + owner.Kind {
	case "v1 ReplicationController":
		if rc, ok := o.controllers.Get(key); ok {
			return &metav1.LabelSelector{MatchLabels: rc.Spec.Selector}
		}
	case "apps/v1 ReplicaSet":
		if rs, ok := o.replicaSets.Get(key); ok {
			return rs.Spec.Selector
		}
	case "apps/v1 StatefulSet":
		if ss, ok := o.stateful.Get(key); ok {
			return ss.Spec.Selector
		}
	}
	return nil
}
