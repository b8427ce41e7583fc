package resources

import (
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"tinykube/api/qos"
	"tinykube/api/validation"
)

func podRow() *Row {
	return kind[corev1.Pod, corev1.PodList](Row{
		ShortNames: names("po"), Categories: all, Namespaced: true, Status: true,
		Strategy: lifecycle(true).
			afterCreate(on(preparePod)).
			afterStatus(onUpdate(preparePodStatus)).
			with(func(s *Strategy) { s.GracePeriod = podGracePeriod }),
		Subresources: []Subresource{
			{Name: "attach", Kind: "PodAttachOptions", Verbs: []string{"create", "get"}},
			{Name: "binding", Kind: "Binding", Verbs: []string{"create"}},
			{Name: "ephemeralcontainers", Kind: "Pod", Verbs: updateVerbs, Prepare: onUpdate(keepAllButEphemeral), ValidateUpdate: checkUpdate(validation.PodEphemeralUpdate)},
			{Name: "eviction", Group: "policy", Version: "v1", Kind: "Eviction", Verbs: []string{"create"}},
			{Name: "exec", Kind: "PodExecOptions", Verbs: []string{"create", "get"}},
			{Name: "log", Kind: "Pod", Verbs: []string{"get"}},
			{Name: "portforward", Kind: "PodPortForwardOptions", Verbs: []string{"create", "get"}},
			{Name: "proxy", Kind: "PodProxyOptions", Verbs: proxyVerbs},
			{Name: "resize", Kind: "Pod", Verbs: updateVerbs, Prepare: onUpdate(keepAllButResources), ValidateUpdate: checkUpdate(validation.PodResizeUpdate)},
		},
		SelectableFields: selectable(podFields),
		OldFields:        map[string]string{"spec.host": "spec.nodeName"},
		RowConditions:    podCompleted,
	}).prints(podColumns, cells(podCells)).warns(onCreate(validation.PodWarnings)).returnsDeleted().
		validates(check(validation.Pod), checkUpdate(validation.PodUpdate)).
		validatesStatus(checkUpdate(validation.PodStatusUpdate))
}

// podFields are the fields by which kubelets (spec.nodeName) and people
// (status.phase) choose pods.
func podFields(pod *corev1.Pod) fields.Set {
	return fields.Set{
		"spec.nodeName":            pod.Spec.NodeName,
		"spec.restartPolicy":       string(pod.Spec.RestartPolicy),
		"spec.schedulerName":       pod.Spec.SchedulerName,
		"spec.serviceAccountName":  pod.Spec.ServiceAccountName,
		"spec.hostNetwork":         strconv.FormatBool(pod.Spec.HostNetwork),
		"status.phase":             string(pod.Status.Phase),
		"status.podIP":             pod.Status.PodIP,
		"status.podIPs":            "", // a name that is known, and selects nothing
		"status.nominatedNodeName": pod.Status.NominatedNodeName,
	}
}

// preparePod gives a new pod the only status that is the API server's to give.
//
// Upstream: kubernetes@v1.36 pkg/registry/core/pod/strategy.go PrepareForCreate
func preparePod(pod *corev1.Pod) {
	pod.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: qos.Of(pod)}
	if len(pod.Spec.SchedulingGates) > 0 {
		pod.Status.Conditions = []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonSchedulingGated,
			Message: "Scheduling is blocked due to non-empty scheduling gates",
		}}
	}
	for i := range pod.Spec.TopologySpreadConstraints {
		c := &pod.Spec.TopologySpreadConstraints[i]
		requireLabels(c.LabelSelector, c.MatchLabelKeys, metav1.LabelSelectorOpIn, pod.Labels)
	}
	for _, term := range podAffinityTerms(pod.Spec.Affinity) {
		requireLabels(term.LabelSelector, term.MatchLabelKeys, metav1.LabelSelectorOpIn, pod.Labels)
		requireLabels(term.LabelSelector, term.MismatchLabelKeys, metav1.LabelSelectorOpNotIn, pod.Labels)
	}
}

// requireLabels resolves matchLabelKeys once, at creation: the pod's own
// values of these labels become part of the selector.
func requireLabels(selector *metav1.LabelSelector, keys []string, operator metav1.LabelSelectorOperator, labels map[string]string) {
	if selector == nil { // matches nothing, with or without
		return
	}
	for _, key := range keys {
		if value, ok := labels[key]; ok {
			selector.MatchExpressions = append(selector.MatchExpressions,
				metav1.LabelSelectorRequirement{Key: key, Operator: operator, Values: []string{value}})
		}
	}
}

func podAffinityTerms(a *corev1.Affinity) []*corev1.PodAffinityTerm {
	var terms []*corev1.PodAffinityTerm
	add := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) {
		for i := range required {
			terms = append(terms, &required[i])
		}
		for i := range preferred {
			terms = append(terms, &preferred[i].PodAffinityTerm)
		}
	}
	if a != nil && a.PodAffinity != nil {
		add(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if a != nil && a.PodAntiAffinity != nil {
		add(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return terms
}

// preparePodStatus lets a status write change metadata, but not what deletion
// and ownership hang on.
func preparePodStatus(pod, old *corev1.Pod) {
	pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = old.DeletionTimestamp, old.DeletionGracePeriodSeconds
	pod.OwnerReferences = old.OwnerReferences
	if pod.Status.QOSClass == "" {
		pod.Status.QOSClass = old.Status.QOSClass
	}
	if pod.Status.ObservedGeneration == 0 {
		pod.Status.ObservedGeneration = old.Status.ObservedGeneration
	}
}

// podGracePeriod: what the client asks for, else what the spec says; nobody
// has to be waited for if no kubelet knows the pod or all has ended.
//
// Upstream: kubernetes@v1.36 pkg/registry/core/pod/strategy.go CheckGracefulDelete
func podGracePeriod(obj Object, options *metav1.DeleteOptions) int64 {
	pod := obj.(*corev1.Pod)
	var seconds int64
	switch {
	case pod.Spec.NodeName == "", pod.Status.Phase == corev1.PodFailed, pod.Status.Phase == corev1.PodSucceeded:
		return 0
	case options != nil && options.GracePeriodSeconds != nil:
		seconds = *options.GracePeriodSeconds
	case pod.Spec.TerminationGracePeriodSeconds != nil:
		seconds = *pod.Spec.TerminationGracePeriodSeconds
	}
	if seconds < 0 {
		return 1
	}
	return seconds
}

func keepAllButEphemeral(pod, old *corev1.Pod) {
	added := pod.Spec.EphemeralContainers
	pod.Spec, pod.Status = old.Spec, old.Status
	pod.Spec.EphemeralContainers = added
	restoreMeta(pod, old)
}

// keepAllButResources lets /resize change resources and their resize policy.
// Containers that do not line up are left as they are, for validation to
// refuse.
func keepAllButResources(pod, old *corev1.Pod) {
	wanted := pod.Spec
	if !sameNames(wanted.Containers, old.Spec.Containers) || !sameNames(wanted.InitContainers, old.Spec.InitContainers) {
		return
	}
	pod.Spec, pod.Status = *old.Spec.DeepCopy(), old.Status
	pod.Spec.Resources = wanted.Resources
	for i := range wanted.Containers {
		pod.Spec.Containers[i].Resources = wanted.Containers[i].Resources
		pod.Spec.Containers[i].ResizePolicy = wanted.Containers[i].ResizePolicy
	}
	for i := range wanted.InitContainers {
		pod.Spec.InitContainers[i].Resources = wanted.InitContainers[i].Resources
		pod.Spec.InitContainers[i].ResizePolicy = wanted.InitContainers[i].ResizePolicy
	}
	restoreMeta(pod, old)
}

func sameNames(a, b []corev1.Container) bool {
	return slices.EqualFunc(a, b, func(a, b corev1.Container) bool { return a.Name == b.Name })
}

// restoreMeta undoes changes of metadata and counts a changed spec.
func restoreMeta(pod, old *corev1.Pod) {
	metav1.ResetObjectMetaForStatus(&pod.ObjectMeta, &old.ObjectMeta)
	pod.Generation = old.Generation
	if !equality.Semantic.DeepEqual(pod.Spec, old.Spec) {
		pod.Generation++
	}
}
