package certificates

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/http"
	"slices"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
	"tinykube/controllers/harness"
)

type approver struct {
	*harness.Scope
	requests *harness.Store[*certificatesv1.CertificateSigningRequest]
}

// account is whose rights all three loops have.
const account = "certificate-controller"

// RegisterApproving adds the loop that approves kubelets' requests.
func RegisterApproving(m *harness.Manager) {
	s := m.Scope(harness.Identity{Name: "certificatesigningrequest-approving-controller", Account: account, Source: "csrapproving"})
	c := &approver{Scope: s, requests: harness.StoreOf(s, client.CertificateSigningRequests)}
	loop := harness.NewLoop(s, 1, c.reconcile)
	harness.WatchSelf(loop, c.requests)
}

// rights are what one must be allowed to create for a kubelet's certificate to
// be approved: selfnodeclient to renew one's own, nodeclient to get any, as a
// bootstrap token does.
var rights = []struct {
	subresource, message string
	self                 bool
}{
	{"selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.", true},
	{"nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.", false},
}

// reconcile approves a request for a kubelet's client certificate.
//
// Upstream: kubernetes/kubernetes pkg/controller/certificates/approver/sarapprove.go
func (c *approver) reconcile(ctx context.Context, name string) (time.Duration, error) {
	csr, ok := c.requests.Get("", name)
	if !ok || len(csr.Status.Certificate) > 0 || decided(csr) || csr.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName {
		return 0, nil
	}
	request, err := parse(csr)
	if err != nil {
		return 0, nil // the server does not let such a one in
	}
	if kubeletClient(request, csr.Spec.Usages) != nil {
		return 0, nil
	}
	for _, right := range rights {
		if right.self && csr.Spec.Username != request.Subject.CommonName {
			continue
		}
		allowed, err := c.mayCreate(ctx, csr, right.subresource)
		if err != nil {
			return 0, fmt.Errorf("review access of %s: %w", csr.Spec.Username, err)
		}
		if allowed {
			return 0, c.approve(ctx, csr, request, right.message)
		}
	}
	c.Log.Debug("Not allowed to have this certificate", "key", name)
	// Rights may come later: asked again when it has waited twice as long.
	return min(max(time.Since(csr.CreationTimestamp.Time), askAgainSoonest), askAgainLatest), nil
}

// When a request that was not allowed is looked at again.
const askAgainSoonest, askAgainLatest = time.Second, 10 * time.Minute

func (c *approver) approve(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, request *x509.CertificateRequest, message string) error {
	updated := csr.DeepCopy()
	updated.Status.Conditions = append(updated.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "AutoApproved", Message: message,
		LastUpdateTime: metav1.Now(),
	})
	if _, err := c.requests.UpdateSub(ctx, updated, "approval"); err != nil {
		return fmt.Errorf("approve: %w", err)
	}
	c.Log.Info("Approved", "key", csr.Name, "subject", request.Subject.CommonName)
	return nil
}

// mayCreate asks the API server about the one who made the request.
func (c *approver) mayCreate(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, subresource string) (bool, error) {
	extra := map[string]authorizationv1.ExtraValue{}
	for key, values := range csr.Spec.Extra {
		extra[key] = authorizationv1.ExtraValue(values)
	}
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: csr.Spec.Username, UID: csr.Spec.UID, Groups: csr.Spec.Groups, Extra: extra,
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Group: "certificates.k8s.io", Resource: "certificatesigningrequests", Verb: "create", Subresource: subresource, Version: "*",
		},
	}}
	review.APIVersion, review.Kind = authorizationv1.SchemeGroupVersion.String(), "SubjectAccessReview"
	err := c.Client.DoInto(ctx, client.Request{Method: http.MethodPost, Path: "/apis/authorization.k8s.io/v1/subjectaccessreviews"}, review, review)
	return review.Status.Allowed, err
}

// decided says whether a request has been approved or denied.
func decided(csr *certificatesv1.CertificateSigningRequest) bool {
	return has(csr, certificatesv1.CertificateApproved) || has(csr, certificatesv1.CertificateDenied)
}

func has(csr *certificatesv1.CertificateSigningRequest, kind certificatesv1.RequestConditionType) bool {
	return slices.ContainsFunc(csr.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool {
		return c.Type == kind && c.Status == corev1.ConditionTrue
	})
}
