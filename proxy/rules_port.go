package proxy

// The rules of one Service port, from the ways in to the endpoints.

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// hash is the end of a chain's name: 16 characters of base32(sha256).
func hash(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "")))
	return base32.StdEncoding.EncodeToString(sum[:])[:16]
}

// chainNames are one port's chains.
type chainNames struct{ cluster, local, external, firewall, internalPolicy, externalPolicy string }

func (p *ServicePort) chainNames() chainNames {
	h := hash(p.Name.String(), p.Protocol)
	n := chainNames{cluster: "KUBE-SVC-" + h, local: "KUBE-SVL-" + h, external: "KUBE-EXT-" + h, firewall: "KUBE-FW-" + h}
	n.internalPolicy, n.externalPolicy = n.cluster, n.cluster
	if p.InternalLocal {
		n.internalPolicy = n.local
	}
	if p.ExternalLocal {
		n.externalPolicy = n.local
	}
	return n
}

func (p *ServicePort) endpointChain(e Endpoint) string {
	return "KUBE-SEP-" + hash(p.Name.String(), p.Protocol, e.Address.String())
}

// match matches packets to a port of this protocol.
func (p *ServicePort) match(port uint16) string {
	return fmt.Sprintf("-m %s -p %[1]s --dport %[2]d", p.Protocol, port)
}

func (p *ServicePort) matchIP(ip netip.Addr) string {
	return "-m " + p.Protocol + " -p " + p.Protocol + " -d " + ip.String() + " --dport " + strconv.Itoa(int(p.Port))
}

// renderPort writes the rules of one Service port: ways in, then the choice,
// then the endpoints.
//
// LAB 20 service: write the way to the cluster IP, from KUBE-SERVICES of table
// nat to the chain that p.chainNames calls internalPolicy, and what masquerades;
// if p.Internal() is empty, r.refuse. Then, if p.IsExternal(), the ways in from
// outside; in table filter an ACCEPT of p.HealthCheckNodePort, if there is one,
// in KUBE-NODEPORTS; and the endpoints. Helpers for all of it follow below.
func (r *renderer) renderPort(p *ServicePort) {
	names, note := p.chainNames(), p.Name.String()
	if len(p.Internal()) > 0 {
		r.rule("nat", servicesChain, comment(note+" cluster IP"), p.matchIP(p.ClusterIP), "-j", names.internalPolicy)
		r.renderClusterMasquerade(p, names)
	} else {
		r.refuse(p, servicesChain, p.matchIP(p.ClusterIP))
	}
	if p.IsExternal() {
		r.renderExternal(p, names)
	}
	if p.HealthCheckNodePort != 0 {
		r.rule("filter", nodePortsChain, comment(note+" health check node port"), fmt.Sprintf("-m tcp -p tcp --dport %d", p.HealthCheckNodePort), "-j ACCEPT")
	}
	r.renderEndpoints(p, names)
}

// refuse answers for a way in that leads nowhere. Nobody anywhere: tell the
// client. Nobody on this node, for a policy that wants only those: say nothing,
// so that a load balancer that is about to notice does not break clients.
func (r *renderer) refuse(p *ServicePort, chain, match string) {
	if len(p.Cluster) == 0 && len(p.Local) == 0 {
		r.rule("filter", chain, comment(p.Name.String()+" has no endpoints"), match, "-j REJECT")
	} else {
		r.rule("filter", chain, comment(p.Name.String()+" has no local endpoints"), match, "-j DROP")
	}
}

// renderClusterMasquerade marks what reaches the cluster IP from outside of the
// pod network: the endpoint must answer to this node, which alone can undo the
// rewriting.
func (r *renderer) renderClusterMasquerade(p *ServicePort, names chainNames) {
	note := r.note(p.Name.String(), " cluster IP")
	if r.MasqueradeAll {
		r.rule("nat", names.internalPolicy, note, p.matchIP(p.ClusterIP), "-j", markMasqChain)
	} else if r.Local.known() {
		r.rule("nat", names.internalPolicy, note, p.matchIP(p.ClusterIP), r.Local.iptables("! "), "-j", markMasqChain)
	}
}

// renderExternal writes the ways in from outside. They all lead through KUBE-EXT,
// which says what happens to the source address. What comes out of it unchanged,
// because the policy is Local and nobody is here, is dropped by the filter table.
func (r *renderer) renderExternal(p *ServicePort, names chainNames) {
	note := p.Name.String()
	reachable, usable := len(p.Cluster)+len(p.Local) > 0, len(p.External()) > 0
	for _, ip := range p.ExternalIPs {
		if reachable {
			r.rule("nat", servicesChain, comment(note+" external IP"), p.matchIP(ip), "-j", names.external)
		}
		if !usable {
			r.refuse(p, externalServicesChain, p.matchIP(ip))
		}
	}
	for _, ip := range p.LoadBalancerIPs {
		if reachable {
			r.renderLoadBalancer(p, names, ip)
		}
		if !usable {
			r.refuse(p, externalServicesChain, p.matchIP(ip))
		}
	}
	if p.NodePort != 0 && reachable {
		r.rule("nat", nodePortsChain, comment(note), p.match(p.NodePort), "-j", names.external)
	}
	if p.NodePort != 0 && !usable {
		r.refuse(p, externalServicesChain, "-m addrtype --dst-type LOCAL "+p.match(p.NodePort))
	}
	if reachable {
		r.renderPolicy(p, names, usable)
	}
}

// renderLoadBalancer: with source ranges, whoever is in none of them comes out of
// KUBE-FW unchanged and is dropped by KUBE-PROXY-FIREWALL.
func (r *renderer) renderLoadBalancer(p *ServicePort, names chainNames, ip netip.Addr) {
	note := comment(p.Name.String() + " loadbalancer IP")
	if len(p.SourceRanges) == 0 {
		r.rule("nat", servicesChain, note, p.matchIP(ip), "-j", names.external)
		return
	}
	r.rule("nat", servicesChain, note, p.matchIP(ip), "-j", names.firewall)
	for _, source := range p.sources(r.NodeIP, ip) {
		rule := []string{note, "-s", source.String(), "-j", names.external}
		if chain := r.chain("nat", names.firewall); !strings.Contains(chain.String(), strings.Join(rule, " ")) {
			r.rule("nat", names.firewall, rule...) // the ranges once for all addresses
		}
	}
	r.rule("filter", firewallChain, comment(p.Name.String()+" traffic not accepted by "+names.firewall), p.matchIP(ip), "-j DROP")
}

// renderPolicy: with policy Cluster the endpoint may be on another node, so the
// answer must come back through here: masquerade. With policy Local the client's
// address stays; only clients inside are treated as they are with a cluster IP.
func (r *renderer) renderPolicy(p *ServicePort, names chainNames, usable bool) {
	note := p.Name.String() + " external destinations"
	if !p.ExternalLocal {
		r.rule("nat", names.external, comment("masquerade traffic for "+note), "-j", markMasqChain)
	} else {
		if r.Local.known() {
			r.rule("nat", names.external, comment("pod traffic for "+note), r.Local.iptables(""), "-j", names.cluster)
		}
		r.rule("nat", names.external, comment("masquerade LOCAL traffic for "+note), "-m addrtype --src-type LOCAL -j", markMasqChain)
		r.rule("nat", names.external, comment("route LOCAL traffic for "+note), "-m addrtype --src-type LOCAL -j", names.cluster)
	}
	if usable {
		r.rule("nat", names.external, "-j", names.externalPolicy)
	}
}

// renderEndpoints writes the choices that are in use, and each endpoint once.
func (r *renderer) renderEndpoints(p *ServicePort, names chainNames) {
	usesCluster := !p.InternalLocal || p.IsExternal()
	usesLocal := p.InternalLocal || p.ExternalLocal && p.IsExternal()
	if usesCluster && len(p.Cluster) > 0 {
		r.renderChoice(p, names.cluster, p.Cluster)
	}
	if usesLocal && len(p.Local) > 0 {
		r.renderChoice(p, names.local, p.Local)
	}
	done := make(map[netip.AddrPort]bool, len(p.Cluster))
	for _, list := range [][]Endpoint{p.Cluster, p.Local} {
		for _, e := range list {
			if !done[e.Address] {
				done[e.Address] = true
				r.renderEndpoint(p, e)
			}
		}
	}
}

// renderChoice: first whoever the client was with, then by lot. Of n endpoints
// the first is taken with 1/n, else the second with 1/(n-1), …, the last always:
// together 1/n each.
//
// LAB 20 choice: write the rules of table nat that lead from the chain to
// p.endpointChain of each endpoint, each with the same chance; xt_statistic draws
// with "-m statistic --mode random --probability 0.5000000000". With
// p.AffinitySeconds the rules that recognise a client (affinityMatch) come before.
func (r *renderer) renderChoice(p *ServicePort, chain string, endpoints []Endpoint) {
	note := p.Name.String()
	if p.AffinitySeconds > 0 {
		for _, e := range endpoints {
			sep := p.endpointChain(e)
			seen, _ := affinityMatch(sep, p.AffinitySeconds)
			r.rule("nat", chain, r.note(note, " -> ", e.Address.String()), seen, "-j", sep)
		}
	}
	for i, e := range endpoints {
		lot := ""
		if left := len(endpoints) - i; left > 1 {
			lot = fmt.Sprintf("-m statistic --mode random --probability %.10f", 1/float64(left))
		}
		r.rule("nat", chain, r.note(note, " -> ", e.Address.String()), lot, "-j", p.endpointChain(e))
	}
}

// renderEndpoint rewrites the destination. An endpoint that reaches itself through
// its Service (hairpin) must not see its own address as the source: it would
// answer to itself, past us.
func (r *renderer) renderEndpoint(p *ServicePort, e Endpoint) {
	chain, note := p.endpointChain(e), r.note(p.Name.String())
	r.rule("nat", chain, note, "-s", e.Address.Addr().String(), "-j", markMasqChain)
	remember := ""
	if p.AffinitySeconds > 0 {
		_, remember = affinityMatch(chain, p.AffinitySeconds)
	}
	match := "-m " + p.Protocol
	if r.large {
		match = "" // it matches nothing, and is carried with each rule
	}
	r.rule("nat", chain, note, remember, match, "-p", p.Protocol, "-j DNAT --to-destination", e.Address.String())
}

// affinityMatch is session affinity in two halves, both about the list of client
// addresses that the kernel's xt_recent keeps under the name of an endpoint's
// chain: seen matches a client that was led there within so many seconds,
// remember always matches and writes the client down. It stands in the rule that
// rewrites, so each new connection renews the time.
//
// LAB 20 affinity: two matches for iptables, from "-m recent" on; see
// iptables-extensions(8), recent: --rcheck, --seconds, --reap and --set.
func affinityMatch(chain string, seconds int) (seen, remember string) {
	return fmt.Sprintf("-m recent --name %s --rcheck --seconds %d --reap", chain, seconds), "-m recent --name " + chain + " --set"
}
