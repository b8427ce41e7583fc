package flannel

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// Plan is what the kernel must hold for the other nodes. It is computed from
// leases alone, and the same shape is read back from the kernel.
type Plan struct {
	ARP    map[netip.Addr]MAC     // subnet's base address → the node's flannel.1
	FDB    map[MAC]netip.Addr     // that → where the node is
	Routes map[netip.Prefix]Route // its pods → flannel.1, or the node itself
}

// Route is the way to one remote subnet.
type Route struct {
	Via    netip.Addr
	Direct bool // on the wire between nodes; else through flannel.1, onlink
}

func newPlan() Plan {
	return Plan{map[netip.Addr]MAC{}, map[MAC]netip.Addr{}, map[netip.Prefix]Route{}}
}

// makePlan decides. local are the networks of our own interface: nodes in them
// can be reached without a tunnel. problems are leases that were left out.
//
// LAB 19 plan: begin with newPlan. Go through the others in the order of byNode,
// leave out whom unfit finds a problem with (it wants to know all that are in use
// already, ours as well), and give each of the rest its three entries. With
// backend host-gw, or with DirectRouting, a node on our wire (isLocal) needs one
// route to its PublicIP and no more; host-gw has no other way.
func makePlan(conf *NetConf, mine Lease, leases []Lease, local []netip.Prefix) (plan Plan, problems []string) {
	plan = newPlan()
	used := []Lease{mine}
	for _, l := range byNode(slices.Clone(leases)) {
		if l.Node == mine.Node {
			continue
		}
		if problem := unfit(conf, l, used); problem != "" {
			problems = append(problems, problem)
			continue
		}
		used = append(used, l)
		subnet := l.Subnet.Masked()
		if conf.Backend.Type == hostGWBackend || conf.Backend.DirectRouting {
			if isLocal(local, l.PublicIP) {
				plan.Routes[subnet] = Route{Via: l.PublicIP, Direct: true}
				continue
			}
			if conf.Backend.Type == hostGWBackend {
				problems = append(problems, fmt.Sprintf("node %s at %s is not on this node's wire: host-gw cannot reach it", l.Node, l.PublicIP))
				continue
			}
		}
		plan.ARP[subnet.Addr()] = l.VTEP
		plan.FDB[l.VTEP] = l.PublicIP
		plan.Routes[subnet] = Route{Via: subnet.Addr()}
	}
	return plan, problems
}

// unfit says why a lease cannot be used; "" if it can. Two nodes that claim the
// same get a loser by name, the same one on every node.
func unfit(conf *NetConf, l Lease, used []Lease) string {
	switch {
	case l.Backend != conf.Backend.Type:
		return fmt.Sprintf("node %s has backend %q, this node %q", l.Node, l.Backend, conf.Backend.Type)
	case !conf.Network.Contains(l.Subnet.Addr()) || l.Subnet.Bits() < conf.Network.Bits():
		return fmt.Sprintf("node %s has subnet %s outside of network %s", l.Node, l.Subnet, conf.Network)
	case !l.PublicIP.Is4() || !l.PublicIP.IsGlobalUnicast():
		return fmt.Sprintf("node %s has address %s: nobody can be reached there", l.Node, l.PublicIP)
	case l.Backend == vxlanBackend && (l.VTEP.IsZero() || l.VTEP[0]&1 != 0):
		return fmt.Sprintf("node %s has MAC %s, which is no device's", l.Node, l.VTEP)
	}
	for _, other := range used {
		if other.Subnet.Overlaps(l.Subnet) {
			return fmt.Sprintf("node %s has subnet %s, and so has node %s", l.Node, l.Subnet, other.Node)
		}
		if l.Backend == vxlanBackend && other.VTEP == l.VTEP {
			return fmt.Sprintf("node %s has MAC %s, and so has node %s", l.Node, l.VTEP, other.Node)
		}
	}
	return ""
}

func isLocal(local []netip.Prefix, ip netip.Addr) bool {
	return slices.ContainsFunc(local, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// Op is one change of the kernel; exactly one of the three is meant.
type Op struct {
	Remove bool
	ARP    netip.Addr
	FDB    MAC
	Subnet netip.Prefix

	MAC   MAC        // for ARP
	To    netip.Addr // for FDB
	Route Route      // for Subnet

	Device string // the vxlan device
}

// String is the command that does the same.
func (o Op) String() string {
	switch {
	case o.ARP.IsValid() && o.Remove:
		return fmt.Sprintf("ip neigh del %s dev %s", o.ARP, o.Device)
	case o.ARP.IsValid():
		return fmt.Sprintf("ip neigh replace %s lladdr %s dev %s nud permanent", o.ARP, o.MAC, o.Device)
	case !o.FDB.IsZero() && o.Remove:
		return fmt.Sprintf("bridge fdb del %s dev %s self", o.FDB, o.Device)
	case !o.FDB.IsZero():
		return fmt.Sprintf("bridge fdb replace %s dev %s dst %s self permanent", o.FDB, o.Device, o.To)
	}
	verb, where := "replace", " dev "+o.Device+" onlink"
	if o.Remove {
		verb = "del"
	}
	if o.Route.Direct {
		where = ""
	}
	return fmt.Sprintf("ip route %s %s via %s%s", verb, o.Subnet, o.Route.Via, where)
}

// diff is what leads from have to want, in the order in which it must be done:
//
//	remove   route → FDB → ARP
//	add      ARP → FDB → route
//
// The route comes last and goes first: while it is there, so is the way on; a
// packet is never sent into a tunnel that does not know where to.
//
// Removing before adding lets a MAC or a subnet move from one node to another.
func diff(device string, have, want Plan) (ops []Op) {
	defer func() {
		for i := range ops {
			ops[i].Device = device
		}
	}()
	for _, subnet := range sortedPrefixes(have.Routes) {
		// A route that only changes is replaced, not removed: no gap.
		if _, ok := want.Routes[subnet]; !ok {
			ops = append(ops, Op{Remove: true, Subnet: subnet, Route: have.Routes[subnet]})
		}
	}
	for _, mac := range sortedMACs(have.FDB) {
		if _, ok := want.FDB[mac]; !ok {
			ops = append(ops, Op{Remove: true, FDB: mac, To: have.FDB[mac]})
		}
	}
	for _, ip := range sortedAddrs(have.ARP) {
		if _, ok := want.ARP[ip]; !ok {
			ops = append(ops, Op{Remove: true, ARP: ip, MAC: have.ARP[ip]})
		}
	}
	for _, ip := range sortedAddrs(want.ARP) {
		if mac := want.ARP[ip]; have.ARP[ip] != mac {
			ops = append(ops, Op{ARP: ip, MAC: mac})
		}
	}
	for _, mac := range sortedMACs(want.FDB) {
		if to := want.FDB[mac]; have.FDB[mac] != to {
			ops = append(ops, Op{FDB: mac, To: to})
		}
	}
	for _, subnet := range sortedPrefixes(want.Routes) {
		if route := want.Routes[subnet]; have.Routes[subnet] != route {
			ops = append(ops, Op{Subnet: subnet, Route: route})
		}
	}
	return ops
}

func sortedPrefixes(m map[netip.Prefix]Route) []netip.Prefix {
	return slices.SortedFunc(maps.Keys(m), netip.Prefix.Compare)
}

func sortedAddrs(m map[netip.Addr]MAC) []netip.Addr {
	return slices.SortedFunc(maps.Keys(m), netip.Addr.Compare)
}

func sortedMACs(m map[MAC]netip.Addr) []MAC {
	return slices.SortedFunc(maps.Keys(m), func(a, b MAC) int { return slices.Compare(a[:], b[:]) })
}
