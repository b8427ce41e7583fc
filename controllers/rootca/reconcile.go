package rootca

import (
	"context"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
	"tinykube/controllers/harness"
)

const (
	name = "kube-root-ca.crt"
	key  = "ca.crt"
	// Upstream puts this on every copy; clients show it to who edits one.
	descriptionAnnotation = "kubernetes.io/description"
	description           = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters."
)

type controller struct {
	*harness.Scope
	bundle     string
	namespaces *harness.Store[*corev1.Namespace]
	configMaps *harness.Store[*corev1.ConfigMap]
}

// Register adds the controller to a manager; bundle is PEM.
func Register(m *harness.Manager, bundle string) {
	s := m.Scope(harness.Identity{Name: "root-ca-certificate-publisher-controller", Account: "root-ca-cert-publisher", Source: "root-ca-certificate-publisher-controller"})
	c := &controller{
		Scope: s, bundle: bundle,
		namespaces: harness.StoreOf(s, client.Namespaces),
		configMaps: harness.StoreSelected(s, client.ConfigMaps, "metadata.name="+name),
	}
	loop := harness.NewLoop(s, 1, c.reconcile)
	harness.WatchSelf(loop, c.namespaces)
	harness.Watch(loop, c.configMaps, func(old, new *corev1.ConfigMap) []string {
		if new == nil {
			return []string{old.Namespace}
		}
		return []string{new.Namespace}
	})
}

func (c *controller) reconcile(ctx context.Context, namespace string) (time.Duration, error) {
	ns, ok := c.namespaces.Get("", namespace)
	if !ok || ns.Status.Phase == corev1.NamespaceTerminating || ns.DeletionTimestamp != nil {
		return 0, nil
	}
	have, exists := c.configMaps.Get(namespace, name)
	want := map[string]string{key: c.bundle}
	switch {
	case !exists:
		_, err := c.configMaps.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Annotations: map[string]string{descriptionAnnotation: description}},
			Data:       want,
		})
		return 0, wrap(err, namespace)
	case maps.Equal(have.Data, want) && have.Annotations[descriptionAnnotation] == description:
		return 0, nil
	}
	updated := have.DeepCopy()
	updated.Data, updated.BinaryData = want, nil
	if updated.Annotations == nil {
		updated.Annotations = map[string]string{}
	}
	updated.Annotations[descriptionAnnotation] = description
	_, err := c.configMaps.Update(ctx, updated)
	return 0, wrap(err, namespace)
}

func wrap(err error, namespace string) error {
	if err != nil {
		return fmt.Errorf("publish the root CA in %s: %w", namespace, err)
	}
	return nil
}
