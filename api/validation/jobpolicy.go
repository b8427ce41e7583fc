package validation

import (
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The policies of a job: which failures count, and when it has succeeded.
//
// Upstream: kubernetes@v1.36 pkg/apis/batch/validation/validation.go

const (
	maxFailureRules = 20
	maxSuccessRules = 20
	maxExitCodes    = 255
	maxConditions   = 20
)

var (
	failureActions = []batchv1.PodFailurePolicyAction{
		batchv1.PodFailurePolicyActionCount, batchv1.PodFailurePolicyActionFailIndex,
		batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyActionIgnore,
	}
	exitOperators = []batchv1.PodFailurePolicyOnExitCodesOperator{
		batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn,
	}
	conditionStatuses = []corev1.ConditionStatus{corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown}
)

// requiredOf is oneOf where the message says what there is.
func requiredOf[T ~string](r *report, at *field.Path, value T, allowed []T) {
	switch {
	case value == "":
		r.add(field.Required(at, fmt.Sprintf("valid values: %q", allowed)))
	default:
		ifSet(r, at, value, allowed...)
	}
}

func checkJobPolicies(r *report, at *field.Path, s *batchv1.JobSpec) {
	if s.PodFailurePolicy != nil {
		checkFailurePolicy(r, at.Child("podFailurePolicy"), s)
	}
	switch {
	case s.SuccessPolicy == nil:
	case deref(s.CompletionMode) != batchv1.IndexedCompletion:
		r.invalid(at.Child("successPolicy"), *s.SuccessPolicy, "requires indexed completion mode")
	default:
		checkSuccessPolicy(r, at.Child("successPolicy"), s)
	}
	if p := s.PodReplacementPolicy; p != nil {
		allowed := []batchv1.PodReplacementPolicy{batchv1.Failed, batchv1.TerminatingOrFailed}
		if s.PodFailurePolicy != nil { // a failure is judged when it is over
			allowed = allowed[:1]
		}
		if !slices.Contains(allowed, *p) {
			r.add(field.NotSupported(at.Child("podReplacementPolicy"), *p, allowed))
		}
	}
}

func checkFailurePolicy(r *report, at *field.Path, s *batchv1.JobSpec) {
	rules := s.PodFailurePolicy.Rules
	at = at.Child("rules")
	if len(rules) > maxFailureRules {
		r.add(field.TooMany(at, len(rules), maxFailureRules))
	}
	for i := range rules {
		at, rule := at.Index(i), &rules[i]
		if rule.Action == batchv1.PodFailurePolicyActionFailIndex && s.BackoffLimitPerIndex == nil {
			r.invalid(at.Child("action"), rule.Action, "requires the backoffLimitPerIndex to be set")
		} else {
			requiredOf(r, at.Child("action"), rule.Action, failureActions)
		}
		if rule.OnExitCodes != nil {
			checkExitCodes(r, at.Child("onExitCodes"), rule.OnExitCodes, &s.Template.Spec)
		}
		if len(rule.OnPodConditions) > maxConditions {
			r.add(field.TooMany(at.Child("onPodConditions"), len(rule.OnPodConditions), maxConditions))
		}
		for j, c := range rule.OnPodConditions {
			at := at.Child("onPodConditions").Index(j)
			r.messages(at.Child("type"), string(c.Type), validation.IsQualifiedName(string(c.Type)))
			requiredOf(r, at.Child("status"), c.Status, conditionStatuses)
		}
		switch codes, conditions := rule.OnExitCodes != nil, len(rule.OnPodConditions) > 0; {
		case codes && conditions:
			r.invalid(at, field.OmitValueType{}, "specifying both OnExitCodes and OnPodConditions is not supported")
		case !codes && !conditions:
			r.invalid(at, field.OmitValueType{}, "specifying one of OnExitCodes and OnPodConditions is required")
		}
	}
}

func checkExitCodes(r *report, at *field.Path, c *batchv1.PodFailurePolicyOnExitCodesRequirement, pod *corev1.PodSpec) {
	requiredOf(r, at.Child("operator"), c.Operator, exitOperators)
	if c.ContainerName != nil && !slices.ContainsFunc(slices.Concat(pod.Containers, pod.InitContainers), func(k corev1.Container) bool { return k.Name == *c.ContainerName }) {
		r.invalid(at.Child("containerName"), *c.ContainerName, "must be one of the container or initContainer names in the pod template")
	}
	at = at.Child("values")
	switch {
	case len(c.Values) == 0:
		r.invalid(at, c.Values, "at least one value is required")
	case len(c.Values) > maxExitCodes:
		r.add(field.TooMany(at, len(c.Values), maxExitCodes))
	}
	for i, code := range c.Values {
		if c.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn && code == 0 {
			r.invalid(at.Index(i), code, "must not be 0 for the In operator")
		}
		if slices.Contains(c.Values[:i], code) {
			r.add(field.Duplicate(at.Index(i), code))
		}
	}
	if !slices.IsSorted(c.Values) {
		r.invalid(at, c.Values, "must be ordered")
	}
}

// checkSuccessPolicy is called for jobs with indexes and completions.
//
// Simplified: whether succeededIndexes is a list of ranges is not checked.
func checkSuccessPolicy(r *report, at *field.Path, s *batchv1.JobSpec) {
	at = at.Child("rules")
	rules := s.SuccessPolicy.Rules
	if len(rules) == 0 {
		r.add(field.Required(at, "at least one rules must be specified when the successPolicy is specified"))
	}
	if len(rules) > maxSuccessRules {
		r.add(field.TooMany(at, len(rules), maxSuccessRules))
	}
	for i, rule := range rules {
		at := at.Index(i)
		if rule.SucceededCount == nil && rule.SucceededIndexes == nil {
			r.add(field.Required(at, "at least one of succeededCount or succeededIndexes must be specified"))
		}
		if count := rule.SucceededCount; count != nil {
			notNegative(r, at.Child("succeededCount"), *count)
			if *count > deref(s.Completions) {
				r.invalid(at.Child("succeededCount"), *count, fmt.Sprintf("must be less than or equal to %d (the number of specified completions)", deref(s.Completions)))
			}
		}
	}
}

// JobStatusUpdate checks that nothing is counted below zero.
//
// Simplified: which conditions may follow which is the controller's business.
func JobStatusUpdate(j, _ *batchv1.Job) field.ErrorList {
	r := &report{}
	at, s := field.NewPath("status"), &j.Status
	notNegative(r, at.Child("active"), s.Active)
	notNegative(r, at.Child("succeeded"), s.Succeeded)
	notNegative(r, at.Child("failed"), s.Failed)
	notNegativePointer(r, at.Child("ready"), s.Ready)
	notNegativePointer(r, at.Child("terminating"), s.Terminating)
	return r.errs
}
