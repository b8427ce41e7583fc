package kubelet

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
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
	has := effective(pod, c)
	request, requested := has.Requests[corev1.ResourceCPU]
	limit := has.Limits[corev1.ResourceCPU]
	if !requested {
		request = limit
	}
	memory := has.Limits[corev1.ResourceMemory]
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
// is left out. specRequests and podLimits have added up already.
func podResources(pod *corev1.Pod) *runtimeapi.LinuxContainerResources {
	request, limits := specRequests(pod), podLimits(pod)
	out := &runtimeapi.LinuxContainerResources{CpuShares: cpuShares(request.Cpu().MilliValue())}
	if cpu, found := limits[corev1.ResourceCPU]; found {
		out.CpuPeriod, out.CpuQuota = quotaPeriod, cpuQuota(cpu.MilliValue())
	}
	if memory, found := limits[corev1.ResourceMemory]; found {
		out.MemoryLimitInBytes = memory.Value()
	}
	return out
}

// actualResources is what a running container may use as the runtime has it,
// where that can be told: a request of memory is known to nobody but us.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/kubelet_pods.go convertContainerStatusResources,
// whose least amounts of CPU these are.
func actualResources(c *corev1.Container, latest *observedContainer) *corev1.ResourceRequirements {
	const leastLimit, leastRequest = 10, 2
	out := c.Resources.DeepCopy()
	linux := latest.Resources.GetLinux()
	if !latest.running() || linux == nil {
		return out
	}
	if limit := milliOfQuota(linux); out.Limits != nil && limit > 0 && (limit > leastLimit || out.Limits.Cpu().MilliValue() > leastLimit) {
		out.Limits[corev1.ResourceCPU] = *resource.NewMilliQuantity(limit, resource.DecimalSI)
	}
	if out.Limits != nil && linux.MemoryLimitInBytes > 0 {
		out.Limits[corev1.ResourceMemory] = *resource.NewQuantity(linux.MemoryLimitInBytes, resource.BinarySI)
	}
	if request := milliOfShares(linux); out.Requests != nil && request > 0 && (request > leastRequest || out.Requests.Cpu().MilliValue() > leastRequest) {
		out.Requests[corev1.ResourceCPU] = *resource.NewMilliQuantity(request, resource.DecimalSI)
	}
	if out.Requests != nil && latest.given != nil && !zero(latest.given.Requests, corev1.ResourceMemory) {
		out.Requests[corev1.ResourceMemory] = latest.given.Requests[corev1.ResourceMemory]
	}
	return out
}

// setResources tells what the pod as a whole has been given.
//
// Simplified: it is what the pod asked for. Upstream reads what its group has.
func setResources(status *corev1.PodStatus, pod *corev1.Pod) {
	status.AllocatedResources = specRequests(pod)
	status.Resources = &corev1.ResourceRequirements{Requests: specRequests(pod), Limits: requests.Limits(pod)}
	if pod.Status.Phase == corev1.PodRunning { // a group has a limit when all that is in it have one
		status.Resources.Limits = podLimits(pod)
	}
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

// milliOfShares and milliOfQuota are the way back; 0 is none.
func milliOfShares(r *runtimeapi.LinuxContainerResources) int64 {
	if r.CpuShares < minShares {
		return 0
	}
	return (r.CpuShares*milliPerCPU + sharesPerCPU - 1) / sharesPerCPU
}

func milliOfQuota(r *runtimeapi.LinuxContainerResources) int64 {
	if r.CpuPeriod <= 0 || r.CpuQuota <= 0 {
		return 0
	}
	return r.CpuQuota * milliPerCPU / r.CpuPeriod
}

func cpuQuota(milli int64) int64 {
	return max(milli*quotaPeriod/milliPerCPU, minQuota)
}
