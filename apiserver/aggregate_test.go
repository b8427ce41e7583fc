package apiserver_test

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tinykube/apiserver"
	"tinykube/internal/testenv"
)

const apiServicesPath = "/apis/apiregistration.k8s.io/v1/apiservices"

// otherServer is an API server of one kind, which answers what it was told of
// who asks.
func otherServer(t *testing.T, serving, front *authority) *httptest.Server {
	t.Helper()
	certificate := serving.sign(&x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{"metrics.kube-system.svc"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)})
	trusted := x509.NewCertPool()
	trusted.AddCert(front.cert)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path == "/apis/metrics.test/v1" {
			io.WriteString(w, `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"metrics.test/v1","resources":[
				{"name":"loads","singularName":"load","namespaced":true,"kind":"Load","verbs":["get","list"],"shortNames":["ld"]},
				{"name":"loads/raw","namespaced":true,"kind":"Load","verbs":["get"]}]}`)
			return
		}
		fmt.Fprintf(w, `{"apiVersion":"metrics.test/v1","kind":"Load","metadata":{"name":"x"},"peer":%q,"user":%q,"groups":%q,"proof":%q,"path":%q}`,
			r.TLS.PeerCertificates[0].Subject.CommonName, r.Header.Get("X-Remote-User"), strings.Join(r.Header["X-Remote-Group"], ","),
			r.Header.Get("Authorization")+r.Header.Get("Impersonate-User"), r.URL.RequestURI())
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}, ClientCAs: trusted, ClientAuth: tls.RequireAndVerifyClientCert}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

// frontProxy is a server option: who we are to other servers.
func frontProxy(t *testing.T, front *authority) testenv.Option {
	t.Helper()
	pair := front.sign(&x509.Certificate{SerialNumber: big.NewInt(3), Subject: pkix.Name{CommonName: "front"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cfg := apiserver.AggregatorConfig{CertFile: filepath.Join(dir, "crt"), KeyFile: filepath.Join(dir, "key")}
	write(t, cfg.CertFile, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})))
	write(t, cfg.KeyFile, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
	return func(c *apiserver.Config) { c.Aggregator = cfg }
}

// availability is the condition of the APIService and its reason.
func (a api) availability() string {
	a.Helper()
	service := a.ok("GET", apiServicesPath+"/v1.metrics.test", "", "")
	conditions, _ := at(service, "status", "conditions").([]any)
	if len(conditions) == 0 {
		return ""
	}
	c := conditions[0].(map[string]any)
	return c["status"].(string) + " " + c["reason"].(string)
}

// A group is served by another server: who asks is known to it, what it has is
// discovered, and when it is not well we say so.
func TestAPIServiceOfAnother(t *testing.T) {
	t.Parallel()
	serving, front := newAuthority(t), newAuthority(t)
	other := otherServer(t, serving, front)
	_, port, err := net.SplitHostPort(other.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	tokens := filepath.Join(t.TempDir(), "tokens")
	write(t, tokens, "ada,ada,1\n")
	env := testenv.New(t, frontProxy(t, front), func(c *apiserver.Config) { c.TokenAuthFile = tokens })
	a := newAPI(t, env.Config)
	ca, err := os.ReadFile(serving.file)
	if err != nil {
		t.Fatal(err)
	}
	a.ok("POST", apiServicesPath, asJSON, `{"metadata":{"name":"v1.metrics.test"},"spec":{"group":"metrics.test","version":"v1","groupPriorityMinimum":100,
		"versionPriority":100,"caBundle":"`+base64.StdEncoding.EncodeToString(ca)+`","service":{"namespace":"kube-system","name":"metrics","port":`+port+`}}}`)
	is := func(want string) {
		t.Helper()
		eventually(t, want, func() bool { return a.availability() == want })
	}
	is("False ServiceNotFound")
	const loads = "/apis/metrics.test/v1/namespaces/default/loads"
	if code, text, _ := a.send("GET", loads, "", ""); code != 503 || !strings.Contains(text, "unable to handle") && !strings.Contains(text, "unavailable") {
		t.Errorf("without a Service: %d %s", code, text)
	}
	if groups := fmt.Sprint(a.ok("GET", "/apis", "", "")["groups"]); !strings.Contains(groups, "metrics.test") {
		t.Errorf("the group is not discovered while its server is away")
	}
	a.ok("POST", "/api/v1/namespaces/kube-system/services", asJSON, `{"metadata":{"name":"metrics"},"spec":{"type":"ExternalName","externalName":"localhost"}}`)
	is("True Passed")

	got := a.ok("GET", loads+"/x?pretty=1", "", "")
	for field, want := range map[string]string{"peer": "front", "user": "kubernetes-admin", "groups": "system:masters,system:authenticated", "proof": "", "path": loads + "/x?pretty=1"} {
		if got[field] != want {
			t.Errorf("%s is %q at the other server, wants %q", field, got[field], want)
		}
	}
	ada := as(t, env.Config, "ada")
	ada.refused("GET", loads+"/x", "", "", `loads.metrics.test "x" is forbidden: User "ada" cannot get resource "loads" in API group "metrics.test" in the namespace "default"`)
	a.grant("ada", "cluster-admin", "")
	if got := ada.ok("GET", loads+"/x", "", ""); got["user"] != "ada" || got["proof"] != "" {
		t.Errorf("ada is %v", got)
	}

	eventually(t, "discovery lists what it has", func() bool {
		list := fmt.Sprint(a.ok("GET", "/apis/metrics.test/v1", "", "")["resources"])
		return strings.Contains(list, "ld") && strings.Contains(list, "loads/raw")
	})

	other.Close()
	eventually(t, "503 of a server that is gone", func() bool {
		code, _, _ := a.send("GET", loads+"/x", "", "")
		return code == 503
	})
	is("False FailedDiscoveryCheck")
	a.ok("DELETE", apiServicesPath+"/v1.metrics.test", "", "")
	eventually(t, "404 without the APIService", func() bool {
		code, _, _ := a.send("GET", loads+"/x", "", "")
		return code == 404
	})
}
