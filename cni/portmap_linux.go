package cni

import (
	"errors"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tinykube/internal/iptables"
)

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

// forgetFlows makes clients that have been sending to a UDP port, before it led
// anywhere or while it led elsewhere, ask the rules again: the kernel remembers
// the answer that their first packet got. Nothing is lost if it cannot.
func forgetFlows(family iptables.Family, mappings []portMapping) {
	inet := netlink.InetFamily(unix.AF_INET)
	if family == iptables.IPv6 {
		inet = unix.AF_INET6
	}
	ports := hostPorts{}
	for _, m := range mappings {
		if m.Protocol == "udp" {
			ports[uint16(m.HostPort)] = true
		}
	}
	if len(ports) > 0 {
		_, _ = netlink.ConntrackDeleteFilters(netlink.ConntrackTable, inet, ports)
	}
}

type hostPorts map[uint16]bool

// MatchConntrackFlow lets netlink ask us while it walks the table.
func (p hostPorts) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	return flow.Forward.Protocol == unix.IPPROTO_UDP && p[flow.Forward.DstPort]
}
