package resources

import (
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"tinykube/api/validation"
)

func appsRows() []*Row {
	return group("apps", "v1",
		kind[appsv1.ControllerRevision, appsv1.ControllerRevisionList](Row{Namespaced: true}).prints(revisionColumns, cells(revisionCells)).
			validates(check(validation.ControllerRevision), checkUpdate(validation.ControllerRevisionUpdate)),
		kind[appsv1.DaemonSet, appsv1.DaemonSetList](Row{
			ShortNames: names("ds"), Categories: all, Namespaced: true, Status: true,
			Strategy: lifecycle(true).
				afterCreate(on(func(ds *appsv1.DaemonSet) { setTemplateGeneration(ds, max(templateGeneration(ds), 1)) })).
				afterUpdate(onUpdate(countTemplates)),
		}).prints(daemonSetColumns, cells(daemonSetCells)).warns(onChange(false, daemonSetAdvice)).
			validates(check(validation.DaemonSet), checkUpdate(validation.DaemonSetUpdate)).
			validatesStatus(checkUpdate(validation.DaemonSetStatusUpdate)),
		kind[appsv1.Deployment, appsv1.DeploymentList](Row{
			ShortNames: names("deploy"), Categories: all, Namespaced: true, Status: true,
			Scale: scale(func(d *appsv1.Deployment) (**int32, int32, *metav1.LabelSelector) {
				return &d.Spec.Replicas, d.Status.Replicas, d.Spec.Selector
			}),
			Strategy: lifecycle(true).
				afterUpdate(onUpdate(countDeploymentAnnotations)).
				afterStatus(onUpdate(func(d, old *appsv1.Deployment) { d.Labels = old.Labels })),
		}).prints(deploymentColumns, cells(deploymentCells)).warns(onChange(true, deploymentAdvice)).
			validates(check(validation.Deployment), checkUpdate(validation.DeploymentUpdate)).
			validatesStatus(checkUpdate(validation.DeploymentStatusUpdate)),
		kind[appsv1.ReplicaSet, appsv1.ReplicaSetList](Row{
			ShortNames: names("rs"), Categories: all, Namespaced: true, Status: true,
			Scale: scale(func(rs *appsv1.ReplicaSet) (**int32, int32, *metav1.LabelSelector) {
				return &rs.Spec.Replicas, rs.Status.Replicas, rs.Spec.Selector
			}),
			Strategy: lifecycle(true),
		}).prints(replicaSetColumns, cells(replicaSetCells)).warns(onChange(true, replicaSetAdvice)).
			validates(check(validation.ReplicaSet), checkUpdate(validation.ReplicaSetUpdate)).
			validatesStatus(checkUpdate(validation.ReplicaSetStatusUpdate)),
		kind[appsv1.StatefulSet, appsv1.StatefulSetList](Row{
			ShortNames: names("sts"), Categories: all, Namespaced: true, Status: true,
			Scale: scale(func(s *appsv1.StatefulSet) (**int32, int32, *metav1.LabelSelector) {
				return &s.Spec.Replicas, s.Status.Replicas, s.Spec.Selector
			}),
			Strategy: lifecycle(true),
		}).prints(statefulSetColumns, cells(statefulSetCells)).warns(statefulSetAdvice).
			named(validation.LabelName).
			validates(check(validation.StatefulSet), checkUpdate(validation.StatefulSetUpdate)).
			validatesStatus(checkUpdate(validation.StatefulSetStatusUpdate)),
	)
}

// replicationControllerRow is the ancestor of the ReplicaSet; deleting one
// still leaves its pods alone unless the client says otherwise.
func replicationControllerRow() *Row {
	return kind[corev1.ReplicationController, corev1.ReplicationControllerList](Row{
		ShortNames: names("rc"), Categories: all, Namespaced: true, Status: true,
		Prefix: "controllers",
		Scale: scale(func(rc *corev1.ReplicationController) (**int32, int32, *metav1.LabelSelector) {
			return &rc.Spec.Replicas, rc.Status.Replicas, &metav1.LabelSelector{MatchLabels: rc.Spec.Selector}
		}),
		Strategy: lifecycle(true).with(func(s *Strategy) { s.OrphanByDefault = true }),
		SelectableFields: selectable(func(rc *corev1.ReplicationController) fields.Set {
			return fields.Set{"status.replicas": strconv.Itoa(int(rc.Status.Replicas))}
		}),
	}).prints(replicaSetColumns, cells(replicationControllerCells)).warns(onChange(true, replicationControllerAdvice)).
		validates(check(validation.ReplicationController), nil)
}

// scale makes a kind's /scale from where it keeps replicas and selector.
func scale[T any, P pointerTo[T]](parts func(P) (replicas **int32, observed int32, selector *metav1.LabelSelector)) *Scale {
	return &Scale{
		Get: func(obj Object) (spec, status int32, selector string) {
			replicas, observed, labelSelector := parts(obj.(P))
			if *replicas != nil {
				spec = **replicas
			}
			if s, err := metav1.LabelSelectorAsSelector(labelSelector); err == nil && labelSelector != nil {
				selector = s.String()
			}
			return spec, observed, selector
		},
		Set: func(obj Object, replicas int32) {
			at, _, _ := parts(obj.(P))
			*at = &replicas
		},
	}
}

// countDeploymentAnnotations bumps the generation for annotations too: they
// are copied to the ReplicaSets, so the controller has work to do.
func countDeploymentAnnotations(d, old *appsv1.Deployment) {
	if d.Generation == old.Generation && !equality.Semantic.DeepEqual(d.Annotations, old.Annotations) {
		d.Generation++
	}
}

// templateGeneration is a field of DaemonSets from before ControllerRevisions.
// apps/v1 has no such field; it lives on in an annotation.
func templateGeneration(ds *appsv1.DaemonSet) int64 {
	n, _ := strconv.ParseInt(ds.Annotations[appsv1.DeprecatedTemplateGeneration], 10, 64)
	return n
}

func setTemplateGeneration(ds *appsv1.DaemonSet, n int64) {
	if ds.Annotations == nil {
		ds.Annotations = map[string]string{}
	}
	ds.Annotations[appsv1.DeprecatedTemplateGeneration] = strconv.FormatInt(n, 10)
}

// countTemplates bumps it with the template and undoes any other change.
func countTemplates(ds, old *appsv1.DaemonSet) {
	n := templateGeneration(old)
	if !equality.Semantic.DeepEqual(ds.Spec.Template, old.Spec.Template) {
		n++
	}
	if n > 0 {
		setTemplateGeneration(ds, n)
	}
}
