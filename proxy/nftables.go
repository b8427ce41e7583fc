package proxy

import (
	"fmt"
	"net/netip"
	"strings"
)

// What the nftables backend wants: no chain per Service and none per endpoint,
// but maps that all Services share. Three questions, each one lookup:
//
//	who is asked?          service-ips:   10.96.0.80 . tcp . 80              → goto tcp-cluster-3
//	which of 3, by lot?    tcp-endpoints: 10.96.0.80 . 80 . (lot)            → 10.244.1.4 . 8080
//	was this client here?  affinity-600:  10.244.2.7 . 10.96.0.80 . tcp . 80 → 10.244.1.4 . 8080
//
// So a Service costs one element, and one per endpoint; a change of an endpoint
// changes one element; and a packet's way is equally long with 10 Services and
// with 10,000. Upstream's layout has a chain for each Service and each endpoint,
// and the kernel checks all of them for loops whenever one changes.
//
// What does not fit in a flat map goes into the chain that service-ips leads to.
// Such a chain belongs to no Service: its name says what is special, and all
// Services that are special in the same way share it.
//
//	uneven counts      the lot is drawn in the chain, numgen random mod 3: so there is
//	                   a chain for each number of endpoints that occurs, and no slot
//	                   is ever empty or counted twice
//	masquerading       tcp-cluster-3 marks who is no pod of ours, tcp-external-3 everybody
//	policy Local       tcp-local-1-of-3: outsiders get a lot among the 1 endpoint that is
//	                   here; our pods and the node itself one among all 3, from a map of
//	                   its own, tcp-inside-endpoints. Local to the cluster IP needs nothing
//	                   of its own: it is tcp-cluster-1, with the local endpoint in the map
//	session affinity   …-sticky-600 first asks affinity-600. The kernel fills that map
//	                   by itself: when a new connection to a Service in sticky-600 has
//	                   got its endpoint, chain remember writes down client, Service and
//	                   endpoint, for 600 s. An endpoint that goes takes its entries with it
//	no endpoints       are not in service-ips, so nothing is rewritten, and the filter
//	                   hooks find the address in cluster-ips or no-endpoints
//	source ranges      one set of (address, client range), looked up before all else
//
// Simplified: affinity is kept per way in. A client that uses both the cluster IP
// and a NodePort may get two endpoints; upstream gives it one.
//
// Upstream: kubernetes pkg/proxy/nftables/README.md for the hooks and priorities.

const nftTable = "kube-proxy"

// Pseudo-sets of the ledger: things that come and go like elements do.
const (
	nftSets   = "set"   // name → declaration
	nftChains = "chain" // name → rules, one a line; the first may be {a hook}
)

func (f Family) nft() string { return f.either("ip", "ip6") }

// service is the key of most maps, as the packet has it.
func (f Family) service() string { return f.nft() + " daddr . meta l4proto . th dport" }

// nftFrame is what does not depend on Services.
func nftFrame(f Family, o Options) (frame []element) {
	address := f.either("ipv4_addr", "ipv6_addr")
	service := address + " . inet_proto . inet_service"
	set := func(name, declaration string) { frame = append(frame, element{nftSets, name, declaration}) }
	chain := func(name string, rules ...string) {
		frame = append(frame, element{nftChains, name, strings.Join(rules, "\n")})
	}
	set("cluster-ips", "set { type "+address+" ; }")
	set("service-ips", "map { type "+service+" : verdict ; }")
	for _, protocol := range []string{"tcp", "udp"} {
		// "typeof", since a lot has no name as a type; and nft wants to know whose
		// ports these are.
		endpoints := fmt.Sprintf("map { typeof %s daddr . %s dport . numgen random mod 2 : %[1]s daddr . %[2]s dport ; }", f.nft(), protocol)
		set(protocol+"-endpoints", endpoints)
		set(protocol+"-inside-endpoints", endpoints)
	}
	set("no-endpoints", "map { type "+service+" : verdict ; }")
	// What upstream also has under its name is of the same kind there, or its proxy
	// could not take the table over: its firewall-ips is a map.
	set("firewalled-ips", "set { type "+service+" ; }")
	set("allowed-sources", "set { type "+service+" . "+address+" ; flags interval ; }")
	set("hairpin", "set { type "+address+" . "+address+" ; }")

	lookup := "ct state new " + f.service()
	firewall := lookup + " @firewalled-ips " + f.service() + " . " + f.nft() + " saddr != @allowed-sources drop"
	chain("filter-prerouting", "{ type filter hook prerouting priority -110 ; }", firewall)
	chain("nat-prerouting", "{ type nat hook prerouting priority -100 ; }", f.service()+" vmap @service-ips")
	chain("filter-input", "{ type filter hook input priority -110 ; }", lookup+" vmap @no-endpoints")
	forward := []string{"{ type filter hook forward priority -110 ; }", lookup + " vmap @no-endpoints",
		"ct state new " + f.nft() + " daddr @cluster-ips goto reject-all"}
	if !o.TCPBeLiberal {
		forward = append(forward, "ct state invalid drop")
	}
	chain("filter-forward", forward...)
	chain("filter-output", "{ type filter hook output priority -110 ; }", firewall)
	chain("nat-output", "{ type nat hook output priority -100 ; }", f.service()+" vmap @service-ips")
	// After the rewriting: what has been led to an endpoint is not asked any more.
	chain("filter-output-post-dnat", "{ type filter hook output priority -90 ; }", lookup+" vmap @no-endpoints",
		"ct state new "+f.nft()+" daddr @cluster-ips goto reject-all")
	// The mark has done its work; off with it, so that a packet that passes here
	// twice (a tunnel's inside and outside) is not masqueraded twice.
	chain("nat-postrouting", "{ type nat hook postrouting priority 100 ; }",
		fmt.Sprintf("%s saddr . %[1]s daddr @hairpin masquerade fully-random", f.nft()),
		fmt.Sprintf("meta mark & 0x%08x == 0x00000000 return", 1<<o.MasqueradeBit),
		fmt.Sprintf("meta mark set meta mark ^ 0x%08x", 1<<o.MasqueradeBit),
		"masquerade fully-random")
	chain("mark-for-masquerade", fmt.Sprintf("meta mark set meta mark | 0x%08x", 1<<o.MasqueradeBit))
	chain("reject-all", "reject")
	return frame
}

// nftElements is what one port wants, a group for each way in.
func nftElements(f Family, o Options, p *ServicePort) (groups [][]element) {
	for _, w := range p.ways(o.NodePortAddresses) {
		key := nftKey(w.address.Addr(), p.Protocol, w.address.Port())
		group := []element{{claim, key, p.Name.String()}}
		if w.kind == toClusterIP {
			group = append(group, element{"cluster-ips", p.ClusterIP.String(), ""})
		}
		if w.kind == toLoadBalancer && len(p.SourceRanges) > 0 {
			group = append(group, element{"firewalled-ips", key, ""})
			for _, source := range p.sources(o.NodeIP, w.address.Addr()) {
				group = append(group, element{"allowed-sources", key + " . " + source.String(), ""})
			}
		}
		groups = append(groups, append(group, nftWay(f, o, p, w, key)...))
	}
	return groups
}

// nftWay leads one address to its endpoints, or says that there are none: to
// nobody anywhere a refusal, to nobody on this node silence, so that a load
// balancer that is about to notice does not break clients.
func nftWay(f Family, o Options, p *ServicePort, w way, key string) (group []element) {
	inside := p.Cluster
	if w.kind == toClusterIP || !p.ExternalLocal {
		inside = nil
	}
	if len(w.endpoints) == 0 {
		switch {
		case len(p.Cluster)+len(p.Local) > 0:
			group = append(group, element{"no-endpoints", key, "drop"})
		case w.kind != toClusterIP: // cluster-ips refuses those
			group = append(group, element{"no-endpoints", key, "goto reject-all"})
		}
	}
	if len(w.endpoints)+len(inside) == 0 {
		return group
	}
	name, rules := nftChoice(f, o, p, w.kind, len(w.endpoints), len(inside))
	group = append(group, element{nftChains, name, rules}, element{"service-ips", key, "goto " + name})
	for set, endpoints := range map[string][]Endpoint{"endpoints": w.endpoints, "inside-endpoints": inside} {
		for i, e := range endpoints {
			ip := e.Address.Addr().String()
			group = append(group, element{p.Protocol + "-" + set, fmt.Sprintf("%s . %d", nftAddress(w.address), i), nftAddress(e.Address)})
			if e.MayBeLocal {
				group = append(group, element{"hairpin", ip + " . " + ip, ""})
			}
		}
	}
	if p.AffinitySeconds > 0 && f == IPv4 {
		group = append(group, nftSticky(p.AffinitySeconds)...)
		group = append(group, element{fmt.Sprintf("sticky-%d", p.AffinitySeconds), key, ""})
	}
	return group
}

// nftChoice is the chain that all ways of one sort share, and its name: first
// marks, then memory, then a lot among those who are meant.
func nftChoice(f Family, o Options, p *ServicePort, kind wayKind, endpoints, inside int) (name, rules string) {
	draw := "numgen random mod %[3]d"
	if p.AffinitySeconds > 0 && f == IPv6 {
		draw = "jhash ip6 saddr mod %[3]d seed 0x6b756265"
	}
	lot := func(n int, set string) string {
		return fmt.Sprintf("dnat %s to %[1]s daddr . %s dport . "+draw+" map @%[2]s-%[4]s", f.nft(), p.Protocol, n, set)
	}
	const mark, fromNode = "jump mark-for-masquerade", "fib saddr type local "
	var text, lots []string
	switch {
	case kind == toClusterIP:
		name = fmt.Sprintf("%s-cluster-%d", p.Protocol, endpoints)
		// Who is no pod gets answers only through this node, which alone can undo
		// the rewriting.
		if o.MasqueradeAll {
			text = append(text, mark)
		} else if o.Local.known() {
			text = append(text, o.Local.nftables(f, "!= ")+" "+mark)
		}
	case !p.ExternalLocal:
		name, text = fmt.Sprintf("%s-external-%d", p.Protocol, endpoints), []string{mark}
	default:
		name = fmt.Sprintf("%s-local-%d-of-%d", p.Protocol, endpoints, inside)
		notPod := ""
		if o.Local.known() {
			notPod = o.Local.nftables(f, "!= ") + " "
			lots = append(lots, o.Local.nftables(f, "")+" "+lot(inside, "inside-endpoints"))
		}
		// A node's address on the pods' bridge is one of theirs, and keeps it.
		text = []string{notPod + fromNode + mark}
		lots = append(lots, fromNode+lot(inside, "inside-endpoints"))
	}
	if endpoints > 0 {
		lots = append(lots, lot(endpoints, "endpoints"))
	}
	if p.AffinitySeconds > 0 {
		name += fmt.Sprintf("-sticky-%d", p.AffinitySeconds)
	}
	if p.AffinitySeconds > 0 && f == IPv4 {
		text = append(text, fmt.Sprintf("dnat %s to %[1]s saddr . %s map @affinity-%d", f.nft(), f.service(), p.AffinitySeconds))
	}
	return name, strings.Join(append(text, lots...), "\n")
}

// nftSticky is the memory for one timeout: two sets, and the chains that fill
// them, on the two ways that a packet may take to its endpoint.
//
// Simplified: IPv6 has none, because nft before 1.0.7 ends with a failed
// assertion where the kernel is to write down keys of more than 16 bytes. There a
// client's endpoint is a hash of its address: the same as long as there are the
// same endpoints.
func nftSticky(seconds int) []element {
	const asked = "ct original ip daddr . meta l4proto . ct original proto-dst"
	var remember string
	for _, protocol := range []string{"tcp", "udp"} { // which says how to read proto-dst
		remember += fmt.Sprintf("\nmeta l4proto %s ct state new %s @sticky-%d update @affinity-%[3]d { ip saddr . %[2]s : ip daddr . %[1]s dport }",
			protocol, asked, seconds)
	}
	return []element{
		{nftSets, fmt.Sprintf("sticky-%d", seconds), "set { type ipv4_addr . inet_proto . inet_service ; }"},
		{nftSets, fmt.Sprintf("affinity-%d", seconds), fmt.Sprintf(
			"map { type ipv4_addr . ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service ; size 262144 ; flags dynamic,timeout ; timeout %ds ; }", seconds)},
		{nftChains, fmt.Sprintf("remember-%d", seconds), "{ type filter hook postrouting priority 90 ; }" + remember},
		{nftChains, fmt.Sprintf("remember-here-%d", seconds), "{ type filter hook input priority 90 ; }" + remember},
	}
}

func nftKey(ip netip.Addr, protocol string, port uint16) string {
	return fmt.Sprintf("%s . %s . %d", ip, protocol, port)
}

func nftAddress(a netip.AddrPort) string { return fmt.Sprintf("%s . %d", a.Addr(), a.Port()) }
