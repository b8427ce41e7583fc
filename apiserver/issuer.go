package apiserver

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/go-jose/go-jose/v4"
)

// Others can check the tokens that we sign, without asking us each time: two
// documents say who we are and which keys we sign with. A bank that trusts this
// issuer can let pods in by their service-account tokens.
//
// Spec: OpenID Connect Discovery 1.0 §3, §4; RFC 7517 (JWK).

// Paths of the two documents.
const (
	issuerPath = "/.well-known/openid-configuration"
	keysPath   = "/openid/v1/jwks"
)

// issuerDocument is what OpenID Connect wants to know of an issuer.
type issuerDocument struct {
	Issuer        string   `json:"issuer"`
	KeysURI       string   `json:"jwks_uri"`
	ResponseTypes []string `json:"response_types_supported"`
	SubjectTypes  []string `json:"subject_types_supported"`
	Algorithms    []string `json:"id_token_signing_alg_values_supported"`
}

// serveIssuer adds the two documents, if the issuer's name is one under which
// they may be looked for.
func (s *Server) serveIssuer(mux *http.ServeMux) {
	mux.HandleFunc("GET "+issuerPath, func(w http.ResponseWriter, r *http.Request) {
		issuer, err := url.Parse(s.tokens.issuers[0])
		if err != nil || issuer.Scheme != "https" {
			http.NotFound(w, r)
			return
		}
		keys := s.publicKeys()
		document := issuerDocument{
			Issuer: s.tokens.issuers[0], KeysURI: s.keysURI(),
			ResponseTypes: []string{"id_token"}, SubjectTypes: []string{"public"},
		}
		for _, key := range keys.Keys {
			if !slices.Contains(document.Algorithms, key.Algorithm) {
				document.Algorithms = append(document.Algorithms, key.Algorithm)
			}
		}
		sendDocument(w, "application/json", document)
	})
	mux.HandleFunc("GET "+keysPath, func(w http.ResponseWriter, _ *http.Request) {
		sendDocument(w, "application/jwk-set+json", s.publicKeys())
	})
}

func sendDocument(w http.ResponseWriter, contentType string, document any) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "public, max-age=3600")
	w.Write(marshal(document))
}

// keysURI is where strangers find the keys.
func (s *Server) keysURI() string {
	if uri := s.cfg.ServiceAccount.KeysURI; uri != "" {
		return uri
	}
	host := s.cfg.ExternalHostname
	if host == "" {
		host = net.JoinHostPort(cmp.Or(s.advertised(), s.cfg.BindAddress), strconv.Itoa(s.port()))
	}
	return (&url.URL{Scheme: "https", Host: host, Path: keysPath}).String()
}

// publicKeys are the keys that verify our tokens, in a fixed order.
func (s *Server) publicKeys() jose.JSONWebKeySet {
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for _, id := range slices.Sorted(maps.Keys(s.tokens.keys)) {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: s.tokens.keys[id], KeyID: id, Use: "sig", Algorithm: string(algorithmOf(s.tokens.keys[id]))})
	}
	return set
}

// algorithmOf is the one way in which a key signs; a curve has its hash.
func algorithmOf(key crypto.PublicKey) jose.SignatureAlgorithm {
	point, ok := key.(*ecdsa.PublicKey)
	if !ok {
		return jose.RS256
	}
	switch point.Curve {
	case elliptic.P384():
		return jose.ES384
	case elliptic.P521():
		return jose.ES512
	}
	return jose.ES256
}
