package kubelet

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
)

// A kubelet need not be given its certificates: it can ask for them. The key
// never leaves the node; what travels is a request, signed with it, and what
// comes back is a certificate that somebody approved.
//
//	bootstrap token ─▶ CSR ─approved, signed─▶ certificate of system:node:NAME
//	                                                │ when 70–90 % of its life
//	the certificate itself ─▶ CSR ─▶ the next one ◀─┘ are over
//
// Certificate and key lie in one file, so that no moment has one without the
// other, and NAME-current.pem is a symbolic link to it that is replaced at once.
//
// Upstream: kubernetes@v1.36 client-go util/certificate, pkg/kubelet/certificate.
type certificates struct {
	dir, name string // files: dir/name-current.pem
	signer    string
	usage     certificatesv1.KeyUsage
	// template is what the certificate must say; nil while that is not known.
	template func() *x509.CertificateRequest
	// asker is who may ask for the next one.
	asker   func() *client.Client
	changed func()           // after a new one
	first   *tls.Certificate // used while there is none in dir
	once    bool             // no rotation: the first one is enough
	log     *slog.Logger

	renewErrors atomic.Int64

	mu   sync.Mutex // guards held
	held *tls.Certificate
}

const (
	// csrPatience is how long one request may wait for its approval.
	csrPatience   = 15 * time.Minute
	csrPoll       = time.Second
	csrRetryFirst = 2 * time.Second
	csrRetryMax   = time.Minute
)

// ClientCertificates is a kubelet's identity before the API server, made for
// client.Config.GetCertificate.
type ClientCertificates struct{ certificates }

// NewClientCertificates looks in dir for an identity that is still good.
// Without one, first counts (from a kubeconfig), or, if that is nil, bootstrap
// is used to ask for one.
func NewClientCertificates(dir, nodeName string, first *tls.Certificate, bootstrap *client.Client, rotate bool, log *slog.Logger) *ClientCertificates {
	c := &ClientCertificates{certificates{dir: dir, name: "kubelet-client", signer: certificatesv1.KubeAPIServerClientKubeletSignerName,
		usage: certificatesv1.UsageClientAuth, first: first, once: !rotate, log: log, changed: func() {},
		asker:    func() *client.Client { return bootstrap },
		template: func() *x509.CertificateRequest { return &x509.CertificateRequest{Subject: nodeSubject(nodeName)} }}}
	c.load()
	return c
}

// Get returns the certificate to show, or why there is none yet.
func (c *ClientCertificates) Get() (*tls.Certificate, error) {
	if held := c.current(); held != nil {
		return held, nil
	}
	return nil, errors.New("this kubelet's client certificate has not been issued yet")
}

// follow makes the identity renew itself through the client that uses it.
func (c *ClientCertificates) follow(own *client.Client) {
	bootstrap := c.asker()
	c.asker = func() *client.Client {
		if c.current() == nil && bootstrap != nil {
			return bootstrap
		}
		return own
	}
	c.changed = own.Reconnect
}

// servingCertificates are the node API's, asked for with the kubelet's own
// identity. Somebody must approve them by hand: only people know whether an
// address is really this node's.
func (k *Kubelet) servingCertificates() *certificates {
	c := &certificates{dir: k.cfg.CertDir, name: "kubelet-server", signer: certificatesv1.KubeletServingSignerName,
		usage: certificatesv1.UsageServerAuth, log: k.log, changed: func() {}, asker: func() *client.Client { return k.client },
		template: func() *x509.CertificateRequest {
			node := k.registeredNode()
			if node == nil {
				return nil
			}
			t := &x509.CertificateRequest{Subject: nodeSubject(k.cfg.NodeName)}
			for _, a := range node.Status.Addresses {
				if ip := net.ParseIP(a.Address); ip != nil {
					t.IPAddresses = append(t.IPAddresses, ip)
				} else if (a.Type == corev1.NodeHostName || a.Type == corev1.NodeInternalDNS) && !slices.Contains(t.DNSNames, a.Address) {
					t.DNSNames = append(t.DNSNames, a.Address)
				}
			}
			return t
		}}
	c.load()
	return c
}

func nodeSubject(nodeName string) pkix.Name {
	return pkix.Name{CommonName: "system:node:" + nodeName, Organization: []string{"system:nodes"}}
}

// run asks for certificates as they become due, until ctx ends.
func (c *certificates) run(ctx context.Context) error {
	failures := 0
	for {
		template := c.template()
		due := c.due(template, time.Now())
		switch {
		case template == nil:
			due = csrPoll // the node's addresses will be known soon
		case due <= 0:
			err := c.renew(ctx, template)
			if ctx.Err() != nil {
				return nil
			} else if err == nil {
				failures = 0
				continue
			}
			c.renewErrors.Add(1)
			c.log.Warn("certificate not renewed", "signer", c.signer, "attempt", failures+1, "err", err)
			due = min(csrRetryFirst<<min(failures, 10), csrRetryMax)
			failures++
		case c.once:
			return nil
		}
		if !wait(ctx, min(due, time.Hour)) { // clocks jump: look now and then
			return nil
		}
	}
}

// due is how long the certificate may still be used before it is replaced: now
// if there is none, if it says the wrong things, or if most of its life is over.
func (c *certificates) due(template *x509.CertificateRequest, now time.Time) time.Duration {
	held := c.current()
	if held == nil || held.Leaf == nil || c.first != nil && held == c.first && !c.once || template == nil {
		return 0
	}
	leaf := held.Leaf
	if leaf.Subject.CommonName != template.Subject.CommonName || !containsAll(leaf.DNSNames, template.DNSNames) {
		return 0
	}
	for _, ip := range template.IPAddresses {
		if !slices.ContainsFunc(leaf.IPAddresses, ip.Equal) {
			return 0
		}
	}
	// Where in the last third it falls depends on the certificate alone, so
	// that nodes made together do not all ask together, and one that restarts
	// does not move its date.
	random := mathrand.New(mathrand.NewPCG(leaf.SerialNumber.Uint64(), 0))
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	return leaf.NotBefore.Add(life*7/10 + time.Duration(random.Int64N(int64(life)/5+1))).Sub(now)
}

func containsAll(have, want []string) bool {
	return !slices.ContainsFunc(want, func(s string) bool { return !slices.Contains(have, s) })
}

// renew makes a key, asks for its certificate and keeps both.
func (c *certificates) renew(ctx context.Context, template *x509.CertificateRequest) error {
	key, err := c.pendingKey()
	if err != nil {
		return err
	}
	template = &x509.CertificateRequest{Subject: template.Subject, DNSNames: template.DNSNames, IPAddresses: template.IPAddresses}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return err
	}
	usages := []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, c.usage}
	if _, old := key.(*rsa.PrivateKey); old {
		usages = append(usages, certificatesv1.UsageKeyEncipherment)
	}
	csr := &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "csr-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{SignerName: c.signer, Usages: usages,
			Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})}}
	ctx, cancel := context.WithTimeout(ctx, csrPatience)
	defer cancel()
	issued, err := awaitCertificate(ctx, c.asker(), csr)
	if err != nil {
		return err
	}
	if err := c.keep(issued, key); err != nil {
		return err
	}
	c.log.Info("certificate issued", "signer", c.signer, "until", c.current().Leaf.NotAfter)
	c.changed()
	return nil
}

// awaitCertificate creates the request and waits for its answer.
func awaitCertificate(ctx context.Context, who *client.Client, csr *certificatesv1.CertificateSigningRequest) ([]byte, error) {
	if who == nil {
		return nil, errors.New("there is nobody to ask for a certificate")
	}
	requests := client.For(who, client.CertificateSigningRequests)
	created, err := requests.Create(ctx, csr)
	if err != nil {
		return nil, fmt.Errorf("create certificate signing request: %w", err)
	}
	for {
		for _, condition := range created.Status.Conditions {
			if condition.Type == certificatesv1.CertificateDenied || condition.Type == certificatesv1.CertificateFailed {
				return nil, fmt.Errorf("certificate signing request %s is %s: %s", created.Name, condition.Type, cmp.Or(condition.Message, condition.Reason))
			}
		}
		if len(created.Status.Certificate) > 0 {
			return created.Status.Certificate, nil
		}
		if !wait(ctx, csrPoll) {
			return nil, fmt.Errorf("certificate signing request %s: %w", created.Name, ctx.Err())
		}
		if now, err := requests.Get(ctx, "", created.Name); err == nil {
			created = now
		}
	}
}

// pendingKey is the key of a request that was not answered before we were
// ended, or a new one: else each restart would leave a request behind that fits
// no key.
func (c *certificates) pendingKey() (crypto.Signer, error) {
	path := c.path("pending.key")
	if raw, err := os.ReadFile(path); err == nil {
		if block, _ := pem.Decode(raw); block != nil {
			if key, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
				return key, nil
			}
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	raw, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return nil, err
	}
	return key, os.WriteFile(path, raw, 0o600)
}

func encodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key.(*ecdsa.PrivateKey))
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), err
}

// CurrentPath is the file in which the certificate and its key lie.
func (c *certificates) CurrentPath() string { return c.path("current.pem") }

func (c *certificates) path(part string) string { return filepath.Join(c.dir, c.name+"-"+part) }

// keep stores a certificate with its key and turns the link to it.
func (c *certificates) keep(issued []byte, key crypto.Signer) error {
	raw, err := encodeKey(key)
	if err != nil {
		return err
	}
	both := append(append(bytes.TrimSpace(issued), '\n'), raw...)
	if _, err := tls.X509KeyPair(both, both); err != nil {
		return fmt.Errorf("the certificate that came back does not fit the key: %w", err)
	}
	file := c.path(time.Now().UTC().Format("2006-01-02-15-04-05") + ".pem")
	if err := os.WriteFile(file, both, 0o600); err != nil {
		return err
	}
	link := c.path("updated.pem")
	if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Symlink(file, link); err != nil {
		return err
	}
	if err := os.Rename(link, c.CurrentPath()); err != nil {
		return err
	}
	if err := os.Remove(c.path("pending.key")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	c.load()
	return nil
}

// load reads what is stored. What has expired is no identity any more.
func (c *certificates) load() {
	pair, err := tls.LoadX509KeyPair(c.CurrentPath(), c.CurrentPath())
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = c.first
	if err == nil && time.Now().Before(pair.Leaf.NotAfter) {
		c.held = &pair
	}
}

func (c *certificates) current() *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held != nil && c.held.Leaf != nil && time.Now().After(c.held.Leaf.NotAfter) {
		return nil
	}
	return c.held
}

// secondsLeft is how long the certificate is good; without one there is no end.
func (c *certificates) secondsLeft() float64 {
	held := c.current()
	if held == nil || held.Leaf == nil {
		return math.Inf(1)
	}
	return time.Until(held.Leaf.NotAfter).Seconds()
}
