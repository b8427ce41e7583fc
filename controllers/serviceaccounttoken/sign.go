package serviceaccounttoken

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	corev1 "k8s.io/api/core/v1"
)

// issuer is who such tokens have always been from.
const issuer = "kubernetes/serviceaccount"

// claims is what such a token says: whose it is, and in which Secret it is, so
// that it ends with either.
//
// Upstream: kubernetes/kubernetes pkg/serviceaccount/legacy.go LegacyClaims
type claims struct {
	jwt.Claims
	Namespace   string `json:"kubernetes.io/serviceaccount/namespace"`
	Secret      string `json:"kubernetes.io/serviceaccount/secret.name"`
	AccountName string `json:"kubernetes.io/serviceaccount/service-account.name"`
	AccountUID  string `json:"kubernetes.io/serviceaccount/service-account.uid"`
}

// Signer signs tokens with the cluster's service account key.
type Signer struct{ signer jose.Signer }

// NewSigner reads a private key, RSA or ECDSA, in PEM.
func NewSigner(raw []byte) (*Signer, error) {
	key, err := privateKey(raw)
	if err != nil {
		return nil, err
	}
	algorithm := jose.RS256
	if _, ok := key.(*ecdsa.PrivateKey); ok {
		algorithm = jose.ES256
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(public)
	id := base64.RawURLEncoding.EncodeToString(sum[:]) // the name under which the API server knows the key
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", id))
	return &Signer{signer}, err
}

func privateKey(raw []byte) (crypto.Signer, error) {
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
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

func (s *Signer) token(account *corev1.ServiceAccount, secret *corev1.Secret) (string, error) {
	return jwt.Signed(s.signer).Claims(claims{
		Claims:    jwt.Claims{Issuer: issuer, Subject: "system:serviceaccount:" + account.Namespace + ":" + account.Name},
		Namespace: account.Namespace, Secret: secret.Name, AccountName: account.Name, AccountUID: string(account.UID),
	}).Serialize()
}
