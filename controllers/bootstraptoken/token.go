package bootstraptoken

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"tinykube/client"
	"tinykube/controllers/harness"
)

const (
	secretType       = "bootstrap.kubernetes.io/token"
	secretNamePrefix = "bootstrap-token-"
)

// token is what a Secret of our type holds.
type token struct {
	id, secret string
	signs      bool      // usage-bootstrap-signing
	expires    time.Time // zero for never
}

// read reads a token; ok is false if the Secret makes no sense.
//
// Upstream: kubernetes/cluster-bootstrap token/util, util/secrets
func read(secret *corev1.Secret) (t token, ok bool) {
	t.id, t.secret = string(secret.Data["token-id"]), string(secret.Data["token-secret"])
	t.signs = string(secret.Data["usage-bootstrap-signing"]) == "true"
	ok = t.id != "" && t.secret != "" && secret.Name == secretNamePrefix+t.id
	if text := string(secret.Data["expiration"]); text != "" {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			at = time.Unix(0, 0) // what cannot be read has expired
		}
		t.expires = at
	}
	return t, ok
}

func (t token) expired(now time.Time) bool { return !t.expires.IsZero() && !now.Before(t.expires) }

// sign makes the signature of content as who joins recomputes it: compared are
// strings, so the header has this form and no other.
func (t token) sign(content string) string {
	encode := base64.RawURLEncoding.EncodeToString
	header := encode(fmt.Appendf(nil, `{"alg":"HS256","kid":%q}`, t.id))
	mac := hmac.New(sha256.New, []byte(t.secret))
	mac.Write([]byte(header + "." + encode([]byte(content))))
	return header + ".." + encode(mac.Sum(nil))
}

// tokensOf is the store of token Secrets.
func tokensOf(s *harness.Scope) *harness.Store[*corev1.Secret] {
	return harness.StoreSelected(s, client.Secrets, "type="+secretType)
}
