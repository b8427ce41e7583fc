package apiserver_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"tinykube/apiserver"
	"tinykube/client"
	"tinykube/internal/testenv"
)

// figure reads one line of /metrics; 0 if it is not there.
func (a api) figure(line string) float64 {
	a.Helper()
	_, text, _ := a.send("GET", "/metrics", "", "")
	found := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(line) + ` (\S+)$`).FindStringSubmatch(text)
	if found == nil {
		return 0
	}
	value, err := strconv.ParseFloat(found[1], 64)
	if err != nil {
		a.Fatal(err)
	}
	return value
}

// Who takes all the room there is for people does not take that of nodes.
func TestFloodLeavesRoomForNodes(t *testing.T) {
	t.Parallel()
	tokens := filepath.Join(t.TempDir(), "tokens")
	write(t, tokens, "eve,eve,1\nn1,system:node:n1,2,system:nodes\n")
	env := testenv.New(t, func(c *apiserver.Config) { c.TokenAuthFile, c.MaxInFlight, c.MaxMutatingInFlight = tokens, 20, 20 })
	admin, eve, node := newAPI(t, env.Config), as(t, env.Config, "eve"), as(t, env.Config, "n1")
	admin.grant("eve", "admin", "")
	eventually(t, "eve may write", func() bool { return eve.may("create", "", "configmaps", "default") })

	// Each of these requests sits in a seat for as long as its body does not end.
	const seats = 4 // of 40 in all, 20 of 245 shares
	var group sync.WaitGroup
	bodies := make([]*io.PipeWriter, seats)
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer transport.CloseIdleConnections()
	for i := range bodies {
		var body *io.PipeReader
		body, bodies[i] = io.Pipe()
		request, err := http.NewRequestWithContext(t.Context(), "POST", env.Config.Host+ns+"configmaps", body)
		if err != nil {
			t.Fatal(err)
		}
		request.Header = http.Header{"Authorization": {"Bearer eve"}, "Content-Type": {asJSON}}
		group.Go(func() {
			response, err := transport.RoundTrip(request)
			if err != nil {
				t.Error(err)
				return
			}
			response.Body.Close()
			if response.StatusCode != 201 {
				t.Errorf("a slow request: %s", response.Status)
			}
		})
		fmt.Fprintf(bodies[i], `{"metadata":{"name":"slow-%d"}`, i)
	}
	eventually(t, "all seats are taken", func() bool {
		return admin.figure(`apiserver_flowcontrol_current_executing_seats{flow_schema="global-default",priority_level="global-default"}`) == seats
	})
	if code, text := ask(t, env, "GET", ns+"configmaps?timeout=1s", "", nil, http.Header{"Authorization": {"Bearer eve"}}); code != 429 || text != "Too many requests, please try again later.\n" {
		t.Errorf("one request more: %d %s", code, text)
	}
	lease := "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
	node.ok("POST", lease, asJSON, `{"metadata":{"name":"n1"},"spec":{"holderIdentity":"n1","leaseDurationSeconds":40}}`)
	admin.ok("GET", ns+"configmaps", "", "")
	if admin.figure(`apiserver_flowcontrol_rejected_requests_total{flow_schema="global-default",priority_level="global-default",reason="time-out"}`) != 1 {
		t.Error("the refusal is not counted")
	}
	for _, body := range bodies {
		body.Write([]byte("}"))
		body.Close()
	}
	group.Wait()
	eve.ok("GET", ns+"configmaps", "", "")
}

// What dashboards and alerts look for is there, under the names they know.
func TestFiguresOfRights(t *testing.T) {
	t.Parallel()
	env, admin, who := people(t, "ada")
	who("ada").refused("GET", "/api/v1/nodes", "", "", "cannot list resource")
	if code, _, _ := as(t, env.Config, "stolen").send("GET", "/version", "", ""); code != 401 {
		t.Errorf("a bad token: %d", code)
	}
	for _, line := range []string{
		`authentication_attempts{result="success"}`, `authentication_attempts{result="error"}`, `authentication_duration_seconds_count{result="error"}`,
		`authenticated_user_requests{username="other"}`, `authorization_attempts_total{result="allowed"}`, `authorization_attempts_total{result="no-opinion"}`,
		`apiserver_client_certificate_expiration_seconds_count`, `apiserver_flowcontrol_nominal_limit_seats{priority_level="system"}`,
		`apiserver_flowcontrol_dispatched_requests_total{flow_schema="exempt",priority_level="exempt"}`,
	} {
		if admin.figure(line) == 0 {
			t.Errorf("%s is not counted", line)
		}
	}
	known := admin.ok("GET", "/", "", "")["paths"].([]any)
	for _, path := range []any{"/api/v1", "/apis/apps", "/apis/apps/v1", "/livez/etcd", "/readyz/poststarthook/rbac/bootstrap-roles", "/metrics"} {
		if !slices.Contains(known, path) {
			t.Errorf("GET / does not list %s", path)
		}
	}
}

const budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"

// However many evict at once, a budget gives away what it has, once.
func TestEvictionsShareABudget(t *testing.T) {
	t.Parallel()
	env := testenv.New(t)
	admin := newAPI(t, env.Config)
	pair, err := tls.X509KeyPair(env.Config.CertData, env.Config.KeyData)
	if err != nil {
		t.Fatal(err)
	}
	admin.ok("POST", ns+"serviceaccounts", asJSON, `{"metadata":{"name":"default"}}`)
	const pods, allowed = 8, 3
	for i := range pods {
		name := fmt.Sprint("p", i)
		admin.ok("POST", ns+"pods", asJSON, `{"metadata":{"name":"`+name+`","labels":{"app":"web"}},"spec":{"nodeName":"n1","containers":[{"name":"c","image":"i"}]}}`)
		admin.ok("PATCH", ns+"pods/"+name+"/status", asMerge, `{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}}`)
	}
	admin.ok("POST", budgets, asJSON, `{"metadata":{"name":"web"},"spec":{"minAvailable":5,"selector":{"matchLabels":{"app":"web"}}}}`)
	// Not by our own client: it asks again when it is told to.
	evict := func(name string) (int, string) {
		return ask(t, env, "POST", ns+"pods/"+name+"/eviction", `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"`+name+`"}}`, &pair, nil)
	}
	if code, text := evict("p0"); code != 429 || !strings.Contains(text, `"causes":[{"reason":"DisruptionBudget","message":"The disruption budget web is still being processed by the server."}]`) {
		t.Errorf("before the controller has seen the budget: %d %s", code, text)
	}
	admin.ok("PATCH", budgets+"/web/status", asMerge, `{"status":{"observedGeneration":1,"disruptionsAllowed":3,"currentHealthy":8,"desiredHealthy":5,"expectedPods":8}}`)
	var mu sync.Mutex
	var group sync.WaitGroup
	codes := map[int]int{}
	for i := range pods {
		group.Go(func() {
			code, _ := evict(fmt.Sprint("p", i))
			mu.Lock()
			defer mu.Unlock()
			codes[code]++
		})
	}
	group.Wait()
	if codes[201] != allowed || codes[429] != pods-allowed {
		t.Errorf("answers: %v", codes)
	}
	status := admin.ok("GET", budgets+"/web", "", "")["status"].(map[string]any)
	if status["disruptionsAllowed"] != 0.0 || len(status["disruptedPods"].(map[string]any)) != allowed {
		t.Errorf("the budget: %v", status)
	}
	for _, item := range admin.ok("GET", ns+"pods", "", "")["items"].([]any) {
		pod := item.(map[string]any)
		going, condition := at(pod, "metadata", "deletionTimestamp") != nil, condition(pod, "DisruptionTarget")
		if going != (condition != "") {
			t.Errorf("deleted: %v, but its condition is %q", going, condition)
		}
	}
}

// A server that stops says so first, then ends its watches without an error.
func TestShutdown(t *testing.T) {
	t.Parallel()
	env := testenv.New(t, func(c *apiserver.Config) { c.ShutdownDelay, c.ShutdownTimeout = 3*time.Second, time.Minute })
	admin := newAPI(t, env.Config)
	response := admin.stream(ns + "configmaps")
	defer response.Body.Close()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		env.StopServer()
	}()
	eventually(t, "not ready any more", func() bool {
		code, text, _ := admin.send("GET", "/readyz", "", "")
		return code == 500 && strings.Contains(text, "[-]shutdown failed: reason withheld")
	})
	admin.ok("POST", ns+"configmaps", asJSON, `{"metadata":{"name":"late"}}`) // still served
	text, err := io.ReadAll(response.Body)
	if err != nil || !strings.Contains(string(text), `"late"`) {
		t.Errorf("the watch: %v, %s", err, text)
	}
	<-stopped
}

// stream starts a watch whose answer is read by the caller.
func (a api) stream(path string) *http.Response {
	a.Helper()
	response, err := a.Do(a.Context(), client.Request{Method: http.MethodGet, Path: path, Query: url.Values{"watch": {"true"}}})
	if err != nil {
		a.Fatal(err)
	}
	return response
}

// Clients see the certificate for the name that they call; a new one on the
// disk is shown without a restart, and so is a new CA believed.
func TestCertificatesAreReloaded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ours, next := newAuthority(t), newAuthority(t)
	named := filepath.Join(dir, "named")
	show := func(from *authority, name string) {
		pair := from.client(name, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
		key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		write(t, named+".key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
		write(t, named+".crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})))
	}
	show(ours, "first")
	var clientCA string
	env := testenv.New(t, func(c *apiserver.Config) {
		ours.install(c.CertDir)
		c.SNI = []apiserver.NamedCert{{CertFile: named + ".crt", KeyFile: named + ".key", Names: []string{"api.example.com", "*.team.example.com"}}}
		c.TLSMinVersion, clientCA = tls.VersionTLS13, filepath.Join(c.CertDir, "ca.crt")
	})
	host, err := url.Parse(env.Config.Host)
	if err != nil {
		t.Fatal(err)
	}
	seen := func(name string) string {
		connection, err := tls.Dial("tcp", host.Host, &tls.Config{InsecureSkipVerify: true, ServerName: name})
		if err != nil {
			t.Fatal(err)
		}
		defer connection.Close()
		return connection.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	for name, want := range map[string]string{"api.example.com": "first", "a.team.example.com": "first", "b.a.team.example.com": "kube-apiserver", "other.example.com": "kube-apiserver"} {
		if got := seen(name); got != want {
			t.Errorf("%s is shown %s, want %s", name, got, want)
		}
	}
	if _, err := tls.Dial("tcp", host.Host, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}); err == nil {
		t.Error("TLS 1.2 is spoken")
	}
	show(ours, "second")
	eventually(t, "the new certificate is shown", func() bool { return seen("api.example.com") == "second" })

	whoami := func() int {
		code, _ := ask(t, env, "POST", selfReview, `{}`, next.client("ada", nil), nil)
		return code
	}
	if code := whoami(); code != 401 {
		t.Errorf("another CA: %d", code)
	}
	old, err := os.ReadFile(clientCA)
	if err != nil {
		t.Fatal(err)
	}
	added, err := os.ReadFile(next.file)
	if err != nil {
		t.Fatal(err)
	}
	write(t, clientCA, string(old)+string(added))
	eventually(t, "the new CA is believed", func() bool { return whoami() == 201 })
}
