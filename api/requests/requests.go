// Package requests adds up what a pod asks of its node.
//
// A pod is not simply the sum of its containers. Init containers run one after
// another before the others, so they count as a maximum; those that stay
// (restartPolicy: Always, "sidecars") count like ordinary containers, and also
// beside each init container that starts after them:
//
//	init a ──┐
//	         sidecar b ──────────────────────────►   b stays
//	                  init c ──┐
//	                           containers d, e ──►
//
//	requests = max( a, b + c, b + d + e ) + overhead
//
// Pod-level resources (spec.resources) replace that sum where they are given.
// The scheduler, the kubelet's admission and eviction, quota and `describe`
// must all agree on this number, so it is computed here and nowhere else.
package requests

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Pod is what the pod requests of a node.
//
// Upstream: kubernetes/component-helpers resource PodRequests
func Pod(pod *corev1.Pod) corev1.ResourceList {
	return PodAssuming(pod, nil)
}

// PodAssuming is Pod, where each container that does not name a resource of
// missing is counted as if it had asked for that much. The scheduler scores
// with such assumptions, so that pods which ask for nothing still spread.
func PodAssuming(pod *corev1.Pod, missing corev1.ResourceList) corev1.ResourceList {
	total := sum(pod, func(c *corev1.Container, status *corev1.ContainerStatus) corev1.ResourceList {
		return withMissing(containerRequests(pod, c, status), missing)
	})
	if pod.Spec.Resources != nil {
		overrideByPodLevel(total, pod.Spec.Resources.Requests)
	}
	add(total, pod.Spec.Overhead)
	return total
}

// Limits is the most the pod may use. Overhead only raises limits which exist.
//
// Upstream: kubernetes/component-helpers resource PodLimits
func Limits(pod *corev1.Pod) corev1.ResourceList {
	total := sum(pod, func(c *corev1.Container, _ *corev1.ContainerStatus) corev1.ResourceList {
		return c.Resources.Limits
	})
	if pod.Spec.Resources != nil {
		overrideByPodLevel(total, pod.Spec.Resources.Limits)
	}
	for name, extra := range pod.Spec.Overhead {
		if limit, ok := total[name]; ok && !limit.IsZero() {
			limit.Add(extra)
			total[name] = limit
		}
	}
	return total
}

// sum is the formula of the package comment over any per-container amount.
func sum(pod *corev1.Pod, of func(*corev1.Container, *corev1.ContainerStatus) corev1.ResourceList) corev1.ResourceList {
	total, sidecars, peak := corev1.ResourceList{}, corev1.ResourceList{}, corev1.ResourceList{}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		add(total, of(c, statusOf(pod.Status.ContainerStatuses, c.Name)))
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if IsSidecar(c) {
			own := of(c, statusOf(pod.Status.InitContainerStatuses, c.Name))
			add(total, own)
			add(sidecars, own)
			raise(peak, sidecars)
			continue
		}
		while := sidecars.DeepCopy()
		add(while, of(c, nil))
		raise(peak, while)
	}
	raise(total, peak)
	return total
}

// IsSidecar says whether an init container keeps running beside the others.
func IsSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// containerRequests is the most of what is asked, what the kubelet has
// promised, and what is in force: during a resize in place all three may
// differ, and the node must be able to give any of them. A resize that can
// never happen does not count.
func containerRequests(pod *corev1.Pod, c *corev1.Container, status *corev1.ContainerStatus) corev1.ResourceList {
	if status == nil || status.Resources == nil {
		return c.Resources.Requests
	}
	most := status.Resources.Requests.DeepCopy()
	if most == nil {
		most = corev1.ResourceList{}
	}
	raise(most, status.AllocatedResources)
	if !resizeInfeasible(pod) {
		raise(most, c.Resources.Requests)
	}
	return most
}

func resizeInfeasible(pod *corev1.Pod) bool {
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == corev1.PodResizePending {
			return c.Reason == corev1.PodReasonInfeasible
		}
	}
	return false
}

func statusOf(statuses []corev1.ContainerStatus, name string) *corev1.ContainerStatus {
	for i := range statuses {
		if statuses[i].Name == name {
			return &statuses[i]
		}
	}
	return nil
}

func withMissing(list, missing corev1.ResourceList) corev1.ResourceList {
	copied := false
	for name, assumed := range missing {
		if _, named := list[name]; named {
			continue
		}
		if !copied {
			full := make(corev1.ResourceList, len(list)+len(missing))
			add(full, list)
			list, copied = full, true
		}
		list[name] = assumed
	}
	return list
}

// overrideByPodLevel lets spec.resources win for the kinds that can be given
// to a whole pod.
func overrideByPodLevel(total, podLevel corev1.ResourceList) {
	for name, q := range podLevel {
		if name == corev1.ResourceCPU || name == corev1.ResourceMemory ||
			strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) {
			total[name] = q.DeepCopy()
		}
	}
}

func add(total, more corev1.ResourceList) {
	for name, q := range more {
		have, ok := total[name]
		if !ok {
			have = resource.Quantity{Format: q.Format}
		}
		have.Add(q)
		total[name] = have
	}
}

func raise(total, atLeast corev1.ResourceList) {
	for name, q := range atLeast {
		if have, ok := total[name]; !ok || have.Cmp(q) < 0 {
			total[name] = q.DeepCopy()
		}
	}
}
