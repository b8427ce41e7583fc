package apiserver_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"tinykube/apiserver"
	"tinykube/client"
	"tinykube/internal/testenv"
)

// as is an api with a token instead of the administrator's certificate.
func as(t *testing.T, config *client.Config, token string) api {
	t.Helper()
	other := *config
	other.CertData, other.KeyData, other.CertFile, other.KeyFile = nil, nil, "", ""
	other.BearerToken = token
	return newAPI(t, &other)
}

func TestAnonymous(t *testing.T) {
	t.Parallel()
	env := testenv.New(t)
	stranger := as(t, env.Config, "")
	for path, want := range map[string]int{
		"/version": 200, "/livez": 200, "/readyz": 200, "/healthz": 200,
		"/api": 403, "/apis": 403, "/metrics": 403, "/api/v1/namespaces": 403, "/api/v1/nodes": 403,
	} {
		if code, text, _ := stranger.send("GET", path, "", ""); code != want {
			t.Errorf("%s: %d %s, want %d", path, code, text, want)
		}
	}
	if _, text, _ := stranger.send("GET", "/api/v1/pods", "", ""); text != `pods is forbidden: User "system:anonymous" cannot list resource "pods" in API group "" at the cluster scope` {
		t.Error(text)
	}
	if code, _, _ := as(t, env.Config, "nonsense").send("GET", "/version", "", ""); code != 401 {
		t.Errorf("a bad token: %d, want 401 and not anonymous", code)
	}
}

func TestServiceAccountTokens(t *testing.T) {
	t.Parallel()
	env := testenv.New(t)
	admin := newAPI(t, env.Config)
	const accounts, pods = "/api/v1/namespaces/default/serviceaccounts", "/api/v1/namespaces/default/pods"
	admin.ok("POST", accounts, asJSON, `{"metadata":{"name":"default"}}`)
	token := func(spec string) string {
		out := admin.ok("POST", accounts+"/default/token", asJSON, `{"spec":`+spec+`}`)
		return out["status"].(map[string]any)["token"].(string)
	}
	whoami := func(token string) (int, string) {
		code, text, _ := as(t, env.Config, token).send("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", asJSON, `{}`)
		return code, text
	}
	good := token(`{}`)
	if code, text := whoami(good); code != 201 || !strings.Contains(text, `"username":"system:serviceaccount:default:default"`) || !strings.Contains(text, "system:serviceaccounts:default") {
		t.Errorf("%d %s", code, text)
	}
	if claims, err := base64.RawURLEncoding.DecodeString(strings.Split(good, ".")[1]); err != nil || !strings.HasPrefix(string(claims), `{"aud":["`) {
		t.Errorf("a list of one audience is a list: %s, %v", claims, err)
	}
	t.Run("other audience", func(t *testing.T) {
		if code, _ := whoami(token(`{"audiences":["vault"]}`)); code != 401 {
			t.Errorf("%d", code)
		}
	})
	t.Run("review", func(t *testing.T) {
		review := func(token, audience string) string {
			body, _ := json.Marshal(map[string]any{"spec": map[string]any{"token": token, "audiences": []string{audience}}})
			_, text, _ := admin.send("POST", "/apis/authentication.k8s.io/v1/tokenreviews", asJSON, string(body))
			return text
		}
		if out := review(token(`{"audiences":["vault"]}`), "vault"); !strings.Contains(out, `"authenticated":true`) {
			t.Error(out)
		}
		if out := review(good, "vault"); strings.Contains(out, `"authenticated":true`) {
			t.Error(out)
		}
	})
	t.Run("bound to a pod", func(t *testing.T) {
		admin.ok("POST", pods, asJSON, `{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}}`)
		bound := token(`{"boundObjectRef":{"kind":"Pod","apiVersion":"v1","name":"p"}}`)
		if code, text := whoami(bound); code != 201 || !strings.Contains(text, "authentication.kubernetes.io/pod-name") {
			t.Errorf("%d %s", code, text)
		}
		admin.ok("DELETE", pods+"/p", "", "")
		eventually(t, "the token dies with the pod", func() bool { code, _ := whoami(bound); return code == 401 })
	})
	t.Run("forged", func(t *testing.T) {
		parts := strings.Split(good, ".")
		claims, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err != nil {
			t.Fatal(err)
		}
		altered := strings.Replace(string(claims), "default:default", "kube-system:default", 1)
		if code, _ := whoami(parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(altered)) + "." + parts[2]); code != 401 {
			t.Errorf("altered claims: %d", code)
		}
		none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`))
		if code, _ := whoami(none + "." + parts[1] + "."); code != 401 {
			t.Errorf("alg none: %d", code)
		}
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: key}, nil)
		if err != nil {
			t.Fatal(err)
		}
		var body map[string]any
		json.Unmarshal(claims, &body)
		foreign, err := jwt.Signed(signer).Claims(body).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		if code, _ := whoami(foreign); code != 401 {
			t.Errorf("another key: %d", code)
		}
	})
	t.Run("expired", func(t *testing.T) {
		signer := signerOf(t, filepath.Join(env.Dir, "pki", "sa.key"))
		parts := strings.Split(good, ".")
		claims, _ := base64.RawURLEncoding.DecodeString(parts[1])
		var body map[string]any
		json.Unmarshal(claims, &body)
		body["exp"] = time.Now().Add(-time.Minute).Unix()
		old, err := jwt.Signed(signer).Claims(body).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		if code, _ := whoami(old); code != 401 {
			t.Errorf("%d", code)
		}
	})
	t.Run("account gone", func(t *testing.T) {
		admin.ok("DELETE", accounts+"/default", "", "")
		eventually(t, "the token dies with the account", func() bool { code, _ := whoami(good); return code == 401 })
	})
}

func TestStaticTokens(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "tokens")
	write(t, file, `secret,alice,1,"readers,writers"`+"\n")
	env := testenv.New(t, func(c *apiserver.Config) { c.TokenAuthFile = file })
	alice := as(t, env.Config, "secret")
	if code, text, _ := alice.send("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", asJSON, `{}`); code != 201 || !strings.Contains(text, `"username":"alice"`) || !strings.Contains(text, "readers") {
		t.Errorf("%d %s", code, text)
	}
}

func TestRBAC(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "tokens")
	write(t, file, "a,alice,1,readers\nb,bob,2\nn,system:node:n1,3,system:nodes\n")
	env := testenv.New(t, func(c *apiserver.Config) { c.TokenAuthFile = file })
	admin, alice, bob, node := newAPI(t, env.Config), as(t, env.Config, "a"), as(t, env.Config, "b"), as(t, env.Config, "n")
	const rbac = "/apis/rbac.authorization.k8s.io/v1"
	admin.ok("POST", rbac+"/namespaces/default/roles", asJSON, `{"metadata":{"name":"one"},"rules":[{"apiGroups":[""],"resources":["configmaps"],"resourceNames":["mine"],"verbs":["get","update"]},{"apiGroups":[""],"resources":["pods/log"],"verbs":["get"]}]}`)
	admin.ok("POST", rbac+"/namespaces/default/rolebindings", asJSON, `{"metadata":{"name":"one"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"one"},"subjects":[{"apiGroup":"rbac.authorization.k8s.io","kind":"Group","name":"readers"}]}`)
	admin.ok("POST", "/api/v1/namespaces/default/configmaps", asJSON, `{"metadata":{"name":"mine"}}`)
	eventually(t, "the binding counts", func() bool {
		code, _, _ := alice.send("GET", "/api/v1/namespaces/default/configmaps/mine", "", "")
		return code == 200
	})
	for _, test := range []struct {
		who          api
		method, path string
		code         int
	}{
		{alice, "GET", "/api/v1/namespaces/default/configmaps/other", 403},
		{alice, "GET", "/api/v1/namespaces/default/configmaps", 403},
		{alice, "GET", "/api/v1/namespaces/default/configmaps?fieldSelector=metadata.name%3Dmine", 403}, // list is not get
		{alice, "DELETE", "/api/v1/namespaces/default/configmaps/mine", 403},
		{alice, "GET", "/api/v1/namespaces/default/pods/p/log", 404},
		{alice, "GET", "/api/v1/namespaces/default/pods/p", 403},
		{alice, "GET", "/api/v1/namespaces/kube-system/configmaps/mine", 403},
		{bob, "GET", "/api/v1/namespaces/default/configmaps/mine", 403},
		{bob, "GET", "/apis", 200},
		{node, "GET", "/api/v1/nodes/n1", 404},
		{node, "GET", "/api/v1/nodes", 403},
		{node, "GET", "/api/v1/nodes/n2", 403},
		{node, "DELETE", "/api/v1/nodes/n2", 403},
		{node, "GET", "/api/v1/namespaces/default/deployments", 403},
	} {
		if code, text, _ := test.who.send(test.method, test.path, "", ""); code != test.code {
			t.Errorf("%s %s: %d %s, want %d", test.method, test.path, code, text, test.code)
		}
	}
	// A node registers itself and nobody else.
	if code, text, _ := node.send("POST", "/api/v1/nodes", asJSON, `{"metadata":{"name":"n2"}}`); code != 403 || !strings.Contains(text, `node "n1" is not allowed to modify node "n2"`) {
		t.Errorf("%d %s", code, text)
	}
	made := node.ok("POST", "/api/v1/nodes", asJSON, `{"metadata":{"name":"n1"}}`)
	if taints, _ := json.Marshal(made["spec"]); !strings.Contains(string(taints), `"key":"node.kubernetes.io/not-ready"`) {
		t.Errorf("a new node has spec %s", taints)
	}
	// Impersonation is a permission.
	if code, _, _ := bob.send("GET", "/api/v1/pods", "", ""); code != 403 {
		t.Errorf("%d", code)
	}
}

func signerOf(t *testing.T, file string) jose.Signer {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	key, err := jwtKey(data)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func jwtKey(data []byte) (*rsa.PrivateKey, error) {
	block, _ := pem.Decode(data)
	return x509.ParsePKCS1PrivateKey(block.Bytes)
}
