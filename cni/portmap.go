package cni

// portmap leads ports of the node to a container: hostPort in a pod.
//
//	PREROUTING, OUTPUT ─(to an address of the node)─▶ CNI-HOSTPORT-DNAT
//	    ─(port 8080)─▶ CNI-DN-<container>
//	        from the container itself, or from 127.0.0.1: mark for masquerading
//	        DNAT to 10.244.1.7:80
//	POSTROUTING ─▶ CNI-HOSTPORT-MASQ ─(marked)─▶ MASQUERADE
//
// It stands after bridge in a chain and learns the address from prevResult.
//
// Upstream: containernetworking/plugins plugins/meta/portmap; same chains.
//
// 127.0.0.1:8080 on the node works too: see openLoopback.

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"tinykube/internal/iptables"
)

type portMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP"`
}

type portmapConfig struct {
	types.PluginConf
	SNAT        *bool `json:"snat"`
	MasqAll     bool  `json:"masqAll"`
	MarkMasqBit *int  `json:"markMasqBit"`
	// SetMarkChain is somebody else's chain that marks, and who masquerades what is
	// marked is theirs as well: KUBE-MARK-MASQ, say.
	SetMarkChain *string `json:"externalSetMarkChain"`
	// Conditions are words of iptables' that a packet must match as well.
	ConditionsV4  []string `json:"conditionsV4"`
	ConditionsV6  []string `json:"conditionsV6"`
	Backend       string   `json:"backend"`
	RuntimeConfig struct {
		PortMappings []portMapping `json:"portMappings"`
	} `json:"runtimeConfig"`
}

// parsePortmap decodes and checks. A mapping without a host port is an error, as
// with the reference plugin: the runtime leaves plain container ports out.
func parsePortmap(args *skel.CmdArgs) (*portmapConfig, *current.Result, error) {
	c := &portmapConfig{}
	if err := decode(args.StdinData, c); err != nil {
		return nil, nil, err
	}
	switch {
	case c.MarkMasqBit != nil && c.SetMarkChain != nil:
		return nil, nil, invalid("markMasqBit and externalSetMarkChain exclude each other")
	case c.MarkMasqBit != nil && (*c.MarkMasqBit < 0 || *c.MarkMasqBit > 31):
		return nil, nil, invalid("markMasqBit %d: must be between 0 and 31", *c.MarkMasqBit)
	case c.Backend == "nftables":
		return nil, nil, types.NewError(types.ErrUnsupportedField, "portmap: backend nftables is not supported: use iptables", "")
	case c.Backend != "" && c.Backend != "iptables":
		return nil, nil, invalid("unrecognized backend %q", c.Backend)
	}
	for i := range c.RuntimeConfig.PortMappings {
		m := &c.RuntimeConfig.PortMappings[i]
		if m.HostPort < 1 || m.HostPort > 65535 || m.ContainerPort < 1 || m.ContainerPort > 65535 {
			return nil, nil, invalid("portMappings[%d]: port out of range: %d to %d", i, m.HostPort, m.ContainerPort)
		}
		if m.Protocol = strings.ToLower(m.Protocol); m.Protocol == "" {
			m.Protocol = "tcp"
		}
		if m.Protocol != "tcp" && m.Protocol != "udp" && m.Protocol != "sctp" {
			return nil, nil, invalid("portMappings[%d]: protocol %q", i, m.Protocol)
		}
		if m.HostIP != "" {
			if _, err := netip.ParseAddr(m.HostIP); err != nil {
				return nil, nil, invalid("portMappings[%d]: hostIP %q: not an address", i, m.HostIP)
			}
		}
	}
	result, err := previousResult(&c.PluginConf)
	return c, result, err
}

func (c *portmapConfig) mark() string {
	bit := 13
	if c.MarkMasqBit != nil {
		bit = *c.MarkMasqBit
	}
	return fmt.Sprintf("%#x/%#x", 1<<bit, 1<<bit)
}

// masquerades says whether sources are rewritten; marksItself, whether by us.
func (c *portmapConfig) masquerades() bool { return c.SNAT == nil || *c.SNAT }
func (c *portmapConfig) marksItself() bool { return c.masquerades() && c.SetMarkChain == nil }

// rules is the iptables-restore text for one container address.
func (c *portmapConfig) rules(containerID string, ip net.IPNet) string {
	var text strings.Builder
	chain := chainName(hostPortPrefix, c.Name, containerID)
	fmt.Fprintf(&text, "*nat\n:%s - [0:0]\n", chain)
	mark := "CNI-HOSTPORT-SETMARK"
	if c.SetMarkChain != nil {
		mark = *c.SetMarkChain
	}
	if c.marksItself() {
		fmt.Fprintf(&text, ":%s - [0:0]\n:CNI-HOSTPORT-MASQ - [0:0]\n", mark)
		fmt.Fprintf(&text, "-A %s -m comment --comment \"CNI portfwd masquerade mark\" -j MARK --set-xmark %s\n", mark, c.mark())
		fmt.Fprintf(&text, "-A CNI-HOSTPORT-MASQ -m mark --mark %s -j MASQUERADE\n", c.mark())
	}
	for _, m := range c.RuntimeConfig.PortMappings {
		if !sameFamily(m.HostIP, ip.IP) {
			continue
		}
		match := fmt.Sprintf("-A %s -p %s --dport %d", chain, m.Protocol, m.HostPort)
		if m.HostIP != "" && !netip.MustParseAddr(m.HostIP).IsUnspecified() {
			match += " -d " + m.HostIP
		}
		for _, source := range c.masqueraded(ip) {
			fmt.Fprintf(&text, "%s%s -j %s\n", match, source, mark)
		}
		to := net.JoinHostPort(ip.IP.String(), fmt.Sprint(m.ContainerPort))
		fmt.Fprintf(&text, "%s -j DNAT --to-destination %s\n", match, to)
	}
	text.WriteString("COMMIT\n")
	return text.String()
}

// masqueraded are the clients whose answers must come back through the node, which
// alone can undo the change of address: containers on the same bridge, this one
// among them, and the node by its loopback; or all.
func (c *portmapConfig) masqueraded(ip net.IPNet) []string {
	bridge := net.IPNet{IP: ip.IP.Mask(ip.Mask), Mask: ip.Mask}
	switch {
	case !c.masquerades():
		return nil
	case c.MasqAll:
		return []string{""}
	case ip.IP.To4() == nil:
		return []string{" -s " + bridge.String()}
	}
	return []string{" -s " + bridge.String(), " -s 127.0.0.1"}
}

func sameFamily(hostIP string, ip net.IP) bool {
	return hostIP == "" || netip.MustParseAddr(hostIP).Is4() == (ip.To4() != nil)
}

// jumps are the ways into a container's chain: per protocol, its ports.
func (c *portmapConfig) jumps(containerID string, family iptables.Family) (jumps [][]string) {
	conditions := c.ConditionsV4
	if family == iptables.IPv6 {
		conditions = c.ConditionsV6
	}
	for _, protocol := range []string{"tcp", "udp", "sctp"} {
		var ports []string
		for _, m := range c.RuntimeConfig.PortMappings {
			if m.Protocol == protocol {
				ports = append(ports, fmt.Sprint(m.HostPort))
			}
		}
		const most = 15 // that multiport takes
		for len(ports) > 0 {
			n := min(most, len(ports))
			jumps = append(jumps, slices.Concat([]string{
				"-p", protocol, "-m", "comment", "--comment", "dnat " + comment(c.Name, containerID),
				"-m", "multiport", "--destination-ports", strings.Join(ports[:n], ","),
			}, conditions, []string{"-j", chainName(hostPortPrefix, c.Name, containerID)}))
			ports = ports[n:]
		}
	}
	return jumps
}

func portmapAdd(args *skel.CmdArgs) error {
	c, result, err := parsePortmap(args)
	if err != nil {
		return err
	}
	if result == nil {
		return invalid("portmap must come after a plugin that makes an interface: no prevResult")
	}
	if len(c.RuntimeConfig.PortMappings) > 0 {
		if err := c.forward(args, result); err != nil {
			return err
		}
	}
	return types.PrintResult(result, c.CNIVersion)
}

// forward writes the rules for the container's first address of each family.
func (c *portmapConfig) forward(args *skel.CmdArgs, result *current.Result) error {
	done := map[iptables.Family]bool{}
	for _, ip := range result.IPs {
		r := runnerFor(ip.Address.IP)
		if done[r.Family] || elsewhere(result, ip, args.IfName) {
			continue
		}
		done[r.Family] = true
		if err := r.Restore(background(), []byte(c.rules(args.ContainerID, ip.Address))); err != nil {
			return err
		}
		if err := c.wire(r, args.ContainerID); err != nil {
			return err
		}
		forgetFlows(r.Family, c.RuntimeConfig.PortMappings)
		if ip.Address.IP.To4() != nil && c.masquerades() {
			if err := openLoopback(r, ip.Address.IP); err != nil {
				return err
			}
		}
	}
	return nil
}

// elsewhere says that an address is on another interface than the container's.
func elsewhere(result *current.Result, ip *current.IPConfig, ifName string) bool {
	if ip.Interface == nil || *ip.Interface < 0 || *ip.Interface >= len(result.Interfaces) {
		return false // nobody has said where
	}
	on := result.Interfaces[*ip.Interface]
	return on.Name != ifName || on.Sandbox == ""
}

// wire adds the jumps that lead to the rules.
func (c *portmapConfig) wire(r iptables.Runner, containerID string) error {
	ctx := background()
	if !r.Has(ctx, "nat", "CNI-HOSTPORT-DNAT") {
		// Another ADD may be faster; then -N says that the chain exists.
		if _, err := r.Run(ctx, "-t", "nat", "-N", "CNI-HOSTPORT-DNAT"); err != nil && !r.Has(ctx, "nat", "CNI-HOSTPORT-DNAT") {
			return err
		}
	}
	for _, jump := range c.jumps(containerID, r.Family) {
		if err := r.Ensure(ctx, "-A", "nat", "CNI-HOSTPORT-DNAT", jump...); err != nil {
			return err
		}
	}
	for _, chain := range []string{"PREROUTING", "OUTPUT"} {
		// Only what is sent to an address of this node: without that, a host port
		// would catch the whole world's port 80.
		if err := r.Ensure(ctx, "-A", "nat", chain, "-m", "addrtype", "--dst-type", "LOCAL", "-j", "CNI-HOSTPORT-DNAT"); err != nil {
			return err
		}
	}
	if !c.marksItself() {
		return nil
	}
	return r.Ensure(ctx, "-I", "nat", "POSTROUTING", "-m", "comment", "--comment", "CNI portfwd requiring masquerade", "-j", "CNI-HOSTPORT-MASQ")
}

// portmapDel has nothing to look for when the container had no host ports, which
// is nearly always; what a crash left is GC's.
func portmapDel(args *skel.CmdArgs) error {
	// Whatever ADD has refused left nothing: that must not make DEL fail.
	c := &portmapConfig{}
	if err := decode(args.StdinData, c); err != nil || len(c.RuntimeConfig.PortMappings) == 0 {
		return err
	}
	return removeChains(func(chain, _ string) bool {
		return chain == chainName(hostPortPrefix, c.Name, args.ContainerID)
	})
}

func portmapCheck(args *skel.CmdArgs) error {
	c, result, err := parsePortmap(args)
	if err != nil || len(c.RuntimeConfig.PortMappings) == 0 {
		return err
	}
	if result == nil {
		return invalid("CHECK needs prevResult")
	}
	for _, ip := range result.IPs {
		r := runnerFor(ip.Address.IP)
		for _, jump := range c.jumps(args.ContainerID, r.Family) {
			if !r.Has(background(), "nat", "CNI-HOSTPORT-DNAT", jump...) {
				return fmt.Errorf("host ports of container %s have lost their rules", args.ContainerID)
			}
		}
	}
	return nil
}

func portmapStatus(*skel.CmdArgs) error {
	if _, err := (iptables.Runner{}).Detect(background()); err != nil {
		return types.NewError(types.ErrPluginNotAvailable, err.Error(), "")
	}
	return nil
}

func portmapGC(args *skel.CmdArgs) error {
	c, _, err := parsePortmap(args)
	if err != nil {
		return err
	}
	return collectChains(hostPortPrefix, &c.PluginConf)
}
