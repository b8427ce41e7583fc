package serviceaccounttoken

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
	"tinykube/controllers/harness"
)

type controller struct {
	*harness.Scope
	signer   *Signer
	rootCA   []byte
	secrets  *harness.Store[*corev1.Secret]
	accounts *harness.Store[*corev1.ServiceAccount]
}

// key names a Secret and the account that it is for.
type key struct{ namespace, secret, account string }

// Register adds the controller to a manager. It acts with the manager's own
// rights: what it makes are the identities that others act with.
func Register(m *harness.Manager, signer *Signer, rootCA string) {
	s := m.Scope(harness.Identity{Name: "serviceaccount-token-controller", Source: "serviceaccount-token-controller"})
	c := &controller{
		Scope: s, signer: signer, rootCA: []byte(rootCA),
		secrets:  harness.StoreSelected(s, client.Secrets, "type="+string(corev1.SecretTypeServiceAccountToken)),
		accounts: harness.StoreOf(s, client.ServiceAccounts),
	}
	loop := harness.NewLoop(s, 5, c.reconcile)
	harness.Watch(loop, c.secrets, func(old, new *corev1.Secret) []key {
		if new == nil {
			return []key{keyOf(old)}
		}
		return []key{keyOf(new)}
	})
	harness.Watch(loop, c.accounts, func(old, new *corev1.ServiceAccount) []key {
		if old != nil && new != nil && old != new {
			return nil
		}
		account := new
		if account == nil {
			account = old
		}
		var keys []key
		for _, secret := range c.secrets.ByIndex(harness.ByNamespace, account.Namespace) {
			if k := keyOf(secret); k.account == account.Name {
				keys = append(keys, k)
			}
		}
		return keys
	})
}

func keyOf(secret *corev1.Secret) key {
	return key{secret.Namespace, secret.Name, secret.Annotations[corev1.ServiceAccountNameKey]}
}

func (c *controller) reconcile(ctx context.Context, k key) (time.Duration, error) {
	secret, exists := c.secrets.Get(k.namespace, k.secret)
	if !exists {
		return 0, c.forget(ctx, k)
	}
	if k = keyOf(secret); k.account == "" || secret.DeletionTimestamp != nil {
		return 0, nil
	}
	account, err := c.account(ctx, k)
	if err != nil {
		return 0, err
	}
	uid := secret.Annotations[corev1.ServiceAccountUIDKey]
	if account == nil || uid != "" && uid != string(account.UID) {
		c.Log.Info("Service account is gone, deleting its token", "key", client.Key(secret))
		return 0, c.secrets.Delete(ctx, secret, metav1.DeleteOptions{})
	}
	return 0, c.fill(ctx, account, secret)
}

// account finds the account, past the cache if need be: a Secret must not be
// deleted because our view of accounts is older than that of Secrets.
func (c *controller) account(ctx context.Context, k key) (*corev1.ServiceAccount, error) {
	if account, ok := c.accounts.Get(k.namespace, k.account); ok {
		return account, nil
	}
	account, err := c.accounts.Live(ctx, k.namespace, k.account)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return account, err
}

// fill writes what the Secret lacks. A token that is there stays, whoever uses
// it.
func (c *controller) fill(ctx context.Context, account *corev1.ServiceAccount, secret *corev1.Secret) error {
	hasCA := len(c.rootCA) == 0 || bytes.Equal(secret.Data[corev1.ServiceAccountRootCAKey], c.rootCA)
	hasToken := len(secret.Data[corev1.ServiceAccountTokenKey]) > 0
	if hasCA && hasToken && len(secret.Data[corev1.ServiceAccountNamespaceKey]) > 0 {
		return nil
	}
	updated := secret.DeepCopy()
	if updated.Data == nil {
		updated.Data = map[string][]byte{}
	}
	if !hasToken {
		token, err := c.signer.token(account, secret)
		if err != nil {
			return fmt.Errorf("sign: %w", err)
		}
		updated.Data[corev1.ServiceAccountTokenKey] = []byte(token)
	}
	if !hasCA {
		updated.Data[corev1.ServiceAccountRootCAKey] = c.rootCA
	}
	updated.Data[corev1.ServiceAccountNamespaceKey] = []byte(secret.Namespace)
	updated.Annotations[corev1.ServiceAccountUIDKey] = string(account.UID)
	_, err := c.secrets.Update(ctx, updated)
	return err
}

// forget removes a Secret that is gone from its account's list.
func (c *controller) forget(ctx context.Context, k key) error {
	account, ok := c.accounts.Get(k.namespace, k.account)
	if !ok || account.DeletionTimestamp != nil {
		return nil
	}
	isGone := func(ref corev1.ObjectReference) bool { return ref.Name == k.secret }
	if !slices.ContainsFunc(account.Secrets, isGone) {
		return nil
	}
	updated := account.DeepCopy()
	updated.Secrets = slices.DeleteFunc(updated.Secrets, isGone)
	_, err := c.accounts.Update(ctx, updated)
	return err
}
