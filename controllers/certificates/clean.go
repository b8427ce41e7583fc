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
	at, ok := goesAt(csr)
	if left := time.Until(at); !ok || left > 0 {
		return max(left, 0), nil
	}
	return 0, c.requests.Delete(ctx, csr, metav1.DeleteOptions{})
}

// goesAt is when a request has served its purpose; false means that nothing
// says so.
func goesAt(csr *certificatesv1.CertificateSigningRequest) (at time.Time, ok bool) {
	sooner := func(since time.Time, keep time.Duration) {
		if t := since.Add(keep); !since.IsZero() && (!ok || t.Before(at)) {
			at, ok = t, true
		}
	}
	if len(csr.Status.Conditions) == 0 {
		sooner(csr.CreationTimestamp.Time, keepPending)
	}
	issued := len(csr.Status.Certificate) > 0
	for _, c := range csr.Status.Conditions {
		switch {
		case c.Type == certificatesv1.CertificateApproved && !issued:
			sooner(c.LastUpdateTime.Time, keepPending)
		case c.Type == certificatesv1.CertificateApproved:
			sooner(c.LastUpdateTime.Time, keepAnswered)
			if block, _ := pem.Decode(csr.Status.Certificate); block != nil {
				if certificate, err := x509.ParseCertificate(block.Bytes); err == nil {
					sooner(certificate.NotAfter, 0)
				}
			}
		case c.Type == certificatesv1.CertificateDenied, c.Type == certificatesv1.CertificateFailed:
			sooner(c.LastUpdateTime.Time, keepAnswered)
		}
	}
	return at, ok
}
