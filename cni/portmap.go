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
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"

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
	SNAT          *bool `json:"snat"`
	MasqAll       bool  `json:"masqAll"`
	MarkMasqBit   *int  `json:"markMasqBit"`
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

// rules is the iptables-restore text for one container address.
func (c *portmapConfig) rules(containerID string, ip net.IPNet) string {
	var text strings.Builder
	chain := chainName(hostPortPrefix, c.Name, containerID)
	fmt.Fprintf(&text, "*nat\n:CNI-HOSTPORT-SETMARK - [0:0]\n:CNI-HOSTPORT-MASQ - [0:0]\n:%s - [0:0]\n", chain)
	fmt.Fprintf(&text, "-A CNI-HOSTPORT-SETMARK -m comment --comment \"CNI portfwd masquerade mark\" -j MARK --set-xmark %s\n", c.mark())
	fmt.Fprintf(&text, "-A CNI-HOSTPORT-MASQ -m mark --mark %s -j MASQUERADE\n", c.mark())
	for _, m := range c.RuntimeConfig.PortMappings {
		if !sameFamily(m.HostIP, ip.IP) {
			continue
		}
		match := fmt.Sprintf("-A %s -p %s --dport %d", chain, m.Protocol, m.HostPort)
		if m.HostIP != "" && !netip.MustParseAddr(m.HostIP).IsUnspecified() {
			match += " -d " + m.HostIP
		}
		if c.SNAT == nil || *c.SNAT {
			// Answers to these must come back through the node, which alone can
			// undo the change of address: containers on the same bridge, this one
			// among them, and the node by its loopback.
			bridge := net.IPNet{IP: ip.IP.Mask(ip.Mask), Mask: ip.Mask}
			sources := []string{bridge.String(), "127.0.0.1"}
			if ip.IP.To4() == nil {
				sources = sources[:1]
			}
			for _, source := range sources {
				fmt.Fprintf(&text, "%s -s %s -j CNI-HOSTPORT-SETMARK\n", match, source)
			}
			if c.MasqAll {
				fmt.Fprintf(&text, "%s -j CNI-HOSTPORT-SETMARK\n", match)
			}
		}
		to := net.JoinHostPort(ip.IP.String(), fmt.Sprint(m.ContainerPort))
		fmt.Fprintf(&text, "%s -j DNAT --to-destination %s\n", match, to)
	}
	text.WriteString("COMMIT\n")
	return text.String()
}

func sameFamily(hostIP string, ip net.IP) bool {
	return hostIP == "" || netip.MustParseAddr(hostIP).Is4() == (ip.To4() != nil)
}

// jumps are the ways into a container's chain: per protocol, its ports.
func (c *portmapConfig) jumps(containerID string) (jumps [][]string) {
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
			jumps = append(jumps, []string{
				"-p", protocol, "-m", "comment", "--comment", "dnat " + comment(c.Name, containerID),
				"-m", "multiport", "--destination-ports", strings.Join(ports[:n], ","),
				"-j", chainName(hostPortPrefix, c.Name, containerID)})
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

// forward writes the rules for the first address of each family.
func (c *portmapConfig) forward(args *skel.CmdArgs, result *current.Result) error {
	done := map[iptables.Family]bool{}
	for _, ip := range result.IPs {
		r := runnerFor(ip.Address.IP)
		if done[r.Family] {
			continue
		}
		done[r.Family] = true
		if err := r.Restore(background(), []byte(c.rules(args.ContainerID, ip.Address))); err != nil {
			return err
		}
		if err := c.wire(r, args.ContainerID); err != nil {
			return err
		}
		if ip.Address.IP.To4() != nil && (c.SNAT == nil || *c.SNAT) {
			if err := openLoopback(r, ip.Address.IP); err != nil {
				return err
			}
		}
	}
	return nil
}

// openLoopback lets a packet that was sent to 127.0.0.1 leave by the interface
// that leads to a container, which the kernel forbids unless route_localnet is
// set there. That opens the other direction as well: a container with raw
// sockets could then speak to what listens on the node's loopback alone
// (CVE-2020-8558). The rule shuts this again; answers and host ports pass.
func openLoopback(r iptables.Runner, ip net.IP) error {
	link, err := linkTo(ip)
	if errors.Is(err, syscall.ENETUNREACH) {
		return nil // the node has no address there: nobody on it reaches the container anyhow
	}
	if err != nil || strings.ContainsAny(link, "/.") {
		return err // no file of /proc/sys bears such a name as it is
	}
	if err := r.Ensure(background(), "-I", "filter", "INPUT", "-i", link, "-d", "127.0.0.0/8", "-m", "conntrack", "!",
		"--ctstate", "RELATED,ESTABLISHED,DNAT", "-m", "comment", "--comment", "CNI portfwd: loopback is ours", "-j", "DROP"); err != nil {
		return err
	}
	return os.WriteFile("/proc/sys/net/ipv4/conf/"+link+"/route_localnet", []byte("1"), 0o644)
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
	for _, jump := range c.jumps(containerID) {
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
		for _, jump := range c.jumps(args.ContainerID) {
			if !runnerFor(ip.Address.IP).Has(background(), "nat", "CNI-HOSTPORT-DNAT", jump...) {
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
