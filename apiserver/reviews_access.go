package apiserver

import (
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The four questions about rights: may this one, may this one here, may I, and
// what may I? The answer is what authorize would say, with its reason.

// reviewAccess says whether somebody may do something, in its three forms.
func (s *Server) reviewAccess(q *request) error {
	obj, err := q.decodeBody()
	if err != nil {
		return err
	}
	var status *authorizationv1.SubjectAccessReviewStatus
	var spec authorizationv1.SubjectAccessReviewSpec
	who := q.user
	switch review := obj.(type) {
	case *authorizationv1.SelfSubjectAccessReview:
		spec.ResourceAttributes, spec.NonResourceAttributes = review.Spec.ResourceAttributes, review.Spec.NonResourceAttributes
		status = &review.Status
	case *authorizationv1.SubjectAccessReview:
		spec, status = review.Spec, &review.Status
		who = reviewedUser(&spec)
	case *authorizationv1.LocalSubjectAccessReview:
		spec, status = review.Spec, &review.Status
		who = reviewedUser(&spec)
		if named := review.Namespace; named != "" && named != q.namespace {
			return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
		}
		if about := spec.ResourceAttributes; about != nil && about.Namespace != q.namespace {
			return apierrors.NewInvalid(q.row.GVK().GroupKind(), "", field.ErrorList{
				field.Invalid(field.NewPath("spec.resourceAttributes.namespace"), about.Namespace, "must match metadata.namespace"),
			})
		}
	}
	t, wrong := reviewedTarget(&spec)
	if wrong == nil && who != q.user && who.name == "" && len(who.groups) == 0 {
		wrong = field.Invalid(field.NewPath("spec.user"), "", "at least one of user or group must be specified")
	}
	if wrong != nil {
		return apierrors.NewInvalid(q.row.GVK().GroupKind(), "", field.ErrorList{wrong})
	}
	d := s.authz.decide(q.Context(), who, t)
	status.Allowed, status.Reason = d.allowed, d.reason
	return q.answerReview(obj)
}

func reviewedUser(spec *authorizationv1.SubjectAccessReviewSpec) *user {
	u := &user{name: spec.User, uid: spec.UID, groups: spec.Groups, extra: map[string][]string{}}
	for key, values := range spec.Extra {
		u.extra[key] = values
	}
	return u
}

func reviewedTarget(spec *authorizationv1.SubjectAccessReviewSpec) (target, *field.Error) {
	resource, path := spec.ResourceAttributes, spec.NonResourceAttributes
	if (resource == nil) == (path == nil) {
		return target{}, field.Invalid(field.NewPath("spec.resourceAttributes"), nil, "exactly one of nonResourceAttributes or resourceAttributes must be specified")
	}
	if resource == nil {
		return target{verb: path.Verb, path: path.Path}, nil
	}
	t := target{
		isResource: true, verb: resource.Verb, group: resource.Group, version: resource.Version, resource: resource.Resource,
		subresource: resource.Subresource, namespace: resource.Namespace, name: resource.Name,
	}
	var wrong *field.Error
	t.fields, wrong = reviewedFields(resource.FieldSelector)
	return t, wrong
}

// reviewedFields is the field selector of a question. What has no form as a
// selector of ours is left out, which can only make the answer narrower.
func reviewedFields(asked *authorizationv1.FieldSelectorAttributes) (fields.Selector, *field.Error) {
	at := field.NewPath("spec", "resourceAttributes", "fieldSelector")
	switch {
	case asked == nil:
		return nil, nil
	case asked.RawSelector != "" && len(asked.Requirements) > 0:
		return nil, field.Invalid(at.Child("rawSelector"), asked.RawSelector, "may not specified at the same time as requirements")
	case asked.RawSelector != "":
		selector, err := fields.ParseSelector(asked.RawSelector)
		if err != nil {
			return nil, nil // upstream ignores it as well: it narrows nothing
		}
		return selector, nil
	case len(asked.Requirements) == 0:
		return nil, field.Required(at.Child("requirements"), "when spec.resourceAttributes.fieldSelector is specified, requirements or rawSelector is required")
	}
	var all []fields.Selector
	for _, one := range asked.Requirements {
		switch {
		case one.Operator == metav1.FieldSelectorOpIn && len(one.Values) == 1:
			all = append(all, fields.OneTermEqualSelector(one.Key, one.Values[0]))
		case one.Operator == metav1.FieldSelectorOpNotIn && len(one.Values) == 1:
			all = append(all, fields.OneTermNotEqualSelector(one.Key, one.Values[0]))
		}
	}
	return fields.AndSelectors(all...), nil
}

// reviewRules lists what you may do in a namespace.
func (s *Server) reviewRules(q *request) error {
	review, err := review[*authorizationv1.SelfSubjectRulesReview](q)
	if err != nil {
		return err
	}
	if review.Spec.Namespace == "" {
		return apierrors.NewBadRequest("no namespace on request")
	}
	var rules []rbacv1.PolicyRule
	if s.authz.alwaysAllow {
		rules = rulesOf("cluster-admin")
	}
	status := &review.Status
	if s.authz.has("Node") {
		if _, node := nodeName(q.user); node { // its rights depend on its pods
			status.Incomplete, status.EvaluationError = true, "node authorizer does not support user rule resolution"
		}
	}
	if s.authz.has("RBAC") {
		rules = append(rules, s.authz.roles.rulesFor(q.user, review.Spec.Namespace)...)
	}
	status.ResourceRules, status.NonResourceRules = []authorizationv1.ResourceRule{}, []authorizationv1.NonResourceRule{}
	for _, rule := range rules {
		if len(rule.Resources) > 0 {
			status.ResourceRules = append(status.ResourceRules, authorizationv1.ResourceRule{
				Verbs: rule.Verbs, APIGroups: rule.APIGroups, Resources: rule.Resources, ResourceNames: rule.ResourceNames,
			})
		}
		if len(rule.NonResourceURLs) > 0 {
			status.NonResourceRules = append(status.NonResourceRules, authorizationv1.NonResourceRule{Verbs: rule.Verbs, NonResourceURLs: rule.NonResourceURLs})
		}
	}
	return q.answerReview(review)
}
