package validation

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// quotaScopes are the scopes that there are.
var quotaScopes = []corev1.ResourceQuotaScope{
	corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeBestEffort,
	corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopePriorityClass,
	corev1.ResourceQuotaScopeCrossNamespacePodAffinity, corev1.ResourceQuotaScopeVolumeAttributesClass,
}

// podCompute is what pods are counted by, beside their number.
var podCompute = []corev1.ResourceName{
	corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory,
	corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory,
}

// scopeCounts says whether a scope can tell apart what a resource counts.
func scopeCounts(scope corev1.ResourceQuotaScope, name corev1.ResourceName) bool {
	switch scope {
	case corev1.ResourceQuotaScopeBestEffort: // such pods have nothing but a number
		return name == corev1.ResourcePods
	case corev1.ResourceQuotaScopeVolumeAttributesClass:
		return name == corev1.ResourcePersistentVolumeClaims || name == corev1.ResourceRequestsStorage
	}
	return !slices.Contains(quotaScopes, scope) || name == corev1.ResourcePods || slices.Contains(podCompute, name)
}

// checkScopes checks the two ways in which a quota says for what it counts.
func checkScopes(r *report, at *field.Path, s *corev1.ResourceQuotaSpec) {
	plain := at.Child("scopes")
	r.scopes(s, s.Scopes, func(scope corev1.ResourceQuotaScope, message string) { r.invalid(plain, s.Scopes, message) }, func(corev1.ResourceQuotaScope) {})
	if s.ScopeSelector == nil {
		return
	}
	at = at.Child("scopeSelector", "matchExpressions")
	var scopes []corev1.ResourceQuotaScope
	for _, e := range s.ScopeSelector.MatchExpressions {
		scopes = append(scopes, e.ScopeName)
	}
	next := 0
	r.scopes(s, scopes, func(scope corev1.ResourceQuotaScope, message string) {
		switch message {
		case unsupportedScope:
			r.invalid(at.Child("scopeName"), scope, message)
		case scopeMisapplied:
			r.invalid(at, s.ScopeSelector, message)
		default:
			r.invalid(at, s.Scopes, message)
		}
	}, func(corev1.ResourceQuotaScope) {
		checkScopeExpression(r, at, s.ScopeSelector.MatchExpressions[next])
		next++
	})
}

const (
	unsupportedScope = "unsupported scope"
	scopeMisapplied  = "unsupported scope applied to resource"
)

// scopes reports by complain, and calls each after every scope.
func (r *report) scopes(s *corev1.ResourceQuotaSpec, scopes []corev1.ResourceQuotaScope, complain func(corev1.ResourceQuotaScope, string), each func(corev1.ResourceQuotaScope)) {
	for _, scope := range scopes {
		if !slices.Contains(quotaScopes, scope) {
			complain(scope, unsupportedScope)
		}
		for _, name := range sortedNames(s.Hard) {
			if isQuotaResource(name) && !scopeCounts(scope, name) {
				complain(scope, scopeMisapplied)
			}
		}
		each(scope)
	}
	for _, pair := range [][2]corev1.ResourceQuotaScope{
		{corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort},
		{corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating},
	} {
		if slices.Contains(scopes, pair[0]) && slices.Contains(scopes, pair[1]) {
			complain(pair[0], "conflicting scopes")
		}
	}
}

func checkScopeExpression(r *report, at *field.Path, e corev1.ScopedResourceSelectorRequirement) {
	valued := e.ScopeName == corev1.ResourceQuotaScopePriorityClass || e.ScopeName == corev1.ResourceQuotaScopeVolumeAttributesClass
	if slices.Contains(quotaScopes, e.ScopeName) && !valued && e.Operator != corev1.ScopeSelectorOpExists {
		r.invalid(at.Child("operator"), e.Operator, "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, "+
			"ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity")
	}
	switch e.Operator {
	case corev1.ScopeSelectorOpIn, corev1.ScopeSelectorOpNotIn:
		if len(e.Values) == 0 {
			r.add(field.Required(at.Child("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"))
		}
	case corev1.ScopeSelectorOpExists, corev1.ScopeSelectorOpDoesNotExist:
		if len(e.Values) > 0 {
			r.invalid(at.Child("values"), e.Values, "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector")
		}
	default:
		r.invalid(at.Child("operator"), e.Operator, "not a valid selector operator")
	}
}
