package kubelet

import (
	"fmt"
	"maps"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// logDir is where the runtime writes the logs of a pod's containers.
func (k *Kubelet) logDir(pod *corev1.Pod) string {
	return filepath.Join(k.cfg.PodLogsDir, pod.Namespace+"_"+pod.Name+"_"+string(pod.UID))
}

// sandboxConfig describes the pod to the runtime: what its containers share.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/kuberuntime generatePodSandboxConfig.
func (k *Kubelet) sandboxConfig(pod *corev1.Pod, userns *runtimeapi.UserNamespace, attempt uint32) *runtimeapi.PodSandboxConfig {
	bare := *pod // a runtime that has overhead is told of it apart
	bare.Spec.Overhead = nil
	config := &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{
			Name: pod.Name, Namespace: pod.Namespace, Uid: string(pod.UID), Attempt: attempt},
		LogDirectory: k.logDir(pod),
		DnsConfig:    podDNS(pod, k.cfg),
		Labels:       podLabels(pod),
		Annotations:  maps.Clone(pod.Annotations),
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent:    k.cgroups.parent(pod),
			SecurityContext: sandboxSecurity(pod, userns),
			Sysctls:         map[string]string{},
			Resources:       k.cgroups.quota(podResources(&bare)),
		},
	}
	if overhead := pod.Spec.Overhead; len(overhead) > 0 {
		config.Linux.Overhead = &runtimeapi.LinuxContainerResources{CpuShares: cpuShares(overhead.Cpu().MilliValue()),
			CpuPeriod: quotaPeriod, CpuQuota: cpuQuota(overhead.Cpu().MilliValue()), MemoryLimitInBytes: overhead.Memory().Value()}
	}
	if !pod.Spec.HostNetwork {
		config.Hostname, _ = podHostname(pod, k.cfg.ClusterDomain)
		config.PortMappings = portMappings(pod)
	}
	if sc := pod.Spec.SecurityContext; sc != nil {
		for _, s := range sc.Sysctls {
			config.Linux.Sysctls[sysctlName(s.Name)] = s.Value
		}
	}
	return config
}

// impossible is what a pod asks of its sandbox and cannot get. To run it
// without would be to break a promise.
func (k *Kubelet) impossible(pod *corev1.Pod) error {
	hostname, _ := podHostname(pod, k.cfg.ClusterDomain)
	if limit := 64; len(hostname) > limit && isTrue(pod.Spec.SetHostnameAsFQDN) {
		return fmt.Errorf("failed to construct FQDN from pod hostname and cluster domain, FQDN %s is too long (%d characters is the max, %d characters requested)",
			hostname, limit, len(hostname))
	}
	return nil
}

// podLabels are the pod's own labels and those that tie the sandbox to it.
func podLabels(pod *corev1.Pod) map[string]string {
	labels := map[string]string{}
	maps.Copy(labels, pod.Labels)
	labels[labelPodName] = pod.Name
	labels[labelPodNamespace] = pod.Namespace
	labels[labelPodUID] = string(pod.UID)
	return labels
}

func sandboxSecurity(pod *corev1.Pod, userns *runtimeapi.UserNamespace) *runtimeapi.LinuxSandboxSecurityContext {
	out := &runtimeapi.LinuxSandboxSecurityContext{
		NamespaceOptions: namespaceOptions(pod, userns),
		// Nothing but "pause" runs in the sandbox itself.
		Seccomp: &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
	}
	for _, c := range allContainers(pod) {
		out.Privileged = out.Privileged || c.SecurityContext != nil && isTrue(c.SecurityContext.Privileged)
	}
	if sc := pod.Spec.SecurityContext; sc != nil {
		out.RunAsUser = int64Value(sc.RunAsUser)
		if sc.RunAsUser != nil { // CRI: a group needs a user
			out.RunAsGroup = int64Value(sc.RunAsGroup)
		}
		out.SupplementalGroups = supplementalGroups(pod)
	}
	return out
}

// namespaceOptions says which namespaces the pod has of its own. Without
// shareProcessNamespace each container has its own process IDs.
func namespaceOptions(pod *corev1.Pod, userns *runtimeapi.UserNamespace) *runtimeapi.NamespaceOption {
	o := &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER, UsernsOptions: userns}
	if pod.Spec.HostNetwork {
		o.Network = runtimeapi.NamespaceMode_NODE
	}
	if pod.Spec.HostIPC {
		o.Ipc = runtimeapi.NamespaceMode_NODE
	}
	switch {
	case pod.Spec.HostPID:
		o.Pid = runtimeapi.NamespaceMode_NODE
	case isTrue(pod.Spec.ShareProcessNamespace):
		o.Pid = runtimeapi.NamespaceMode_POD
	}
	return o
}

func portMappings(pod *corev1.Pod) []*runtimeapi.PortMapping {
	var out []*runtimeapi.PortMapping
	for _, c := range allContainers(pod) {
		for _, p := range c.Ports {
			if p.HostPort == 0 {
				continue
			}
			protocol := runtimeapi.Protocol_value[string(p.Protocol)] // TCP is 0
			out = append(out, &runtimeapi.PortMapping{Protocol: runtimeapi.Protocol(protocol),
				ContainerPort: p.ContainerPort, HostPort: p.HostPort, HostIp: p.HostIP})
		}
	}
	return out
}

// podHostname returns the pod's hostname, and its domain below the cluster's
// if the pod names a subdomain.
func podHostname(pod *corev1.Pod, clusterDomain string) (hostname, domain string) {
	hostname = pod.Spec.Hostname
	if hostname == "" {
		hostname = pod.Name
	}
	if pod.Spec.HostnameOverride != nil {
		return *pod.Spec.HostnameOverride, ""
	}
	// 63 is the limit of a DNS label; 64 that of the kernel.
	if len(hostname) > 63 {
		hostname = strings.TrimRight(hostname[:63], "-.")
	}
	if pod.Spec.Subdomain != "" {
		domain = strings.Join([]string{pod.Spec.Subdomain, pod.Namespace, "svc", clusterDomain}, ".")
		if isTrue(pod.Spec.SetHostnameAsFQDN) {
			hostname += "." + domain
		}
	}
	return hostname, domain
}

// sysctlName accepts both spellings: net/core/somaxconn and net.core.somaxconn.
func sysctlName(name string) string {
	first := strings.IndexAny(name, "./")
	if first < 0 || name[first] == '.' {
		return name
	}
	return strings.NewReplacer("/", ".", ".", "/").Replace(name)
}

func supplementalGroups(pod *corev1.Pod) []int64 {
	sc := pod.Spec.SecurityContext
	if sc == nil {
		return nil
	}
	groups := append([]int64(nil), sc.SupplementalGroups...)
	if sc.FSGroup != nil {
		groups = append(groups, *sc.FSGroup)
	}
	return groups
}

func int64Value(v *int64) *runtimeapi.Int64Value {
	if v == nil {
		return nil
	}
	return &runtimeapi.Int64Value{Value: *v}
}
