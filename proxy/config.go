package proxy

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeproxy "k8s.io/kube-proxy/config/v1alpha1"
	"sigs.k8s.io/yaml"
)

// Config is what a proxy is told: upstream's file, and where the machine's root
// is.
type Config struct {
	kubeproxy.KubeProxyConfiguration
	HostRoot string
}

// APIVersion is of the file that we read.
const APIVersion = "kubeproxy.config.k8s.io/v1alpha1"

// Modes, and ways to tell our own pods' traffic apart. Upstream's package of
// types leaves their names to the program.
const (
	modeIPTables = "iptables"
	modeNFTables = "nftables"
	modeIPVS     = "ipvs"

	localByClusterCIDR     = "ClusterCIDR"
	localByNodeCIDR        = "NodeCIDR"
	localByBridge          = "BridgeInterface"
	localByInterfacePrefix = "InterfaceNamePrefix"
)

// LoadConfig reads a KubeProxyConfiguration strictly: a field that is misspelt
// is an error, not a default.
func LoadConfig(path string) (*kubeproxy.KubeProxyConfiguration, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	c, err := ParseConfig(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// ParseConfig is LoadConfig without the file.
func ParseConfig(data []byte) (*kubeproxy.KubeProxyConfiguration, error) {
	c := &kubeproxy.KubeProxyConfiguration{}
	if err := yaml.UnmarshalStrict(data, c); err != nil {
		return nil, err
	}
	if c.APIVersion != APIVersion || c.Kind != "KubeProxyConfiguration" {
		return nil, fmt.Errorf("this is a %s %s, not a %s KubeProxyConfiguration", c.APIVersion, c.Kind, APIVersion)
	}
	return c, nil
}

// setDefaults fills in upstream's defaults for what we read.
//
// Simplified: iptables.localhostNodePorts is false unless asked for, where
// upstream says true. It needs route_localnet, which opens services bound to
// 127.0.0.1 to the wire; so NodePorts answer at the node's address, not at
// localhost.
func setDefaults(c *kubeproxy.KubeProxyConfiguration) {
	or := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	after := func(d *metav1.Duration, value time.Duration) {
		if d.Duration == 0 {
			d.Duration = value
		}
	}
	or((*string)(&c.Mode), modeIPTables)
	or((*string)(&c.DetectLocalMode), localByClusterCIDR)
	or(&c.HealthzBindAddress, "0.0.0.0:10256")
	or(&c.MetricsBindAddress, "127.0.0.1:10249")
	after(&c.IPTables.SyncPeriod, 30*time.Second)
	after(&c.IPTables.MinSyncPeriod, time.Second)
	after(&c.ConfigSyncPeriod, 15*time.Minute)
	if c.IPTables.MasqueradeBit == nil {
		bit := int32(14)
		c.IPTables.MasqueradeBit = &bit
	}
}

// validate names the field that is wrong.
func validate(c *kubeproxy.KubeProxyConfiguration) error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: "+format, append([]any{field}, args...)...))
	}
	switch c.Mode {
	case modeIPTables:
	case modeNFTables, modeIPVS:
		bad("mode", "%q is not built yet: use \"iptables\"", c.Mode)
	default:
		bad("mode", "%q is none of iptables, nftables, ipvs", c.Mode)
	}
	if bit := *c.IPTables.MasqueradeBit; bit < 0 || bit > 31 {
		bad("iptables.masqueradeBit", "%d is not within 0 to 31", bit)
	}
	if c.IPTables.MinSyncPeriod.Duration < 0 || c.IPTables.SyncPeriod.Duration < c.IPTables.MinSyncPeriod.Duration {
		bad("iptables.minSyncPeriod", "must be at least 0 and at most iptables.syncPeriod")
	}
	for _, cidr := range splitList(c.ClusterCIDR) {
		if _, err := netip.ParsePrefix(cidr); err != nil {
			bad("clusterCIDR", "%v", err)
		}
	}
	switch c.DetectLocalMode {
	case localByClusterCIDR, localByNodeCIDR:
	case localByBridge:
		if c.DetectLocal.BridgeInterface == "" {
			bad("detectLocal.bridgeInterface", "is needed for detectLocalMode BridgeInterface")
		}
	case localByInterfacePrefix:
		if c.DetectLocal.InterfaceNamePrefix == "" {
			bad("detectLocal.interfaceNamePrefix", "is needed for detectLocalMode InterfaceNamePrefix")
		}
	default:
		bad("detectLocalMode", "%q is none of ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix", c.DetectLocalMode)
	}
	for _, cidr := range c.NodePortAddresses {
		if _, err := netip.ParsePrefix(cidr); err != nil && cidr != "primary" {
			bad("nodePortAddresses", "%v", err)
		}
	}
	for field, address := range map[string]string{"healthzBindAddress": c.HealthzBindAddress, "metricsBindAddress": c.MetricsBindAddress} {
		if _, err := netip.ParseAddrPort(address); err != nil {
			bad(field, "%q: want ADDRESS:PORT", address)
		}
	}
	return errors.Join(errs...)
}

func splitList(text string) (parts []string) {
	for _, part := range strings.Split(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			parts = append(parts, part)
		}
	}
	return parts
}

// firstIPv4 picks the range of our family.
func firstIPv4(cidrs []string) string {
	for _, cidr := range cidrs {
		if p, err := netip.ParsePrefix(cidr); err == nil && p.Addr().Is4() {
			return p.Masked().String()
		}
	}
	return ""
}

// localMatch is how traffic of our own pods is told apart. podCIDRs are our
// Node's.
func localMatch(c *kubeproxy.KubeProxyConfiguration, podCIDRs []string) string {
	switch c.DetectLocalMode {
	case localByBridge:
		return "-i " + c.DetectLocal.BridgeInterface
	case localByInterfacePrefix:
		return "-i " + c.DetectLocal.InterfaceNamePrefix + "+"
	case localByNodeCIDR:
		if cidr := firstIPv4(podCIDRs); cidr != "" {
			return "-s " + cidr
		}
	default:
		if cidr := firstIPv4(splitList(c.ClusterCIDR)); cidr != "" {
			return "-s " + cidr
		}
	}
	return ""
}
