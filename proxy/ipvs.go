package proxy

import (
	"fmt"
	"net/netip"
	"strings"
)

// What the ipvs backend wants. IPVS is the kernel's own load balancer: a virtual
// server is an address, a scheduler and real servers, found by a hash of the
// address. But it balances only what is delivered to the node itself, and it
// knows nothing of policies. So there are three more things:
//
//	kube-ipvs0   a link that leads nowhere and holds every Service address: packets
//	             to them are for this node, hook INPUT, where IPVS waits
//	ipsets       the Service addresses by what they need: to be masqueraded, …
//	iptables     a dozen rules, however many Services there are, that ask the ipsets
//
// Simplified: a Service whose external policy is Local sends our own pods and the
// node to local endpoints as well, as upstream's ipvs mode does: a virtual server
// has one list of real servers. Where there are none, IPVS refuses.
//
// Upstream: kubernetes pkg/proxy/ipvs/README.md for the names of sets and chains;
// deprecated there since v1.35.

const ipvsLink = "kube-ipvs0"

// Chains of this mode alone.
const (
	ipvsNodePortChain     = "KUBE-NODE-PORT"
	ipvsLoadBalancerChain = "KUBE-LOAD-BALANCER"
	ipvsSourcesChain      = "KUBE-SOURCE-RANGES"
	ipvsFilterChain       = "KUBE-IPVS-FILTER"
)

var ipvsChains = []string{ipvsNodePortChain, ipvsLoadBalancerChain, ipvsSourcesChain, ipvsFilterChain}

var ipvsJumps = []jump{
	{"filter", "INPUT", ipvsFilterChain, `-m comment --comment "kubernetes ipvs access filter"`},
	{"filter", "INPUT", ipvsNodePortChain, `-m comment --comment "kubernetes health check rules"`},
	{"filter", "INPUT", firewallChain, `-m comment --comment "kube-proxy firewall rules"`},
	{"filter", "FORWARD", forwardChain, `-m comment --comment "kubernetes forwarding rules"`},
	{"filter", "FORWARD", firewallChain, `-m comment --comment "kube-proxy firewall rules"`},
	{"nat", "PREROUTING", servicesChain, `-m comment --comment "kubernetes service portals"`},
	{"nat", "OUTPUT", servicesChain, `-m comment --comment "kubernetes service portals"`},
	{"nat", "POSTROUTING", postroutingChain, `-m comment --comment "kubernetes postrouting rules"`},
}

// ipSets are the sets' types.
var ipSets = map[string]string{
	"CLUSTER-IP": "hash:ip,port", "EXTERNAL-IP": "hash:ip,port", "EXTERNAL-IP-LOCAL": "hash:ip,port",
	"LOAD-BALANCER": "hash:ip,port", "LOAD-BALANCER-LOCAL": "hash:ip,port", "LOAD-BALANCER-FW": "hash:ip,port",
	"LOAD-BALANCER-SOURCE-CIDR": "hash:ip,port,net", "LOOP-BACK": "hash:ip,port,ip", "IPVS-IPS": "hash:ip",
	"NODE-PORT-TCP": "bitmap:port", "NODE-PORT-LOCAL-TCP": "bitmap:port", "NODE-PORT-UDP": "bitmap:port",
	"NODE-PORT-LOCAL-UDP": "bitmap:port", "HEALTH-CHECK-NODE-PORT": "bitmap:port",
}

// ipSet is a set's whole name.
func (f Family) ipSet(name string) string { return f.either("KUBE-", "KUBE-6-") + name }

func (r *renderer) matchSet(name, directions string) string {
	return "-m set --match-set " + r.family.ipSet(name) + " " + directions
}

// renderIPVS writes the rules: the same for any state.
func (r *renderer) renderIPVS() {
	r.rule("nat", postroutingChain, comment("Kubernetes endpoints dst ip:port, source ip for solving hairpin purpose"),
		r.matchSet("LOOP-BACK", "dst,dst,src"), "-j MASQUERADE")
	r.renderMasquerade()
	masquerade := func(table, chain, note string, match ...string) {
		r.rule(table, chain, append(append([]string{comment(note)}, match...), "-j", markMasqChain)...)
	}
	r.rule("nat", servicesChain, comment("Kubernetes service lb portal"), r.matchSet("LOAD-BALANCER", "dst,dst"), "-j", ipvsLoadBalancerChain)
	if local := r.Local.iptables("! "); r.MasqueradeAll || local != "" {
		if r.MasqueradeAll {
			local = ""
		}
		masquerade("nat", servicesChain, "Kubernetes service cluster ip + port for masquerade purpose", local, r.matchSet("CLUSTER-IP", "dst,dst"))
	}
	masquerade("nat", servicesChain, "Kubernetes service external ip + port for masquerade and filter purpose", r.matchSet("EXTERNAL-IP", "dst,dst"))
	r.rule("nat", servicesChain, "-m addrtype --dst-type LOCAL -j", ipvsNodePortChain)
	r.rule("nat", ipvsLoadBalancerChain, r.matchSet("LOAD-BALANCER-LOCAL", "dst,dst"), "-j RETURN")
	r.rule("nat", ipvsLoadBalancerChain, "-j", markMasqChain)
	for _, protocol := range []string{"tcp", "udp"} {
		upper := strings.ToUpper(protocol)
		r.rule("nat", ipvsNodePortChain, "-p", protocol, r.matchSet("NODE-PORT-LOCAL-"+upper, "dst"), "-j RETURN")
		masquerade("nat", ipvsNodePortChain, "Kubernetes nodeport "+upper+" port for masquerade purpose", "-p", protocol, r.matchSet("NODE-PORT-"+upper, "dst"))
	}
	r.rule("filter", ipvsNodePortChain, comment("Kubernetes health check node port"), r.matchSet("HEALTH-CHECK-NODE-PORT", "dst"), "-j ACCEPT")
	r.rule("filter", firewallChain, r.matchSet("LOAD-BALANCER-FW", "dst,dst"), "-j", ipvsSourcesChain)
	r.rule("filter", ipvsSourcesChain, r.matchSet("LOAD-BALANCER-SOURCE-CIDR", "dst,dst,src"), "-j RETURN")
	r.rule("filter", ipvsSourcesChain, "-j DROP")
	// The addresses are the node's now; what else listens on it must not be
	// reached by them.
	for _, set := range []string{"LOAD-BALANCER", "CLUSTER-IP", "EXTERNAL-IP", "EXTERNAL-IP-LOCAL"} {
		r.rule("filter", ipvsFilterChain, r.matchSet(set, "dst,dst"), "-j RETURN")
	}
	r.rule("filter", ipvsFilterChain, "-m conntrack --ctstate NEW", r.matchSet("IPVS-IPS", "dst"), "-j REJECT")
}

// Pseudo-sets of the ledger, beside the ipsets: each is a list of the kernel's.
const (
	ipvsAddresses = "address" // on kube-ipvs0
	ipvsVirtual   = "virtual" // "-t 10.96.0.1:443" → "-s rr"
	ipvsReal      = "real"    // "-t 10.96.0.1:443 -r 172.30.9.1:6443" → "-m -w 1"
)

// ipvsElements is what one port wants, a group for each way in.
func ipvsElements(f Family, o Options, p *ServicePort) (groups [][]element) {
	scheduler := "-s rr"
	if o.Scheduler != "" {
		scheduler = "-s " + o.Scheduler
	}
	if p.AffinitySeconds > 0 {
		scheduler += fmt.Sprintf(" -p %d", p.AffinitySeconds)
	}
	in := func(set, key string) element { return element{f.ipSet(set), key, ""} }
	for _, w := range p.ways(o.NodePortAddresses) {
		virtual := fmt.Sprintf("-%c %s", p.Protocol[0], w.address)
		group := []element{{claim, virtual, p.Name.String()}, {ipvsVirtual, virtual, scheduler}}
		for _, e := range w.endpoints {
			group = append(group, element{ipvsReal, virtual + " -r " + e.Address.String(), "-m -w 1"})
			if e.MayBeLocal {
				group = append(group, in("LOOP-BACK", ipSetEntry(p.Protocol, e.Address)+","+e.Address.Addr().String()))
			}
		}
		groups = append(groups, append(group, ipvsWay(f, o, p, w, in)...))
	}
	if p.HealthCheckNodePort != 0 {
		groups = append(groups, []element{in("HEALTH-CHECK-NODE-PORT", fmt.Sprint(p.HealthCheckNodePort))})
	}
	return groups
}

// ipvsWay puts an address where packets and rules find it.
func ipvsWay(f Family, o Options, p *ServicePort, w way, in func(set, key string) element) []element {
	local := ""
	if p.ExternalLocal {
		local = "-LOCAL"
	}
	entry := ipSetEntry(p.Protocol, w.address)
	if w.kind == toNodePort {
		return []element{in("NODE-PORT"+local+"-"+strings.ToUpper(p.Protocol), fmt.Sprint(w.address.Port()))}
	}
	ip := w.address.Addr().String()
	group := []element{{ipvsAddresses, ip, ""}, in("IPVS-IPS", ip)}
	switch w.kind {
	case toClusterIP:
		group = append(group, in("CLUSTER-IP", entry))
	case toExternalIP:
		group = append(group, in("EXTERNAL-IP"+local, entry))
	case toLoadBalancer:
		group = append(group, in("LOAD-BALANCER", entry))
		if p.ExternalLocal {
			group = append(group, in("LOAD-BALANCER-LOCAL", entry))
		}
		if len(p.SourceRanges) > 0 {
			group = append(group, in("LOAD-BALANCER-FW", entry))
			for _, source := range p.sources(o.NodeIP, w.address.Addr()) {
				group = append(group, in("LOAD-BALANCER-SOURCE-CIDR", entry+","+strings.TrimSuffix(source.String(), f.either("/32", "/128"))))
			}
		}
	}
	return group
}

func ipSetEntry(protocol string, a netip.AddrPort) string {
	return fmt.Sprintf("%s,%s:%d", a.Addr(), protocol, a.Port())
}

// ipvsSysctls: IPVS must keep connections where the connection tracking sees
// them, or nothing could be masqueraded; a removed server must end its
// connections; and with strict ARP only the link that has an address answers for it.
func ipvsSysctls(strictARP bool) map[string]int {
	want := map[string]int{"net/ipv4/vs/conntrack": 1, "net/ipv4/vs/expire_nodest_conn": 1, "net/ipv4/vs/expire_quiescent_template": 1}
	if strictARP {
		want["net/ipv4/conf/all/arp_ignore"], want["net/ipv4/conf/all/arp_announce"] = 1, 2
	}
	return want
}
