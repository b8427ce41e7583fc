// Package placement answers, of one pod and one node, the two questions which
// both the scheduler and the DaemonSet controller must answer alike: does the
// pod want this node (nodeSelector and required node affinity), and does the
// node repel the pod (taints it does not tolerate)?
//
// Nothing here knows of resources or of other pods.
package placement

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// Required is a pod's nodeSelector and required node affinity, parsed once and
// matched against many nodes.
//
//	nodeSelector  AND  ( term OR term … )      term = expressions AND fields
type Required struct {
	labels labels.Selector // nodeSelector; nil when there is none
	terms  []Term
	// restricted says that affinity is given, so that no term at all means
	// no node, not every node.
	restricted bool
}

// ForPod parses what the pod demands of its node.
func ForPod(pod *corev1.Pod) Required {
	var r Required
	if len(pod.Spec.NodeSelector) > 0 {
		r.labels = labels.SelectorFromSet(pod.Spec.NodeSelector)
	}
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		r.restricted = true
		for i := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
			r.terms = append(r.terms, NewTerm(&a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[i]))
		}
	}
	return r
}

// Any says whether the pod demands anything at all.
func (r Required) Any() bool { return r.labels != nil || r.restricted }

// Match says whether the node is one the pod wants.
func (r Required) Match(node *corev1.Node) bool {
	if r.labels != nil && !r.labels.Matches(labels.Set(node.Labels)) {
		return false
	}
	if !r.restricted {
		return true
	}
	for _, t := range r.terms {
		if t.Match(node) {
			return true
		}
	}
	return false
}

// NodeNames returns the nodes to which the terms confine the pod by name
// (metadata.name), as DaemonSet pods are; ok is false when some term leaves
// the name open. It lets the scheduler look at one node instead of all.
func (r Required) NodeNames() (names map[string]bool, ok bool) {
	if len(r.terms) == 0 {
		return nil, false
	}
	names = map[string]bool{}
	for _, t := range r.terms {
		if len(t.names) == 0 {
			return nil, false
		}
		// Several fields of one term must hold together.
		for name := range t.names[0] {
			if t.matchNames(name) {
				names[name] = true
			}
		}
	}
	return names, true
}

// Term is one NodeSelectorTerm, parsed.
type Term struct {
	expressions labels.Requirements
	names       []map[string]bool // metadata.name In
	notNames    []map[string]bool // metadata.name NotIn
	// never marks a term that matches nothing: an empty one, or one with an
	// expression that validation would have refused.
	never bool
}

// NewTerm parses a term.
//
// Upstream: kubernetes/component-helpers scheduling/corev1/nodeaffinity newNodeSelectorTerm
func NewTerm(t *corev1.NodeSelectorTerm) Term {
	parsed := Term{never: len(t.MatchExpressions) == 0 && len(t.MatchFields) == 0}
	for _, e := range t.MatchExpressions {
		requirement, err := labels.NewRequirement(e.Key, operators[e.Operator], e.Values)
		if err != nil {
			parsed.never = true
			continue
		}
		parsed.expressions = append(parsed.expressions, *requirement)
	}
	for _, f := range t.MatchFields {
		set := map[string]bool{}
		for _, v := range f.Values {
			set[v] = true
		}
		switch {
		case f.Key != metav1.ObjectNameField:
			parsed.never = true
		case f.Operator == corev1.NodeSelectorOpIn:
			parsed.names = append(parsed.names, set)
		case f.Operator == corev1.NodeSelectorOpNotIn:
			parsed.notNames = append(parsed.notNames, set)
		default:
			parsed.never = true
		}
	}
	return parsed
}

// operators translates the API's words into the label library's. An unknown
// word maps to "", which NewRequirement refuses.
var operators = map[corev1.NodeSelectorOperator]selection.Operator{
	corev1.NodeSelectorOpIn:           selection.In,
	corev1.NodeSelectorOpNotIn:        selection.NotIn,
	corev1.NodeSelectorOpExists:       selection.Exists,
	corev1.NodeSelectorOpDoesNotExist: selection.DoesNotExist,
	corev1.NodeSelectorOpGt:           selection.GreaterThan,
	corev1.NodeSelectorOpLt:           selection.LessThan,
}

// Match says whether the node satisfies every part of the term.
func (t Term) Match(node *corev1.Node) bool {
	if t.never || !t.matchNames(node.Name) {
		return false
	}
	set := labels.Set(node.Labels)
	for i := range t.expressions {
		if !t.expressions[i].Matches(set) {
			return false
		}
	}
	return true
}

func (t Term) matchNames(name string) bool {
	for _, in := range t.names {
		if !in[name] {
			return false
		}
	}
	for _, out := range t.notNames {
		if out[name] {
			return false
		}
	}
	return true
}

// Untolerated returns the first taint with one of the effects that no
// toleration covers, or nil.
func Untolerated(taints []corev1.Taint, tolerations []corev1.Toleration, effects ...corev1.TaintEffect) *corev1.Taint {
	for i := range taints {
		for _, effect := range effects {
			if taints[i].Effect == effect && !Tolerated(&taints[i], tolerations) {
				return &taints[i]
			}
		}
	}
	return nil
}

// Tolerated says whether one of the tolerations covers the taint.
func Tolerated(taint *corev1.Taint, tolerations []corev1.Toleration) bool {
	for i := range tolerations {
		if tolerates(&tolerations[i], taint) {
			return true
		}
	}
	return false
}

// tolerates: an empty effect stands for every effect, an empty key (with
// Exists) for every key. The numeric operators Lt and Gt match nothing, as
// upstream while its gate for them is off.
func tolerates(t *corev1.Toleration, taint *corev1.Taint) bool {
	if t.Effect != "" && t.Effect != taint.Effect {
		return false
	}
	if t.Key != "" && t.Key != taint.Key {
		return false
	}
	switch t.Operator {
	case "", corev1.TolerationOpEqual:
		return t.Value == taint.Value
	case corev1.TolerationOpExists:
		return true
	}
	return false
}
