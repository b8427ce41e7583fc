package apiserver

import (
	"crypto/subtle"

	corev1 "k8s.io/api/core/v1"
)

// Tokens in Secrets are older than bound ones and look different: they are of
// another issuer, have no expiry and no audience, and are good as long as the
// Secret holds exactly them. The controller manager makes them.
//
// Simplified: upstream labels a Secret with the day on which its token was used
// last, and a controller retires those that nobody uses. We only honour the
// label of those that have been retired.
//
// Upstream: kubernetes@v1.36 pkg/serviceaccount/legacy.go

const (
	legacyIssuer = "kubernetes/serviceaccount"
	labelRetired = "kubernetes.io/legacy-token-invalid-since"
)

// legacyClaims is what such a token says, at the top level.
type legacyClaims struct {
	Namespace   string `json:"kubernetes.io/serviceaccount/namespace,omitempty"`
	SecretName  string `json:"kubernetes.io/serviceaccount/secret.name,omitempty"`
	AccountName string `json:"kubernetes.io/serviceaccount/service-account.name,omitempty"`
	AccountUID  string `json:"kubernetes.io/serviceaccount/service-account.uid,omitempty"`

	token string // the token itself
}

// readLegacy puts what such a token says where the others say it. It is meant
// for us, since it names nobody else.
func (t *tokenSigner) readLegacy(claims *tokenClaims, token string) {
	old := &claims.legacyClaims
	old.token = token
	claims.Audience = t.audiences
	k := &claims.Kubernetes
	k.Namespace, k.ServiceAccount = old.Namespace, claimRef{old.AccountName, old.AccountUID}
	k.Pod, k.Node, k.Secret = nil, nil, &claimRef{Name: old.SecretName}
}

// inSecret says whether a token is bound to a Secret, or is in it.
func (c *tokenClaims) inSecret(secret *corev1.Secret) bool {
	if c.token == "" {
		return string(secret.UID) == c.Kubernetes.Secret.UID
	}
	if secret.DeletionTimestamp != nil || secret.Labels[labelRetired] != "" {
		return false
	}
	return subtle.ConstantTimeCompare(secret.Data[corev1.ServiceAccountTokenKey], []byte(c.token)) == 1
}
