package validation

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Role checks a role of a namespace.
func Role(role *rbacv1.Role) field.ErrorList {
	r := &report{}
	checkRules(r, role.Rules, true)
	return r.errs
}

// ClusterRole checks a role of the cluster.
func ClusterRole(role *rbacv1.ClusterRole) field.ErrorList {
	r := &report{}
	checkRules(r, role.Rules, false)
	if a := role.AggregationRule; a != nil {
		at := field.NewPath("aggregationRule", "clusterRoleSelectors")
		if len(a.ClusterRoleSelectors) == 0 {
			r.add(field.Required(at, "at least one clusterRoleSelector required if aggregationRule is non-nil"))
		}
		for i := range a.ClusterRoleSelectors {
			r.selector(at.Index(i), &a.ClusterRoleSelectors[i])
		}
	}
	return r.errs
}

func checkRules(r *report, rules []rbacv1.PolicyRule, namespaced bool) {
	for i, rule := range rules {
		at := field.NewPath("rules").Index(i)
		if len(rule.Verbs) == 0 {
			r.add(field.Required(at.Child("verbs"), "verbs must contain at least one value"))
		}
		if len(rule.NonResourceURLs) > 0 {
			if namespaced {
				r.invalid(at.Child("nonResourceURLs"), rule.NonResourceURLs, "namespaced rules cannot apply to non-resource URLs")
			}
			if len(rule.APIGroups)+len(rule.Resources)+len(rule.ResourceNames) > 0 {
				r.invalid(at.Child("nonResourceURLs"), rule.NonResourceURLs, "rules cannot apply to both regular resources and non-resource URLs")
			}
			continue
		}
		if len(rule.APIGroups) == 0 {
			r.add(field.Required(at.Child("apiGroups"), "resource rules must supply at least one api group"))
		}
		if len(rule.Resources) == 0 {
			r.add(field.Required(at.Child("resources"), "resource rules must supply at least one resource"))
		}
	}
}

// RoleBinding checks a binding in a namespace.
func RoleBinding(b *rbacv1.RoleBinding) field.ErrorList {
	r := &report{}
	checkBinding(r, b.RoleRef, b.Subjects, true, "Role", "ClusterRole")
	return r.errs
}

// ClusterRoleBinding checks a binding for the whole cluster.
func ClusterRoleBinding(b *rbacv1.ClusterRoleBinding) field.ErrorList {
	r := &report{}
	checkBinding(r, b.RoleRef, b.Subjects, false, "ClusterRole")
	return r.errs
}

// RoleBindingUpdate: who may change subjects must not thereby change rights.
func RoleBindingUpdate(b, old *rbacv1.RoleBinding) field.ErrorList {
	r := &report{errs: RoleBinding(b)}
	checkSameRole(r, b.RoleRef, old.RoleRef)
	return r.errs
}

// ClusterRoleBindingUpdate is RoleBindingUpdate for the cluster.
func ClusterRoleBindingUpdate(b, old *rbacv1.ClusterRoleBinding) field.ErrorList {
	r := &report{errs: ClusterRoleBinding(b)}
	checkSameRole(r, b.RoleRef, old.RoleRef)
	return r.errs
}

func checkSameRole(r *report, now, before rbacv1.RoleRef) {
	if now != before {
		r.invalid(field.NewPath("roleRef"), now, "cannot change roleRef")
	}
}

func checkBinding(r *report, role rbacv1.RoleRef, subjects []rbacv1.Subject, namespaced bool, kinds ...string) {
	at := field.NewPath("roleRef")
	group := func(at *field.Path, got, want string) {
		if got != want {
			r.add(field.NotSupported(at, got, []string{want}))
		}
	}
	group(at.Child("apiGroup"), role.APIGroup, rbacv1.GroupName)
	if !slices.Contains(kinds, role.Kind) {
		r.add(field.NotSupported(at.Child("kind"), role.Kind, kinds))
	}
	if r.required(at.Child("name"), role.Name) {
		r.messages(at.Child("name"), role.Name, PathName(role.Name))
	}
	for i, s := range subjects {
		at := field.NewPath("subjects").Index(i)
		r.required(at.Child("name"), s.Name)
		switch s.Kind {
		case rbacv1.ServiceAccountKind:
			if s.Name != "" {
				r.subdomain(at.Child("name"), s.Name)
			}
			group(at.Child("apiGroup"), s.APIGroup, "")
			if !namespaced {
				r.required(at.Child("namespace"), s.Namespace)
			}
		case rbacv1.UserKind, rbacv1.GroupKind:
			group(at.Child("apiGroup"), s.APIGroup, rbacv1.GroupName)
		default:
			r.add(field.NotSupported(at.Child("kind"), s.Kind, []string{rbacv1.ServiceAccountKind, rbacv1.UserKind, rbacv1.GroupKind}))
		}
	}
}

// PodDisruptionBudget checks a budget.
func PodDisruptionBudget(b *policyv1.PodDisruptionBudget) field.ErrorList {
	r := &report{}
	at, s := field.NewPath("spec"), &b.Spec
	if s.MinAvailable != nil && s.MaxUnavailable != nil {
		r.invalid(at, s, "minAvailable and maxUnavailable cannot be both set")
	}
	if v := s.MinAvailable; v != nil {
		r.count(at.Child("minAvailable"), *v)
		r.atMost100Percent(at.Child("minAvailable"), *v)
	}
	if v := s.MaxUnavailable; v != nil {
		r.count(at.Child("maxUnavailable"), *v)
		r.atMost100Percent(at.Child("maxUnavailable"), *v)
	}
	r.selector(at.Child("selector"), s.Selector)
	if p := s.UnhealthyPodEvictionPolicy; p != nil {
		ifSet(r, at.Child("unhealthyPodEvictionPolicy"), *p, policyv1.AlwaysAllow, policyv1.IfHealthyBudget)
	}
	return r.errs
}

// HorizontalPodAutoscaler checks an autoscaler.
func HorizontalPodAutoscaler(h *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	return HorizontalPodAutoscalerUpdate(h, nil)
}

// HorizontalPodAutoscalerUpdate checks a change of an autoscaler: what it
// scales may be of the core group if it was before.
func HorizontalPodAutoscalerUpdate(h, old *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	r := &report{}
	at, s := field.NewPath("spec"), &h.Spec
	target := s.ScaleTargetRef.APIVersion
	if !strings.Contains(target, "/") && (old == nil || strings.Contains(old.Spec.ScaleTargetRef.APIVersion, "/")) {
		r.invalid(at.Child("scaleTargetRef", "apiVersion"), target, "apiVersion must specify API group")
	}
	if s.MinReplicas != nil && *s.MinReplicas < 1 {
		r.invalid(at.Child("minReplicas"), *s.MinReplicas, "must be greater than or equal to 1")
	}
	switch {
	case s.MaxReplicas == 0:
		r.add(field.Required(at.Child("maxReplicas"), "must be set and greater than 0"))
	case s.MaxReplicas < 0:
		r.invalid(at.Child("maxReplicas"), s.MaxReplicas, "must be greater than or equal to 1")
	}
	if s.MinReplicas != nil && s.MaxReplicas < *s.MinReplicas {
		r.invalid(at.Child("maxReplicas"), s.MaxReplicas, "must be greater than or equal to `minReplicas`")
	}
	checkScaleTarget(r, at.Child("scaleTargetRef"), &s.ScaleTargetRef)
	for i := range s.Metrics {
		checkMetric(r, at.Child("metrics").Index(i), &s.Metrics[i])
	}
	if s.Behavior != nil {
		checkScalingRules(r, at.Child("behavior", "scaleUp"), s.Behavior.ScaleUp)
		checkScalingRules(r, at.Child("behavior", "scaleDown"), s.Behavior.ScaleDown)
	}
	return r.errs
}

// checkMetric: the source that the type names, and only that.
func checkMetric(r *report, at *field.Path, m *autoscalingv2.MetricSpec) {
	sources := []struct {
		kind autoscalingv2.MetricSourceType
		name string
		set  bool
	}{
		{autoscalingv2.ContainerResourceMetricSourceType, "containerResource", m.ContainerResource != nil},
		{autoscalingv2.ExternalMetricSourceType, "external", m.External != nil},
		{autoscalingv2.ObjectMetricSourceType, "object", m.Object != nil},
		{autoscalingv2.PodsMetricSourceType, "pods", m.Pods != nil},
		{autoscalingv2.ResourceMetricSourceType, "resource", m.Resource != nil},
	}
	if m.Type == "" {
		r.add(field.Required(at.Child("type"), "must specify a metric source type"))
	}
	checkSource(r, at, m)
	var kinds []autoscalingv2.MetricSourceType
	known := false
	for _, s := range sources {
		kinds = append(kinds, s.kind)
		switch {
		case s.kind == m.Type:
			known = true
			if !s.set {
				r.add(field.Required(at.Child(s.name), "must populate information for the given metric source"))
			}
		case s.set:
			r.add(field.Forbidden(at.Child(s.name), "must populate the given metric source only"))
		}
	}
	if !known {
		unknown := field.NotSupported(at.Child("type"), m.Type, kinds)
		r.add(unknown, unknown) // upstream says so twice
	}
}

func checkScalingRules(r *report, at *field.Path, rules *autoscalingv2.HPAScalingRules) {
	if rules == nil {
		return
	}
	if t := rules.Tolerance; t != nil && t.Sign() < 0 {
		r.invalid(at.Child("tolerance"), t, negative)
	}
	const longestWindow, longestPeriod = 3600, 1800
	if w := rules.StabilizationWindowSeconds; w != nil && *w < 0 {
		r.invalid(at.Child("stabilizationWindowSeconds"), *w, "must be greater than or equal to zero")
	} else if w != nil && *w > longestWindow {
		r.invalid(at.Child("stabilizationWindowSeconds"), *w, fmt.Sprintf("must be less than or equal to %d", longestWindow))
	}
	if rules.SelectPolicy != nil {
		ifSet(r, at.Child("selectPolicy"), *rules.SelectPolicy, autoscalingv2.DisabledPolicySelect,
			autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect)
	}
	if len(rules.Policies) == 0 {
		r.add(field.Required(at.Child("policies"), "must specify at least one Policy"))
	}
	for i, p := range rules.Policies {
		at := at.Child("policies").Index(i)
		ifSet(r, at.Child("type"), p.Type, autoscalingv2.PercentScalingPolicy, autoscalingv2.PodsScalingPolicy)
		if p.Value <= 0 {
			r.invalid(at.Child("value"), p.Value, "must be greater than zero")
		}
		switch {
		case p.PeriodSeconds <= 0:
			r.invalid(at.Child("periodSeconds"), p.PeriodSeconds, "must be greater than zero")
		case p.PeriodSeconds > longestPeriod:
			r.invalid(at.Child("periodSeconds"), p.PeriodSeconds, fmt.Sprintf("must be less than or equal to %d", longestPeriod))
		}
	}
}

// highestUserPriority is what is left below the system's own classes.
const highestUserPriority = 1_000_000_000

// systemPriorities are the classes that every cluster has.
var systemPriorities = map[string]int32{
	"system-cluster-critical": 2 * highestUserPriority, "system-node-critical": 2*highestUserPriority + 1000,
}

// PriorityClass checks a priority class.
func PriorityClass(c *schedulingv1.PriorityClass) field.ErrorList {
	r := &report{}
	value, known := systemPriorities[c.Name]
	switch {
	case strings.HasPrefix(c.Name, "system-") && (!known || value != c.Value || c.GlobalDefault):
		r.add(field.Forbidden(field.NewPath("metadata", "name"),
			"priority class names with 'system-' prefix are reserved for system use only. error: "+c.Name+" is not a known system priority class"))
	case !known && c.Value > highestUserPriority:
		r.add(field.Forbidden(field.NewPath("value"), fmt.Sprintf("maximum allowed value of a user defined priority is %d", highestUserPriority)))
	}
	if c.PreemptionPolicy != nil {
		oneOf(r, field.NewPath("preemptionPolicy"), *c.PreemptionPolicy, corev1.PreemptLowerPriority, corev1.PreemptNever)
	}
	return r.errs
}

// PriorityClassUpdate: pods have copied the value.
func PriorityClassUpdate(c, old *schedulingv1.PriorityClass) field.ErrorList {
	r := &report{}
	if c.Value != old.Value {
		r.add(field.Forbidden(field.NewPath("value"), "may not be changed in an update."))
	}
	r.unchanged(field.NewPath("preemptionPolicy"), c.PreemptionPolicy, old.PreemptionPolicy)
	return r.errs
}

// RuntimeClass checks a runtime class.
func RuntimeClass(c *nodev1.RuntimeClass) field.ErrorList {
	r := &report{}
	if r.required(field.NewPath("handler"), c.Handler) {
		r.label(field.NewPath("handler"), c.Handler)
	}
	if c.Overhead != nil {
		checkResources(r, field.NewPath("overhead"), &corev1.ResourceRequirements{Limits: c.Overhead.PodFixed})
	}
	if s := c.Scheduling; s != nil {
		at := field.NewPath("scheduling")
		r.labels(at.Child("nodeSelector"), s.NodeSelector)
		checkTolerations(r, at.Child("tolerations"), s.Tolerations)
	}
	return r.errs
}

// RuntimeClassUpdate: the handler stays.
func RuntimeClassUpdate(c, old *nodev1.RuntimeClass) field.ErrorList {
	r := &report{}
	r.unchanged(field.NewPath("handler"), c.Handler, old.Handler)
	return r.errs
}

// Lease checks a lease.
func Lease(l *coordinationv1.Lease) field.ErrorList {
	r := &report{}
	at, s := field.NewPath("spec"), &l.Spec
	if d := s.LeaseDurationSeconds; d != nil && *d <= 0 {
		r.invalid(at.Child("leaseDurationSeconds"), *d, "must be greater than 0")
	}
	if n := s.LeaseTransitions; n != nil && *n < 0 {
		r.invalid(at.Child("leaseTransitions"), *n, negative)
	}
	if deref(s.PreferredHolder) != "" && deref(s.Strategy) == "" {
		r.add(field.Forbidden(at.Child("preferredHolder"), "may only be specified if `strategy` is defined"))
	}
	return r.errs
}

// ParseCertificateRequest reads what a CertificateSigningRequest holds, in PEM.
func ParseCertificateRequest(data []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	return x509.ParseCertificateRequest(block.Bytes)
}

// CertificateSigningRequest checks a request for a certificate.
func CertificateSigningRequest(c *certificatesv1.CertificateSigningRequest) field.ErrorList {
	r := &report{}
	at, s := field.NewPath("spec"), &c.Spec
	if block, _ := pem.Decode(s.Request); block == nil || block.Type != "CERTIFICATE REQUEST" {
		r.invalid(at.Child("request"), s.Request, "PEM block type must be CERTIFICATE REQUEST")
	}
	if len(s.Usages) == 0 {
		r.add(field.Required(at.Child("usages"), ""))
	}
	for i, usage := range s.Usages {
		at := at.Child("usages").Index(i)
		ifSet(r, at, usage, keyUsages...)
		if slices.Contains(s.Usages[:i], usage) {
			r.add(field.Duplicate(at, usage))
		}
	}
	if r.required(at.Child("signerName"), s.SignerName) && !strings.Contains(s.SignerName, "/") {
		r.invalid(at.Child("signerName"), s.SignerName, "must be a fully qualified domain and path of the form 'example.com/signer-name'")
	}
	if e := s.ExpirationSeconds; e != nil && *e < 600 {
		r.invalid(at.Child("expirationSeconds"), *e, "may not specify a duration less than 600 seconds (10 minutes)")
	}
	return r.errs
}

// keyUsages is what a certificate may be for.
var keyUsages = []certificatesv1.KeyUsage{
	certificatesv1.UsageAny, certificatesv1.UsageCertSign, certificatesv1.UsageClientAuth, certificatesv1.UsageCodeSigning,
	certificatesv1.UsageContentCommitment, certificatesv1.UsageCRLSign, certificatesv1.UsageDataEncipherment, certificatesv1.UsageDecipherOnly,
	certificatesv1.UsageDigitalSignature, certificatesv1.UsageEmailProtection, certificatesv1.UsageEncipherOnly, certificatesv1.UsageIPsecEndSystem,
	certificatesv1.UsageIPsecTunnel, certificatesv1.UsageIPsecUser, certificatesv1.UsageKeyAgreement, certificatesv1.UsageKeyEncipherment,
	certificatesv1.UsageMicrosoftSGC, certificatesv1.UsageNetscapeSGC, certificatesv1.UsageOCSPSigning, certificatesv1.UsageSMIME,
	certificatesv1.UsageServerAuth, certificatesv1.UsageSigning, certificatesv1.UsageTimestamping,
}

// CertificateApproval checks conditions: approved and denied at once is neither.
func CertificateApproval(c, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
	r := &report{}
	at := field.NewPath("status", "conditions")
	has := map[certificatesv1.RequestConditionType]bool{}
	for i, condition := range c.Status.Conditions {
		oneOf(r, at.Index(i).Child("status"), condition.Status, corev1.ConditionTrue)
		r.required(at.Index(i).Child("type"), string(condition.Type))
		if has[condition.Type] {
			r.add(field.Duplicate(at.Index(i).Child("type"), condition.Type))
		}
		has[condition.Type] = true
	}
	if has[certificatesv1.CertificateApproved] && has[certificatesv1.CertificateDenied] {
		r.invalid(at, c.Status.Conditions, "Approved and Denied conditions are mutually exclusive")
	}
	for _, was := range old.Status.Conditions {
		if !has[was.Type] && (was.Type == certificatesv1.CertificateApproved || was.Type == certificatesv1.CertificateDenied || was.Type == certificatesv1.CertificateFailed) {
			r.add(field.Forbidden(at, fmt.Sprintf("updates may not remove a condition of type %q", was.Type)))
		}
	}
	return r.errs
}
