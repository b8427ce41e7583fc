package resources

// What a client is told beside its answer: see api/validation/warnings.go. The
// funcs here tie those words to rows.

import (
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"tinykube/api/validation"
)

// warns gives a row its warnings.
func (r *Row) warns(f func(obj, old Object) []string) *Row {
	r.Strategy.Warnings = f
	return r
}

// always warns about the new object on every write.
func always[T any, P pointerTo[T]](f func(P) []string) func(obj, old Object) []string {
	return func(obj, _ Object) []string { return f(obj.(P)) }
}

// onCreate warns about a new object only.
func onCreate[T any, P pointerTo[T]](f func(P) []string) func(obj, old Object) []string {
	return func(obj, old Object) []string {
		if old != nil {
			return nil
		}
		return f(obj.(P))
	}
}

// onChange warns when an object is new and whenever its generation moves.
// Named: pods are named after the object, so its name matters, too.
func onChange[T any, P pointerTo[T]](named bool, f func(P) []string) func(obj, old Object) []string {
	return func(obj, old Object) []string {
		var out []string
		if old == nil && named {
			out = validation.OwnerNameWarnings(obj.GetName())
		}
		if old == nil || old.GetGeneration() != obj.GetGeneration() {
			out = append(out, f(obj.(P))...)
		}
		return out
	}
}

// templateAt is where most kinds keep their pod template.
var templateAt = field.NewPath("spec", "template")

func deploymentAdvice(d *appsv1.Deployment) []string {
	return validation.TemplateWarnings(templateAt, &d.Spec.Template)
}

func replicaSetAdvice(rs *appsv1.ReplicaSet) []string {
	return validation.TemplateWarnings(templateAt, &rs.Spec.Template)
}

func daemonSetAdvice(ds *appsv1.DaemonSet) []string {
	return validation.TemplateWarnings(templateAt, &ds.Spec.Template)
}

func replicationControllerAdvice(rc *corev1.ReplicationController) []string {
	return validation.TemplateWarnings(templateAt, rc.Spec.Template)
}

func podTemplateAdvice(t *corev1.PodTemplate) []string {
	return validation.TemplateWarnings(field.NewPath("template"), &t.Template)
}

func jobAdvice(j *batchv1.Job) []string {
	return validation.JobWarnings(field.NewPath("spec"), &j.Spec)
}

func cronJobAdvice(c *batchv1.CronJob) []string {
	return validation.JobWarnings(field.NewPath("spec", "jobTemplate", "spec"), &c.Spec.JobTemplate.Spec)
}

func statefulSetAdvice(obj, old Object) []string {
	set := obj.(*appsv1.StatefulSet)
	var out []string
	if old == nil || old.GetGeneration() != set.Generation {
		out = validation.TemplateWarnings(templateAt, &set.Spec.Template)
	}
	for i := range set.Spec.VolumeClaimTemplates {
		at := field.NewPath("spec", "volumeClaimTemplates").Index(i)
		if old != nil { // upstream's path differs between the two
			at = at.Child("Spec")
		}
		out = append(out, validation.ClaimTemplateWarnings(at, &set.Spec.VolumeClaimTemplates[i].Spec)...)
	}
	if limit := set.Spec.RevisionHistoryLimit; limit != nil && *limit < 0 {
		out = append(out, "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended")
	}
	return out
}

func serviceAccountAdvice(obj, old Object) []string {
	before, _ := old.(*corev1.ServiceAccount)
	return validation.ServiceAccountWarnings(obj.(*corev1.ServiceAccount), before)
}
