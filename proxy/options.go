package proxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	kubeproxy "k8s.io/kube-proxy/config/v1alpha1"
)

// Options is what rules depend on beside the state.
type Options struct {
	// Local tells traffic that comes from pods of this cluster (of this node).
	Local         LocalTraffic
	MasqueradeAll bool
	MasqueradeBit int
	RandomFully   bool // iptables' MASQUERADE knows --random-fully
	TCPBeLiberal  bool
	// LocalhostNodePorts also serves NodePorts at 127.0.0.1; iptables only.
	LocalhostNodePorts bool
	// NodeIP is the node's primary address.
	NodeIP netip.Addr
	// NodePortAddresses are the node's addresses that NodePorts are served at. The
	// iptables backend takes AllAddresses for "whatever the node has"; the others
	// look addresses up and need each.
	NodePortAddresses []netip.Addr
	AllAddresses      bool
	Scheduler         string // of ipvs; "" is rr
}

// equal says whether they lead to the same rules.
func (o Options) equal(p Options) bool {
	same := slices.Equal(o.NodePortAddresses, p.NodePortAddresses)
	o.NodePortAddresses, p.NodePortAddresses = nil, nil
	return same && fmt.Sprint(o) == fmt.Sprint(p)
}

// markBit is the bit that says "masquerade me".
func (o Options) markBit() string { return fmt.Sprintf("%#x", 1<<o.MasqueradeBit) }

// LocalTraffic tells our own pods' packets by their address or by the interface
// that they come from; neither: they cannot be told.
type LocalTraffic struct {
	CIDR      netip.Prefix
	Interface string // ends with "*" if it is a prefix
}

func (l LocalTraffic) known() bool { return l.CIDR.IsValid() || l.Interface != "" }

// iptables matches it, nftables matches it; not is "! " or "!= ", or empty.
func (l LocalTraffic) iptables(not string) string {
	switch {
	case l.CIDR.IsValid():
		return not + "-s " + l.CIDR.String()
	case l.Interface != "":
		return not + "-i " + strings.Replace(l.Interface, "*", "+", 1)
	}
	return ""
}

func (l LocalTraffic) nftables(f Family, not string) string {
	switch {
	case l.CIDR.IsValid():
		return fmt.Sprintf("%s saddr %s%s", f.nft(), not, l.CIDR)
	case l.Interface != "":
		return fmt.Sprintf("iifname %s%q", not, l.Interface)
	}
	return ""
}

// localTraffic is what the configuration says; podCIDRs are our Node's.
func localTraffic(c *kubeproxy.KubeProxyConfiguration, f Family, podCIDRs []string) LocalTraffic {
	switch c.DetectLocalMode {
	case localByBridge:
		return LocalTraffic{Interface: c.DetectLocal.BridgeInterface}
	case localByInterfacePrefix:
		return LocalTraffic{Interface: c.DetectLocal.InterfaceNamePrefix + "*"}
	case localByNodeCIDR:
		return LocalTraffic{CIDR: f.firstCIDR(podCIDRs)}
	}
	return LocalTraffic{CIDR: f.firstCIDR(splitList(c.ClusterCIDR))}
}

// nodePortAddresses are those of local that the configuration wants NodePorts
// at; all says that it wants every one. While the primary one is not known it may
// be any.
func nodePortAddresses(ranges []string, local []netip.Addr, primary netip.Addr) (chosen []netip.Addr, all bool) {
	for _, ip := range local {
		for _, r := range ranges {
			p, err := netip.ParsePrefix(r)
			if r == "primary" && (ip == primary || !primary.IsValid()) || err == nil && p.Contains(ip) {
				all = all || err == nil && p.Bits() == 0
				chosen = append(chosen, ip)
				break
			}
		}
	}
	return chosen, all
}
