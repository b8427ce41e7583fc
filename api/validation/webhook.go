package validation

import (
	"slices"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// MutatingWebhookConfiguration checks a list of webhooks.
func MutatingWebhookConfiguration(c *admissionv1.MutatingWebhookConfiguration) field.ErrorList {
	r := &report{}
	names := map[string]bool{}
	for i, w := range c.Webhooks {
		at := field.NewPath("webhooks").Index(i)
		if w.ReinvocationPolicy != nil {
			ifSet(r, at.Child("reinvocationPolicy"), *w.ReinvocationPolicy, admissionv1.IfNeededReinvocationPolicy, admissionv1.NeverReinvocationPolicy)
		}
		checkWebhook(r, at, names, &admissionv1.ValidatingWebhook{
			Name: w.Name, ClientConfig: w.ClientConfig, Rules: w.Rules, FailurePolicy: w.FailurePolicy, MatchPolicy: w.MatchPolicy,
			NamespaceSelector: w.NamespaceSelector, ObjectSelector: w.ObjectSelector, SideEffects: w.SideEffects,
			TimeoutSeconds: w.TimeoutSeconds, AdmissionReviewVersions: w.AdmissionReviewVersions,
		})
	}
	return r.errs
}

// ValidatingWebhookConfiguration checks a list of webhooks.
func ValidatingWebhookConfiguration(c *admissionv1.ValidatingWebhookConfiguration) field.ErrorList {
	r := &report{}
	names := map[string]bool{}
	for i := range c.Webhooks {
		checkWebhook(r, field.NewPath("webhooks").Index(i), names, &c.Webhooks[i])
	}
	return r.errs
}

// checkWebhook checks what the two kinds have in common.
//
// Simplified: nothing calls webhooks here, and their URLs and conditions are
// not looked into.
func checkWebhook(r *report, at *field.Path, names map[string]bool, w *admissionv1.ValidatingWebhook) {
	if names[w.Name] {
		r.add(field.Duplicate(at.Child("name"), w.Name))
	}
	names[w.Name] = true
	r.add(validation.IsFullyQualifiedName(at.Child("name"), w.Name)...)
	checkReviewVersions(r, at.Child("admissionReviewVersions"), w.AdmissionReviewVersions)
	if (w.ClientConfig.URL == nil) == (w.ClientConfig.Service == nil) {
		r.add(field.Required(at.Child("clientConfig"), "exactly one of url or service is required"))
	}
	for i := range w.Rules {
		checkWebhookRule(r, at.Child("rules").Index(i), &w.Rules[i])
	}
	if w.FailurePolicy != nil {
		ifSet(r, at.Child("failurePolicy"), *w.FailurePolicy, admissionv1.Fail, admissionv1.Ignore)
	}
	if w.MatchPolicy != nil {
		ifSet(r, at.Child("matchPolicy"), *w.MatchPolicy, admissionv1.Equivalent, admissionv1.Exact)
	}
	if w.SideEffects == nil {
		r.add(field.Required(at.Child("sideEffects"), "must specify one of None, NoneOnDryRun"))
	} else {
		ifSet(r, at.Child("sideEffects"), *w.SideEffects, admissionv1.SideEffectClassNone, admissionv1.SideEffectClassNoneOnDryRun)
	}
	if t := w.TimeoutSeconds; t != nil && (*t < 1 || *t > 30) {
		r.invalid(at.Child("timeoutSeconds"), *t, "the timeout value must be between 1 and 30 seconds")
	}
	for name, selector := range map[string]*metav1.LabelSelector{"namespaceSelector": w.NamespaceSelector, "objectSelector": w.ObjectSelector} {
		r.selector(at.Child(name), selector)
	}
}

func checkReviewVersions(r *report, at *field.Path, versions []string) {
	if len(versions) == 0 {
		r.add(field.Required(at, "must specify one of v1, v1beta1"))
		return
	}
	for i, version := range versions {
		if slices.Contains(versions[:i], version) {
			r.invalid(at.Index(i), version, "duplicate version")
			continue
		}
		r.messages(at.Index(i), version, validation.IsDNS1035Label(version))
	}
	if !slices.Contains(versions, "v1") && !slices.Contains(versions, "v1beta1") {
		r.invalid(at, versions, "must include at least one of v1, v1beta1")
	}
}

func checkWebhookRule(r *report, at *field.Path, rule *admissionv1.RuleWithOperations) {
	for i, operation := range rule.Operations {
		ifSet(r, at.Child("operations").Index(i), operation, admissionv1.OperationAll, admissionv1.Connect, admissionv1.Create, admissionv1.Delete, admissionv1.Update)
	}
	if len(rule.Operations) == 0 {
		r.add(field.Required(at.Child("operations"), ""))
	}
	if len(rule.Operations) > 1 && slices.Contains(rule.Operations, admissionv1.OperationAll) {
		r.invalid(at.Child("operations"), rule.Operations, "if '*' is present, must not specify other operations")
	}
	for _, list := range []struct {
		name, other string
		values      []string
	}{{"apiGroups", "API groups", rule.APIGroups}, {"apiVersions", "API versions", rule.APIVersions}, {"resources", "", rule.Resources}} {
		at := at.Child(list.name)
		if len(list.values) == 0 {
			r.add(field.Required(at, ""))
		}
		if list.other != "" && len(list.values) > 1 && slices.Contains(list.values, "*") {
			r.invalid(at, list.values, "if '*' is present, must not specify other "+list.other)
		}
	}
	if rule.Scope != nil {
		ifSet(r, at.Child("scope"), *rule.Scope, admissionv1.AllScopes, admissionv1.ClusterScope, admissionv1.NamespacedScope)
	}
}
