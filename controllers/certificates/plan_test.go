package certificates

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestGoesAt(t *testing.T) {
	t0 := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	condition := func(kind certificatesv1.RequestConditionType, at time.Time) certificatesv1.CertificateSigningRequestCondition {
		return certificatesv1.CertificateSigningRequestCondition{Type: kind, Status: corev1.ConditionTrue, LastUpdateTime: metav1.NewTime(at)}
	}
	late := t0.Add(23 * time.Hour)
	for _, test := range []struct {
		name       string
		conditions []certificatesv1.CertificateSigningRequestCondition
		signed     bool
		want       time.Duration // 0: never
	}{
		{"nobody decided", nil, false, 24 * time.Hour},
		{"denied late", []certificatesv1.CertificateSigningRequestCondition{condition(certificatesv1.CertificateDenied, late)}, false, 24 * time.Hour},
		{"approved late, not signed", []certificatesv1.CertificateSigningRequestCondition{condition(certificatesv1.CertificateApproved, late)}, false, 47 * time.Hour},
		{"approved late, signed", []certificatesv1.CertificateSigningRequestCondition{condition(certificatesv1.CertificateApproved, late.Add(time.Hour))}, true, 25 * time.Hour},
		{"approved and failed", []certificatesv1.CertificateSigningRequestCondition{condition(certificatesv1.CertificateApproved, t0), condition(certificatesv1.CertificateFailed, t0)}, false, time.Hour},
		{"decided at no time", []certificatesv1.CertificateSigningRequestCondition{condition(certificatesv1.CertificateDenied, time.Time{})}, false, 0},
	} {
		csr := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(t0)}}
		csr.Status.Conditions = test.conditions
		if test.signed {
			csr.Status.Certificate = []byte("a certificate")
		}
		at, ok := goesAt(csr)
		if ok != (test.want > 0) || ok && at.Sub(t0) != test.want {
			t.Errorf("%s: %v %v, want %s", test.name, at.Sub(t0), ok, test.want)
		}
	}
}

func TestRules(t *testing.T) {
	const (
		signature = certificatesv1.UsageDigitalSignature
		key       = certificatesv1.UsageKeyEncipherment
		clients   = certificatesv1.UsageClientAuth
		serving   = certificatesv1.UsageServerAuth
	)
	node := pkix.Name{Organization: []string{"system:nodes"}, CommonName: "system:node:a"}
	person := pkix.Name{CommonName: "jane"}
	for _, test := range []struct {
		signer  string
		request x509.CertificateRequest
		usages  []certificatesv1.KeyUsage
		want    string
	}{
		{certificatesv1.KubeAPIServerClientSignerName, x509.CertificateRequest{Subject: person}, []certificatesv1.KeyUsage{clients}, ""},
		{certificatesv1.KubeAPIServerClientSignerName, x509.CertificateRequest{Subject: person}, []certificatesv1.KeyUsage{signature, serving}, "invalid usage for client certificate: server auth"},
		{certificatesv1.KubeAPIServerClientKubeletSignerName, x509.CertificateRequest{Subject: person}, []certificatesv1.KeyUsage{clients}, "subject organization is not system:nodes"},
		{certificatesv1.KubeAPIServerClientKubeletSignerName, x509.CertificateRequest{Subject: node}, []certificatesv1.KeyUsage{clients}, "usages did not match [client auth digital signature key encipherment]"},
		{certificatesv1.KubeAPIServerClientKubeletSignerName, x509.CertificateRequest{Subject: node}, []certificatesv1.KeyUsage{clients, key, signature}, ""},
		{certificatesv1.KubeAPIServerClientKubeletSignerName, x509.CertificateRequest{Subject: node, DNSNames: []string{"a"}}, []certificatesv1.KeyUsage{clients, signature}, "DNS subjectAltNames are not allowed"},
		{certificatesv1.KubeletServingSignerName, x509.CertificateRequest{Subject: node, DNSNames: []string{"a"}}, []certificatesv1.KeyUsage{serving, signature}, ""},
		{certificatesv1.KubeletServingSignerName, x509.CertificateRequest{Subject: node}, []certificatesv1.KeyUsage{serving, signature}, "DNS or IP subjectAltName is required"},
		{signerLegacyUnknown, x509.CertificateRequest{Subject: person}, []certificatesv1.KeyUsage{certificatesv1.UsageCertSign}, ""},
	} {
		got := ""
		if err := rules[test.signer](&test.request, test.usages); err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%s %v %v: %q, want %q", test.signer, test.request.Subject, test.usages, got, test.want)
		}
	}
}
