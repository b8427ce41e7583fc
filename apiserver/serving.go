package apiserver

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"
)

// Certificates and CAs are files that somebody renews while we run. They are
// looked at when they are needed, at most once a second; a file that is being
// written and cannot be read yet leaves everything as it was.

const lookAgain = time.Second

// fileWatch remembers what files looked like.
type fileWatch struct {
	files  []string
	looked time.Time
	seen   string
}

// changed reports whether the files look different from last time, if it is
// time to look. The caller holds a lock.
func (w *fileWatch) changed(now time.Time) bool {
	if w.seen != "" && now.Sub(w.looked) < lookAgain {
		return false
	}
	w.looked = now
	var look strings.Builder
	for _, file := range w.files {
		if info, err := os.Stat(file); err == nil {
			fmt.Fprintf(&look, "%d %d;", info.ModTime().UnixNano(), info.Size())
		}
	}
	if look.String() == w.seen {
		return false
	}
	w.seen = look.String()
	return true
}

// reloader is a certificate with its key.
type reloader struct {
	certFile, keyFile string

	mu          sync.Mutex // guards the fields below
	watch       fileWatch
	certificate *tls.Certificate
}

func (r *reloader) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watch.files = []string{r.certFile, r.keyFile}
	if !r.watch.changed(time.Now()) && r.certificate != nil {
		return r.certificate, nil
	}
	pair, err := tls.LoadX509KeyPair(r.certFile, r.keyFile)
	switch {
	case err == nil:
		r.certificate = &pair
	case r.certificate == nil:
		return nil, err
	default:
		r.watch.seen = "" // half-written: look again, soon
		r.watch.looked = time.Time{}
	}
	return r.certificate, nil
}

// caFile is a bundle of CAs. A nil caFile vouches for nobody.
type caFile struct {
	mu    sync.Mutex // guards the fields below
	watch fileWatch
	pem   []byte
	pool  *x509.CertPool
}

// openCAs reads a bundle; nil for no file.
func openCAs(file string) (*caFile, error) {
	if file == "" {
		return nil, nil
	}
	c := &caFile{watch: fileWatch{files: []string{file}}}
	c.current()
	if c.pool == nil {
		if _, err := os.ReadFile(file); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%s holds no certificate", file)
	}
	return c, nil
}

// current returns the pool, which is another one when the file has changed.
func (c *caFile) current() *x509.CertPool {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.watch.changed(time.Now()) {
		return c.pool
	}
	data, err := os.ReadFile(c.watch.files[0])
	pool := x509.NewCertPool()
	if err == nil && pool.AppendCertsFromPEM(data) && !bytes.Equal(data, c.pem) {
		c.pem, c.pool = data, pool
	}
	return c.pool
}

// bundle is the text of the CAs.
func (c *caFile) bundle() []byte {
	if c == nil {
		return nil
	}
	c.current()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pem
}

// NamedCert is a certificate for some of our names: --tls-sni-cert-key.
type NamedCert struct {
	CertFile, KeyFile string
	Names             []string // "" means those that the certificate is for
}

// servingCertificates are what we show to clients, by the name they call us.
type servingCertificates struct {
	server *Server
	main   *reloader
	named  []namedReloader

	mu    sync.Mutex // guards the fields below
	base  *tls.Config
	hints string // the CAs that shown names
	shown *tls.Config
}

type namedReloader struct {
	*reloader
	names []string
}

// servingCertificates reads what must be there at the start.
func (s *Server) servingCertificates() (*servingCertificates, error) {
	c := &servingCertificates{server: s, main: &reloader{certFile: s.cfg.CertFile, keyFile: s.cfg.KeyFile}}
	if _, err := c.main.get(nil); err != nil {
		return nil, fmt.Errorf("serving certificate: %w", err)
	}
	for _, sni := range s.cfg.SNI {
		one := namedReloader{&reloader{certFile: sni.CertFile, keyFile: sni.KeyFile}, sni.Names}
		if _, err := one.get(nil); err != nil {
			return nil, fmt.Errorf("certificate for server names: %w", err)
		}
		c.named = append(c.named, one)
	}
	return c, nil
}

// config is the server's TLS configuration.
func (c *servingCertificates) config(cfg Config) *tls.Config {
	c.base = &tls.Config{
		MinVersion:   max(cfg.TLSMinVersion, tls.VersionTLS12),
		CipherSuites: cfg.CipherSuites, CurvePreferences: cfg.Curves,
		GetCertificate: c.choose,
		// Who is not known by certificate may be by token: ask, never insist,
		// and verify in authenticate, where refusing is an answer.
		ClientAuth: tls.RequestClientCert,
		NextProtos: []string{"h2", "http/1.1"},
	}
	if cfg.DisableHTTP2 {
		c.base.NextProtos = []string{"http/1.1"}
	}
	out := c.base.Clone()
	out.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.withHints(), nil }
	return out
}

// withHints is the configuration that tells clients whose certificates we
// believe now; clients send none if they have none of those.
func (c *servingCertificates) withHints() *tls.Config {
	authn := c.server.authn
	hints := string(authn.clientCAs.bundle()) + string(authn.proxyCAs.bundle())
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.shown == nil || c.hints != hints {
		c.hints, c.shown = hints, c.base.Clone()
		if hints != "" {
			c.shown.ClientCAs = x509.NewCertPool()
			c.shown.ClientCAs.AppendCertsFromPEM([]byte(hints))
		}
	}
	return c.shown
}

// choose finds the certificate for the name that the client calls us by, or
// for the address that it came to if it knows no name.
func (c *servingCertificates) choose(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	if name == "" && hello.Conn != nil {
		name, _, _ = net.SplitHostPort(hello.Conn.LocalAddr().String())
	}
	_, parent, _ := strings.Cut(name, ".")
	for _, wanted := range []string{name, "*." + parent} {
		for _, one := range c.named {
			certificate, err := one.get(hello)
			if err == nil && one.isFor(certificate, wanted) {
				return certificate, nil
			}
		}
	}
	return c.main.get(hello)
}

// isFor reports whether a certificate is for a name, by order or by its own
// words.
func (n *namedReloader) isFor(certificate *tls.Certificate, name string) bool {
	names := n.names
	if len(names) == 0 && certificate.Leaf != nil {
		names = append(names, certificate.Leaf.DNSNames...)
		for _, ip := range certificate.Leaf.IPAddresses {
			names = append(names, ip.String())
		}
		if len(names) == 0 {
			names = append(names, certificate.Leaf.Subject.CommonName)
		}
	}
	for _, one := range names {
		if strings.EqualFold(one, name) {
			return true
		}
	}
	return false
}
