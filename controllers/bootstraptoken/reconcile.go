package bootstraptoken

import (
	"context"
	"maps"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
	"tinykube/controllers/harness"
)

const (
	configMapName   = "cluster-info"
	kubeconfigKey   = "kubeconfig"
	signaturePrefix = "jws-kubeconfig-"
)

type signer struct {
	*harness.Scope
	configMaps *harness.Store[*corev1.ConfigMap]
	tokens     *harness.Store[*corev1.Secret]
}

// RegisterSigner adds the loop that signs cluster-info.
func RegisterSigner(m *harness.Manager) {
	s := m.Scope(harness.Identity{Name: "bootstrap-signer-controller", Account: "bootstrap-signer", Source: "bootstrap-signer-controller"})
	c := &signer{Scope: s, configMaps: harness.StoreSelected(s, client.ConfigMaps, "metadata.name="+configMapName), tokens: tokensOf(s)}
	loop := harness.NewLoop(s, 1, c.reconcile)
	harness.Watch(loop, c.configMaps, func(_, _ *corev1.ConfigMap) []string { return []string{configMapName} })
	harness.Watch(loop, c.tokens, func(_, _ *corev1.Secret) []string { return []string{configMapName} })
}

func (c *signer) reconcile(ctx context.Context, _ string) (again time.Duration, err error) {
	info, ok := c.configMaps.Get(metav1.NamespacePublic, configMapName)
	if !ok || info.Data[kubeconfigKey] == "" {
		return 0, nil // who sets up a cluster writes it
	}
	data := maps.Clone(info.Data)
	maps.DeleteFunc(data, func(key, _ string) bool { return strings.HasPrefix(key, signaturePrefix) })
	now := time.Now()
	for _, secret := range c.tokens.ByIndex(harness.ByNamespace, metav1.NamespaceSystem) {
		t, ok := read(secret)
		if !ok || !t.signs || t.expired(now) || secret.DeletionTimestamp != nil {
			continue
		}
		data[signaturePrefix+t.id] = t.sign(info.Data[kubeconfigKey])
		if !t.expires.IsZero() {
			again = harness.Sooner(again, t.expires.Sub(now))
		}
	}
	if maps.Equal(data, info.Data) {
		return again, nil
	}
	updated := info.DeepCopy()
	updated.Data = data
	_, err = c.configMaps.Update(ctx, updated)
	return again, err
}

type cleaner struct {
	*harness.Scope
	tokens *harness.Store[*corev1.Secret]
}

// RegisterCleaner adds the loop that deletes expired tokens.
func RegisterCleaner(m *harness.Manager) {
	s := m.Scope(harness.Identity{Name: "token-cleaner-controller", Account: "token-cleaner", Source: "token-cleaner-controller"})
	c := &cleaner{Scope: s, tokens: tokensOf(s)}
	loop := harness.NewLoop(s, 1, c.reconcile)
	harness.WatchSelf(loop, c.tokens)
}

func (c *cleaner) reconcile(ctx context.Context, key string) (time.Duration, error) {
	secret, ok := c.tokens.Get(client.SplitKey(key))
	if !ok || secret.Namespace != metav1.NamespaceSystem {
		return 0, nil
	}
	now := time.Now()
	t, _ := read(secret)
	switch {
	case t.expires.IsZero():
		return 0, nil
	case !t.expired(now):
		return t.expires.Sub(now), nil
	}
	c.Log.Info("Token has expired", "key", key)
	return 0, c.tokens.Delete(ctx, secret, metav1.DeleteOptions{})
}
