package proxy

import "net/netip"

// Flow is an entry of the kernel's connection tracking table, as far as we care:
// whom the client asked, and who answers.
type Flow struct {
	Asked    netip.AddrPort
	Answerer netip.AddrPort
}

// udpFlows says which UDP flows are stale. A flow remembers the choice that the
// rules made for its first packet and never asks them again; a client that keeps
// sending (DNS, syslog, a game) would talk to a pod that is gone for as long as
// it keeps sending. A flow is stale when it asks a Service of ours and its
// answerer is not one of the Service's endpoints:
//
//	the endpoint is gone                       → a new choice is made
//	there was no endpoint, or no rule yet      → answerer == asked: now there is
type udpFlows struct {
	services  map[netip.AddrPort]map[netip.AddrPort]bool // address → endpoints
	nodePorts map[uint16]map[netip.AddrPort]bool
	local     map[netip.Addr]bool // addresses of this node
}

func newUDPFlows(state State, local []netip.Addr) udpFlows {
	f := udpFlows{map[netip.AddrPort]map[netip.AddrPort]bool{}, map[uint16]map[netip.AddrPort]bool{}, map[netip.Addr]bool{}}
	for _, ip := range local {
		f.local[ip] = true
	}
	for _, p := range state.Ports {
		if p.Protocol != "udp" {
			continue
		}
		endpoints := map[netip.AddrPort]bool{}
		for _, list := range [][]Endpoint{p.Cluster, p.Local} {
			for _, e := range list {
				endpoints[e.Address] = true
			}
		}
		for _, list := range [][]netip.Addr{{p.ClusterIP}, p.ExternalIPs, p.LoadBalancerIPs} {
			for _, ip := range list {
				f.services[netip.AddrPortFrom(ip, p.Port)] = endpoints
			}
		}
		if p.NodePort != 0 {
			f.nodePorts[p.NodePort] = endpoints
		}
	}
	return f
}

func (f udpFlows) stale(flow Flow) bool {
	endpoints, ok := f.services[flow.Asked]
	if !ok && f.local[flow.Asked.Addr()] {
		endpoints, ok = f.nodePorts[flow.Asked.Port()]
	}
	return ok && !endpoints[flow.Answerer]
}
