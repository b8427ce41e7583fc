package certificates

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
	"tinykube/controllers/harness"
)

// How long a request stays.
// Upstream: kubernetes/kubernetes pkg/controller/certificates/cleaner
const (
	keepAnswered = time.Hour      // denied, failed, or approved and signed
	keepPending  = 24 * time.Hour // nobody has decided, or nobody has signed
)

type cleaner struct {
	*harness.Scope
	requests *harness.Store[*certificatesv1.CertificateSigningRequest]
}

// RegisterCleaning adds the loop that deletes old requests.
func RegisterCleaning(m *harness.Manager) {
	s := m.Scope(harness.Identity{Name: "certificatesigningrequest-cleaner-controller", Account: account, Source: "csrcleaner"})
	c := &cleaner{Scope: s, requests: harness.StoreOf(s, client.CertificateSigningRequests)}
	loop := harness.NewLoop(s, 1, c.reconcile)
	harness.WatchSelf(loop, c.requests)
}

func (c *cleaner) reconcile(ctx context.Context, name string) (time.Duration, error) {
	csr, ok := c.requests.Get("", name)
	if !ok || csr.DeletionTimestamp != nil {
		return 0, nil
	}
	if left := time.Until(goesAt(csr)); left > 0 {
		return left, nil
	}
	return 0, c.requests.Delete(ctx, csr, metav1.DeleteOptions{})
}

// goesAt is when a request has served its purpose.
func goesAt(csr *certificatesv1.CertificateSigningRequest) time.Time {
	at := csr.CreationTimestamp.Add(keepPending)
	sooner := func(t time.Time) {
		if t.Before(at) {
			at = t
		}
	}
	for _, kind := range []certificatesv1.RequestConditionType{certificatesv1.CertificateDenied, certificatesv1.CertificateFailed, certificatesv1.CertificateApproved} {
		issued := kind != certificatesv1.CertificateApproved || len(csr.Status.Certificate) > 0
		if since := conditionTime(csr, kind); since != nil && !since.IsZero() && issued {
			sooner(since.Add(keepAnswered))
		}
	}
	if block, _ := pem.Decode(csr.Status.Certificate); block != nil {
		if certificate, err := x509.ParseCertificate(block.Bytes); err == nil {
			sooner(certificate.NotAfter)
		}
	}
	return at
}
