package serviceaccount

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
	"tinykube/controllers/harness"
)

const name = "default"

type controller struct {
	*harness.Scope
	namespaces *harness.Store[*corev1.Namespace]
	accounts   *harness.Store[*corev1.ServiceAccount]
}

// Register adds the controller to a manager.
func Register(m *harness.Manager) {
	s := m.Scope(harness.Identity{Name: "serviceaccount-controller", Account: "service-account-controller", Source: "serviceaccount-controller"})
	c := &controller{
		Scope:      s,
		namespaces: harness.StoreOf(s, client.Namespaces),
		accounts:   harness.StoreOf(s, client.ServiceAccounts),
	}
	loop := harness.NewLoop(s, 1, c.reconcile)
	harness.WatchSelf(loop, c.namespaces)
	harness.Watch(loop, c.accounts, func(old, new *corev1.ServiceAccount) []string {
		if new == nil && old.Name == name {
			return []string{old.Namespace}
		}
		return nil
	})
}

func (c *controller) reconcile(ctx context.Context, namespace string) (time.Duration, error) {
	ns, ok := c.namespaces.Get("", namespace)
	if !ok || ns.Status.Phase == corev1.NamespaceTerminating || ns.DeletionTimestamp != nil {
		return 0, nil
	}
	if _, exists := c.accounts.Get(namespace, name); exists {
		return 0, nil
	}
	_, err := c.accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return 0, fmt.Errorf("create service account %s/%s: %w", namespace, name, err)
	}
	return 0, nil
}
