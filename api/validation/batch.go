package validation

import (
	"fmt"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// maxIndexedParallelism is upstream's limit for jobs whose pods are numbered.
const maxIndexedParallelism = 100_000

// Job checks a job.
func Job(j *batchv1.Job) field.ErrorList {
	r := &report{}
	at := field.NewPath("spec")
	checkGeneratedSelector(r, j)
	checkJobSpec(r, at, &j.Spec)
	checkJobSelector(r, at, &j.Spec)
	return r.errs
}

func checkJobSelector(r *report, at *field.Path, s *batchv1.JobSpec) {
	if s.Selector == nil {
		r.add(field.Required(at.Child("selector"), ""))
	}
	r.selector(at.Child("selector"), s.Selector)
	if selector, err := metav1.LabelSelectorAsSelector(s.Selector); err == nil && !selector.Matches(labels.Set(s.Template.Labels)) {
		r.invalid(at.Child("template", "metadata", "labels"), s.Template.Labels, "`selector` does not match template `labels`")
	}
}

// checkGeneratedSelector: labels that the server sets may not be set to
// anything else.
func checkGeneratedSelector(r *report, j *batchv1.Job) {
	if deref(j.Spec.ManualSelector) || j.Spec.Selector == nil {
		return
	}
	at := field.NewPath("spec", "template", "metadata", "labels")
	for _, label := range []struct{ name, value string }{
		{"job-name", j.Name}, {batchv1.JobNameLabel, j.Name},
		{"controller-uid", string(j.UID)}, {batchv1.ControllerUidLabel, string(j.UID)},
	} {
		if got := j.Spec.Template.Labels[label.name]; got != label.value {
			r.invalid(at, j.Spec.Template.Labels, fmt.Sprintf("must be '%s'", label.value))
		}
	}
	generated := labels.Set{"job-name": j.Name, batchv1.JobNameLabel: j.Name, "controller-uid": string(j.UID), batchv1.ControllerUidLabel: string(j.UID)}
	if selector, err := metav1.LabelSelectorAsSelector(j.Spec.Selector); err == nil && !selector.Matches(generated) {
		r.invalid(field.NewPath("spec", "selector"), j.Spec.Selector, "`selector` not auto-generated")
	}
}

// JobUpdate checks a change of a job: what its pods are made from stays. While
// it is suspended, where they may run and what they need can change.
func JobUpdate(j, old *batchv1.Job) field.ErrorList {
	r := &report{}
	at := field.NewPath("spec")
	checkJobSpec(r, at, &j.Spec)
	checkJobSelector(r, at, &j.Spec)
	indexed := deref(j.Spec.CompletionMode) == batchv1.IndexedCompletion
	if elastic := indexed && same(j.Spec.Completions, j.Spec.Parallelism); !elastic {
		r.unchanged(at.Child("completions"), j.Spec.Completions, old.Spec.Completions)
	}
	r.unchanged(at.Child("selector"), j.Spec.Selector, old.Spec.Selector)
	template := old.Spec.Template
	if deref(old.Spec.Suspend) {
		template = withPlacement(&old.Spec.Template, &j.Spec.Template)
	}
	r.unchanged(at.Child("template"), j.Spec.Template, template)
	r.unchanged(at.Child("completionMode"), j.Spec.CompletionMode, old.Spec.CompletionMode)
	r.unchanged(at.Child("podFailurePolicy"), j.Spec.PodFailurePolicy, old.Spec.PodFailurePolicy)
	r.unchanged(at.Child("backoffLimitPerIndex"), j.Spec.BackoffLimitPerIndex, old.Spec.BackoffLimitPerIndex)
	r.unchanged(at.Child("managedBy"), j.Spec.ManagedBy, old.Spec.ManagedBy)
	r.unchanged(at.Child("successPolicy"), j.Spec.SuccessPolicy, old.Spec.SuccessPolicy)
	return r.errs
}

// withPlacement is a template with another's rules about where its pods may
// run, and what they need there.
func withPlacement(template, from *corev1.PodTemplateSpec) corev1.PodTemplateSpec {
	out := *template.DeepCopy()
	out.Labels, out.Annotations = from.Labels, from.Annotations
	out.Spec.NodeSelector, out.Spec.Tolerations, out.Spec.SchedulingGates = from.Spec.NodeSelector, from.Spec.Tolerations, from.Spec.SchedulingGates
	if from.Spec.Affinity != nil || out.Spec.Affinity != nil {
		affinity := &corev1.Affinity{}
		if out.Spec.Affinity != nil {
			affinity = out.Spec.Affinity
		}
		if affinity.NodeAffinity = nil; from.Spec.Affinity != nil {
			affinity.NodeAffinity = from.Spec.Affinity.NodeAffinity
		}
		if out.Spec.Affinity = affinity; from.Spec.Affinity == nil && *affinity == (corev1.Affinity{}) {
			out.Spec.Affinity = nil
		}
	}
	for i := range min(len(out.Spec.Containers), len(from.Spec.Containers)) {
		out.Spec.Containers[i].Resources = from.Spec.Containers[i].Resources
	}
	return out
}

func same(a, b *int32) bool { return a != nil && b != nil && *a == *b }

func checkJobSpec(r *report, at *field.Path, s *batchv1.JobSpec) {
	notNegativePointer(r, at.Child("parallelism"), s.Parallelism)
	notNegativePointer(r, at.Child("completions"), s.Completions)
	notNegativePointer(r, at.Child("activeDeadlineSeconds"), s.ActiveDeadlineSeconds)
	notNegativePointer(r, at.Child("backoffLimit"), s.BackoffLimit)
	notNegativePointer(r, at.Child("ttlSecondsAfterFinished"), s.TTLSecondsAfterFinished)
	notNegativePointer(r, at.Child("backoffLimitPerIndex"), s.BackoffLimitPerIndex)
	notNegativePointer(r, at.Child("maxFailedIndexes"), s.MaxFailedIndexes)
	if s.MaxFailedIndexes != nil && s.BackoffLimitPerIndex == nil {
		r.add(field.Required(at.Child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"))
	}
	if s.ManagedBy != nil {
		r.add(validation.IsDomainPrefixedPath(at.Child("managedBy"), *s.ManagedBy)...)
	}
	if s.CompletionMode != nil {
		ifSet(r, at.Child("completionMode"), *s.CompletionMode, batchv1.NonIndexedCompletion, batchv1.IndexedCompletion)
	}
	if deref(s.CompletionMode) == batchv1.IndexedCompletion {
		if s.Completions == nil {
			r.add(field.Required(at.Child("completions"), "when completion mode is Indexed"))
		}
		if deref(s.Parallelism) > maxIndexedParallelism {
			r.invalid(at.Child("parallelism"), *s.Parallelism,
				fmt.Sprintf("must be less than or equal to %d when completion mode is Indexed", maxIndexedParallelism))
		}
		if s.Completions != nil && deref(s.MaxFailedIndexes) > *s.Completions {
			r.invalid(at.Child("maxFailedIndexes"), *s.MaxFailedIndexes, "must be less than or equal to completions")
		}
	} else if s.CompletionMode == nil || *s.CompletionMode == batchv1.NonIndexedCompletion {
		const message = "requires indexed completion mode"
		if s.BackoffLimitPerIndex != nil {
			r.invalid(at.Child("backoffLimitPerIndex"), *s.BackoffLimitPerIndex, message)
		}
		if s.MaxFailedIndexes != nil {
			r.invalid(at.Child("maxFailedIndexes"), *s.MaxFailedIndexes, message)
		}
	}
	checkJobPolicies(r, at, s)
	podTemplate(r, at.Child("template"), &s.Template)
	policy := at.Child("template", "spec", "restartPolicy")
	switch s.Template.Spec.RestartPolicy {
	case corev1.RestartPolicyAlways, "":
		r.add(field.Required(policy, `valid values: "OnFailure", "Never"`))
	case corev1.RestartPolicyOnFailure:
		if s.PodFailurePolicy != nil {
			r.invalid(policy, s.Template.Spec.RestartPolicy, `only "Never" is supported when podFailurePolicy is specified`)
		}
	case corev1.RestartPolicyNever:
	default:
		r.add(field.NotSupported(policy, s.Template.Spec.RestartPolicy,
			[]corev1.RestartPolicy{corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever}))
	}
}

// CronJob checks a cron job.
func CronJob(c *batchv1.CronJob) field.ErrorList {
	r := &report{}
	checkTimeZone(r, field.NewPath("spec", "timeZone"), c.Spec.TimeZone)
	checkCronJob(r, c, "")
	return r.errs
}

// CronJobUpdate checks a change of a cron job.
func CronJobUpdate(c, old *batchv1.CronJob) field.ErrorList {
	r := &report{}
	if deref(c.Spec.TimeZone) != deref(old.Spec.TimeZone) {
		checkTimeZone(r, field.NewPath("spec", "timeZone"), c.Spec.TimeZone)
	}
	checkCronJob(r, c, old.Spec.Schedule)
	return r.errs
}

func checkCronJob(r *report, c *batchv1.CronJob, oldSchedule string) {
	at, s := field.NewPath("spec"), &c.Spec
	if r.required(at.Child("schedule"), s.Schedule) {
		if err := CronSchedule(s.Schedule); err != nil {
			r.invalid(at.Child("schedule"), s.Schedule, err.Error())
		}
		zoned := strings.Contains(s.Schedule, "TZ")
		switch allowed := strings.Contains(oldSchedule, "TZ"); {
		case zoned && !allowed:
			r.invalid(at.Child("schedule"), s.Schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead")
		case zoned && s.TimeZone != nil:
			r.invalid(at.Child("schedule"), s.Schedule, "cannot use both timeZone field and TZ or CRON_TZ in schedule")
		}
	}
	notNegativePointer(r, at.Child("startingDeadlineSeconds"), s.StartingDeadlineSeconds)
	oneOf(r, at.Child("concurrencyPolicy"), s.ConcurrencyPolicy,
		batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent)
	job := at.Child("jobTemplate", "spec")
	checkJobSpec(r, job, &s.JobTemplate.Spec)
	if s.JobTemplate.Spec.Selector != nil {
		r.invalid(job.Child("selector"), s.JobTemplate.Spec.Selector, "`selector` will be auto-generated")
	}
	if deref(s.JobTemplate.Spec.ManualSelector) {
		r.add(field.NotSupported(job.Child("manualSelector"), s.JobTemplate.Spec.ManualSelector, []string{"nil", "false"}))
	}
	notNegativePointer(r, at.Child("successfulJobsHistoryLimit"), s.SuccessfulJobsHistoryLimit)
	notNegativePointer(r, at.Child("failedJobsHistoryLimit"), s.FailedJobsHistoryLimit)
}

func checkTimeZone(r *report, at *field.Path, zone *string) {
	switch {
	case zone == nil:
	case *zone == "":
		r.invalid(at, zone, "timeZone must be nil or non-empty string")
	case strings.EqualFold(*zone, "Local"):
		r.invalid(at, zone, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones")
	default:
		if _, err := time.LoadLocation(*zone); err != nil {
			r.invalid(at, zone, err.Error())
		}
	}
}
