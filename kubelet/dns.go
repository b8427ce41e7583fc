package kubelet

import (
	"os"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// clusterDNSOptions makes short names ("backend", "backend.shop") try the
// cluster's search domains first: they have fewer than five dots.
var clusterDNSOptions = []string{"ndots:5"}

// podDNS is what the pod's resolv.conf will say.
//
//	ClusterFirst             the cluster's DNS and its search domains
//	ClusterFirstWithHostNet  the same, also on the node's network
//	Default                  the node's own resolver
//	None                     only what dnsConfig says
//
// Upstream: kubernetes@v1.36 pkg/kubelet/network/dns GetPodDNS.
func podDNS(pod *corev1.Pod, cfg Config) *runtimeapi.DNSConfig {
	policy := pod.Spec.DNSPolicy
	if policy == "" {
		policy = corev1.DNSClusterFirst
	}
	if policy == corev1.DNSClusterFirst && pod.Spec.HostNetwork || len(cfg.ClusterDNS) == 0 && policy != corev1.DNSNone {
		policy = corev1.DNSDefault
	}
	node := parseResolvConf(cfg.ResolvConf)
	out := &runtimeapi.DNSConfig{}
	switch policy {
	case corev1.DNSClusterFirst, corev1.DNSClusterFirstWithHostNet:
		domain := cfg.ClusterDomain
		out.Servers = slices.Clone(cfg.ClusterDNS)
		out.Searches = append([]string{pod.Namespace + ".svc." + domain, "svc." + domain, domain}, node.Searches...)
		out.Options = slices.Clone(clusterDNSOptions)
	case corev1.DNSDefault:
		out = node
	}
	if extra := pod.Spec.DNSConfig; extra != nil {
		out.Servers = union(out.Servers, extra.Nameservers)
		out.Searches = union(out.Searches, extra.Searches)
		out.Options = mergeOptions(out.Options, extra.Options)
	}
	// An empty configuration asks the runtime to copy the node's file, which a
	// node without a resolver does not have. This one is as good as empty.
	if len(out.Servers)+len(out.Searches)+len(out.Options) == 0 {
		out.Options = []string{"ndots:1"}
	}
	return out
}

// parseResolvConf reads the node's resolver configuration. A node may have
// none; its pods then have none either, but they run.
//
// Spec: resolv.conf(5); the last "search" wins.
func parseResolvConf(path string) *runtimeapi.DNSConfig {
	out := &runtimeapi.DNSConfig{}
	if path == "" {
		return out
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return out
	}
	for _, line := range strings.Split(string(raw), "\n") {
		if i := strings.IndexAny(line, "#;"); i >= 0 {
			line = line[:i]
		}
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			out.Servers = append(out.Servers, fields[1])
		case "search":
			out.Searches = nil
			for _, s := range fields[1:] {
				if s != "." {
					s = strings.TrimSuffix(s, ".")
				}
				out.Searches = append(out.Searches, s)
			}
		case "options":
			out.Options = fields[1:]
		}
	}
	return out
}

func union(a, b []string) []string {
	out := slices.Clone(a)
	for _, s := range b {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// mergeOptions lets the pod's options replace those of the same name.
func mergeOptions(have []string, extra []corev1.PodDNSConfigOption) []string {
	out := slices.Clone(have)
	for _, o := range extra {
		out = slices.DeleteFunc(out, func(s string) bool {
			name, _, _ := strings.Cut(s, ":")
			return name == o.Name
		})
		text := o.Name
		if o.Value != nil && *o.Value != "" {
			text += ":" + *o.Value
		}
		out = append(out, text)
	}
	return out
}
