package kubelet

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// hostsFile is the pod's /etc/hosts: the node's own for a pod on the node's
// network, else loopback and the pod itself; host aliases in both.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/kubelet_pods.go ensureHostsFile.
func hostsFile(pod *corev1.Pod, podIPs []string, clusterDomain, nodeFile string) []byte {
	var b bytes.Buffer
	if pod.Spec.HostNetwork {
		fmt.Fprintln(&b, "# Kubernetes-managed hosts file (host network).")
		// A node without the file is a node without names: nothing to add.
		if raw, err := os.ReadFile(nodeFile); err == nil {
			b.Write(raw)
		}
	} else {
		fmt.Fprintln(&b, "# Kubernetes-managed hosts file.")
		for _, line := range []string{"127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback",
			"fe00::0\tip6-localnet", "fe00::0\tip6-mcastprefix", "fe00::1\tip6-allnodes", "fe00::2\tip6-allrouters"} {
			fmt.Fprintln(&b, line)
		}
		hostname, domain := podHostname(pod, clusterDomain)
		for _, ip := range podIPs {
			if domain != "" {
				short, _, _ := strings.Cut(hostname, ".")
				fmt.Fprintf(&b, "%s\t%s.%s\t%s\n", ip, short, domain, short)
			} else {
				fmt.Fprintf(&b, "%s\t%s\n", ip, hostname)
			}
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		fmt.Fprint(&b, "\n# Entries added by HostAliases.\n")
	}
	for _, alias := range pod.Spec.HostAliases {
		fmt.Fprintf(&b, "%s\t%s\n", alias.IP, strings.Join(alias.Hostnames, "\t"))
	}
	return b.Bytes()
}

// writeHostsFile keeps the pod's file current. It is written in place: the
// containers hold a bind mount of this very inode.
func (k *Kubelet) writeHostsFile(pod *corev1.Pod, podIPs []string) (string, error) {
	path := filepath.Join(k.volumes.podDir(pod.UID), "etc-hosts")
	content := hostsFile(pod, podIPs, k.cfg.ClusterDomain, "/etc/hosts")
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, content) {
		return path, nil
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		return "", err
	}
	return path, os.Chmod(path, 0o644)
}
