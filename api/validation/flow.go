package validation

import (
	"fmt"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// exempt is the schema and the level of those who never wait.
const exempt = "exempt"

// FlowSchema checks which requests a schema is about, and where they go.
//
// Simplified: what a rule's subjects and resources are called is not looked
// into.
func FlowSchema(f *flowcontrolv1.FlowSchema) field.ErrorList {
	r := &report{}
	at, s := field.NewPath("spec"), &f.Spec
	precedence := at.Child("matchingPrecedence")
	switch {
	case s.MatchingPrecedence <= 0:
		r.invalid(precedence, s.MatchingPrecedence, "must be a positive value")
	case s.MatchingPrecedence > flowcontrolv1.FlowSchemaMaxMatchingPrecedence:
		r.invalid(precedence, s.MatchingPrecedence, fmt.Sprintf("must not be greater than %d", flowcontrolv1.FlowSchemaMaxMatchingPrecedence))
	case s.MatchingPrecedence == 1 && f.Name != exempt:
		r.invalid(precedence, s.MatchingPrecedence, "only the schema named 'exempt' may have matchingPrecedence 1")
	}
	if level := at.Child("priorityLevelConfiguration", "name"); s.PriorityLevelConfiguration.Name == "" {
		r.add(field.Required(level, "must reference a priority level"))
	} else {
		r.subdomain(level, s.PriorityLevelConfiguration.Name)
	}
	for i, rule := range s.Rules {
		at := at.Child("rules").Index(i)
		if len(rule.Subjects) == 0 {
			r.add(field.Required(at.Child("subjects"), "subjects must contain at least one value"))
		}
		if len(rule.ResourceRules) == 0 && len(rule.NonResourceRules) == 0 {
			r.add(field.Required(at, "at least one of resourceRules and nonResourceRules has to be non-empty"))
		}
	}
	return r.errs
}

// PriorityLevelConfiguration checks that a level is exempt or limited, not both.
func PriorityLevelConfiguration(p *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	r := &report{}
	at, s := field.NewPath("spec"), &p.Spec
	if (p.Name == exempt) != (s.Type == flowcontrolv1.PriorityLevelEnablementExempt) {
		r.invalid(at.Child("type"), s.Type, "must be 'Exempt' if and only if `name` is 'exempt'")
	}
	switch s.Type {
	case flowcontrolv1.PriorityLevelEnablementExempt:
		if s.Limited != nil {
			r.add(field.Forbidden(at.Child("limited"), "must be nil if the type is not Limited"))
		}
	case flowcontrolv1.PriorityLevelEnablementLimited:
		if s.Exempt != nil {
			r.add(field.Forbidden(at.Child("exempt"), "must be nil if the type is Limited"))
		}
		if s.Limited == nil {
			r.add(field.Required(at.Child("limited"), "must not be empty when type is Limited"))
		}
	default:
		r.add(field.NotSupported(at.Child("type"), s.Type,
			[]flowcontrolv1.PriorityLevelEnablement{flowcontrolv1.PriorityLevelEnablementExempt, flowcontrolv1.PriorityLevelEnablementLimited}))
	}
	return r.errs
}
