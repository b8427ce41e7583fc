package apiserver

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"

	"tinykube/api/validation"
)

// A signer is worth what its certificates open. So writing into a request's
// approval or status takes two rights: to write there, and to approve or sign
// for the signer that the request names.
//
// Upstream: kubernetes@v1.36 plugin/pkg/admission/certificates

// admitApproval is for who approves or denies a request.
func admitApproval(a *admission) error {
	request, ok := a.obj.(*certificatesv1.CertificateSigningRequest)
	if !ok || a.old == nil || a.subresource != "approval" || a.mayForSigner("approve", request.Spec.SignerName) {
		return nil
	}
	return a.refuse(fmt.Errorf("user not permitted to approve requests with signerName %q", request.Spec.SignerName))
}

// admitSigning is for who writes the certificate, or that there will be none.
func admitSigning(a *admission) error {
	request, ok := a.obj.(*certificatesv1.CertificateSigningRequest)
	if !ok || a.old == nil || a.subresource != "status" {
		return nil
	}
	old := a.old.(*certificatesv1.CertificateSigningRequest)
	if reflect.DeepEqual(request.Status.Certificate, old.Status.Certificate) && reflect.DeepEqual(failures(request), failures(old)) ||
		a.mayForSigner("sign", old.Spec.SignerName) {
		return nil
	}
	return a.refuse(fmt.Errorf("user not permitted to sign requests with signerName %q", old.Spec.SignerName))
}

func failures(request *certificatesv1.CertificateSigningRequest) (failed []certificatesv1.CertificateSigningRequestCondition) {
	for _, c := range request.Status.Conditions {
		if c.Type == certificatesv1.CertificateFailed {
			failed = append(failed, c)
		}
	}
	return failed
}

// admitSubject keeps the group that may do everything out of the certificates
// that are signed for everybody.
func admitSubject(a *admission) error {
	request, ok := a.obj.(*certificatesv1.CertificateSigningRequest)
	if !ok || a.old != nil || a.subresource != "" || request.Spec.SignerName != certificatesv1.KubeAPIServerClientSignerName {
		return nil
	}
	parsed, err := validation.ParseCertificateRequest(request.Spec.Request)
	if err != nil {
		return a.refuse(fmt.Errorf("failed to parse CSR: %v", err))
	}
	if slices.Contains(parsed.Subject.Organization, groupMasters) {
		return a.refuse(errors.New("use of " + certificatesv1.KubeAPIServerClientSignerName + " signer with " + groupMasters + " group is not allowed"))
	}
	return nil
}

// mayForSigner asks for a signer, and for all of its domain.
func (a *admission) mayForSigner(verb, signer string) bool {
	domain, _, _ := strings.Cut(signer, "/")
	return slices.ContainsFunc([]string{signer, domain + "/*"}, func(name string) bool {
		return a.server.authz.allows(a.Context(), a.user, target{
			isResource: true, verb: verb, group: certificatesv1.GroupName, version: "*", resource: "signers", name: name})
	})
}
