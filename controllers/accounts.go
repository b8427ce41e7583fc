package controllers

import (
	"context"
	"fmt"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
)

// With --use-service-account-credentials each controller writes as a service
// account of its own, which may do what that controller needs and no more, and
// whose name stands in the audit log. Reading stays with the manager's own
// identity, since the caches are shared.
//
// Upstream: kubernetes/kubernetes pkg/controller NewDynamicClientBuilder

const (
	tokenLifetime = time.Hour
	// A token is replaced when this much of its life is over.
	tokenRenewAt = 0.8
)

// accounts makes clients that act as service accounts in kube-system.
type accounts struct {
	api  *client.Config
	base *client.Client // who may create accounts and ask for their tokens
}

func (a accounts) clientFor(account string) *client.Client {
	cfg := *a.api
	cfg.CertFile, cfg.KeyFile, cfg.CertData, cfg.KeyData = "", "", nil, nil
	cfg.BearerToken, cfg.BearerTokenFile = "", ""
	cfg.UserAgent += "/" + account
	cfg.TokenSource = &token{base: a.base, account: account}
	c, err := client.New(&cfg)
	if err != nil {
		panic(fmt.Sprintf("client for %s: %v", account, err)) // a.api has been used already
	}
	return c
}

// token is one account's, fetched when first needed.
type token struct {
	base    *client.Client
	account string

	mu      sync.Mutex // guards value, renew
	value   string
	renewAt time.Time
}

// Reject forgets a token that the server does not know any more: its account
// was deleted, or the cluster's data was put back to another day.
func (t *token) Reject(value string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.value == value {
		t.value, t.renewAt = "", time.Time{}
	}
}

// Token returns a valid token, and makes the account if there is none.
func (t *token) Token(ctx context.Context) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Now().Before(t.renewAt) {
		return t.value, nil
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: t.account}}
	serviceAccounts := client.For(t.base, client.ServiceAccounts)
	if t.value == "" {
		if _, err := serviceAccounts.Create(ctx, account); err != nil && !apierrors.IsAlreadyExists(err) {
			return "", fmt.Errorf("create service account %s: %w", t.account, err)
		}
	}
	seconds := int64(tokenLifetime.Seconds())
	request := &authenticationv1.TokenRequest{
		TypeMeta: metav1.TypeMeta{APIVersion: authenticationv1.SchemeGroupVersion.String(), Kind: "TokenRequest"},
		Spec:     authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds},
	}
	if err := serviceAccounts.CreateSub(ctx, account.Namespace, account.Name, "token", request, request); err != nil {
		return "", fmt.Errorf("token of service account %s: %w", t.account, err)
	}
	t.value = request.Status.Token
	t.renewAt = time.Now().Add(time.Duration(tokenRenewAt * float64(time.Until(request.Status.ExpirationTimestamp.Time))))
	return t.value, nil
}
