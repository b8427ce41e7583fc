package validation

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Deployment checks a deployment.
func Deployment(d *appsv1.Deployment) field.ErrorList {
	r := &report{}
	at, s := field.NewPath("spec"), &d.Spec
	notNegativePointer(r, at.Child("replicas"), s.Replicas)
	checkSelectedTemplate(r, at, s.Selector, &s.Template, "deployment")
	checkLongRunning(r, at.Child("template", "spec"), &s.Template, "ReplicaSet")
	checkDeploymentStrategy(r, at.Child("strategy"), &s.Strategy)
	notNegative(r, at.Child("minReadySeconds"), s.MinReadySeconds)
	notNegativePointer(r, at.Child("revisionHistoryLimit"), s.RevisionHistoryLimit)
	if p := s.ProgressDeadlineSeconds; p != nil {
		notNegative(r, at.Child("progressDeadlineSeconds"), *p)
		if *p <= s.MinReadySeconds {
			r.invalid(at.Child("progressDeadlineSeconds"), *p, "must be greater than minReadySeconds")
		}
	}
	return r.errs
}

// DeploymentUpdate checks a change of a deployment.
func DeploymentUpdate(d, old *appsv1.Deployment) field.ErrorList {
	r := &report{errs: Deployment(d)}
	r.unchanged(field.NewPath("spec", "selector"), d.Spec.Selector, old.Spec.Selector)
	return r.errs
}

func checkDeploymentStrategy(r *report, at *field.Path, s *appsv1.DeploymentStrategy) {
	at, update := at, s.RollingUpdate
	switch s.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if update != nil {
			r.add(field.Forbidden(at.Child("rollingUpdate"), "may not be specified when strategy `type` is 'Recreate'"))
		}
	case appsv1.RollingUpdateDeploymentStrategyType:
		if update == nil || update.MaxUnavailable == nil || update.MaxSurge == nil {
			r.add(field.Required(at.Child("rollingUpdate"), "this should be defaulted and never be nil"))
			return
		}
		at := at.Child("rollingUpdate")
		r.count(at.Child("maxUnavailable"), *update.MaxUnavailable)
		r.count(at.Child("maxSurge"), *update.MaxSurge)
		if isZero(*update.MaxUnavailable) && isZero(*update.MaxSurge) {
			r.invalid(at.Child("maxUnavailable"), *update.MaxUnavailable, "may not be 0 when `maxSurge` is 0")
		}
		r.atMost100Percent(at.Child("maxUnavailable"), *update.MaxUnavailable)
	default:
		r.add(field.NotSupported(at, s, []appsv1.DeploymentStrategyType{
			appsv1.RecreateDeploymentStrategyType, appsv1.RollingUpdateDeploymentStrategyType}))
	}
}

// ReplicaSet checks a replica set.
func ReplicaSet(rs *appsv1.ReplicaSet) field.ErrorList {
	r := &report{}
	at, s := field.NewPath("spec"), &rs.Spec
	notNegativePointer(r, at.Child("replicas"), s.Replicas)
	notNegative(r, at.Child("minReadySeconds"), s.MinReadySeconds)
	checkSelectedTemplate(r, at, s.Selector, &s.Template, "deployment")
	checkLongRunning(r, at.Child("template", "spec"), &s.Template, "ReplicaSet")
	return r.errs
}

// ReplicaSetUpdate checks a change of a replica set.
func ReplicaSetUpdate(rs, old *appsv1.ReplicaSet) field.ErrorList {
	r := &report{errs: ReplicaSet(rs)}
	r.unchanged(field.NewPath("spec", "selector"), rs.Spec.Selector, old.Spec.Selector)
	return r.errs
}

// ReplicaSetStatusUpdate checks that a status adds up.
func ReplicaSetStatusUpdate(rs, _ *appsv1.ReplicaSet) field.ErrorList {
	r := &report{}
	at, s := field.NewPath("status"), rs.Status
	notNegative(r, at.Child("replicas"), s.Replicas)
	r.notMore(at.Child("fullyLabeledReplicas"), s.FullyLabeledReplicas, s.Replicas, "status.replicas")
	r.notMore(at.Child("readyReplicas"), s.ReadyReplicas, s.Replicas, "status.replicas")
	r.notMore(at.Child("availableReplicas"), s.AvailableReplicas, s.Replicas, "status.replicas")
	r.notMore(at.Child("availableReplicas"), s.AvailableReplicas, s.ReadyReplicas, "readyReplicas")
	return r.errs
}

// DeploymentStatusUpdate checks that a status adds up.
func DeploymentStatusUpdate(d, _ *appsv1.Deployment) field.ErrorList {
	r := &report{}
	at, s := field.NewPath("status"), d.Status
	notNegative(r, at.Child("replicas"), s.Replicas)
	r.notMore(at.Child("updatedReplicas"), s.UpdatedReplicas, s.Replicas, "status.replicas")
	r.notMore(at.Child("readyReplicas"), s.ReadyReplicas, s.Replicas, "status.replicas")
	r.notMore(at.Child("availableReplicas"), s.AvailableReplicas, s.Replicas, "status.replicas")
	r.notMore(at.Child("availableReplicas"), s.AvailableReplicas, s.ReadyReplicas, "readyReplicas")
	notNegative(r, at.Child("unavailableReplicas"), s.UnavailableReplicas)
	return r.errs
}

func (r *report) notMore(at *field.Path, n, most int32, name string) {
	notNegative(r, at, n)
	if n > most {
		r.invalid(at, n, "cannot be greater than "+name)
	}
}

// ReplicationController checks a replication controller.
func ReplicationController(rc *corev1.ReplicationController) field.ErrorList {
	r := &report{}
	at, s := field.NewPath("spec"), &rc.Spec
	notNegative(r, at.Child("minReadySeconds"), s.MinReadySeconds)
	if len(s.Selector) == 0 {
		r.add(field.Required(at.Child("selector"), ""))
	}
	notNegativePointer(r, at.Child("replicas"), s.Replicas)
	if s.Template == nil {
		r.add(field.Required(at.Child("template"), ""))
		return r.errs
	}
	at = at.Child("template")
	if selector := labels.SelectorFromSet(s.Selector); !selector.Empty() && !selector.Matches(labels.Set(s.Template.Labels)) {
		r.invalid(at.Child("metadata", "labels"), s.Template.Labels, "`selector` does not match template `labels`")
	}
	podTemplate(r, at, s.Template)
	checkLongRunning(r, at.Child("spec"), s.Template, "ReplicationController")
	return r.errs
}

// DaemonSet checks a daemon set.
func DaemonSet(ds *appsv1.DaemonSet) field.ErrorList {
	r := &report{}
	at, s := field.NewPath("spec"), &ds.Spec
	r.selector(at.Child("selector"), s.Selector)
	if selector, err := metav1.LabelSelectorAsSelector(s.Selector); err == nil && !selector.Matches(labels.Set(s.Template.Labels)) {
		r.invalid(at.Child("template", "metadata", "labels"), s.Template.Labels, "`selector` does not match template `labels`")
	}
	if s.Selector != nil && isEmpty(s.Selector) {
		r.invalid(at.Child("selector"), s.Selector, "empty selector is invalid for daemonset")
	}
	podTemplate(r, at.Child("template"), &s.Template)
	checkLongRunning(r, at.Child("template", "spec"), &s.Template, "DaemonSet")
	notNegative(r, at.Child("minReadySeconds"), s.MinReadySeconds)
	checkDaemonStrategy(r, at.Child("updateStrategy"), &s.UpdateStrategy)
	notNegativePointer(r, at.Child("revisionHistoryLimit"), s.RevisionHistoryLimit)
	return r.errs
}

// DaemonSetUpdate checks a change of a daemon set.
func DaemonSetUpdate(ds, old *appsv1.DaemonSet) field.ErrorList {
	r := &report{errs: DaemonSet(ds)}
	r.unchanged(field.NewPath("spec", "selector"), ds.Spec.Selector, old.Spec.Selector)
	return r.errs
}

func checkDaemonStrategy(r *report, at *field.Path, s *appsv1.DaemonSetUpdateStrategy) {
	switch s.Type {
	case appsv1.OnDeleteDaemonSetStrategyType:
		return
	case appsv1.RollingUpdateDaemonSetStrategyType:
	default:
		r.add(field.NotSupported(at, s, []appsv1.DaemonSetUpdateStrategyType{
			appsv1.RollingUpdateDaemonSetStrategyType, appsv1.OnDeleteDaemonSetStrategyType}))
		return
	}
	at, update := at.Child("rollingUpdate"), s.RollingUpdate
	if update == nil || update.MaxUnavailable == nil || update.MaxSurge == nil {
		r.add(field.Required(at, ""))
		return
	}
	r.count(at.Child("maxUnavailable"), *update.MaxUnavailable)
	r.count(at.Child("maxSurge"), *update.MaxSurge)
	r.atMost100Percent(at.Child("maxUnavailable"), *update.MaxUnavailable)
	r.atMost100Percent(at.Child("maxSurge"), *update.MaxSurge)
	switch unavailable, surge := !isZero(*update.MaxUnavailable), !isZero(*update.MaxSurge); {
	case unavailable && surge:
		r.invalid(at.Child("maxSurge"), *update.MaxSurge, "may not be set when maxUnavailable is non-zero")
	case !unavailable && !surge:
		r.add(field.Required(at.Child("maxUnavailable"), "cannot be 0 when maxSurge is 0"))
	}
}

// StatefulSet checks a stateful set.
func StatefulSet(s *appsv1.StatefulSet) field.ErrorList {
	r := &report{}
	checkStatefulSet(r, s)
	if name := s.Spec.ServiceName; name != "" {
		r.label(field.NewPath("spec", "serviceName"), name)
	}
	for i := range s.Spec.VolumeClaimTemplates {
		checkClaimSpec(r, field.NewPath("spec", "volumeClaimTemplates").Index(i).Child("spec"), &s.Spec.VolumeClaimTemplates[i].Spec)
	}
	return r.errs
}

// StatefulSetUpdate checks a change of a stateful set. Its pods have an
// identity each, so that little of it can change.
func StatefulSetUpdate(s, old *appsv1.StatefulSet) field.ErrorList {
	r := &report{}
	checkStatefulSet(r, s)
	rest := s.Spec
	rest.Replicas, rest.Template, rest.UpdateStrategy = old.Spec.Replicas, old.Spec.Template, old.Spec.UpdateStrategy
	rest.MinReadySeconds, rest.Ordinals = old.Spec.MinReadySeconds, old.Spec.Ordinals
	rest.RevisionHistoryLimit = old.Spec.RevisionHistoryLimit
	rest.PersistentVolumeClaimRetentionPolicy = old.Spec.PersistentVolumeClaimRetentionPolicy
	if !equality.Semantic.DeepEqual(rest, old.Spec) {
		r.add(field.Forbidden(field.NewPath("spec"), "updates to statefulset spec for fields other than 'replicas', 'ordinals', "+
			"'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"))
	}
	return r.errs
}

func checkRetention(r *report, at *field.Path, p appsv1.PersistentVolumeClaimRetentionPolicyType) {
	if p != appsv1.RetainPersistentVolumeClaimRetentionPolicyType && p != appsv1.DeletePersistentVolumeClaimRetentionPolicyType {
		r.add(field.NotSupported(at, p, []string{"Retain", "Delete"}))
	}
}

func checkStatefulSet(r *report, set *appsv1.StatefulSet) {
	at, s := field.NewPath("spec"), &set.Spec
	switch s.PodManagementPolicy {
	case appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement:
	default:
		r.invalid(at.Child("podManagementPolicy"), s.PodManagementPolicy, "must be 'OrderedReady' or 'Parallel'")
	}
	strategy := at.Child("updateStrategy")
	switch update := s.UpdateStrategy.RollingUpdate; s.UpdateStrategy.Type {
	case appsv1.OnDeleteStatefulSetStrategyType:
		if update != nil {
			r.invalid(strategy.Child("rollingUpdate"), update, "only allowed for updateStrategy 'RollingUpdate'")
		}
	case appsv1.RollingUpdateStatefulSetStrategyType:
		if update != nil {
			notNegativePointer(r, strategy.Child("rollingUpdate", "partition"), update.Partition)
		}
	default:
		r.invalid(strategy, s.UpdateStrategy, "must be 'RollingUpdate' or 'OnDelete'")
	}
	notNegativePointer(r, at.Child("replicas"), s.Replicas)
	notNegative(r, at.Child("minReadySeconds"), s.MinReadySeconds)
	if s.Ordinals != nil {
		notNegative(r, at.Child("ordinals.start"), s.Ordinals.Start)
	}
	if p := s.PersistentVolumeClaimRetentionPolicy; p != nil {
		at := at.Child("persistentVolumeClaimRetentionPolicy")
		checkRetention(r, at.Child("whenDeleted"), p.WhenDeleted)
		checkRetention(r, at.Child("whenScaled"), p.WhenScaled)
	}
	template := s.Template.DeepCopy()
	for _, claim := range s.VolumeClaimTemplates { // each becomes a volume
		template.Spec.Volumes = append(template.Spec.Volumes, corev1.Volume{Name: claim.Name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim.Name}}})
	}
	template.Spec.Hostname, template.Spec.Subdomain = "", ""
	dropOverridden(template, s.VolumeClaimTemplates)
	checkSelectedTemplate(r, at, s.Selector, template, "statefulset")
	checkLongRunning(r, at.Child("template", "spec"), template, "StatefulSet")
}

// dropOverridden removes the template's volumes that a claim template replaces.
func dropOverridden(t *corev1.PodTemplateSpec, claims []corev1.PersistentVolumeClaim) {
	replaced := map[string]bool{}
	for _, c := range claims {
		replaced[c.Name] = true
	}
	own := len(t.Spec.Volumes) - len(claims)
	var kept []corev1.Volume
	for i, v := range t.Spec.Volumes {
		if i >= own || !replaced[v.Name] {
			kept = append(kept, v)
		}
	}
	t.Spec.Volumes = kept
}

func isEmpty(s *metav1.LabelSelector) bool { return len(s.MatchLabels)+len(s.MatchExpressions) == 0 }

// checkSelectedTemplate: a controller must select the pods it makes, or it
// would make them forever.
func checkSelectedTemplate(r *report, at *field.Path, s *metav1.LabelSelector, t *corev1.PodTemplateSpec, kind string) {
	if s == nil {
		r.add(field.Required(at.Child("selector"), ""))
	} else {
		r.selector(at.Child("selector"), s)
		if isEmpty(s) {
			r.invalid(at.Child("selector"), s, "empty selector is invalid for "+kind)
		}
	}
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		r.invalid(at.Child("selector"), s, "invalid label selector")
		return
	}
	at = at.Child("template")
	if !selector.Empty() && !selector.Matches(labels.Set(t.Labels)) {
		r.invalid(at.Child("metadata", "labels"), t.Labels, "`selector` does not match template `labels`")
	}
	podTemplate(r, at, t)
}

// checkLongRunning: what a controller replaces must not end by itself.
func checkLongRunning(r *report, at *field.Path, t *corev1.PodTemplateSpec, kind string) {
	if t.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		r.add(field.NotSupported(at.Child("restartPolicy"), t.Spec.RestartPolicy, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if t.Spec.ActiveDeadlineSeconds != nil {
		r.add(field.Forbidden(at.Child("activeDeadlineSeconds"), fmt.Sprintf("activeDeadlineSeconds in %s is not Supported", kind)))
	}
}

// ControllerRevision checks a revision: its data is an object, and stays.
func ControllerRevision(c *appsv1.ControllerRevision) field.ErrorList {
	r := &report{}
	notNegative(r, field.NewPath("revision"), c.Revision)
	if len(c.Data.Raw) == 0 && c.Data.Object == nil {
		r.add(field.Required(field.NewPath("data"), "data is mandatory"))
	}
	return r.errs
}

// ControllerRevisionUpdate checks a change of a revision's number.
func ControllerRevisionUpdate(c, old *appsv1.ControllerRevision) field.ErrorList {
	r := &report{}
	notNegative(r, field.NewPath("revision"), c.Revision)
	if string(c.Data.Raw) != string(old.Data.Raw) {
		r.invalid(field.NewPath("data"), "", immutable)
	}
	return r.errs
}

// PodTemplate checks a template that lies by itself.
func PodTemplate(t *corev1.PodTemplate) field.ErrorList {
	r := &report{}
	podTemplate(r, field.NewPath("template"), &t.Template)
	return r.errs
}

// StatefulSetStatusUpdate checks that a status adds up.
func StatefulSetStatusUpdate(set, _ *appsv1.StatefulSet) field.ErrorList {
	r := &report{}
	at, s := field.NewPath("status"), set.Status
	notNegative(r, at.Child("replicas"), s.Replicas)
	r.notMore(at.Child("readyReplicas"), s.ReadyReplicas, s.Replicas, "status.replicas")
	r.notMore(at.Child("currentReplicas"), s.CurrentReplicas, s.Replicas, "status.replicas")
	r.notMore(at.Child("updatedReplicas"), s.UpdatedReplicas, s.Replicas, "status.replicas")
	r.notMore(at.Child("availableReplicas"), s.AvailableReplicas, s.Replicas, "status.replicas")
	if s.AvailableReplicas > s.ReadyReplicas {
		r.invalid(at.Child("availableReplicas"), s.AvailableReplicas, "cannot be greater than status.readyReplicas")
	}
	return r.errs
}

// DaemonSetStatusUpdate checks that nothing is counted below zero.
func DaemonSetStatusUpdate(ds, _ *appsv1.DaemonSet) field.ErrorList {
	r := &report{}
	at, s := field.NewPath("status"), ds.Status
	notNegative(r, at.Child("currentNumberScheduled"), s.CurrentNumberScheduled)
	notNegative(r, at.Child("numberMisscheduled"), s.NumberMisscheduled)
	notNegative(r, at.Child("desiredNumberScheduled"), s.DesiredNumberScheduled)
	notNegative(r, at.Child("numberReady"), s.NumberReady)
	notNegative(r, at.Child("observedGeneration"), s.ObservedGeneration)
	notNegative(r, at.Child("updatedNumberScheduled"), s.UpdatedNumberScheduled)
	notNegative(r, at.Child("numberAvailable"), s.NumberAvailable)
	notNegative(r, at.Child("numberUnavailable"), s.NumberUnavailable)
	return r.errs
}
