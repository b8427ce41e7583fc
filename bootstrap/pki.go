package bootstrap

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"time"
)

// Three authorities, because each answers another question:
//
//	ca              who is a member of this cluster?   (API server, kubelets, admins)
//	etcd/ca         who may talk to etcd?              (the API server alone)
//	front-proxy-ca  whose X-Remote-User do I believe?  (the aggregation layer)
//
// A certificate's subject is its identity: CN is the user, each O is a group.
//
// Upstream: kubernetes/kubernetes@v1.36 cmd/kubeadm/app/phases/certs

const (
	authorityLifetime   = 10 * 365 * 24 * time.Hour
	certificateLifetime = 365 * 24 * time.Hour
	// backdate forgives clocks that are a little behind.
	backdate = 5 * time.Minute
)

// Certificate is a certificate with its key, PEM encoded.
type Certificate struct {
	Cert, Key []byte

	parsed *x509.Certificate
	signer crypto.Signer
}

// Authority signs certificates.
type Authority struct{ Certificate }

// PKI holds the cluster's authorities and the key that signs service-account
// tokens.
type PKI struct {
	CA, EtcdCA, FrontProxyCA             *Authority
	ServiceAccount, ServiceAccountPublic []byte // PEM, sa.key and sa.pub
}

// NewPKI makes fresh authorities.
func NewPKI() (*PKI, error) {
	p := &PKI{}
	for _, a := range []struct {
		authority **Authority
		name      string
	}{{&p.CA, "kubernetes"}, {&p.EtcdCA, "etcd-ca"}, {&p.FrontProxyCA, "front-proxy-ca"}} {
		authority, err := newAuthority(a.name)
		if err != nil {
			return nil, err
		}
		*a.authority = authority
	}
	// RSA, because RS256 is what every verifier of these tokens knows.
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	p.ServiceAccount = pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	p.ServiceAccountPublic = pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	return p, nil
}

// LoadAuthority reads an authority that an earlier run wrote.
func LoadAuthority(cert, key []byte) (*Authority, error) {
	certBlock, _ := pem.Decode(cert)
	keyBlock, _ := pem.Decode(key)
	if certBlock == nil || keyBlock == nil {
		return nil, fmt.Errorf("certificate authority: no PEM in its certificate or key")
	}
	parsed, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	signer, err := x509.ParseECPrivateKey(keyBlock.Bytes)
	if err != nil {
		return nil, fmt.Errorf("certificate authority's key: %w", err)
	}
	return &Authority{Certificate{Cert: cert, Key: key, parsed: parsed, signer: signer}}, nil
}

func newAuthority(name string) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotAfter: time.Now().Add(authorityLifetime),
		KeyUsage: x509.KeyUsageKeyEncipherment | x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		IsCA:     true, BasicConstraintsValid: true,
	}
	certificate, err := sign(template, template, key, key)
	return &Authority{certificate}, err
}

// Request describes a certificate to be signed.
type Request struct {
	CommonName     string
	Organizations  []string
	DNSNames       []string
	IPs            []net.IP
	Server, Client bool // extended key usages
}

// Issue makes a key and signs a certificate for it.
func (a *Authority) Issue(r Request) (Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Certificate{}, err
	}
	template := &x509.Certificate{
		Subject:  pkix.Name{CommonName: r.CommonName, Organization: r.Organizations},
		DNSNames: r.DNSNames, IPAddresses: r.IPs,
		NotAfter: time.Now().Add(certificateLifetime),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}
	if r.Server {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	if r.Client {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	return sign(template, a.parsed, key, a.signer)
}

func sign(template, parent *x509.Certificate, key *ecdsa.PrivateKey, signer crypto.Signer) (Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 63))
	if err != nil {
		return Certificate{}, err
	}
	template.SerialNumber, template.NotBefore = serial, time.Now().Add(-backdate)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return Certificate{}, fmt.Errorf("sign certificate of %q: %w", template.Subject.CommonName, err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return Certificate{}, err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return Certificate{}, err
	}
	return Certificate{
		Cert:   pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:    pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}),
		parsed: parsed, signer: key,
	}, nil
}

// Restore makes a PKI that was read from JSON able to sign again.
func (p *PKI) Restore() error {
	for _, a := range []*Authority{p.CA, p.EtcdCA, p.FrontProxyCA} {
		loaded, err := LoadAuthority(a.Cert, a.Key)
		if err != nil {
			return err
		}
		*a = *loaded
	}
	return nil
}
