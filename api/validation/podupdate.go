package validation

import (
	"fmt"
	"math"
	"slices"
	"strings"

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

// PodResizeUpdate checks a change of resources in place. Whether the pod's node
// has as much is for admission and for its kubelet to say.
//
// Upstream: kubernetes@v1.36 pkg/apis/core/validation ValidatePodResize.
func PodResizeUpdate(p, old *corev1.Pod) field.ErrorList {
	r := &report{}
	at := field.NewPath("spec")
	checkPod(r, p)
	if _, mirror := old.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "static pods cannot be resized")}
	}
	if qos.Of(old) != qos.Of(p) {
		r.invalid(at, p.Status.QOSClass, "Pod QOS Class may not change as a result of resizing")
	}
	if i := slices.IndexFunc(old.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool { return s.State.Running != nil }); i >= 0 &&
		old.Status.ContainerStatuses[i].Resources == nil {
		r.add(field.Forbidden(at, "Pod running on node without support for resize"))
	}
	rest := p.Spec.DeepCopy()
	if was := old.Spec.Resources; was != nil && rest.Resources == nil {
		r.add(field.Forbidden(at.Child("resources"), "pod-level resources cannot be removed"))
	} else if rest.Resources != nil {
		if was == nil {
			was = &corev1.ResourceRequirements{}
		}
		checkResized(r, at.Child("resources"), "pod-level resource", *rest.Resources, *was)
		*rest.Resources = sameCompute(*rest.Resources, *was)
		if equality.Semantic.DeepEqual(*rest.Resources, *was) {
			rest.Resources = old.Spec.Resources
		} else {
			r.add(field.Forbidden(at, "only cpu and memory resources are mutable at pod-level"))
		}
	}
	if !sameNames(r, at.Child("containers"), rest.Containers, old.Spec.Containers) ||
		!sameNames(r, at.Child("initContainers"), rest.InitContainers, old.Spec.InitContainers) {
		return r.errs
	}
	for i := range rest.InitContainers {
		at := at.Child("initContainers").Index(i)
		if !resizedContainer(r, at, &rest.InitContainers[i], old.Spec.InitContainers[i]) {
			r.add(field.Forbidden(at, "only cpu and memory resources for init or sidecar containers are mutable"))
		}
	}
	for i := range rest.Containers {
		if !resizedContainer(r, at.Child("containers").Index(i), &rest.Containers[i], old.Spec.Containers[i]) {
			r.add(field.Forbidden(at, "only cpu and memory resources are mutable"))
		}
	}
	if len(r.errs) == 0 && !equality.Semantic.DeepEqual(*rest, old.Spec) {
		r.add(field.Forbidden(at, "only cpu and memory resources are mutable"))
	}
	return r.errs
}

// sameNames: a resize neither adds nor moves containers.
func sameNames(r *report, at *field.Path, now, before []corev1.Container) bool {
	list := strings.TrimPrefix(at.String(), "spec.")
	if len(now) != len(before) {
		r.add(field.Forbidden(at, list+" may not be added or removed on resize"))
		return false
	}
	for i := range now {
		if now[i].Name != before[i].Name {
			r.add(field.Forbidden(at.Index(i).Child("name"), list+" may not be renamed or reordered on resize"))
			return false
		}
	}
	return true
}

// resizedContainer checks one container's new resources, undoes their change,
// and says whether nothing else has changed.
func resizedContainer(r *report, at *field.Path, c *corev1.Container, was corev1.Container) bool {
	restarts := slices.ContainsFunc(was.ResizePolicy, func(p corev1.ContainerResizePolicy) bool { return p.RestartPolicy == corev1.RestartContainer })
	once := strings.Contains(at.String(), "initContainers") && deref(was.RestartPolicy) != corev1.ContainerRestartPolicyAlways
	if once && restarts && !equality.Semantic.DeepEqual(c.Resources, was.Resources) {
		r.add(field.Forbidden(at, "non-sidecar init containers with a resize policy of RestartContainer cannot be resized"))
	}
	checkResized(r, at.Child("resources"), "resource", c.Resources, was.Resources)
	c.Resources = sameCompute(c.Resources, was.Resources)
	return equality.Semantic.DeepEqual(*c, was)
}

// checkResized: what has been said once may change and not go.
func checkResized(r *report, at *field.Path, what string, now, was corev1.ResourceRequirements) {
	for _, list := range []struct {
		name     string
		now, was corev1.ResourceList
	}{{"requests", now.Requests, was.Requests}, {"limits", now.Limits, was.Limits}} {
		for name := range list.was {
			if _, kept := list.now[name]; !kept {
				r.add(field.Forbidden(at.Child(list.name), what+" "+list.name+" cannot be removed"))
				break
			}
		}
	}
}

// sameCompute is the new resources with CPU and memory as they were.
func sameCompute(now, was corev1.ResourceRequirements) corev1.ResourceRequirements {
	undo := func(now, was corev1.ResourceList) corev1.ResourceList {
		out := now.DeepCopy()
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			delete(out, name)
			if q, found := was[name]; found {
				if out == nil {
					out = corev1.ResourceList{}
				}
				out[name] = q
			}
		}
		return out
	}
	now.Requests, now.Limits = undo(now.Requests, was.Requests), undo(now.Limits, was.Limits)
	return now
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
