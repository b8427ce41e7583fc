package kubelet

import (
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"tinykube/api/qos"
	"tinykube/api/requests"
)

// The kernel's units: a CPU is 1024 shares, a quota counts microseconds of CPU
// per period of 100 ms.
const (
	sharesPerCPU = 1024
	minShares    = 2
	maxShares    = 262144
	quotaPeriod  = 100000
	minQuota     = 1000
	milliPerCPU  = 1000
)

// containerResources turns requests and limits into what the kernel enforces:
// a request is a weight (who gets the CPU when all want it), a limit is a cap.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/kuberuntime calculateLinuxResources.
func (k *Kubelet) containerResources(pod *corev1.Pod, c *corev1.Container) *runtimeapi.LinuxContainerResources {
	request, requested := c.Resources.Requests[corev1.ResourceCPU]
	limit := c.Resources.Limits[corev1.ResourceCPU]
	if !requested {
		request = limit
	}
	memory := c.Resources.Limits[corev1.ResourceMemory]
	out := &runtimeapi.LinuxContainerResources{
		CpuShares:          cpuShares(request.MilliValue()),
		MemoryLimitInBytes: memory.Value(),
		OomScoreAdj:        qos.OOMScoreAdj(pod, c, k.capacity.Memory().Value()),
	}
	if !limit.IsZero() {
		out.CpuPeriod, out.CpuQuota = quotaPeriod, cpuQuota(limit.MilliValue())
	}
	// On cgroup v2 a container dies as a whole when it is out of memory; half
	// a container is harder to restart than none.
	if k.cgroups.unified() && !k.cfg.OOMPerProcess {
		out.Unified = map[string]string{"memory.oom.group": "1"}
	}
	return k.cgroups.quota(out)
}

// podResources is the same for the pod as a whole: its cgroup, which caps what
// the containers do together. A sum exists only if every container has a limit.
//
// LAB 16 resources: a request is a weight, a limit a cap; what nobody has said
// is left out. requests.Pod and podLimits have added up already.
func podResources(pod *corev1.Pod) *runtimeapi.LinuxContainerResources {
	request, limits := requests.Pod(pod), podLimits(pod)
	out := &runtimeapi.LinuxContainerResources{CpuShares: cpuShares(request.Cpu().MilliValue())}
	if cpu, found := limits[corev1.ResourceCPU]; found {
		out.CpuPeriod, out.CpuQuota = quotaPeriod, cpuQuota(cpu.MilliValue())
	}
	if memory, found := limits[corev1.ResourceMemory]; found {
		out.MemoryLimitInBytes = memory.Value()
	}
	return out
}

// podLimits keeps a summed limit only where all containers declare one.
func podLimits(pod *corev1.Pod) corev1.ResourceList {
	limits := requests.Limits(pod)
	for _, c := range append(append([]corev1.Container(nil), pod.Spec.InitContainers...), pod.Spec.Containers...) {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			podLevel := pod.Spec.Resources != nil && !zero(pod.Spec.Resources.Limits, name)
			if zero(c.Resources.Limits, name) && !podLevel {
				delete(limits, name)
			}
		}
	}
	return limits
}

func zero(list corev1.ResourceList, name corev1.ResourceName) bool {
	q, found := list[name]
	return !found || q.IsZero()
}

func cpuShares(milli int64) int64 {
	return min(max(milli*sharesPerCPU/milliPerCPU, minShares), maxShares)
}

func cpuQuota(milli int64) int64 {
	return max(milli*quotaPeriod/milliPerCPU, minQuota)
}
