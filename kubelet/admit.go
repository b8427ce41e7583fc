package kubelet

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"tinykube/api/requests"
)

// rejection is why a pod may not run on this node, as its status will say.
type rejection struct{ reason, message string }

// safeSysctls are those that a pod may set without asking: they live in its
// namespaces and hurt nobody else.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/sysctl/safe_sysctls.go.
var safeSysctls = []string{"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies",
	"net.ipv4.ping_group_range", "net.ipv4.ip_unprivileged_port_start", "net.ipv4.ip_local_reserved_ports",
	"net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl",
	"net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"}

// admit is the node's last word on a new pod: the scheduler may have been
// bypassed or may have known less. A pod that runs already, from before a
// restart, is not asked again.
//
// Simplified: room and sysctls; node affinity and taints are the scheduler's
// alone, and a critical static pod makes no room for itself.
func (w *worker) admit(pod *corev1.Pod, seen *observedPod) *rejection {
	if w.admitted {
		return nil
	}
	k := w.k
	running := seen.alive()
	if r := k.admitSysctls(pod); r != nil && !running {
		return r
	}
	// One at a time, so that two newcomers cannot share the last free place.
	k.mu.Lock()
	defer k.mu.Unlock()
	var others []*corev1.Pod
	for _, other := range k.workers {
		if other == w {
			continue
		}
		other.mu.Lock()
		if other.placed && !isTerminal(other.status.Phase) {
			others = append(others, other.pod)
		}
		other.mu.Unlock()
	}
	if !isStatic(pod) && !running {
		if r := fits(pod, others, k.allocatable()); r != nil {
			return r
		}
	}
	if err := k.cgroups.setBurstableShares(append(others, pod)); err != nil {
		k.log.Warn("weight of the burstable pods", "err", err)
	}
	w.admitted = true
	w.mu.Lock()
	w.placed = true
	w.mu.Unlock()
	return nil
}

// fits checks the pod against what the node has left.
func fits(pod *corev1.Pod, others []*corev1.Pod, allocatable corev1.ResourceList) *rejection {
	if limit := allocatable.Pods().Value(); limit > 0 && int64(len(others)) >= limit {
		return &rejection{"OutOfpods", fmt.Sprintf("Pod was rejected: Node didn't have enough resource: pods, requested: 1, used: %d, capacity: %d", len(others), limit)}
	}
	wanted := requests.Pod(pod)
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		request, room := wanted[name], allocatable[name]
		if request.IsZero() {
			continue
		}
		used := sumOf(others, name)
		value := request.Value
		inUse, has := used.Value(), room.Value()
		if name == corev1.ResourceCPU {
			value, inUse, has = request.MilliValue, used.MilliValue(), room.MilliValue()
		}
		if value()+inUse > has {
			return &rejection{"OutOf" + string(name), fmt.Sprintf(
				"Pod was rejected: Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", name, value(), inUse, has)}
		}
	}
	return nil
}

func (k *Kubelet) admitSysctls(pod *corev1.Pod) *rejection {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	for _, s := range pod.Spec.SecurityContext.Sysctls {
		name := sysctlName(s.Name)
		allowed := slices.Contains(safeSysctls, name) || slices.ContainsFunc(k.cfg.AllowedUnsafeSysctls, func(pattern string) bool {
			prefix, wild := strings.CutSuffix(pattern, "*")
			return name == pattern || wild && strings.HasPrefix(name, prefix)
		})
		switch {
		case !allowed:
			return &rejection{"SysctlForbidden", fmt.Sprintf("forbidden sysctl: %q not allowlisted", s.Name)}
		case pod.Spec.HostNetwork && strings.HasPrefix(name, "net."):
			return &rejection{"SysctlForbidden", fmt.Sprintf("forbidden sysctl: %q not allowed with host net enabled", s.Name)}
		}
	}
	return nil
}
