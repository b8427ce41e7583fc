// Package qos says what a pod's requests and limits make of it: its quality of
// service class, and how readily the kernel may kill it.
//
//	every container: limit == request, cpu and memory  → Guaranteed
//	no container has any cpu or memory request or limit → BestEffort
//	otherwise                                           → Burstable
//
// Three components must agree on this: the API server writes it into the
// status, the scheduler and quota count by it, the kubelet makes cgroups of it.
package qos

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Of returns the pod's class, computed from its spec: a status is an opinion
// that may come from anywhere.
//
// Upstream: kubernetes@v1.36 pkg/apis/core/v1/helper/qos ComputePodQOS.
func Of(pod *corev1.Pod) corev1.PodQOSClass {
	if pod.Spec.Resources != nil && (len(pod.Spec.Resources.Requests) > 0 || len(pod.Spec.Resources.Limits) > 0) {
		return class([]corev1.ResourceRequirements{*pod.Spec.Resources})
	}
	var all []corev1.ResourceRequirements
	for _, c := range pod.Spec.InitContainers {
		all = append(all, c.Resources)
	}
	for _, c := range pod.Spec.Containers {
		all = append(all, c.Resources)
	}
	return class(all)
}

// class compares totals, as upstream does: Guaranteed needs both limits in
// every container and requests that add up to the same.
func class(all []corev1.ResourceRequirements) corev1.PodQOSClass {
	requests, limits := corev1.ResourceList{}, corev1.ResourceList{}
	guaranteed := len(all) > 0
	for _, r := range all {
		add(requests, r.Requests)
		if add(limits, r.Limits) < 2 {
			guaranteed = false
		}
	}
	if len(requests) == 0 && len(limits) == 0 {
		return corev1.PodQOSBestEffort
	}
	for name, request := range requests {
		if limit, found := limits[name]; !found || limit.Cmp(request) != 0 {
			guaranteed = false
		}
	}
	if guaranteed && len(requests) == len(limits) {
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

// add sums cpu and memory into total and returns how many of the two were set.
// A quantity of zero is not set.
func add(total, values corev1.ResourceList) int {
	set := 0
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		q, found := values[name]
		if !found || q.Sign() <= 0 {
			continue
		}
		set++
		sum := total[name]
		sum.Add(q)
		total[name] = sum
	}
	return set
}

// The scores the kernel adds to a process's badness when memory runs out.
const (
	oomGuaranteed = -997
	oomBestEffort = 1000
)

// OOMScoreAdj is the container's oom_score_adj: the more of the machine's
// memory it asked for, the later it dies. What it asked for it may use, so a
// container that stays within its request is killed after those that do not.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/qos/policy.go GetContainerOOMScoreAdjust.
func OOMScoreAdj(pod *corev1.Pod, container *corev1.Container, memoryCapacity int64) int64 {
	if critical(pod) {
		return oomGuaranteed
	}
	switch Of(pod) {
	case corev1.PodQOSGuaranteed:
		return oomGuaranteed
	case corev1.PodQOSBestEffort:
		return oomBestEffort
	}
	request := resource.Quantity{}
	if q, found := container.Resources.Requests[corev1.ResourceMemory]; found {
		request = q
	}
	score := int64(oomBestEffort)
	if memoryCapacity > 0 {
		score = 1000 - 1000*request.Value()/memoryCapacity
	}
	// A sidecar must not outlive the container that it serves by much, nor die
	// long before it: it gets the smallest score among the pod's containers.
	if isSidecar(pod, container) {
		for i := range pod.Spec.Containers {
			score = min(score, OOMScoreAdj(pod, &pod.Spec.Containers[i], memoryCapacity))
		}
	}
	// Burstable stays strictly between the two other classes.
	return min(max(score, 1000+oomGuaranteed), oomBestEffort-1)
}

func isSidecar(pod *corev1.Pod, container *corev1.Container) bool {
	if container.RestartPolicy == nil || *container.RestartPolicy != corev1.ContainerRestartPolicyAlways {
		return false
	}
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == container.Name {
			return true
		}
	}
	return false
}

// critical pods (the node's own, by priority) are protected like Guaranteed.
func critical(pod *corev1.Pod) bool {
	return pod.Spec.Priority != nil && *pod.Spec.Priority >= 2000001000
}
