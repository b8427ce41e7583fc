package framework

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// PodAffinity is what a pod demands and wishes of the pods in its
// neighbourhood, parsed. Most pods have none.
type PodAffinity struct {
	Required, AntiRequired []AffinityTerm
	// Preferred are wishes by weight; what is rather avoided weighs less than 0.
	Preferred []AffinityTerm
}

// AffinityTerm matches pods. Neighbours are pods on nodes with the same value
// of the label TopologyKey.
type AffinityTerm struct {
	TopologyKey string
	// Weight is 0 in a required term.
	Weight int64
	// A namespace counts if it is listed or selected.
	namespaces        []string
	namespaceSelector labels.Selector
	pods              labels.Selector
}

// NewPodAffinity parses a pod's terms; nil if there are none.
func NewPodAffinity(pod *corev1.Pod) *PodAffinity {
	a := pod.Spec.Affinity
	if a == nil || a.PodAffinity == nil && a.PodAntiAffinity == nil {
		return nil
	}
	parsed := &PodAffinity{}
	if a.PodAffinity != nil {
		parsed.Required = requiredTerms(pod, a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
		parsed.prefer(pod, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution, +1)
	}
	if a.PodAntiAffinity != nil {
		parsed.AntiRequired = requiredTerms(pod, a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
		parsed.prefer(pod, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution, -1)
	}
	return parsed
}

func requiredTerms(pod *corev1.Pod, terms []corev1.PodAffinityTerm) (parsed []AffinityTerm) {
	for i := range terms {
		parsed = append(parsed, newAffinityTerm(pod, &terms[i], 0))
	}
	return parsed
}

func (a *PodAffinity) prefer(pod *corev1.Pod, terms []corev1.WeightedPodAffinityTerm, sign int64) {
	for i := range terms {
		a.Preferred = append(a.Preferred, newAffinityTerm(pod, &terms[i].PodAffinityTerm, sign*int64(terms[i].Weight)))
	}
}

// newAffinityTerm parses one term of the pod's. A term that names no namespace
// in either way means the pod's own. matchLabelKeys are in the selector
// already: the API server puts them there when a pod is created.
func newAffinityTerm(pod *corev1.Pod, term *corev1.PodAffinityTerm, weight int64) AffinityTerm {
	t := AffinityTerm{TopologyKey: term.TopologyKey, Weight: weight, namespaces: term.Namespaces,
		namespaceSelector: ParseSelector(term.NamespaceSelector), pods: ParseSelector(term.LabelSelector)}
	if len(term.Namespaces) == 0 && term.NamespaceSelector == nil {
		t.namespaces = []string{pod.Namespace}
	}
	return t
}

// Matches says whether the term speaks of the pod.
func (t *AffinityTerm) Matches(pod *corev1.Pod, objects Objects) bool {
	return t.pods.Matches(labels.Set(pod.Labels)) && (slices.Contains(t.namespaces, pod.Namespace) ||
		t.namespaceSelector.Matches(labels.Set(objects.NamespaceLabels(pod.Namespace))))
}

// ParseSelector makes a selector ready to match; nil selects nothing.
//
// Simplified: so does a malformed one, which the API server refuses; upstream
// fails the attempt.
func ParseSelector(s *metav1.LabelSelector) labels.Selector {
	parsed, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return parsed
}
