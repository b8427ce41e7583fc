package quota

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"tinykube/api/qos"
)

// Applies reports whether a quota is about an object: it counts something that
// objects of this sort use up, and the object is in all of its scopes.
func Applies(q *corev1.ResourceQuota, gr schema.GroupResource, obj any) bool {
	if len(Counted(gr, q.Status.Hard)) == 0 && len(Counted(gr, q.Spec.Hard)) == 0 {
		return false
	}
	for _, scope := range scopesOf(q) {
		if !inScope(scope, obj) {
			return false
		}
	}
	return true
}

// scopesOf joins the two ways to write scopes.
func scopesOf(q *corev1.ResourceQuota) []corev1.ScopedResourceSelectorRequirement {
	var out []corev1.ScopedResourceSelectorRequirement
	for _, scope := range q.Spec.Scopes {
		out = append(out, corev1.ScopedResourceSelectorRequirement{ScopeName: scope, Operator: corev1.ScopeSelectorOpExists})
	}
	if q.Spec.ScopeSelector != nil {
		out = append(out, q.Spec.ScopeSelector.MatchExpressions...)
	}
	return out
}

// inScope: only pods and claims have scopes.
func inScope(scope corev1.ScopedResourceSelectorRequirement, obj any) bool {
	switch obj := obj.(type) {
	case *corev1.Pod:
		return podInScope(scope, obj)
	case *corev1.PersistentVolumeClaim:
		if scope.ScopeName != corev1.ResourceQuotaScopeVolumeAttributesClass {
			return false
		}
		for _, class := range []*string{obj.Spec.VolumeAttributesClassName, obj.Status.CurrentVolumeAttributesClassName} {
			if class != nil && *class != "" && selected(scope, *class) {
				return true
			}
		}
	}
	return false
}

func podInScope(scope corev1.ScopedResourceSelectorRequirement, pod *corev1.Pod) bool {
	terminating := pod.Spec.ActiveDeadlineSeconds != nil && *pod.Spec.ActiveDeadlineSeconds >= 0
	switch scope.ScopeName {
	case corev1.ResourceQuotaScopeTerminating:
		return terminating
	case corev1.ResourceQuotaScopeNotTerminating:
		return !terminating
	case corev1.ResourceQuotaScopeBestEffort:
		return qos.Of(pod) == corev1.PodQOSBestEffort
	case corev1.ResourceQuotaScopeNotBestEffort:
		return qos.Of(pod) != corev1.PodQOSBestEffort
	case corev1.ResourceQuotaScopePriorityClass:
		return selected(scope, pod.Spec.PriorityClassName)
	case corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return looksElsewhere(pod)
	}
	return false
}

// selected asks a selector about the name of a class, "" being none.
func selected(scope corev1.ScopedResourceSelectorRequirement, class string) bool {
	switch scope.Operator {
	case corev1.ScopeSelectorOpExists:
		return class != ""
	case corev1.ScopeSelectorOpDoesNotExist:
		return class == ""
	case corev1.ScopeSelectorOpIn:
		return class != "" && slices.Contains(scope.Values, class)
	case corev1.ScopeSelectorOpNotIn:
		return class == "" || !slices.Contains(scope.Values, class)
	}
	return false
}

// looksElsewhere reports affinity to pods of other namespaces, by which a pod
// can keep the pods of strangers off a node.
func looksElsewhere(pod *corev1.Pod) bool {
	if pod.Spec.Affinity == nil {
		return false
	}
	var terms []corev1.PodAffinityTerm
	weighted := func(list []corev1.WeightedPodAffinityTerm) {
		for _, one := range list {
			terms = append(terms, one.PodAffinityTerm)
		}
	}
	if affinity := pod.Spec.Affinity.PodAffinity; affinity != nil {
		terms = append(terms, affinity.RequiredDuringSchedulingIgnoredDuringExecution...)
		weighted(affinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if affinity := pod.Spec.Affinity.PodAntiAffinity; affinity != nil {
		terms = append(terms, affinity.RequiredDuringSchedulingIgnoredDuringExecution...)
		weighted(affinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return slices.ContainsFunc(terms, func(t corev1.PodAffinityTerm) bool { return len(t.Namespaces) > 0 || t.NamespaceSelector != nil })
}
