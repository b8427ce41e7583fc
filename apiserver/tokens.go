package apiserver

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"

	"tinykube/apiserver/resources"
	"tinykube/apiserver/storage"
)

// A service account's token is a JWT that we sign and check ourselves. It is
// bound: to a time, to audiences, and to the objects it was made for. When the
// pod is gone, so is the token, whatever its expiry says; so checking one
// means to look into the cache, which is what makes it cheap enough to do for
// every request.

const (
	// defaultExpiry and minExpiry are upstream's bounds for TokenRequest.
	defaultExpiry = time.Hour
	minExpiry     = 10 * time.Minute
	maxExpiry     = 1 << 32 * time.Second
	// projectedExpiry is what admission asks for in every pod's volume.
	projectedExpiry = 3607 * time.Second

	clockSkew = 10 * time.Second
)

// tokenSigner holds the keys.
type tokenSigner struct {
	issuers   []string
	audiences []string
	signer    jose.Signer
	keys      map[string]crypto.PublicKey // by key ID
	maxExpiry time.Duration
}

// tokenClaims is what a service account's token says.
type tokenClaims struct {
	jwt.Claims
	Kubernetes struct {
		Namespace      string    `json:"namespace"`
		ServiceAccount claimRef  `json:"serviceaccount"`
		Pod            *claimRef `json:"pod,omitempty"`
		Secret         *claimRef `json:"secret,omitempty"`
		Node           *claimRef `json:"node,omitempty"`
	} `json:"kubernetes.io"`
	legacyClaims
}

type claimRef struct {
	Name string `json:"name"`
	UID  string `json:"uid"`
}

func newTokenSigner(cfg ServiceAccountConfig) (*tokenSigner, error) {
	t := &tokenSigner{issuers: cfg.Issuers, audiences: cfg.Audiences, keys: map[string]crypto.PublicKey{}, maxExpiry: cfg.MaxExpiry}
	if len(t.issuers) == 0 {
		t.issuers = []string{"https://kubernetes.default.svc.cluster.local"}
	}
	if len(t.audiences) == 0 {
		t.audiences = t.issuers
	}
	files := cfg.KeyFiles
	if len(files) == 0 && cfg.SigningKey != "" {
		files = []string{cfg.SigningKey}
	}
	for _, file := range files {
		keys, err := readPublicKeys(file)
		if err != nil {
			return nil, fmt.Errorf("service account key %s: %w", file, err)
		}
		for _, key := range keys {
			t.keys[keyID(key)] = key
		}
	}
	if cfg.SigningKey == "" {
		return t, nil
	}
	key, err := readPrivateKey(cfg.SigningKey)
	if err != nil {
		return nil, fmt.Errorf("service account signing key %s: %w", cfg.SigningKey, err)
	}
	algorithm := algorithmOf(key.Public())
	id := keyID(key.Public())
	t.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", id))
	return t, err
}

// keyID names a public key as upstream does, so that either's tokens are found.
// Upstream: kubernetes@v1.36 pkg/serviceaccount/jwt.go keyIDFromPublicKey
func keyID(key crypto.PublicKey) string {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func readPrivateKey(file string) (crypto.Signer, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
			return key, nil
		}
		if key, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
			return key, nil
		}
		if key, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
			if signer, ok := key.(crypto.Signer); ok {
				return signer, nil
			}
		}
	}
	return nil, errors.New("no private key found")
}

// readPublicKeys reads what of a file can verify: public keys, certificates,
// or the public half of private keys.
func readPublicKeys(file string) ([]crypto.PublicKey, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var keys []crypto.PublicKey
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if key, err := x509.ParsePKIXPublicKey(block.Bytes); err == nil {
			keys = append(keys, key)
		} else if key, err := x509.ParsePKCS1PublicKey(block.Bytes); err == nil {
			keys = append(keys, key)
		} else if certificate, err := x509.ParseCertificate(block.Bytes); err == nil {
			keys = append(keys, certificate.PublicKey)
		}
	}
	if private, err := readPrivateKey(file); err == nil {
		keys = append(keys, private.Public())
	}
	for _, key := range keys {
		switch key.(type) {
		case *rsa.PublicKey, *ecdsa.PublicKey:
		default:
			return nil, fmt.Errorf("a key is of type %T, neither RSA nor ECDSA", key)
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("no key found")
	}
	return keys, nil
}

// sign makes a token for a service account, bound to an object if there is one.
func (t *tokenSigner) sign(claims *tokenClaims, audiences []string, lifetime time.Duration) (string, time.Time, error) {
	if t.signer == nil {
		return "", time.Time{}, errors.New("this API server has no key to sign tokens with")
	}
	now := time.Now()
	expires := now.Add(lifetime)
	k := &claims.Kubernetes
	claims.Claims = jwt.Claims{
		Issuer: t.issuers[0], Subject: serviceAccountPrefix + k.Namespace + ":" + k.ServiceAccount.Name,
		Audience: audiences, IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now),
		Expiry: jwt.NewNumericDate(expires), ID: uuid.NewString(),
	}
	// The library writes a single audience as a string; upstream's is a list, always.
	list := map[string]any{"aud": audiences}
	token, err := jwt.Signed(t.signer).Claims(claims).Claims(list).Serialize()
	return token, expires, err
}

// parse checks signature, issuer, time and audience, and returns the claims
// and those of the audiences that the token is for.
func (t *tokenSigner) parse(token string, audiences []string) (*tokenClaims, []string, error) {
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256, jose.ES256, jose.RS384, jose.ES384, jose.RS512, jose.ES512})
	if err != nil {
		return nil, nil, errUnauthorized
	}
	claims := &tokenClaims{}
	if !slices.ContainsFunc(t.candidates(parsed), func(key crypto.PublicKey) bool { return parsed.Claims(key, claims) == nil }) {
		return nil, nil, errUnauthorized
	}
	if claims.Issuer == legacyIssuer {
		t.readLegacy(claims, token)
	} else if !slices.Contains(t.issuers, claims.Issuer) {
		return nil, nil, errUnauthorized
	}
	if err := claims.ValidateWithLeeway(jwt.Expected{Time: time.Now()}, clockSkew); err != nil {
		return nil, nil, errUnauthorized
	}
	var for_ []string
	for _, audience := range audiences {
		if claims.Audience.Contains(audience) {
			for_ = append(for_, audience)
		}
	}
	if len(for_) == 0 {
		return nil, nil, errUnauthorized
	}
	return claims, for_, nil
}

// candidates are the keys that may have signed a token.
func (t *tokenSigner) candidates(token *jwt.JSONWebToken) []crypto.PublicKey {
	for _, header := range token.Headers {
		if key, ok := t.keys[header.KeyID]; ok {
			return []crypto.PublicKey{key}
		}
	}
	var all []crypto.PublicKey
	for _, key := range t.keys {
		all = append(all, key)
	}
	return all
}

// tokenCache remembers tokens whose signature was good: checking RSA costs
// more than everything else in a small request. What can change, the time and
// the objects a token is bound to, is checked every time.
type tokenCache struct {
	mu    sync.Mutex // guards known
	known map[[sha256.Size]byte]*knownToken
}

type knownToken struct {
	claims *tokenClaims
	until  time.Time
}

const (
	tokenCacheSize = 4096
	tokenCacheFor  = 10 * time.Minute
)

// verify returns whose token it is, and which of the audiences it is for.
func (c *tokenCache) verify(ctx context.Context, s *Server, token string, audiences []string) (*user, []string, error) {
	sum := sha256.Sum256([]byte(token))
	now := time.Now()
	c.mu.Lock()
	known := c.known[sum]
	c.mu.Unlock()
	if known != nil && now.Before(known.until) && slices.ContainsFunc(audiences, known.claims.Audience.Contains) {
		granted := slices.DeleteFunc(slices.Clone(audiences), func(a string) bool { return !known.claims.Audience.Contains(a) })
		u, err := s.boundUser(ctx, known.claims)
		return u, granted, err
	}
	claims, granted, err := s.tokens.parse(token, audiences)
	if err != nil {
		return nil, nil, err
	}
	u, err := s.boundUser(ctx, claims)
	if err != nil {
		return nil, nil, err
	}
	until := now.Add(tokenCacheFor)
	if claims.Expiry != nil && claims.Expiry.Time().Before(until) {
		until = claims.Expiry.Time()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.known) >= tokenCacheSize || c.known == nil {
		c.known = map[[sha256.Size]byte]*knownToken{}
	}
	c.known[sum] = &knownToken{claims, until}
	return u, granted, nil
}

// boundUser checks that everything a token is bound to still exists: a token
// may be newer than what the cache knows.
func (s *Server) boundUser(ctx context.Context, claims *tokenClaims) (*user, error) {
	k := &claims.Kubernetes
	select {
	case <-s.store.Ready():
	default:
		return nil, errUnauthorized
	}
	account, ok := current[*corev1.ServiceAccount](ctx, s, "", "serviceaccounts", storage.Key(k.Namespace, k.ServiceAccount.Name))
	if !ok || string(account.UID) != k.ServiceAccount.UID || overdue(account) {
		return nil, errUnauthorized
	}
	u := serviceAccountUser(k.Namespace, k.ServiceAccount.Name, k.ServiceAccount.UID)
	u.extra = map[string][]string{}
	if claims.ID != "" {
		u.extra["authentication.kubernetes.io/credential-id"] = []string{"JTI=" + claims.ID}
	}
	if k.Pod != nil {
		pod, ok := current[*corev1.Pod](ctx, s, "", "pods", storage.Key(k.Namespace, k.Pod.Name))
		if !ok || string(pod.UID) != k.Pod.UID || overdue(pod) {
			return nil, errUnauthorized
		}
		u.extra["authentication.kubernetes.io/pod-name"] = []string{k.Pod.Name}
		u.extra["authentication.kubernetes.io/pod-uid"] = []string{k.Pod.UID}
	}
	if k.Node != nil {
		// A pod's token says where the pod is, and dies with the pod only.
		node, ok := current[*corev1.Node](ctx, s, "", "nodes", k.Node.Name)
		if k.Pod == nil && (!ok || string(node.UID) != k.Node.UID || overdue(node)) {
			return nil, errUnauthorized
		}
		u.extra["authentication.kubernetes.io/node-name"] = []string{k.Node.Name}
		u.extra["authentication.kubernetes.io/node-uid"] = []string{k.Node.UID}
	}
	if k.Secret != nil {
		secret, ok := current[*corev1.Secret](ctx, s, "", "secrets", storage.Key(k.Namespace, k.Secret.Name))
		if !ok || !claims.inSecret(secret) || overdue(secret) {
			return nil, errUnauthorized
		}
	}
	return u, nil
}

// deletedGrace is how long tokens outlive the deletion of what they are bound
// to: a pod that ends still has to say goodbye.
// Upstream: kubernetes@v1.36 pkg/serviceaccount/claims.go
const deletedGrace = time.Minute

func overdue(obj resources.Object) bool {
	at := obj.GetDeletionTimestamp()
	return at != nil && time.Since(at.Time) > deletedGrace
}
