package apiserver

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/csv"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"tinykube/apiserver/storage"
)

// Who is it? In this order, and the first proof counts:
//
//	front proxy      a certificate of the proxy's CA, and headers that say who
//	certificate      CN is the user, O the groups
//	bearer token     a service account's JWT, a bootstrap token, or one of a file
//	nothing          system:anonymous, who may read /version and little else
//
// A proof that fails is 401, never "anonymous": who shows a bad passport is
// not let in as a tourist.

var (
	errUnauthorized = apierrors.NewUnauthorized("Unauthorized")
	errNoProof      = apierrors.NewUnauthorized("Unauthorized") // nor a bad one
)

// authenticator finds out who sent a request.
type authenticator struct {
	server    *Server
	clientCAs *caFile
	proxyCAs  *caFile
	static    map[[sha256.Size]byte]*user // by the token's hash
	tokens    tokenCache
}

func newAuthenticator(s *Server) (*authenticator, error) {
	a := &authenticator{server: s, static: map[[sha256.Size]byte]*user{}}
	var err error
	if a.clientCAs, err = openCAs(s.cfg.ClientCAFile); err != nil {
		return nil, fmt.Errorf("client CA: %w", err)
	}
	if a.proxyCAs, err = openCAs(s.cfg.RequestHeader.CAFile); err != nil {
		return nil, fmt.Errorf("request header CA: %w", err)
	}
	if s.cfg.TokenAuthFile != "" {
		if err := a.readTokens(s.cfg.TokenAuthFile); err != nil {
			return nil, fmt.Errorf("token file: %w", err)
		}
	}
	return a, nil
}

// readTokens reads lines of token,user,uid,"group1,group2".
func (a *authenticator) readTokens(file string) error {
	data, err := os.Open(file)
	if err != nil {
		return err
	}
	defer data.Close()
	reader := csv.NewReader(data)
	reader.FieldsPerRecord = -1
	records, err := reader.ReadAll()
	if err != nil {
		return err
	}
	for _, record := range records {
		if len(record) < 3 {
			return fmt.Errorf("%s: a line has %d fields, and needs token, user and uid", file, len(record))
		}
		u := &user{name: record[1], uid: record[2]}
		if len(record) > 3 {
			for group := range strings.SplitSeq(record[3], ",") {
				if group = strings.TrimSpace(group); group != "" {
					u.groups = append(u.groups, group)
				}
			}
		}
		u.groups = append(u.groups, groupAuthenticated)
		a.static[sha256.Sum256([]byte(record[0]))] = u
	}
	return nil
}

func (s *Server) authenticate(q *request) (*user, error) {
	a, r := s.authn, q.Request
	if u := a.proxied(r); u != nil {
		return u, nil
	}
	if u, ok := a.certificate(r); ok {
		return u, nil
	}
	header := r.Header.Get("Authorization")
	if header == "" {
		refused := a.clientCAs != nil && r.TLS != nil && len(r.TLS.PeerCertificates) > 0
		switch {
		case refused:
			return nil, errUnauthorized
		case s.cfg.AnonymousAuth:
			return anonymous, nil
		}
		return nil, errNoProof
	}
	scheme, token, _ := strings.Cut(header, " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "bearer") || token == "" {
		return nil, errUnauthorized
	}
	u, _, err := a.token(q.Context(), token, s.tokens.audiences)
	return u, err
}

// token finds whose token it is, and for which of the audiences.
func (a *authenticator) token(ctx context.Context, token string, audiences []string) (*user, []string, error) {
	u := a.static[sha256.Sum256([]byte(token))]
	if u == nil {
		u = a.bootstrapToken(token)
	}
	if u != nil { // such a token names no audience: it is for us
		ours := slices.DeleteFunc(slices.Clone(audiences), func(one string) bool { return !slices.Contains(a.server.tokens.audiences, one) })
		if len(ours) == 0 {
			return nil, nil, errUnauthorized
		}
		return u, ours, nil
	}
	return a.tokens.verify(ctx, a.server, token, audiences)
}

// connection is what we know about one TLS connection. A client certificate is
// verified once per connection, not once per request, unless the CAs change.
type connection struct {
	mu      sync.Mutex     // guards the fields below
	roots   *x509.CertPool // that were asked
	user    *user
	expires time.Time
}

type connectionKey struct{}

func withConnection(ctx context.Context, _ net.Conn) context.Context {
	return context.WithValue(ctx, connectionKey{}, &connection{})
}

// certificate returns whom the client certificate names, if it names anybody
// whom our CA vouches for.
func (a *authenticator) certificate(r *http.Request) (*user, bool) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 || a.clientCAs == nil {
		return nil, false
	}
	c, ok := r.Context().Value(connectionKey{}).(*connection)
	if !ok {
		c = &connection{}
	}
	roots := a.clientCAs.current()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.roots != roots {
		c.roots, c.user = roots, nil
		leaf := r.TLS.PeerCertificates[0]
		if verifyChain(r.TLS.PeerCertificates, roots) == nil {
			c.expires, c.user = leaf.NotAfter, certificateUser(leaf)
		}
	}
	left := time.Until(c.expires)
	if c.user == nil || c.user.name == "" || left <= 0 {
		return nil, false
	}
	a.server.metrics.rights.certificates.Observe(left.Seconds())
	return c.user, true
}

// certificateUser is whom a certificate names.
func certificateUser(leaf *x509.Certificate) *user {
	return &user{
		name: leaf.Subject.CommonName, groups: append(slices.Clone(leaf.Subject.Organization), groupAuthenticated),
		extra: map[string][]string{"authentication.kubernetes.io/credential-id": {fmt.Sprintf("X509SHA256=%x", sha256.Sum256(leaf.Raw))}},
	}
}

func verifyChain(chain []*x509.Certificate, roots *x509.CertPool) error {
	intermediates := x509.NewCertPool()
	for _, certificate := range chain[1:] {
		intermediates.AddCert(certificate)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return err
}

// proxied returns the user that a trusted front proxy speaks for.
func (a *authenticator) proxied(r *http.Request) *user {
	cfg := &a.server.cfg.RequestHeader
	if a.proxyCAs == nil || r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil
	}
	name := first(r.Header, cfg.UsernameHeaders)
	if name == "" {
		return nil
	}
	leaf := r.TLS.PeerCertificates[0]
	if len(cfg.AllowedNames) > 0 && !slices.Contains(cfg.AllowedNames, leaf.Subject.CommonName) {
		return nil
	}
	if verifyChain(r.TLS.PeerCertificates, a.proxyCAs.current()) != nil {
		return nil
	}
	u := &user{name: name, uid: first(r.Header, cfg.UIDHeaders), extra: map[string][]string{}}
	for _, header := range cfg.GroupHeaders {
		u.groups = append(u.groups, r.Header.Values(header)...)
	}
	for _, prefix := range cfg.ExtraPrefixes {
		for header, values := range r.Header {
			if rest, ok := cutPrefixFold(header, prefix); ok {
				key, err := url.PathUnescape(strings.ToLower(rest))
				if err == nil {
					u.extra[key] = values
				}
			}
		}
	}
	if u.name != userAnonymous && !u.in(groupAuthenticated) {
		u.groups = append(u.groups, groupAuthenticated)
	}
	return u
}

func first(h http.Header, names []string) string {
	for _, name := range names {
		if value := h.Get(name); value != "" {
			return value
		}
	}
	return ""
}

func cutPrefixFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return "", false
	}
	return s[len(prefix):], true
}

// bootstrapToken accepts <id>.<secret> of a Secret in kube-system, for nodes
// that have no other proof yet.
// Spec: Kubernetes, "Authenticating with Bootstrap Tokens".
func (a *authenticator) bootstrapToken(token string) *user {
	id, secret, ok := strings.Cut(token, ".")
	if !ok || len(id) != 6 || len(secret) != 16 || !a.server.cfg.BootstrapToken {
		return nil
	}
	found, ok := cached[*corev1.Secret](a.server, "", "secrets", storage.Key("kube-system", "bootstrap-token-"+id))
	if !ok || found.DeletionTimestamp != nil || found.Type != "bootstrap.kubernetes.io/token" {
		return nil
	}
	data := found.Data
	if string(data["token-id"]) != id || subtle.ConstantTimeCompare(data["token-secret"], []byte(secret)) != 1 ||
		string(data["usage-bootstrap-authentication"]) != "true" {
		return nil
	}
	if expiry := string(data["expiration"]); expiry != "" {
		at, err := time.Parse(time.RFC3339, expiry)
		if err != nil || time.Now().After(at) {
			return nil
		}
	}
	u := &user{name: "system:bootstrap:" + id, groups: []string{"system:bootstrappers", groupAuthenticated}}
	for group := range strings.SplitSeq(string(data["auth-extra-groups"]), ",") {
		if strings.HasPrefix(group, "system:bootstrappers:") {
			u.groups = append(u.groups, group)
		}
	}
	return u
}
