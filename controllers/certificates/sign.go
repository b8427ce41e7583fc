package certificates

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
	"tinykube/controllers/harness"
)

const (
	// backdate lets clocks differ between us and those who check.
	backdate = 5 * time.Minute
	// The backdating is part of a certificate's life, unless that is short.
	short = 8 * time.Hour
	// shortest is the least that spec.expirationSeconds gets.
	shortest = 10 * time.Minute
)

// SigningConfig says which CA signs for which signer.
type SigningConfig struct {
	CAs      map[string]CA // by signer name
	Duration time.Duration // of a certificate, at most
}

// CA is where a certificate authority's certificate and key are. They are read
// for every signature, so a CA can be renewed in place.
type CA struct{ CertFile, KeyFile string }

type signer struct {
	*harness.Scope
	cfg      SigningConfig
	requests *harness.Store[*certificatesv1.CertificateSigningRequest]
}

// RegisterSigning adds the loop that signs approved requests.
func RegisterSigning(m *harness.Manager, cfg SigningConfig) {
	s := m.Scope(harness.Identity{Name: "certificatesigningrequest-signing-controller", Account: account, Source: "csrsigning"})
	c := &signer{Scope: s, cfg: cfg, requests: harness.StoreOf(s, client.CertificateSigningRequests)}
	loop := harness.NewLoop(s, 1, c.reconcile)
	harness.WatchSelf(loop, c.requests)
}

func (c *signer) reconcile(ctx context.Context, name string) (time.Duration, error) {
	csr, ok := c.requests.Get("", name)
	if !ok || len(csr.Status.Certificate) > 0 || !has(csr, certificatesv1.CertificateApproved) ||
		has(csr, certificatesv1.CertificateDenied) || has(csr, certificatesv1.CertificateFailed) {
		return 0, nil
	}
	ca, ours := c.cfg.CAs[csr.Spec.SignerName]
	if !ours {
		return 0, nil // another signer's
	}
	request, err := parse(csr)
	if err == nil {
		err = request.CheckSignature()
	}
	if err == nil {
		err = rules[csr.Spec.SignerName](request, csr.Spec.Usages)
	}
	updated := csr.DeepCopy()
	if err != nil {
		updated.Status.Conditions = append(updated.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: "SignerValidationFailure",
			Message: err.Error(), LastUpdateTime: metav1.Now(),
		})
	} else if updated.Status.Certificate, err = c.sign(ca, request, &csr.Spec, time.Now()); err != nil {
		return 0, fmt.Errorf("sign for %s: %w", csr.Spec.SignerName, err)
	}
	_, err = c.requests.UpdateStatus(ctx, updated)
	return 0, err
}

// sign makes the certificate. Name and key are the request's; what it may be
// used for, and how long, is decided here.
func (c *signer) sign(ca CA, request *x509.CertificateRequest, spec *certificatesv1.CertificateSigningRequestSpec, now time.Time) ([]byte, error) {
	pair, err := tls.LoadX509KeyPair(ca.CertFile, ca.KeyFile)
	if err != nil {
		return nil, err
	}
	issuer, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128))
	if err != nil {
		return nil, err
	}
	life := c.cfg.Duration
	if spec.ExpirationSeconds != nil {
		life = max(shortest, min(life, time.Duration(*spec.ExpirationSeconds)*time.Second))
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: request.Subject,
		DNSNames: request.DNSNames, IPAddresses: request.IPAddresses, EmailAddresses: request.EmailAddresses, URIs: request.URIs,
		NotBefore: now.Add(-backdate), NotAfter: now.Add(life), BasicConstraintsValid: true,
	}
	if life >= short {
		template.NotAfter = template.NotBefore.Add(life)
	}
	if template.NotAfter.After(issuer.NotAfter) {
		template.NotAfter = issuer.NotAfter // nothing outlives its CA
	}
	if !template.NotBefore.Before(issuer.NotAfter) || !now.Before(issuer.NotAfter) {
		return nil, fmt.Errorf("the signer has expired: NotAfter=%v", issuer.NotAfter)
	}
	for _, usage := range spec.Usages {
		template.KeyUsage |= keyUsages[usage]
		if extended, ok := extendedUsages[usage]; ok {
			template.ExtKeyUsage = append(template.ExtKeyUsage, extended)
		}
	}
	slices.Sort(template.ExtKeyUsage)
	template.ExtKeyUsage = slices.Compact(template.ExtKeyUsage)
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, request.PublicKey, pair.PrivateKey.(crypto.Signer))
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

var keyUsages = map[certificatesv1.KeyUsage]x509.KeyUsage{
	certificatesv1.UsageSigning: x509.KeyUsageDigitalSignature, certificatesv1.UsageDigitalSignature: x509.KeyUsageDigitalSignature,
	certificatesv1.UsageContentCommitment: x509.KeyUsageContentCommitment, certificatesv1.UsageKeyEncipherment: x509.KeyUsageKeyEncipherment,
	certificatesv1.UsageKeyAgreement: x509.KeyUsageKeyAgreement, certificatesv1.UsageDataEncipherment: x509.KeyUsageDataEncipherment,
	certificatesv1.UsageCertSign: x509.KeyUsageCertSign, certificatesv1.UsageCRLSign: x509.KeyUsageCRLSign,
	certificatesv1.UsageEncipherOnly: x509.KeyUsageEncipherOnly, certificatesv1.UsageDecipherOnly: x509.KeyUsageDecipherOnly,
}

var extendedUsages = map[certificatesv1.KeyUsage]x509.ExtKeyUsage{
	certificatesv1.UsageAny: x509.ExtKeyUsageAny, certificatesv1.UsageServerAuth: x509.ExtKeyUsageServerAuth,
	certificatesv1.UsageClientAuth: x509.ExtKeyUsageClientAuth, certificatesv1.UsageCodeSigning: x509.ExtKeyUsageCodeSigning,
	certificatesv1.UsageEmailProtection: x509.ExtKeyUsageEmailProtection, certificatesv1.UsageSMIME: x509.ExtKeyUsageEmailProtection,
	certificatesv1.UsageIPsecEndSystem: x509.ExtKeyUsageIPSECEndSystem, certificatesv1.UsageIPsecTunnel: x509.ExtKeyUsageIPSECTunnel,
	certificatesv1.UsageIPsecUser: x509.ExtKeyUsageIPSECUser, certificatesv1.UsageMicrosoftSGC: x509.ExtKeyUsageMicrosoftServerGatedCrypto,
	certificatesv1.UsageNetscapeSGC: x509.ExtKeyUsageNetscapeServerGatedCrypto, certificatesv1.UsageTimestamping: x509.ExtKeyUsageTimeStamping, certificatesv1.UsageOCSPSigning: x509.ExtKeyUsageOCSPSigning,
}
