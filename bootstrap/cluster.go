package bootstrap

import (
	"fmt"
	"net/netip"
)

// Cluster is everything that the files of all nodes depend on.
type Cluster struct {
	Name          string       // "kubernetes"
	Nodes         []Node       // the first one is the control plane
	PodCIDR       netip.Prefix // one /24 of it per node
	ServiceCIDR   netip.Prefix
	ClusterDomain string
	ProxyMode     string // iptables
	// RuntimeEndpoint is the CRI socket that kubelets use.
	RuntimeEndpoint string
	Image           string // of our own components
	PauseImage      string
	CoreDNSImage    string
}

// Node is one machine.
type Node struct {
	Name    string     `json:"name"`
	Address netip.Addr `json:"address"`
	// CPU (a quantity) and Memory (bytes) are what the node reports as its
	// capacity; empty and zero mean the machine's own.
	CPU    string `json:"cpu,omitempty"`
	Memory int64  `json:"memory,omitempty"`
	// CgroupRoot is the cgroup below which the node keeps its pods.
	CgroupRoot string `json:"cgroupRoot"`
}

const (
	// SecurePort is where the API server listens.
	SecurePort = 6443
	// ControlPlaneRole is upstream's label and taint key.
	ControlPlaneRole = "node-role.kubernetes.io/control-plane"
)

// ControlPlane is the node that runs etcd and the API server.
func (c *Cluster) ControlPlane() Node { return c.Nodes[0] }

// APIServer is the URL at which nodes reach the API server.
func (c *Cluster) APIServer() string {
	return fmt.Sprintf("https://%s", netip.AddrPortFrom(c.ControlPlane().Address, SecurePort))
}

// KubernetesService is the first address of the Service range, by which pods
// reach the API server; ClusterDNS is the tenth, by convention.
func (c *Cluster) KubernetesService() netip.Addr { return c.ServiceCIDR.Masked().Addr().Next() }

// ClusterDNS is the address of the DNS Service.
func (c *Cluster) ClusterDNS() netip.Addr {
	address := c.ServiceCIDR.Masked().Addr()
	for range 10 {
		address = address.Next()
	}
	return address
}

// Tainted reports whether the control plane keeps ordinary pods away: it does
// when there is another node to run them.
func (c *Cluster) Tainted() bool { return len(c.Nodes) > 1 }
