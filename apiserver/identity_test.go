package apiserver_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"tinykube/apiserver"
	"tinykube/internal/testenv"
)

// authority is a CA of a test's own.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  crypto.Signer
	file string
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, file: filepath.Join(t.TempDir(), "ca.crt")}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	a.cert, a.key = template, nil
	pair := a.sign(template)
	a.cert, a.key = pair.Leaf, pair.PrivateKey.(crypto.Signer)
	write(t, a.file, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})))
	return a
}

func (a *authority) sign(template *x509.Certificate) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	signer := a.key
	if signer == nil {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// install makes the CA that of a server which has none yet.
func (a *authority) install(dir string) {
	key, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		a.t.Fatal(err)
	}
	write(a.t, filepath.Join(dir, "ca.crt"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})))
	write(a.t, filepath.Join(dir, "ca.key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
}

// client makes a client certificate.
func (a *authority) client(name string, change func(*x509.Certificate), groups ...string) *tls.Certificate {
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name, Organization: groups},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if change != nil {
		change(template)
	}
	pair := a.sign(template)
	return &pair
}

// ask sends a request with a certificate and headers, and returns code and body.
func ask(t *testing.T, env *testenv.Env, method, path, body string, certificate *tls.Certificate, header http.Header) (int, string) {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(env.Config.CAData)
	cfg := &tls.Config{RootCAs: pool}
	if certificate != nil {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil }
	}
	transport := &http.Transport{TLSClientConfig: cfg}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(t.Context(), method, env.Config.Host+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		request.Header = header
	}
	request.Header.Set("Content-Type", asJSON)
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

const selfReview = "/apis/authentication.k8s.io/v1/selfsubjectreviews"

func TestCertificates(t *testing.T) {
	t.Parallel()
	ours, others, front := newAuthority(t), newAuthority(t), newAuthority(t)
	env := testenv.New(t, func(c *apiserver.Config) {
		ours.install(c.CertDir) // the server's own, from now on
		c.RequestHeader = apiserver.RequestHeaderConfig{CAFile: front.file, AllowedNames: []string{"front-proxy-client"},
			UsernameHeaders: []string{"X-Remote-User"}, UIDHeaders: []string{"X-Remote-Uid"}, GroupHeaders: []string{"X-Remote-Group"}, ExtraPrefixes: []string{"X-Remote-Extra-"}}
	})
	whoami := func(certificate *tls.Certificate, header http.Header) (int, string) {
		return ask(t, env, "POST", selfReview, `{}`, certificate, header)
	}
	if code, text := whoami(ours.client("ada", nil, "readers"), nil); code != 201 || !strings.Contains(text, `"username":"ada","groups":["readers","system:authenticated"]`) {
		t.Errorf("ours: %d %s", code, text)
	}
	for name, certificate := range map[string]*tls.Certificate{
		"another CA":       others.client("ada", nil, "system:masters"),
		"expired":          ours.client("ada", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, "system:masters"),
		"for servers only": ours.client("ada", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, "system:masters"),
		"a front proxy":    front.client("ada", nil, "system:masters"), // vouches for others, and is nobody itself
	} {
		if code, text := whoami(certificate, nil); code != 401 {
			t.Errorf("%s: %d %s", name, code, text)
		}
		if code, _ := ask(t, env, "GET", "/version", "", certificate, nil); code != 401 {
			t.Errorf("%s is let in as a stranger: %d", name, code)
		}
	}
	remote := func() http.Header {
		return http.Header{"X-Remote-User": {"eve"}, "X-Remote-Uid": {"7"}, "X-Remote-Group": {"a", "b"}, "X-Remote-Extra-Example.com%2fScope": {"x"}}
	}
	if code, text := whoami(front.client("front-proxy-client", nil), remote()); code != 201 || !strings.Contains(text, `"username":"eve","uid":"7","groups":["a","b","system:authenticated"],"extra":{"example.com/scope":["x"]}`) {
		t.Errorf("front proxy: %d %s", code, text)
	}
	if code, _ := whoami(front.client("somebody", nil), remote()); code != 401 {
		t.Errorf("a front proxy of another name: %d", code)
	}
	if code, text := whoami(ours.client("ada", nil), remote()); code != 201 || !strings.Contains(text, `"username":"ada"`) {
		t.Errorf("headers without a front proxy: %d %s", code, text)
	}
	if code, _ := whoami(others.client("front-proxy-client", nil), remote()); code != 401 {
		t.Errorf("a front proxy of another CA: %d", code)
	}
}

func TestBootstrapTokens(t *testing.T) {
	t.Parallel()
	env, admin, _ := people(t)
	secret := func(id, more string) {
		t.Helper()
		admin.ok("POST", "/api/v1/namespaces/kube-system/secrets", asJSON, `{"metadata":{"name":"bootstrap-token-`+id+`"},"type":"bootstrap.kubernetes.io/token",
			"stringData":{"token-id":"`+id+`","token-secret":"0123456789abcdef"`+more+`}}`)
	}
	const usable = `,"usage-bootstrap-authentication":"true"`
	secret("aaaaaa", usable+`,"auth-extra-groups":"system:bootstrappers:team"`)
	secret("bbbbbb", usable+`,"expiration":"2001-01-01T00:00:00Z"`)
	secret("cccccc", "")
	secret("dddddd", usable+`,"auth-extra-groups":"system:masters"`)
	whoami := func(token string) (int, string) {
		return ask(t, env, "POST", selfReview, `{}`, nil, http.Header{"Authorization": {"Bearer " + token}})
	}
	eventually(t, "the token counts", func() bool { code, _ := whoami("aaaaaa.0123456789abcdef"); return code == 201 })
	if _, text := whoami("aaaaaa.0123456789abcdef"); !strings.Contains(text, `"username":"system:bootstrap:aaaaaa","groups":["system:bootstrappers","system:bootstrappers:team","system:authenticated"]`) &&
		!strings.Contains(text, `"username":"system:bootstrap:aaaaaa","groups":["system:bootstrappers","system:authenticated","system:bootstrappers:team"]`) {
		t.Error(text)
	}
	for name, token := range map[string]string{"wrong secret": "aaaaaa.0123456789abcdee", "expired": "bbbbbb.0123456789abcdef", "not for this": "cccccc.0123456789abcdef", "unknown": "eeeeee.0123456789abcdef"} {
		if code, text := whoami(token); code != 401 {
			t.Errorf("%s: %d %s", name, code, text)
		}
	}
	if _, text := whoami("dddddd.0123456789abcdef"); strings.Contains(text, "system:masters") {
		t.Errorf("a token gives itself a group: %s", text)
	}
}

func TestImpersonation(t *testing.T) {
	t.Parallel()
	env, admin, _ := people(t, "ada")
	admin.ok("POST", rbacV1+"/clusterroles", asJSON, `{"metadata":{"name":"actor"},"rules":[{"apiGroups":[""],"resources":["users"],"resourceNames":["eve"],"verbs":["impersonate"]},
		{"apiGroups":[""],"resources":["groups"],"resourceNames":["readers"],"verbs":["impersonate"]},
		{"apiGroups":["authentication.k8s.io"],"resources":["userextras/scopes"],"resourceNames":["view"],"verbs":["impersonate"]},
		{"apiGroups":["authentication.k8s.io"],"resources":["uids"],"resourceNames":["7"],"verbs":["impersonate"]},
		{"apiGroups":[""],"resources":["serviceaccounts"],"verbs":["impersonate"]}]}`)
	admin.grant("ada", "actor", "")
	whoami := func(header http.Header) (int, string) {
		header.Set("Authorization", "Bearer ada")
		return ask(t, env, "POST", selfReview, `{}`, nil, header)
	}
	eventually(t, "ada may act", func() bool { code, _ := whoami(http.Header{"Impersonate-User": {"eve"}}); return code == 201 })
	// None of the ways is allowed, and the first says so.
	const refused = `User \"ada\" cannot impersonate-on:user-info:create resource \"selfsubjectreviews\" in API group \"authentication.k8s.io\" at the cluster scope`
	for _, test := range []struct {
		header http.Header
		code   int
		text   string
	}{
		{http.Header{"Impersonate-User": {"eve"}, "Impersonate-Group": {"readers"}, "Impersonate-Uid": {"7"}, "Impersonate-Extra-Scopes": {"view"}}, 201,
			`"username":"eve","uid":"7","groups":["readers","system:authenticated"],"extra":{"scopes":["view"]}`},
		{http.Header{"Impersonate-User": {"system:serviceaccount:default:x"}}, 201, `"groups":["system:serviceaccounts","system:serviceaccounts:default","system:authenticated"]`},
		{http.Header{"Impersonate-User": {"bob"}}, 403, refused},
		{http.Header{"Impersonate-User": {"eve"}, "Impersonate-Group": {"system:masters"}}, 403, refused},
		{http.Header{"Impersonate-User": {"eve"}, "Impersonate-Extra-Scopes": {"edit"}}, 403, refused},
		{http.Header{"Impersonate-User": {"eve"}, "Impersonate-Uid": {"8"}}, 403, refused},
		{http.Header{"Impersonate-Group": {"readers"}}, 400, "without impersonating a user"},
	} {
		asked := test.header.Clone()
		if code, text := whoami(test.header); code != test.code || !strings.Contains(text, test.text) {
			t.Errorf("%v: %d %s\nwant %d %s", asked, code, text, test.code, test.text)
		}
	}
}

// Who may do one thing as somebody else may not do another.
func TestConstrainedImpersonation(t *testing.T) {
	t.Parallel()
	env, admin, _ := people(t, "ada")
	admin.ok("POST", rbacV1+"/clusterroles", asJSON, `{"metadata":{"name":"actor"},"rules":[
		{"apiGroups":["authentication.k8s.io"],"resources":["users"],"resourceNames":["eve"],"verbs":["impersonate:user-info"]},
		{"apiGroups":["authentication.k8s.io"],"resources":["groups"],"verbs":["impersonate:user-info"]},
		{"apiGroups":["authentication.k8s.io"],"resources":["nodes"],"resourceNames":["n1"],"verbs":["impersonate:arbitrary-node"]},
		{"apiGroups":["authentication.k8s.io"],"resources":["serviceaccounts"],"verbs":["impersonate:serviceaccount"]},
		{"apiGroups":["authentication.k8s.io"],"resources":["selfsubjectreviews"],"verbs":["impersonate-on:user-info:create","impersonate-on:arbitrary-node:create","impersonate-on:serviceaccount:create"]}]}`)
	admin.grant("ada", "actor", "")
	as := func(method, path, name string, groups ...string) (int, string) {
		return ask(t, env, method, path, `{}`, nil, http.Header{"Authorization": {"Bearer ada"}, "Impersonate-User": {name}, "Impersonate-Group": groups})
	}
	eventually(t, "ada may act", func() bool { code, _ := as("POST", selfReview, "eve"); return code == 201 })
	for _, test := range []struct {
		method, path, name string
		group              string
		code               int
		text               string
	}{
		{"POST", selfReview, "eve", "readers", 201, `"username":"eve","groups":["readers","system:authenticated"]`},
		{"POST", selfReview, "system:node:n1", "", 201, `"username":"system:node:n1","groups":["system:nodes","system:authenticated"]`},
		{"POST", selfReview, "system:serviceaccount:default:x", "", 201, `"groups":["system:serviceaccounts","system:serviceaccounts:default","system:authenticated"]`},
		{"POST", selfReview, "system:node:n2", "", 403, `nodes.authentication.k8s.io \"n2\" is forbidden: User \"ada\" cannot impersonate:arbitrary-node resource \"nodes\" in API group \"authentication.k8s.io\" at the cluster scope`},
		{"POST", selfReview, "system:node:n1", "readers", 403, `cannot impersonate resource \"users\"`}, // a node has its own groups
		{"POST", selfReview, "eve", "system:masters", 403, `is not allowed`},
		{"POST", selfReview, "bob", "", 403, `users.authentication.k8s.io \"bob\" is forbidden: User \"ada\" cannot impersonate:user-info resource \"users\"`},
		{"GET", "/api/v1/namespaces", "eve", "", 403, `User \"ada\" cannot impersonate-on:user-info:list resource \"namespaces\"`},
	} {
		var groups []string
		if test.group != "" {
			groups = []string{test.group}
		}
		if code, text := as(test.method, test.path, test.name, groups...); code != test.code || !strings.Contains(text, test.text) {
			t.Errorf("%+v: %d %s", test, code, text)
		}
	}
}

// A stranger can check our tokens with nothing but the two documents.
func TestIssuer(t *testing.T) {
	t.Parallel()
	env := testenv.New(t, func(c *apiserver.Config) { c.ExternalHostname = "api.example.com" })
	admin := newAPI(t, env.Config)
	admin.ok("POST", ns+"serviceaccounts", asJSON, `{"metadata":{"name":"default"}}`)
	token := admin.ok("POST", ns+"serviceaccounts/default/token", asJSON, `{"spec":{"audiences":["bank"],"expirationSeconds":600}}`)["status"].(map[string]any)["token"].(string)
	document := admin.ok("GET", "/.well-known/openid-configuration", "", "")
	if document["issuer"] != "https://kubernetes.default.svc.cluster.local" || document["jwks_uri"] != "https://api.example.com/openid/v1/jwks" {
		t.Error(document)
	}
	_, text, _ := admin.send("GET", "/openid/v1/jwks", "", "")
	var keys jose.JSONWebKeySet
	if err := json.Unmarshal([]byte(text), &keys); err != nil {
		t.Fatal(err)
	}
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		t.Fatal(err)
	}
	var claims jwt.Claims
	if err := parsed.Claims(&keys, &claims); err != nil {
		t.Fatal(err)
	}
	if err := claims.Validate(jwt.Expected{Issuer: document["issuer"].(string), AnyAudience: []string{"bank"}, Time: time.Now()}); err != nil || claims.Subject != "system:serviceaccount:default:default" {
		t.Errorf("%+v: %v", claims, err)
	}
	for _, path := range []string{"/.well-known/openid-configuration", "/openid/v1/jwks"} { // for who has an account here
		if code, _ := ask(t, env, "GET", path, "", nil, nil); code != 403 {
			t.Errorf("%s is open to strangers: %d", path, code)
		}
	}
	for seconds, want := range map[string]int{"60": 422, "4294967297": 422, "600": 201} {
		if code, text, _ := admin.send("POST", ns+"serviceaccounts/default/token", asJSON, `{"spec":{"expirationSeconds":`+seconds+`}}`); code != want {
			t.Errorf("%s seconds: %d %s", seconds, code, text)
		}
	}
	// Whose the token is, when it is not for us.
	if code, _ := ask(t, env, "GET", "/version", "", nil, http.Header{"Authorization": {"Bearer " + token}}); code != 401 {
		t.Errorf("a token for a bank: %d", code)
	}
	header, _ := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[0])
	if !strings.Contains(string(header), `"kid":"`+keys.Keys[0].KeyID+`"`) {
		t.Errorf("%s", header)
	}
}

// Where everybody may do everything, strangers are not let in.
func TestAlwaysAllow(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "tokens")
	write(t, file, "a,ada,1\n")
	env := testenv.New(t, func(c *apiserver.Config) { c.AuthorizationModes, c.TokenAuthFile = []string{"AlwaysAllow"}, file })
	as(t, env.Config, "a").ok("GET", "/api/v1/secrets", "", "")
	if code, _, _ := as(t, env.Config, "").send("GET", "/api/v1/secrets", "", ""); code != 401 {
		t.Errorf("a stranger: %d", code)
	}
}
