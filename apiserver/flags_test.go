package apiserver_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"tinykube/apiserver"
	"tinykube/internal/testenv"
)

// What flags promise is kept from the first request on.
func TestFlagsThatPromise(t *testing.T) {
	t.Parallel()
	env := testenv.New(t, func(c *apiserver.Config) {
		c.AllowPrivileged, c.DisableHTTP2, c.HSTS = false, true, []string{"max-age=600", "includeSubDomains"}
		c.NotReadySeconds, c.UnreachableSeconds, c.Curves = 7, 0, []tls.CurveID{tls.CurveP384}
	})
	admin := newAPI(t, env.Config)
	admin.ok("POST", ns+"serviceaccounts", asJSON, `{"metadata":{"name":"default"}}`)
	const spec = `{"containers":[{"name":"a","image":"i"},{"name":"c","image":"i","securityContext":{"privileged":true}}]}`
	template := func() string {
		return fmt.Sprintf(`{"metadata":{"name":"p"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":%s}}}`, spec)
	}
	for path, request := range map[string][2]string{
		ns + "pods": {`{"metadata":{"name":"p"},"spec":` + spec + `}`, "spec.containers[1].securityContext.privileged"},
		"/apis/apps/v1/namespaces/default/deployments": {template(), "spec.template.spec.containers[1].securityContext.privileged"},
	} {
		code, got, _ := admin.send("POST", path, asJSON, request[0])
		if want := request[1] + ": Forbidden: disallowed by cluster policy"; code != 422 || !strings.Contains(got, want) {
			t.Errorf("POST %s: %d %s, want 422 with %s", path, code, got, want)
		}
	}
	pod := admin.ok("POST", ns+"pods", asJSON, `{"metadata":{"name":"p"},"spec":{"containers":[{"name":"a","image":"i"}]}}`)
	if got := fmt.Sprint(pod["spec"].(map[string]any)["tolerations"]); !strings.Contains(got, "not-ready operator:Exists tolerationSeconds:7") || !strings.Contains(got, "unreachable operator:Exists tolerationSeconds:0") {
		t.Errorf("tolerations %s", got)
	}

	host, err := url.Parse(env.Config.Host)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tls.Dial("tcp", host.Host, &tls.Config{InsecureSkipVerify: true, CurvePreferences: []tls.CurveID{tls.X25519}}); err == nil {
		t.Error("a key exchange is used that is not among --tls-curve-preferences")
	}
	connection, err := tls.Dial("tcp", host.Host, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	if got := connection.ConnectionState().NegotiatedProtocol; got != "http/1.1" {
		t.Errorf("with --disable-http2-serving, %q is spoken", got)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	response, err := client.Get(env.Config.Host + "/version")
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, response.Body)
	response.Body.Close()
	if got := response.Header.Get("Strict-Transport-Security"); got != "max-age=600; includeSubDomains" {
		t.Errorf("Strict-Transport-Security: %q", got)
	}
}

// Approving and signing take a right to the signer beside the right to write.
func TestSignersAreGuarded(t *testing.T) {
	t.Parallel()
	_, admin, who := people(t, "ada")
	ada := who("ada")
	const requests, signer = "/apis/certificates.k8s.io/v1/certificatesigningrequests", "example.com/door"
	request := func(name, signer string, subject pkix.Name) string {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: subject}, key)
		if err != nil {
			t.Fatal(err)
		}
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
		return fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"signerName":%q,"usages":["client auth"],"request":%q}}`, name, signer, base64.StdEncoding.EncodeToString(text))
	}
	admin.ok("POST", requests, asJSON, request("one", signer, pkix.Name{CommonName: "ada"}))
	role := func(name, rule string) {
		admin.ok("POST", rbacV1+"/clusterroles", asJSON, `{"metadata":{"name":"`+name+`"},"rules":[`+rule+`]}`)
		admin.grant("ada", name, "")
	}
	role("writes", `{"apiGroups":["certificates.k8s.io"],"resources":["certificatesigningrequests","certificatesigningrequests/approval","certificatesigningrequests/status"],"verbs":["*"]}`)
	const approve = `{"status":{"conditions":[{"type":"Approved","status":"True","reason":"ok"}]}}`
	const fail = `{"status":{"conditions":[{"type":"Approved","status":"True","reason":"ok"},{"type":"Failed","status":"True","reason":"no"}]}}`
	ada.refused("PATCH", requests+"/one/approval", asMerge, approve, `user not permitted to approve requests with signerName "`+signer)
	ada.refused("PATCH", requests+"/one/status", asMerge, fail, `user not permitted to sign requests with signerName "`+signer)
	role("approves", `{"apiGroups":["certificates.k8s.io"],"resources":["signers"],"resourceNames":["example.com/*"],"verbs":["approve","sign"]}`)
	eventually(t, "ada may approve for the domain", func() bool {
		code, _, _ := ada.send("PATCH", requests+"/one/approval", asMerge, approve)
		return code == 200
	})
	ada.ok("PATCH", requests+"/one/status", asMerge, fail)
	admin.refused("POST", requests, asJSON, request("two", "kubernetes.io/kube-apiserver-client", pkix.Name{CommonName: "ada", Organization: []string{"system:masters"}}),
		"use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed")
}
