package apiserver

import (
	"context"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"tinykube/api/podsecurity"
	"tinykube/apiserver/resources"
)

const (
	// A namespace that becomes stricter has its pods looked at, within reason.
	podSecurityMaxPods = 3000
	podSecurityTimeout = time.Second
)

// admitPodSecurity keeps pods out of namespaces whose labels forbid what they
// ask for (api/podsecurity). Workloads are only warned about: it is their pods
// that are refused.
//
// Upstream: k8s.io/pod-security-admission@v0.36 admission
func admitPodSecurity(a *admission) error {
	if a.obj == nil {
		return nil
	}
	if namespace, ok := a.obj.(*corev1.Namespace); ok && a.subresource == "" {
		return a.checkNamespaceLevel(namespace)
	}
	meta, spec := podSpecOf(a.obj)
	_, isPod := a.obj.(*corev1.Pod)
	if spec == nil || !a.concernsSecurity(isPod) {
		return nil
	}
	namespace, ok := current[*corev1.Namespace](a.Context(), a.server, "", "namespaces", a.namespace)
	if !ok {
		return apierrors.NewInternalError(fmt.Errorf("failed to lookup namespace %q", a.namespace))
	}
	policy, wrong := podsecurity.PolicyOf(namespace.Labels)
	if len(wrong) > 0 {
		a.annotate("error", fmt.Sprintf("Failed to parse policy: %v", wrong.ToAggregate()))
	}
	if isPod {
		a.annotate("enforce-policy", policy.Enforce.String())
	}
	if policy.AllPrivileged() {
		return nil
	}
	if found := podsecurity.Evaluate(policy.Audit, meta, spec); !found.None() {
		a.annotate("audit-violations", fmt.Sprintf("would violate PodSecurity %q: %s", policy.Audit, found))
	}
	if isPod {
		if found := podsecurity.Evaluate(policy.Enforce, meta, spec); !found.None() {
			return a.refuse(fmt.Errorf("violates PodSecurity %q: %s", policy.Enforce, found))
		}
	}
	if found := podsecurity.Evaluate(policy.Warn, meta, spec); !found.None() {
		a.warn(fmt.Sprintf("would violate PodSecurity %q: %s", policy.Warn, found))
	}
	return nil
}

// annotate tells the audit log something under this plugin's name.
func (a *admission) annotate(key, value string) {
	a.audit.annotate(podsecurity.LabelPrefix+key, value)
}

// concernsSecurity reports whether a write may change what a pod asks for.
func (a *admission) concernsSecurity(isPod bool) bool {
	if !isPod {
		return a.subresource == ""
	}
	switch a.subresource {
	case "", "ephemeralcontainers", "resize":
		old, ok := a.old.(*corev1.Pod)
		return !ok || changesImages(a.obj.(*corev1.Pod), old)
	}
	return false
}

// changesImages reports an update that brings in a container or an image;
// nothing else that counts can change in a pod.
func changesImages(pod, old *corev1.Pod) bool {
	images := map[string]string{}
	eachContainer(&old.Spec, func(field string, c *corev1.Container) { images[field+"/"+c.Name] = c.Image })
	changed := len(pod.Spec.Containers) != len(old.Spec.Containers) || len(pod.Spec.InitContainers) != len(old.Spec.InitContainers)
	eachContainer(&pod.Spec, func(field string, c *corev1.Container) {
		if image, ok := images[field+"/"+c.Name]; !ok || image != c.Image {
			changed = true
		}
	})
	return changed
}

// podSpecOf is the pod in an object that has one, or the template of one.
func podSpecOf(obj resources.Object) (*metav1.ObjectMeta, *corev1.PodSpec) {
	var template *corev1.PodTemplateSpec
	switch obj := obj.(type) {
	case *corev1.Pod:
		return &obj.ObjectMeta, &obj.Spec
	case *corev1.PodTemplate:
		template = &obj.Template
	case *corev1.ReplicationController:
		template = obj.Spec.Template
	case *appsv1.ReplicaSet:
		template = &obj.Spec.Template
	case *appsv1.Deployment:
		template = &obj.Spec.Template
	case *appsv1.DaemonSet:
		template = &obj.Spec.Template
	case *appsv1.StatefulSet:
		template = &obj.Spec.Template
	case *batchv1.Job:
		template = &obj.Spec.Template
	case *batchv1.CronJob:
		template = &obj.Spec.JobTemplate.Spec.Template
	}
	if template == nil {
		return nil, nil
	}
	return &template.ObjectMeta, &template.Spec
}

// checkNamespaceLevel refuses labels that make no sense, and warns of pods that
// the new level would not have let in.
func (a *admission) checkNamespaceLevel(namespace *corev1.Namespace) error {
	policy, wrong := podsecurity.PolicyOf(namespace.Labels)
	if a.old == nil {
		return a.invalid(a.obj, wrong)
	}
	was, wrongBefore := podsecurity.PolicyOf(a.old.GetLabels())
	if len(wrong) > 0 && fmt.Sprint(wrong) != fmt.Sprint(wrongBefore) {
		return a.invalid(a.obj, wrong)
	}
	if policy.Enforce == was.Enforce || policy.Enforce.Level == podsecurity.Privileged ||
		policy.Enforce.SameVersion(was.Enforce) && !policy.Enforce.Level.Stricter(was.Enforce.Level) {
		return nil
	}
	ctx, cancel := context.WithTimeout(a.Context(), podSecurityTimeout)
	defer cancel()
	pods := oneOfEach(allCached[*corev1.Pod](a.server, "", "pods", namespace.Name))
	for _, warning := range podWarnings(ctx, namespace.Name, policy.Enforce, pods) {
		a.warn(warning)
	}
	return nil
}

// oneOfEach puts one pod of each controller first: the others are like it.
func oneOfEach(pods []*corev1.Pod) []*corev1.Pod {
	var first, rest []*corev1.Pod
	seen := map[types.UID]bool{}
	for _, pod := range pods {
		owner := metav1.GetControllerOfNoCopy(pod)
		switch {
		case owner == nil:
			first = append(first, pod)
		case seen[owner.UID]:
			rest = append(rest, pod)
		default:
			seen[owner.UID] = true
			first = append(first, pod)
		}
	}
	return append(first, rest...)
}

// podWarnings says which pods of a namespace violate a rule, joining those that
// do it in the same way.
func podWarnings(ctx context.Context, namespace string, rule podsecurity.Rule, pods []*corev1.Pod) []string {
	type offence struct {
		first string // by name
		more  int
	}
	offences := map[string]*offence{}
	looked := 0
	for _, pod := range pods[:min(len(pods), podSecurityMaxPods)] {
		looked++
		found := podsecurity.Evaluate(rule, &pod.ObjectMeta, &pod.Spec)
		if found.None() {
			continue
		}
		if o := offences[found.Reason()]; o != nil {
			o.first, o.more = min(o.first, pod.Name), o.more+1
		} else {
			offences[found.Reason()] = &offence{first: pod.Name}
		}
		if ctx.Err() != nil {
			break
		}
	}
	var lines []string
	for reason, o := range offences {
		switch o.more {
		case 0:
			lines = append(lines, o.first+": "+reason)
		case 1:
			lines = append(lines, o.first+" (and 1 other pod): "+reason)
		default:
			lines = append(lines, fmt.Sprintf("%s (and %d other pods): %s", o.first, o.more, reason))
		}
	}
	slices.Sort(lines)
	var head []string
	if looked < len(pods) {
		head = append(head, fmt.Sprintf("new PodSecurity enforce level only checked against the first %d of %d existing pods", looked, len(pods)))
	}
	if len(lines) > 0 {
		head = append(head, fmt.Sprintf("existing pods in namespace %q violate the new PodSecurity enforce level %q", namespace, rule))
	}
	return append(head, lines...)
}
