package kubelet

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
	"tinykube/internal/testenv"
)

// signer issues what a test asks for, from an authority of its own.
type signer struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newSigner(t *testing.T) *signer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &signer{key, cert}
}

// sign answers a request as a signing controller would.
func (s *signer) sign(t *testing.T, request []byte, from, until time.Time) []byte {
	block, _ := pem.Decode(request)
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || csr.CheckSignature() != nil {
		t.Fatalf("a bad request: %v", err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: csr.Subject, DNSNames: csr.DNSNames, IPAddresses: csr.IPAddresses, NotBefore: from, NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, template, s.cert, csr.PublicKey, s.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// TestClientCertificateIsAskedFor runs the bootstrap against an API server,
// killed once between the request and its answer.
func TestClientCertificateIsAskedFor(t *testing.T) {
	env := testenv.New(t)
	api, err := client.New(env.Config)
	if err != nil {
		t.Fatal(err)
	}
	dir, ca := t.TempDir(), newSigner(t)
	requests := client.For(api, client.CertificateSigningRequests)
	run := func() (*ClientCertificates, context.CancelFunc, chan error) {
		c := NewClientCertificates(dir, "node-7", nil, api, false, discard)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.run(ctx) }()
		return c, cancel, done
	}
	pending := func(n int) []*certificatesv1.CertificateSigningRequest {
		deadline := time.Now().Add(time.Minute)
		for {
			list, err := requests.List(t.Context(), "", metav1.ListOptions{})
			if err == nil && len(list.Items) == n {
				return list.Items
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d requests, want %d: %v", len(list.Items), n, err)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	c, kill, done := run()
	if _, err := c.Get(); err == nil {
		t.Error("an identity before it was issued")
	}
	first := pending(1)[0]
	kill()
	<-done
	key, err := os.ReadFile(c.path("pending.key"))
	if err != nil {
		t.Fatal(err)
	}

	c, _, done = run()
	items := pending(2)
	second := items[slices.IndexFunc(items, func(r *certificatesv1.CertificateSigningRequest) bool { return r.UID != first.UID })]
	if again, err := os.ReadFile(c.path("pending.key")); err != nil || string(again) != string(key) {
		t.Errorf("the key of the request was not kept: %v", err)
	}
	if second.Spec.SignerName != "kubernetes.io/kube-apiserver-client-kubelet" ||
		!slices.Equal(second.Spec.Usages, []certificatesv1.KeyUsage{"digital signature", "client auth"}) {
		t.Errorf("request %+v", second.Spec)
	}
	second.Status.Conditions = append(second.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: "True", Reason: "Test"})
	approved := &certificatesv1.CertificateSigningRequest{}
	update := func(sub string, in *certificatesv1.CertificateSigningRequest, out any) {
		in.APIVersion, in.Kind = "certificates.k8s.io/v1", "CertificateSigningRequest"
		err := api.DoInto(t.Context(), client.Request{Method: "PUT", Path: "/apis/certificates.k8s.io/v1/certificatesigningrequests/" + in.Name + "/" + sub}, in, out)
		if err != nil {
			t.Fatal(err)
		}
	}
	update("approval", second, approved)
	approved.Status.Certificate = ca.sign(t, approved.Spec.Request, time.Now().Add(-time.Minute), time.Now().Add(time.Hour))
	update("status", approved, &certificatesv1.CertificateSigningRequest{})
	if err := <-done; err != nil { // without rotation one is enough
		t.Fatal(err)
	}
	held, err := c.Get()
	if err != nil || held.Leaf.Subject.CommonName != "system:node:node-7" || held.Leaf.Subject.Organization[0] != "system:nodes" {
		t.Fatalf("identity %+v: %v", held, err)
	}
	if _, err := tls.LoadX509KeyPair(c.CurrentPath(), c.CurrentPath()); err != nil {
		t.Error(err)
	}
	if target, err := os.Readlink(c.CurrentPath()); err != nil || !strings.HasPrefix(target, dir) {
		t.Errorf("current is %s: %v", target, err)
	}
	if _, err := os.Stat(c.path("pending.key")); !os.IsNotExist(err) {
		t.Errorf("the pending key is still there: %v", err)
	}
	if fresh := NewClientCertificates(dir, "node-7", nil, nil, false, discard); fresh.current() == nil {
		t.Error("a restarted kubelet does not find its identity")
	}
}

func TestWhenACertificateIsDue(t *testing.T) {
	now := time.Now()
	leaf := &x509.Certificate{SerialNumber: big.NewInt(42), Subject: nodeSubject("n"), NotBefore: now, NotAfter: now.Add(100 * time.Hour),
		DNSNames: []string{"n"}, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)}}
	c := &certificates{held: &tls.Certificate{Leaf: leaf}}
	template := &x509.CertificateRequest{Subject: nodeSubject("n"), DNSNames: []string{"n"}, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)}}
	if due := c.due(template, now); due < 70*time.Hour || due > 90*time.Hour || due != c.due(template, now) {
		t.Errorf("due after %v of 100 h", due)
	}
	if due := c.due(template, now.Add(91*time.Hour)); due > 0 {
		t.Errorf("at 91 h: due in %v", due)
	}
	template.IPAddresses = append(template.IPAddresses, net.IPv4(10, 0, 0, 2))
	if due := c.due(template, now); due != 0 {
		t.Errorf("with a new address: due in %v", due)
	}
}
