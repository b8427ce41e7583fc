package validation

import (
	"fmt"
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"tinykube/api/qos"
)

// mutablePodFields is upstream's list, word for word: people search for it.
const mutablePodFields = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`," +
	"`spec.tolerations` (only additions to existing tolerations)," +
	"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"

// PodUpdate checks a change of a pod. What runs cannot be changed, only
// replaced; but for a few fields, the new spec must be the old one.
func PodUpdate(p, old *corev1.Pod) field.ErrorList {
	r := &report{}
	at := field.NewPath("spec")
	checkPod(r, p)
	if !sameImages(r, at.Child("containers"), p.Spec.Containers, old.Spec.Containers) ||
		!sameImages(r, at.Child("initContainers"), p.Spec.InitContainers, old.Spec.InitContainers) {
		return r.errs
	}
	if !checkDeadline(r, at.Child("activeDeadlineSeconds"), p.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds) {
		return r.errs
	}
	checkAddedTolerations(r, at.Child("tolerations"), p.Spec.Tolerations, old.Spec.Tolerations)
	for i, gate := range p.Spec.SchedulingGates {
		if !slices.Contains(old.Spec.SchedulingGates, gate) {
			r.add(field.Forbidden(at.Child("schedulingGates").Index(i).Child("name"), "only deletion is allowed, but found new scheduling gate '"+gate.Name+"'"))
		}
	}
	rest := withMutable(&p.Spec, &old.Spec)
	if len(old.Spec.SchedulingGates) > 0 {
		checkGated(r, at, rest, &old.Spec)
	}
	if !equality.Semantic.DeepEqual(*rest, old.Spec) {
		r.add(field.Forbidden(at, fmt.Sprintf("pod updates may not change fields other than %s\n%v", mutablePodFields, diff.Diff(old.Spec, *rest))))
	}
	return r.errs
}

// PodStatusUpdate checks a status as its kubelet reports it.
func PodStatusUpdate(p, old *corev1.Pod) field.ErrorList {
	r := &report{}
	at := field.NewPath("status")
	if n := p.Status.NominatedNodeName; n != "" && n != old.Status.NominatedNodeName {
		r.subdomain(at.Child("nominatedNodeName"), n)
	}
	for i, ip := range p.Status.PodIPs {
		r.ip(at.Child("podIPs").Index(i), ip.IP)
	}
	r.unchanged(at.Child("qosClass"), p.Status.QOSClass, old.Status.QOSClass)
	return r.errs
}

// PodResizeUpdate checks a change of resources in place.
//
// Simplified: whether the pod's node can do it is for its kubelet to say.
func PodResizeUpdate(p, old *corev1.Pod) field.ErrorList {
	r := &report{}
	at := field.NewPath("spec")
	checkPod(r, p)
	if qos.Of(old) != qos.Of(p) {
		r.invalid(at, p.Status.QOSClass, "Pod QOS Class may not change as a result of resizing")
	}
	rest := p.Spec.DeepCopy()
	for _, pair := range [][2][]corev1.Container{{rest.Containers, old.Spec.Containers}, {rest.InitContainers, old.Spec.InitContainers}} {
		for i := range min(len(pair[0]), len(pair[1])) {
			pair[0][i].Resources, pair[0][i].ResizePolicy = pair[1][i].Resources, pair[1][i].ResizePolicy
		}
	}
	rest.Resources = old.Spec.Resources
	if !equality.Semantic.DeepEqual(*rest, old.Spec) {
		r.add(field.Forbidden(at, fmt.Sprintf("only cpu and memory resources are mutable\n%v", diff.Diff(old.Spec, *rest))))
	}
	return r.errs
}

// PodEphemeralUpdate checks the addition of ephemeral containers: none that is
// there may change or go.
func PodEphemeralUpdate(p, old *corev1.Pod) field.ErrorList {
	r := &report{}
	checkPod(r, p)
	at := field.NewPath("spec", "ephemeralContainers")
	now := map[string]corev1.EphemeralContainer{}
	for _, e := range p.Spec.EphemeralContainers {
		now[e.Name] = e
	}
	for _, was := range old.Spec.EphemeralContainers {
		e, there := now[was.Name]
		switch {
		case !there:
			r.add(field.Forbidden(at, fmt.Sprintf("existing ephemeral containers %q may not be removed\n", was.Name)))
		case !equality.Semantic.DeepEqual(e, was):
			r.add(field.Forbidden(at, fmt.Sprintf("existing ephemeral containers %q may not be changed\n%v", was.Name, diff.Diff(was, e))))
		}
	}
	return r.errs
}

// sameImages: containers cannot be added or removed; the rest can be compared
// one by one.
func sameImages(r *report, at *field.Path, now, before []corev1.Container) bool {
	if len(now) != len(before) {
		r.add(field.Forbidden(at, "pod updates may not add or remove containers"))
		return false
	}
	return true
}

// checkDeadline: a deadline may be set, and set earlier.
func checkDeadline(r *report, at *field.Path, now, before *int64) bool {
	switch {
	case now == nil && before != nil:
		r.invalid(at, now, "must not update from a positive integer to nil value")
	case now == nil:
	case *now < 0 || *now > math.MaxInt32:
		r.invalid(at, *now, validation.InclusiveRangeError(0, math.MaxInt32))
		return false
	case before != nil && *before < *now:
		r.invalid(at, *now, "must be less than or equal to previous value")
		return false
	}
	return true
}

// checkAddedTolerations: what is tolerated stays so; only for how long may
// change.
func checkAddedTolerations(r *report, at *field.Path, now, before []corev1.Toleration) {
	for _, was := range before {
		was.TolerationSeconds = nil
		kept := slices.ContainsFunc(now, func(t corev1.Toleration) bool {
			t.TolerationSeconds = nil
			return t == was
		})
		if !kept {
			r.add(field.Forbidden(at, "existing toleration can not be modified except its tolerationSeconds"))
			return
		}
	}
}

// withMutable returns the new spec with the mutable fields as they were.
func withMutable(now, before *corev1.PodSpec) *corev1.PodSpec {
	rest := now.DeepCopy()
	for i := range rest.Containers {
		rest.Containers[i].Image = before.Containers[i].Image
	}
	for i := range rest.InitContainers {
		rest.InitContainers[i].Image = before.InitContainers[i].Image
	}
	rest.ActiveDeadlineSeconds = before.ActiveDeadlineSeconds
	rest.Tolerations = before.Tolerations
	rest.SchedulingGates = before.SchedulingGates
	if deref(before.TerminationGracePeriodSeconds) < 0 && deref(rest.TerminationGracePeriodSeconds) == 1 {
		rest.TerminationGracePeriodSeconds = before.TerminationGracePeriodSeconds
	}
	return rest
}

// checkGated lets a pod that is not to be scheduled yet become choosier about
// its node, and takes what it allows out of the comparison.
//
// Simplified: upstream also lets single expressions be added to the terms of a
// gated pod's node affinity; here only a whole affinity can be added.
func checkGated(r *report, at *field.Path, rest, before *corev1.PodSpec) {
	for key, value := range before.NodeSelector {
		if rest.NodeSelector[key] != value {
			r.invalid(at.Child("nodeSelector"), rest.NodeSelector, "only additions are allowed (no mutations or deletions)")
			break
		}
	}
	rest.NodeSelector = before.NodeSelector
	added := rest.Affinity != nil && rest.Affinity.NodeAffinity != nil &&
		(before.Affinity == nil || before.Affinity.NodeAffinity == nil)
	if !added {
		return
	}
	rest.Affinity.NodeAffinity = nil
	if before.Affinity == nil && rest.Affinity.PodAffinity == nil && rest.Affinity.PodAntiAffinity == nil {
		rest.Affinity = nil
	}
}
