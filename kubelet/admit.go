package kubelet

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"tinykube/api/placement"
	"tinykube/api/requests"
	"tinykube/client"
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
// restart, is not asked again. An error means: ask again soon, others are
// making room.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/lifecycle/predicate.go, and the admit
// handlers that pkg/kubelet/kubelet.go NewMainKubelet adds.
func (w *worker) admit(ctx context.Context, pod *corev1.Pod, seen *observedPod) (*rejection, error) {
	if w.admitted {
		return nil, nil
	}
	k := w.k
	running := seen.alive()
	if !running {
		for _, refuses := range []func(*corev1.Pod) *rejection{k.shutdown.admit, k.evictor.admit, k.admitSysctls} {
			if r := refuses(pod); r != nil {
				return r, nil
			}
		}
		if r, err := k.admitNode(ctx, pod); r != nil || err != nil {
			return r, err
		}
	}
	// One at a time, so that two newcomers cannot share the last free place.
	k.mu.Lock()
	defer k.mu.Unlock()
	others, staying := k.placedPods(w)
	if !running {
		if short := shortages(pod, staying, k.allocatable()); len(short) > 0 {
			return k.makeRoom(pod, staying, short)
		}
		if r := freePorts(pod, staying); r != nil {
			return r, nil
		}
		// The scheduler knows already that those are going, or it would not have
		// sent this one. They are not gone yet.
		if len(shortages(pod, others, k.allocatable())) > 0 || freePorts(pod, others) != nil {
			return nil, errMakingRoom
		}
	}
	if err := k.cgroups.setBurstableShares(append(others, pod)); err != nil {
		k.log.Warn("weight of the burstable pods", "err", err)
	}
	if _, known := k.allocated.of(pod.UID); !known {
		if err := k.allocated.set(pod.UID, grantOf(pod)); err != nil {
			return nil, err
		}
	}
	w.admitted = true
	w.mu.Lock()
	w.placed = true
	w.pod = k.allocatedPod(w.wanted) // it may ask for something else by now
	w.mu.Unlock()
	return nil, nil
}

// placedPods are the other pods that count against what the node has; staying
// are those of them that are not about to end. The caller holds mu.
func (k *Kubelet) placedPods(except *worker) (all, staying []*corev1.Pod) {
	for _, w := range k.workers {
		if w == except {
			continue
		}
		w.mu.Lock()
		if w.placed && !isTerminal(w.status.Phase) {
			all = append(all, w.pod)
			if w.ending == nil {
				staying = append(staying, w.pod)
			}
		}
		w.mu.Unlock()
	}
	return all, staying
}

// admitNode holds the pod against the node as the API knows it. On a node that
// is not registered there is nothing to hold it against. Before a pod is refused
// the API is asked anew: it may have been placed here for a label that we have
// not heard of yet.
func (k *Kubelet) admitNode(ctx context.Context, pod *corev1.Pod) (*rejection, error) {
	if os := pod.Spec.OS; os != nil && os.Name != corev1.Linux {
		return &rejection{"PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"}, nil
	}
	if os, found := pod.Labels[corev1.LabelOSStable]; found && os != string(corev1.Linux) {
		return &rejection{"PodOSSelectorNodeLabelDoesNotMatch", "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label"}, nil
	}
	if sc := pod.Spec.SecurityContext; sc != nil && sc.SupplementalGroupsPolicy != nil && *sc.SupplementalGroupsPolicy == corev1.SupplementalGroupsPolicyStrict && !k.node.strictGroups() {
		return &rejection{"SupplementalGroupsPolicyNotSupported", "SupplementalGroupsPolicy=Strict is not supported in this node"}, nil
	}
	node := k.registeredNode()
	if node == nil || unwelcome(pod, node) == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, nodeTimeout)
	defer cancel()
	node, err := client.For(k.client, client.Nodes).Get(ctx, "", node.Name)
	if err != nil {
		return nil, fmt.Errorf("does the node suit the pod: %w", err)
	}
	return unwelcome(pod, node), nil
}

// nodeTimeout bounds a question about the node; the pod will be looked at again.
const nodeTimeout = 10 * time.Second

// unwelcome says why a pod does not belong on a node.
func unwelcome(pod *corev1.Pod, node *corev1.Node) *rejection {
	if !placement.ForPod(pod).Match(node) {
		return &rejection{"NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"}
	}
	if !isStatic(pod) && placement.Untolerated(node.Spec.Taints, pod.Spec.Tolerations, corev1.TaintEffectNoExecute) != nil {
		return &rejection{"TaintToleration", "Predicate TaintToleration failed: node(s) had untolerated taint(s)"}
	}
	return nil
}

// shortage is a resource of which the pod wants more than is left.
type shortage struct {
	name                      corev1.ResourceName
	requested, used, capacity int64
}

func (s shortage) missing() int64 { return s.requested + s.used - s.capacity }

func (s shortage) rejection() *rejection {
	return &rejection{"OutOf" + string(s.name), fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d",
		s.name, s.requested, s.used, s.capacity)}
}

// requestOf is what a pod takes of a resource, CPU in thousandths.
func requestOf(pod *corev1.Pod, name corev1.ResourceName) int64 {
	q := requests.Pod(pod)[name]
	switch name {
	case corev1.ResourcePods:
		return 1
	case corev1.ResourceCPU:
		return q.MilliValue()
	}
	return q.Value()
}

// shortages holds the pod against what the node has left.
func shortages(pod *corev1.Pod, others []*corev1.Pod, allocatable corev1.ResourceList) []shortage {
	var out []shortage
	for _, name := range []corev1.ResourceName{corev1.ResourcePods, corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		s := shortage{name: name, requested: requestOf(pod, name)}
		room, bounded := allocatable[name]
		if s.capacity = room.Value(); name == corev1.ResourceCPU {
			s.capacity = room.MilliValue()
		}
		for _, other := range others {
			s.used += requestOf(other, name)
		}
		if s.requested > 0 && bounded && s.missing() > 0 {
			out = append(out, s)
		}
	}
	return out
}

// freePorts refuses a pod whose host ports are taken.
func freePorts(pod *corev1.Pod, others []*corev1.Pod) *rejection {
	for _, other := range others {
		for _, theirs := range hostPorts(other) {
			for _, ours := range hostPorts(pod) {
				anyAddress := ours.HostIP == "" || ours.HostIP == "0.0.0.0" || theirs.HostIP == "" || theirs.HostIP == "0.0.0.0"
				if ours.HostPort == theirs.HostPort && ours.Protocol == theirs.Protocol && (anyAddress || ours.HostIP == theirs.HostIP) {
					return &rejection{"NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"}
				}
			}
		}
	}
	return nil
}

func hostPorts(pod *corev1.Pod) (out []corev1.ContainerPort) {
	for _, c := range allContainers(pod) {
		for _, p := range c.Ports {
			if isInit(pod, c.Name) && !isSidecar(c) || p.HostPort == 0 && !pod.Spec.HostNetwork {
				continue
			}
			if p.HostPort == 0 {
				p.HostPort = p.ContainerPort
			}
			p.Protocol = corev1.Protocol(cmp.Or(string(p.Protocol), string(corev1.ProtocolTCP)))
			out = append(out, p)
		}
	}
	return out
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
