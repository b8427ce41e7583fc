package resources

// Kinds about who somebody is and what they may do: reviews, which are only
// answered, and certificate requests, which are stored.

import (
	"slices"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"tinykube/api/validation"
)

func authenticationRows() []*Row {
	return group("authentication.k8s.io", "v1",
		review[authenticationv1.SelfSubjectReview](Row{}),
		review[authenticationv1.TokenReview](Row{}),
	)
}

func authorizationRows() []*Row {
	return group("authorization.k8s.io", "v1",
		review[authorizationv1.LocalSubjectAccessReview](Row{Namespaced: true}),
		review[authorizationv1.SelfSubjectAccessReview](Row{}),
		review[authorizationv1.SelfSubjectRulesReview](Row{}),
		review[authorizationv1.SubjectAccessReview](Row{}),
	)
}

func certificatesRows() []*Row {
	return group("certificates.k8s.io", "v1",
		kind[certificatesv1.CertificateSigningRequest, certificatesv1.CertificateSigningRequestList](Row{
			ShortNames: names("csr"), Status: true,
			Subresources: []Subresource{
				{Name: "approval", Kind: "CertificateSigningRequest", Verbs: updateVerbs, Prepare: onUpdate(prepareApproval), ValidateUpdate: checkUpdate(validation.CertificateApproval)},
			},
			Strategy: lifecycle(false).
				afterUpdate(onUpdate(func(csr, old *certificatesv1.CertificateSigningRequest) { csr.Spec = old.Spec })).
				afterStatus(onUpdate(prepareCertificate)).
				with(func(s *Strategy) { s.StampUser = stampRequester }),
			SelectableFields: selectable(func(csr *certificatesv1.CertificateSigningRequest) fields.Set {
				return fields.Set{"spec.signerName": csr.Spec.SignerName}
			}),
		}).prints(certificateColumns, cells(certificateCells)).
			validates(check(validation.CertificateSigningRequest), checkUpdate(validation.CertificateApproval)).
			validatesStatus(checkUpdate(validation.CertificateApproval)),
	)
}

// stampRequester writes down who asks; signers decide by it, so the requester
// must not choose it.
func stampRequester(obj Object, name, uid string, groups []string, extra map[string][]string) {
	spec := &obj.(*certificatesv1.CertificateSigningRequest).Spec
	spec.Username, spec.UID, spec.Groups, spec.Extra = name, uid, groups, nil
	for key, values := range extra {
		if spec.Extra == nil {
			spec.Extra = map[string]certificatesv1.ExtraValue{}
		}
		spec.Extra[key] = values
	}
}

// prepareApproval lets /approval change conditions and nothing else.
func prepareApproval(csr, old *certificatesv1.CertificateSigningRequest) {
	conditions := csr.Status.Conditions
	csr.Spec, csr.Status = old.Spec, old.Status
	csr.Status.Conditions = conditions
	stampConditions(csr, old)
}

// prepareCertificate lets /status change everything but the verdict.
func prepareCertificate(csr, old *certificatesv1.CertificateSigningRequest) {
	verdict := func(c certificatesv1.CertificateSigningRequestCondition) bool {
		return c.Type == certificatesv1.CertificateApproved || c.Type == certificatesv1.CertificateDenied
	}
	conditions := slices.DeleteFunc(slices.Clone(csr.Status.Conditions), verdict)
	kept := slices.DeleteFunc(slices.Clone(old.Status.Conditions),
		func(c certificatesv1.CertificateSigningRequestCondition) bool { return !verdict(c) })
	csr.Status.Conditions = append(kept, conditions...)
	stampConditions(csr, old)
}

// stampConditions dates new conditions; one that keeps type and status keeps
// its transition time.
func stampConditions(csr, old *certificatesv1.CertificateSigningRequest) {
	now := metav1.Now()
	for i := range csr.Status.Conditions {
		c := &csr.Status.Conditions[i]
		if c.LastUpdateTime.IsZero() {
			c.LastUpdateTime = now
		}
		if !c.LastTransitionTime.IsZero() {
			continue
		}
		c.LastTransitionTime = now
		for _, was := range old.Status.Conditions {
			if was.Type == c.Type && was.Status == c.Status && !was.LastTransitionTime.IsZero() {
				c.LastTransitionTime = was.LastTransitionTime
			}
		}
	}
}
