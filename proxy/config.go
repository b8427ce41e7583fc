package proxy

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
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

// LoadConfig reads a KubeProxyConfiguration. What is misspelt in it counts for
// nothing, as in upstream's, and is answered as ignored: somebody should hear of it.
func LoadConfig(path string) (c *kubeproxy.KubeProxyConfiguration, ignored, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	if c, ignored, err = ParseConfig(data); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, ignored, nil
}

// ParseConfig is LoadConfig without the file.
//
// Upstream: kubernetes cmd/kube-proxy/app/options.go loadConfig
func ParseConfig(data []byte) (c *kubeproxy.KubeProxyConfiguration, ignored, err error) {
	c = &kubeproxy.KubeProxyConfiguration{}
	if ignored = yaml.UnmarshalStrict(data, c); ignored != nil {
		*c = kubeproxy.KubeProxyConfiguration{}
		if err := yaml.Unmarshal(data, c); err != nil {
			return nil, nil, err
		}
	}
	if c.APIVersion != APIVersion || c.Kind != "KubeProxyConfiguration" {
		return nil, nil, fmt.Errorf("this is a %s %s, not a %s KubeProxyConfiguration", c.APIVersion, c.Kind, APIVersion)
	}
	return c, ignored, nil
}

// setDefaults fills in upstream's defaults for what we read.
//
// A mode that is left empty is chosen when we run: see chooseMode.
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
	or(&c.Logging.Format, "text")
	after(&c.Logging.FlushFrequency.Duration, 5*time.Second)
	or((*string)(&c.DetectLocalMode), localByClusterCIDR)
	or(&c.BindAddress, "0.0.0.0")
	everybody, ourselves := "0.0.0.0", "127.0.0.1"
	if ip, err := netip.ParseAddr(c.BindAddress); err == nil && ip.Is6() {
		everybody, ourselves = "::", "::1"
	}
	or(&c.HealthzBindAddress, everybody)
	or(&c.MetricsBindAddress, ourselves)
	for address, port := range map[*string]string{&c.HealthzBindAddress: "10256", &c.MetricsBindAddress: "10249"} {
		if _, err := netip.ParseAddr(*address); err == nil {
			*address = net.JoinHostPort(*address, port)
		}
	}
	if c.IPTables.LocalhostNodePorts == nil {
		yes := true
		c.IPTables.LocalhostNodePorts = &yes
	}
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

// validate names the fields that are wrong, by upstream's names and in its words.
// Sections of other modes are not looked at, except iptables'.
//
// Upstream: kubernetes pkg/proxy/apis/config/validation/validation.go
func validate(c *kubeproxy.KubeProxyConfiguration) error {
	errs := validateLogging(c)
	if errs != nil {
		return fmt.Errorf("initialize logging: %w", errs.ToAggregate())
	}
	root := field.NewPath("KubeProxyConfiguration")
	check := func(ok bool, path string, value any, detail string) {
		if !ok {
			at := root
			for name := range strings.SplitSeq(path, ".") {
				at = at.Child(name)
			}
			errs = append(errs, field.Invalid(at, value, detail))
		}
	}
	const negative = "must be greater than or equal to 0"
	atLeastZero := func(path string, d metav1.Duration) { check(d.Duration >= 0, path, d, negative) }
	bits := map[string]*int32{"KubeProxyIPTablesConfiguration": c.IPTables.MasqueradeBit}
	switch c.Mode {
	case "", modeIPTables:
	case modeNFTables:
		bits["KubeProxyNFTablesConfiguration"] = c.NFTables.MasqueradeBit
	case modeIPVS:
		const section = "KubeProxyIPVSConfiguration."
		atLeastZero(section+"TCPTimeout", c.IPVS.TCPTimeout)
		atLeastZero(section+"TCPFinTimeout", c.IPVS.TCPFinTimeout)
		atLeastZero(section+"UDPTimeout", c.IPVS.UDPTimeout)
		for i, cidr := range c.IPVS.ExcludeCIDRs {
			check(isCIDR(cidr), fmt.Sprintf("%sExcludeCidrs[%d]", section, i), cidr, "must be a valid CIDR")
		}
		// It becomes a word of ipvsadm's input.
		check(strings.Trim(c.IPVS.Scheduler, "abcdefghijklmnopqrstuvwxyz") == "", section+"Scheduler", c.IPVS.Scheduler, "must be the name of a scheduler, as rr, lc or sh")
	default:
		check(false, "Mode.ProxyMode", string(c.Mode), "must be iptables, ipvs, nftables or blank (blank means the best-available proxy)")
	}
	for _, name := range sortedKeys(bits) {
		check(*bits[name] >= 0 && *bits[name] <= 31, name+".MasqueradeBit", bits[name], "must be within the range [0, 31]")
	}
	const conntrack = "KubeProxyLinuxConfiguration.KubeProxyConntrackConfiguration."
	check(valueOr(c.Conntrack.MaxPerCore, 0) >= 0, conntrack+"MaxPerCore", c.Conntrack.MaxPerCore, negative)
	check(valueOr(c.Conntrack.Min, 0) >= 0, conntrack+"Min", c.Conntrack.Min, negative)
	atLeastZero(conntrack+"TCPEstablishedTimeout", value(c.Conntrack.TCPEstablishedTimeout))
	atLeastZero(conntrack+"TCPCloseWaitTimeout", value(c.Conntrack.TCPCloseWaitTimeout))
	atLeastZero(conntrack+"UDPTimeout", c.Conntrack.UDPTimeout)
	atLeastZero(conntrack+"UDPStreamTimeout", c.Conntrack.UDPStreamTimeout)
	oom := value(c.OOMScoreAdj)
	check(oom >= -1000 && oom <= 1000, "KubeProxyLinuxConfiguration.OOMScoreAdj", oom, "must be within the range [-1000, 1000]")
	check(c.ClientConnection.Burst >= 0, "ClientConnection.Burst", int64(c.ClientConnection.Burst), negative)
	check(c.ConfigSyncPeriod.Duration > 0, "ConfigSyncPeriod", c.ConfigSyncPeriod, "must be greater than 0")
	s := modeSection(c)
	most, least := metav1.Duration{Duration: s.syncPeriod}, metav1.Duration{Duration: s.minSyncPeriod}
	check(s.syncPeriod > 0, "SyncPeriod", most, "must be greater than 0")
	atLeastZero("MinSyncPeriod", least)
	check(s.minSyncPeriod <= s.syncPeriod, "SyncPeriod", least, "must be greater than or equal to KubeProxyConfiguration.MinSyncPeriod")
	_, err := netip.ParseAddr(c.BindAddress)
	check(err == nil, "BindAddress", c.BindAddress, "not a valid textual representation of an IP address")
	for _, a := range [][2]string{{"HealthzBindAddress", c.HealthzBindAddress}, {"MetricsBindAddress", c.MetricsBindAddress}} {
		host, port, err := net.SplitHostPort(a[1])
		if check(err == nil, a[0], a[1], "must be IP:port"); err == nil {
			_, err = netip.ParseAddr(host)
			check(err == nil, a[0], host, "must be a valid IP")
			n, err := strconv.Atoi(port)
			check(err == nil && n > 0 && n < 1<<16, a[0], port, "must be a valid port")
		}
	}
	for i, cidr := range c.NodePortAddresses {
		at := fmt.Sprintf("NodePortAddresses[%d]", i)
		if cidr == "primary" {
			check(len(c.NodePortAddresses) == 1, at, cidr, "can't use both 'primary' and CIDRs")
			break
		}
		check(isCIDR(cidr), at, cidr, "must be a valid CIDR")
	}
	return append(errs, validateLocal(c, root)...).ToAggregate()
}

func validateLogging(c *kubeproxy.KubeProxyConfiguration) (errs field.ErrorList) {
	root, l := field.NewPath("logging"), c.Logging
	if l.FlushFrequency.Duration.Duration < 0 {
		errs = append(errs, field.Invalid(root.Child("flushFrequency"), l.FlushFrequency, "Must be greater than zero"))
	}
	if l.Format != "text" && l.Format != "json" {
		errs = append(errs, field.Invalid(root.Child("format"), l.Format, "Unsupported log format"))
	}
	for i, item := range l.VModule {
		if item.FilePattern == "" {
			errs = append(errs, field.Required(root.Child("vmodule").Index(i), "File pattern must not be empty"))
		}
	}
	return errs
}

func validateLocal(c *kubeproxy.KubeProxyConfiguration, root *field.Path) (errs field.ErrorList) {
	at := root.Child("DetectLocalConfiguration")
	switch c.DetectLocalMode {
	case localByNodeCIDR:
	case localByBridge:
		if c.DetectLocal.BridgeInterface == "" {
			errs = append(errs, field.Invalid(at.Child("InterfaceName"), "", "must not be empty"))
		}
	case localByInterfacePrefix:
		if c.DetectLocal.InterfaceNamePrefix == "" {
			errs = append(errs, field.Invalid(at.Child("InterfacePrefix"), "", "must not be empty"))
		}
	case localByClusterCIDR:
		at, cidrs := at.Child("ClusterCIDRs"), splitList(c.ClusterCIDR)
		const pair = "must be a either a single CIDR or dual-stack pair of CIDRs (e.g. [10.100.0.0/16, fde4:8dba:82e1::/48]"
		if len(cidrs) > 2 {
			return append(errs, field.Invalid(at, cidrs, pair))
		}
		for i, cidr := range cidrs {
			if !isCIDR(cidr) {
				errs = append(errs, field.Invalid(at.Index(i), cidr, "must be a valid CIDR block (e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48)"))
			}
		}
		if len(cidrs) == 2 && len(errs) == 0 && (IPv4.firstCIDR(cidrs).IsValid() != IPv6.firstCIDR(cidrs).IsValid()) {
			errs = append(errs, field.Invalid(at, cidrs, pair))
		}
	default:
		errs = append(errs, field.NotSupported(root.Child("DetectLocalMode"), string(c.DetectLocalMode),
			[]string{localByClusterCIDR, localByNodeCIDR, localByBridge, localByInterfacePrefix, ""}))
	}
	return errs
}

// withoutEffect are the fields that are set and that nothing here asks.
func withoutEffect(c *kubeproxy.KubeProxyConfiguration) (names []string) {
	for name, set := range map[string]bool{
		"featureGates": len(c.FeatureGates) > 0, "portRange": c.PortRange != "", "showHiddenMetricsForVersion": c.ShowHiddenMetricsForVersion != "",
		"enableProfiling": c.EnableProfiling, "bindAddressHardFail": c.BindAddressHardFail, "windowsRunAsService": c.WindowsRunAsService,
		"winkernel": c.Winkernel != kubeproxy.KubeProxyWinkernelConfiguration{}, "oomScoreAdj": c.OOMScoreAdj != nil,
		"logging.vmodule": len(c.Logging.VModule) > 0,
	} {
		if set {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func isCIDR(text string) bool {
	_, err := netip.ParsePrefix(text)
	return err == nil
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
