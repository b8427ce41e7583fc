package apiserver_test

import (
	"encoding/base64"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4/jwt"

	"tinykube/internal/testenv"
)

// A token of the old kind is good while its Secret holds exactly it.
func TestLegacyTokens(t *testing.T) {
	t.Parallel()
	env := testenv.New(t)
	admin := newAPI(t, env.Config)
	uid := at(admin.ok("POST", ns+"serviceaccounts", asJSON, `{"metadata":{"name":"robot"}}`), "metadata", "uid").(string)
	sign := func(uid string) string {
		const prefix = "kubernetes.io/serviceaccount/"
		token, err := jwt.Signed(signerOf(t, filepath.Join(env.Dir, "pki", "sa.key"))).Claims(map[string]any{
			"iss": "kubernetes/serviceaccount", "sub": "system:serviceaccount:default:robot", prefix + "namespace": "default",
			prefix + "secret.name": "robot-token", prefix + "service-account.name": "robot", prefix + "service-account.uid": uid,
		}).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	whoami := func(token string) (int, string) {
		code, text, _ := as(t, env.Config, token).send("POST", selfReview, asJSON, `{}`)
		return code, text
	}
	good, of := sign(uid), func(token string) string {
		return fmt.Sprintf(`{"data":{"token":%q}}`, base64.StdEncoding.EncodeToString([]byte(token)))
	}
	if code, _ := whoami(good); code != 401 {
		t.Errorf("without a Secret: %d", code)
	}
	admin.ok("POST", ns+"secrets", asJSON, `{"metadata":{"name":"robot-token","annotations":{"kubernetes.io/service-account.name":"robot"}},"type":"kubernetes.io/service-account-token"}`)
	admin.ok("PATCH", ns+"secrets/robot-token", asMerge, of(good))
	eventually(t, "the token counts", func() bool { code, _ := whoami(good); return code == 201 })
	if _, text := whoami(good); !strings.Contains(text, `"username":"system:serviceaccount:default:robot"`) || strings.Contains(text, "credential-id") {
		t.Error(text)
	}
	if code, _ := whoami(sign("another account's")); code != 401 {
		t.Errorf("a token that the Secret does not hold: %d", code)
	}
	admin.ok("PATCH", ns+"secrets/robot-token", asMerge, `{"metadata":{"labels":{"kubernetes.io/legacy-token-invalid-since":"2026-01-01"}}}`)
	eventually(t, "the token is retired", func() bool { code, _ := whoami(good); return code == 401 })
	admin.ok("PATCH", ns+"secrets/robot-token", asMerge, `{"metadata":{"labels":null}}`)
	eventually(t, "the token counts again", func() bool { code, _ := whoami(good); return code == 201 })
	stale := sign("another account's")
	admin.ok("PATCH", ns+"secrets/robot-token", asMerge, of(stale))
	eventually(t, "replaced", func() bool { code, _ := whoami(good); return code == 401 })
	if code, _ := whoami(stale); code != 401 {
		t.Errorf("another account's: %d", code)
	}
}
