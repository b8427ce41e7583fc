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
// A mode that is left empty is chosen when we run: see chooseMode.
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
	or((*string)(&c.DetectLocalMode), localByClusterCIDR)
	or(&c.HealthzBindAddress, "0.0.0.0:10256")
	or(&c.MetricsBindAddress, "127.0.0.1:10249")
	for _, period := range []*metav1.Duration{&c.IPTables.SyncPeriod, &c.NFTables.SyncPeriod, &c.IPVS.SyncPeriod} {
		after(period, 30*time.Second)
	}
	after(&c.IPTables.MinSyncPeriod, time.Second)
	after(&c.NFTables.MinSyncPeriod, time.Second)
	after(&c.ConfigSyncPeriod, 15*time.Minute)
	for _, bit := range []**int32{&c.IPTables.MasqueradeBit, &c.NFTables.MasqueradeBit} {
		if *bit == nil {
			fourteen := int32(14)
			*bit = &fourteen
		}
	}
}

// validate names the field that is wrong.
func validate(c *kubeproxy.KubeProxyConfiguration) error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: "+format, append([]any{field}, args...)...))
	}
	switch c.Mode {
	case "", modeIPTables, modeNFTables, modeIPVS:
	default:
		bad("mode", "%q is none of %s", c.Mode, strings.Join(Modes, ", "))
	}
	for section, bit := range map[string]*int32{"iptables": c.IPTables.MasqueradeBit, "nftables": c.NFTables.MasqueradeBit} {
		if *bit < 0 || *bit > 31 {
			bad(section+".masqueradeBit", "%d is not within 0 to 31", *bit)
		}
	}
	for section, p := range map[string][2]metav1.Duration{"iptables": {c.IPTables.MinSyncPeriod, c.IPTables.SyncPeriod},
		"nftables": {c.NFTables.MinSyncPeriod, c.NFTables.SyncPeriod}, "ipvs": {c.IPVS.MinSyncPeriod, c.IPVS.SyncPeriod}} {
		if p[0].Duration < 0 || p[1].Duration < p[0].Duration {
			bad(section+".minSyncPeriod", "must be at least 0 and at most %s.syncPeriod", section)
		}
	}
	if s := c.IPVS.Scheduler; s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz") != "" {
		bad("ipvs.scheduler", "%q is no name of a scheduler, as rr, lc or sh", s)
	}
	for _, cidr := range c.IPVS.ExcludeCIDRs {
		if _, err := netip.ParsePrefix(cidr); err != nil {
			bad("ipvs.excludeCIDRs", "%v", err)
		}
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

// section is what the mode in use says about syncing and masquerading; ipvs takes
// the latter from iptables' section.
type section struct {
	masqueradeAll             bool
	masqueradeBit             int
	minSyncPeriod, syncPeriod time.Duration
}

func modeSection(c *kubeproxy.KubeProxyConfiguration) section {
	s := section{c.IPTables.MasqueradeAll, int(*c.IPTables.MasqueradeBit), c.IPTables.MinSyncPeriod.Duration, c.IPTables.SyncPeriod.Duration}
	switch c.Mode {
	case modeNFTables:
		s = section{c.NFTables.MasqueradeAll, int(*c.NFTables.MasqueradeBit), c.NFTables.MinSyncPeriod.Duration, c.NFTables.SyncPeriod.Duration}
	case modeIPVS:
		s.minSyncPeriod, s.syncPeriod = c.IPVS.MinSyncPeriod.Duration, c.IPVS.SyncPeriod.Duration
	}
	return s
}
