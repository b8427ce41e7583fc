package validation

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func (r *report) labelName(at *field.Path, name string) {
	r.add(metavalidation.ValidateLabelName(name, at)...)
}

func checkTolerations(r *report, at *field.Path, tolerations []corev1.Toleration) {
	for i, t := range tolerations {
		at := at.Index(i)
		if t.Key != "" {
			r.labelName(at.Child("key"), t.Key)
		} else if t.Operator != corev1.TolerationOpExists {
			r.invalid(at.Child("operator"), t.Operator,
				"operator must be Exists when `key` is empty, which means \"match all values and all keys\"")
		}
		if t.TolerationSeconds != nil && t.Effect != corev1.TaintEffectNoExecute {
			r.invalid(at.Child("effect"), t.Effect, "effect must be 'NoExecute' when `tolerationSeconds` is set")
		}
		switch t.Operator {
		case corev1.TolerationOpEqual, "":
			if messages := validation.IsValidLabelValue(t.Value); len(messages) > 0 {
				r.invalid(at.Child("operator"), t.Value, strings.Join(messages, ";"))
			}
		case corev1.TolerationOpExists:
			if t.Value != "" {
				r.invalid(at.Child("operator"), t.Value, "value must be empty when `operator` is 'Exists'")
			}
		default:
			r.add(field.NotSupported(at.Child("operator"), t.Operator,
				[]corev1.TolerationOperator{corev1.TolerationOpEqual, corev1.TolerationOpExists}))
		}
		if t.Effect != "" {
			checkTaintEffect(r, at.Child("effect"), t.Effect)
		}
	}
}

func checkTaintEffect(r *report, at *field.Path, effect corev1.TaintEffect) {
	oneOf(r, at, effect, corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)
}

func checkTaints(r *report, at *field.Path, taints []corev1.Taint) {
	seen := map[string]bool{}
	for i, t := range taints {
		at := at.Index(i)
		r.labelName(at.Child("key"), t.Key)
		if messages := validation.IsValidLabelValue(t.Value); len(messages) > 0 {
			r.invalid(at.Child("value"), t.Value, strings.Join(messages, ";"))
		}
		checkTaintEffect(r, at.Child("effect"), t.Effect)
		pair := t.Key + ":" + string(t.Effect)
		if seen[pair] {
			duplicate := field.Duplicate(at, t)
			duplicate.Detail = "taints must be unique by key and effect pair"
			r.add(duplicate)
		}
		seen[pair] = true
	}
}

const (
	required  = "requiredDuringSchedulingIgnoredDuringExecution"
	preferred = "preferredDuringSchedulingIgnoredDuringExecution"
)

func checkAffinity(r *report, at *field.Path, a *corev1.Affinity) {
	if a == nil {
		return
	}
	if n := a.NodeAffinity; n != nil {
		at := at.Child("nodeAffinity")
		if s := n.RequiredDuringSchedulingIgnoredDuringExecution; s != nil {
			checkNodeSelector(r, at.Child(required), s)
		}
		for i, term := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			at := at.Child(preferred).Index(i)
			checkWeight(r, at, term.Weight)
			checkNodeTerm(r, at.Child("preference"), &term.Preference, false)
		}
	}
	if p := a.PodAffinity; p != nil {
		checkPodTerms(r, at.Child("podAffinity"), p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if p := a.PodAntiAffinity; p != nil {
		checkPodTerms(r, at.Child("podAntiAffinity"), p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
}

func checkWeight(r *report, at *field.Path, weight int32) {
	if weight <= 0 || weight > 100 {
		r.invalid(at.Child("weight"), weight, "must be in the range 1-100")
	}
}

func checkNodeSelector(r *report, at *field.Path, s *corev1.NodeSelector) {
	at = at.Child("nodeSelectorTerms")
	if len(s.NodeSelectorTerms) == 0 {
		r.add(field.Required(at, "must have at least one node selector term"))
	}
	for i := range s.NodeSelectorTerms {
		checkNodeTerm(r, at.Index(i), &s.NodeSelectorTerms[i], true)
	}
}

func checkNodeTerm(r *report, at *field.Path, t *corev1.NodeSelectorTerm, checkValues bool) {
	for i, e := range t.MatchExpressions {
		at := at.Child("matchExpressions").Index(i)
		switch e.Operator {
		case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
			if len(e.Values) == 0 {
				r.add(field.Required(at.Child("values"), "must be specified when `operator` is 'In' or 'NotIn'"))
			}
		case corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist:
			if len(e.Values) > 0 {
				r.add(field.Forbidden(at.Child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"))
			}
		case corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt:
			if len(e.Values) != 1 {
				r.add(field.Required(at.Child("values"), "must be specified single value when `operator` is 'Lt' or 'Gt'"))
			}
		default:
			r.invalid(at.Child("operator"), e.Operator, "not a valid selector operator")
		}
		r.labelName(at.Child("key"), e.Key)
		for j, value := range e.Values {
			if checkValues {
				r.messages(at.Child("values").Index(j), value, validation.IsValidLabelValue(value))
			}
		}
	}
	for i, f := range t.MatchFields {
		checkNodeField(r, at.Child("matchFields").Index(i), f)
	}
}

// checkNodeField: the name is the only field a node can be chosen by.
func checkNodeField(r *report, at *field.Path, f corev1.NodeSelectorRequirement) {
	switch f.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		if len(f.Values) != 1 {
			r.add(field.Required(at.Child("values"), "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"))
		}
	default:
		r.invalid(at.Child("operator"), f.Operator, "not a valid selector operator")
	}
	if f.Key != "metadata.name" {
		r.invalid(at.Child("key"), f.Key, "not a valid field selector key")
		return
	}
	for i, name := range f.Values {
		r.subdomain(at.Child("values").Index(i), name)
	}
}

func checkPodTerms(r *report, at *field.Path, must []corev1.PodAffinityTerm, should []corev1.WeightedPodAffinityTerm) {
	for i := range must {
		checkPodTerm(r, at.Child(required).Index(i), &must[i])
	}
	for i := range should {
		at := at.Child(preferred).Index(i)
		checkWeight(r, at, should[i].Weight)
		checkPodTerm(r, at.Child("podAffinityTerm"), &should[i].PodAffinityTerm)
	}
}

func checkPodTerm(r *report, at *field.Path, t *corev1.PodAffinityTerm) {
	r.selector(at.Child("labelSelector"), t.LabelSelector)
	r.selector(at.Child("namespaceSelector"), t.NamespaceSelector)
	for _, namespace := range t.Namespaces {
		r.label(at.Child("namespace"), namespace)
	}
	if t.TopologyKey == "" {
		r.add(field.Required(at.Child("topologyKey"), "can not be empty"))
	}
	r.labelName(at.Child("topologyKey"), t.TopologyKey)
}

func checkSpread(r *report, at *field.Path, constraints []corev1.TopologySpreadConstraint) {
	for i, c := range constraints {
		at := at.Index(i)
		if c.MaxSkew <= 0 {
			r.invalid(at.Child("maxSkew"), int64(c.MaxSkew), "must be greater than zero")
		}
		if c.TopologyKey == "" {
			r.add(field.Required(at.Child("topologyKey"), "can not be empty"))
		}
		if c.WhenUnsatisfiable != corev1.DoNotSchedule && c.WhenUnsatisfiable != corev1.ScheduleAnyway {
			r.add(field.NotSupported(at.Child("whenUnsatisfiable"), c.WhenUnsatisfiable,
				[]corev1.UnsatisfiableConstraintAction{corev1.DoNotSchedule, corev1.ScheduleAnyway}))
		}
		for _, later := range constraints[i+1:] {
			if later.TopologyKey == c.TopologyKey && later.WhenUnsatisfiable == c.WhenUnsatisfiable {
				r.add(field.Duplicate(at.Child("{topologyKey, whenUnsatisfiable}"), fmt.Sprintf("{%s, %s}", c.TopologyKey, c.WhenUnsatisfiable)))
				break
			}
		}
		if c.MinDomains != nil && *c.MinDomains <= 0 {
			r.invalid(at.Child("minDomains"), *c.MinDomains, "must be greater than zero")
		}
		if c.MinDomains != nil && c.WhenUnsatisfiable != corev1.DoNotSchedule {
			r.invalid(at.Child("minDomains"), *c.MinDomains,
				"can only use minDomains if whenUnsatisfiable=DoNotSchedule, not "+string(c.WhenUnsatisfiable))
		}
		checkSpreadPolicies(r, at, &c)
		r.selector(at.Child("labelSelector"), c.LabelSelector)
	}
}
