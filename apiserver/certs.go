package apiserver

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// An API server that is started alone makes itself a small PKI, so that it is
// never without TLS and never open to strangers: a CA, a serving certificate,
// a key for service accounts, and admin.conf, a kubeconfig for its owner.

const selfSignedValidity = 365 * 24 * time.Hour

// AdminKubeconfig is the file that an API server without certificates writes
// into its CertDir.
const AdminKubeconfig = "admin.conf"

// selfSigned fills the empty parts of cfg with files in cfg.CertDir, making
// those that are not there yet.
func selfSigned(cfg *Config) error {
	dir := cfg.CertDir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	ca, err := openCA(dir)
	if err != nil {
		return err
	}
	cfg.CertFile, cfg.KeyFile = filepath.Join(dir, "apiserver.crt"), filepath.Join(dir, "apiserver.key")
	if err := ca.issue(cfg.CertFile, cfg.KeyFile, pkix.Name{CommonName: "kube-apiserver"}, x509.ExtKeyUsageServerAuth, cfg); err != nil {
		return err
	}
	if cfg.ClientCAFile == "" {
		cfg.ClientCAFile = filepath.Join(dir, "ca.crt")
		admin := pkix.Name{CommonName: "kubernetes-admin", Organization: []string{groupMasters}}
		if err := ca.issue(filepath.Join(dir, "admin.crt"), filepath.Join(dir, "admin.key"), admin, x509.ExtKeyUsageClientAuth, cfg); err != nil {
			return err
		}
	}
	if cfg.ServiceAccount.SigningKey == "" && len(cfg.ServiceAccount.KeyFiles) == 0 {
		cfg.ServiceAccount.SigningKey = filepath.Join(dir, "sa.key")
		cfg.ServiceAccount.KeyFiles = []string{cfg.ServiceAccount.SigningKey}
		return makeRSAKey(cfg.ServiceAccount.SigningKey)
	}
	return nil
}

// writeAdminKubeconfig writes the owner's way in, once the port is known.
func (s *Server) writeAdminKubeconfig() error {
	dir := s.cfg.CertDir
	if dir == "" || s.cfg.ClientCAFile != filepath.Join(dir, "ca.crt") {
		return nil
	}
	host := s.cfg.BindAddress
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	var encoded [3]string
	for i, name := range []string{"ca.crt", "admin.crt", "admin.key"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		encoded[i] = base64.StdEncoding.EncodeToString(data)
	}
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
- name: kubernetes
  cluster: {server: "https://%s", certificate-authority-data: %s}
users:
- name: kubernetes-admin
  user: {client-certificate-data: %s, client-key-data: %s}
contexts:
- name: kubernetes-admin@kubernetes
  context: {cluster: kubernetes, user: kubernetes-admin}
current-context: kubernetes-admin@kubernetes
`, net.JoinHostPort(host, fmt.Sprint(s.port())), encoded[0], encoded[1], encoded[2])
	return os.WriteFile(filepath.Join(dir, AdminKubeconfig), []byte(text), 0o600)
}

// authority signs certificates.
type authority struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

func openCA(dir string) (*authority, error) {
	certFile, keyFile := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")
	if pair, err := tls.LoadX509KeyPair(certFile, keyFile); err == nil {
		return &authority{pair.Leaf, pair.PrivateKey.(crypto.Signer)}, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := template(pkix.Name{CommonName: "kubernetes"})
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	template.NotAfter = template.NotAfter.Add(9 * selfSignedValidity)
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{certificate, key}, writePair(certFile, keyFile, der, key)
}

// issue makes a certificate anew at every start: that is how it stays valid.
func (a *authority) issue(certFile, keyFile string, subject pkix.Name, usage x509.ExtKeyUsage, cfg *Config) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := template(subject)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{usage}
	if usage == x509.ExtKeyUsageServerAuth {
		template.DNSNames = []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}
		template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
		for _, address := range []string{cfg.BindAddress, cfg.AdvertiseAddress} {
			if ip := net.ParseIP(address); ip != nil && !ip.IsUnspecified() {
				template.IPAddresses = append(template.IPAddresses, ip)
			}
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		return err
	}
	return writePair(certFile, keyFile, der, key)
}

func template(subject pkix.Name) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial, Subject: subject,
		NotBefore: now.Add(-5 * time.Minute), NotAfter: now.Add(selfSignedValidity),
	}
}

func writePair(certFile, keyFile string, der []byte, key crypto.Signer) error {
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600); err != nil {
		return err
	}
	return os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}

func makeRSAKey(file string) error {
	if _, err := os.Stat(file); err == nil {
		return nil
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	block := &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}
	return os.WriteFile(file, pem.EncodeToMemory(block), 0o600)
}
