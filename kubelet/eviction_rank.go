package kubelet

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"

	"tinykube/api/requests"
)

// Who has to go when something runs short is decided here, by pure functions:
//
//	memory   over its request?   lower priority   more above its request
//	disk     over its request?   lower priority   more above its request
//	pids                         lower priority   more processes
//
// The class of service is no part of it, but it shows: who requests nothing is
// always over its request.

// candidate is a pod that could be evicted, and what it uses.
type candidate struct {
	pod   *corev1.Pod
	usage podUsage
}

// podUsage is what was measured of a pod.
type podUsage struct {
	known      bool // false: the runtime says nothing of it
	processes  int64
	containers []containerUse
	volumes    map[string]fsUse // what its volumes hold on the node's disk
}

type containerUse struct {
	name         string
	memory       int64 // working set
	rootfs, logs fsUse
}

type fsUse struct{ bytes, inodes int64 }

// fsPart says which of a pod's files lie on the filesystem that is short.
type fsPart struct{ rootfs, logsAndVolumes bool }

func (u *podUsage) memory() (total int64) {
	for _, c := range u.containers {
		total += c.memory
	}
	return total
}

// disk sums bytes or inodes over the parts.
func (u *podUsage) disk(parts fsPart, of corev1.ResourceName) (total int64) {
	add := func(use fsUse) {
		if of == resourceInodes {
			total += use.inodes
		} else {
			total += use.bytes
		}
	}
	for _, c := range u.containers {
		if parts.rootfs {
			add(c.rootfs)
		}
		if parts.logsAndVolumes {
			add(c.logs)
		}
	}
	if parts.logsAndVolumes {
		for _, v := range u.volumes {
			add(v)
		}
	}
	return total
}

// rankForEviction sorts the pods; the first has to go first.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/eviction/helpers.go rankMemoryPressure,
// rankDiskPressureFunc, rankPIDPressure.
func rankForEviction(pods []candidate, of corev1.ResourceName, parts fsPart) {
	used := func(c *candidate) int64 {
		switch of {
		case corev1.ResourceMemory:
			return c.usage.memory()
		case resourcePIDs:
			return c.usage.processes
		}
		return c.usage.disk(parts, of)
	}
	requested := func(c *candidate) int64 {
		q := requests.Pod(c.pod)[of] // nobody requests inodes or processes
		return q.Value()
	}
	slices.SortStableFunc(pods, func(a, b candidate) int {
		if !a.usage.known || !b.usage.known { // nobody can say that it is innocent
			return compareBools(!a.usage.known, !b.usage.known)
		}
		overA, overB := used(&a)-requested(&a), used(&b)-requested(&b)
		exceeds := compareBools(overA > 0, overB > 0)
		if of == resourcePIDs {
			exceeds = 0
		}
		return cmp.Or(exceeds, cmp.Compare(priority(a.pod), priority(b.pod)), cmp.Compare(overB, overA))
	})
}

// compareBools puts true first.
func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

func priority(pod *corev1.Pod) int32 { return ptr.Deref(pod.Spec.Priority, 0) }

// isCritical pods are never evicted, and others make room for them: without
// them the node or the cluster does not work.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/types/pod_update.go IsCriticalPod.
func isCritical(pod *corev1.Pod) bool {
	const systemCriticalPriority = 2_000_000_000
	return isStatic(pod) || isMirror(pod) || priority(pod) >= systemCriticalPriority
}

// evictionMessage says why, in upstream's words: people search for them.
func evictionMessage(c candidate, of corev1.ResourceName, met []threshold, seen map[signal]observation) string {
	var b strings.Builder
	fmt.Fprintf(&b, "The node was low on resource: %s. ", of)
	for _, t := range met {
		if kind := signals[t.signal]; kind.resource == of {
			o := seen[t.signal]
			fmt.Fprintf(&b, "Threshold quantity: %s, available: %s. ",
				resource.NewQuantity(t.value.of(o.capacity), kind.format), resource.NewQuantity(o.available, kind.format))
			break
		}
	}
	if of != corev1.ResourceMemory && of != corev1.ResourceEphemeralStorage {
		return b.String()
	}
	for _, use := range c.usage.containers {
		spec := findContainer(c.pod, use.name)
		if spec == nil || isEphemeral(c.pod, use.name) { // those cannot request anything
			continue
		}
		used, request := use.memory, spec.Resources.Requests[of]
		if of == corev1.ResourceEphemeralStorage {
			used = use.rootfs.bytes + use.logs.bytes
		}
		if used > request.Value() {
			fmt.Fprintf(&b, "Container %s was using %s, request is %s, has larger consumption of %s. ",
				use.name, resource.NewQuantity(used, resource.BinarySI), request.String(), of)
		}
	}
	return b.String()
}

// storageLimitBroken finds the local-storage limit that a pod exceeds, if any:
// nothing in the kernel holds it to them, so the kubelet does.
func storageLimitBroken(c candidate, rootfsHere bool) (message string, broken bool) {
	for _, v := range c.pod.Spec.Volumes {
		if v.EmptyDir == nil || v.EmptyDir.SizeLimit == nil || v.EmptyDir.SizeLimit.Sign() <= 0 {
			continue
		}
		if limit := v.EmptyDir.SizeLimit; c.usage.volumes[v.Name].bytes > limit.Value() {
			return fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, limit), true
		}
	}
	all := fsPart{rootfs: true, logsAndVolumes: true}
	if limit, found := requests.Limits(c.pod)[corev1.ResourceEphemeralStorage]; found &&
		c.usage.disk(all, corev1.ResourceEphemeralStorage) > limit.Value() {
		return fmt.Sprintf("Pod ephemeral local storage usage exceeds the total limit of containers %s. ", limit.String()), true
	}
	for _, use := range c.usage.containers {
		spec, used := findContainer(c.pod, use.name), use.logs.bytes
		if rootfsHere {
			used += use.rootfs.bytes
		}
		if spec == nil || isInit(c.pod, use.name) {
			continue
		}
		if limit := spec.Resources.Limits.StorageEphemeral(); limit.Value() > 0 && used > limit.Value() {
			return fmt.Sprintf("Container %s exceeded its local ephemeral storage limit %q. ", use.name, limit), true
		}
	}
	return "", false
}

// limitsStorage says whether a pod's files must be measured at all.
func limitsStorage(pod *corev1.Pod) bool {
	if _, found := requests.Limits(pod)[corev1.ResourceEphemeralStorage]; found {
		return true
	}
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
		return v.EmptyDir != nil && v.EmptyDir.SizeLimit != nil
	})
}
