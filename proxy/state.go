package proxy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// State is everything a backend needs to know, for one address family.
//
// Invariant: a ServicePort never changes once it is in a State. So the same
// pointer in two States means that nothing about that port has changed.
type State struct {
	Family Family
	Ports  []*ServicePort
}

// sorted answers the ports in an order that everybody would choose.
func (s State) sorted() []*ServicePort {
	return slices.SortedFunc(slices.Values(s.Ports), func(a, b *ServicePort) int {
		return cmp.Or(strings.Compare(a.Name.Namespace, b.Name.Namespace), strings.Compare(a.Name.Name, b.Name.Name),
			strings.Compare(a.Name.Port, b.Name.Port), strings.Compare(a.Protocol, b.Protocol))
	})
}

// PortName identifies a Service port.
type PortName struct{ Namespace, Name, Port string }

// String is how rules' comments and names spell it: default/web:http.
func (n PortName) String() string {
	if n.Port == "" {
		return n.Namespace + "/" + n.Name
	}
	return n.Namespace + "/" + n.Name + ":" + n.Port
}

// ServicePort is one port of one Service, with the endpoints that this node
// sends its traffic to.
type ServicePort struct {
	Name     PortName
	Protocol string // tcp, udp

	// Ways in.
	ClusterIP       netip.Addr
	Port            uint16
	NodePort        uint16 // 0: none
	ExternalIPs     []netip.Addr
	LoadBalancerIPs []netip.Addr
	SourceRanges    []netip.Prefix // who may use LoadBalancerIPs; empty: everybody

	// Ways out.
	InternalLocal   bool // internalTrafficPolicy: Local
	ExternalLocal   bool // externalTrafficPolicy: Local
	AffinitySeconds int  // 0: no session affinity
	Cluster         []Endpoint
	Local           []Endpoint // of Cluster's kind, on this node

	HealthCheckNodePort uint16
	// ReadyHere are the pods of this node that are ready: what health checks count.
	ReadyHere map[netip.Addr]bool
}

// Endpoint is one backend that may be chosen.
type Endpoint struct {
	Address netip.AddrPort
	IsLocal bool
	// MayBeLocal is false only for an endpoint that is known to be on another node.
	MayBeLocal bool
}

// Internal answers who gets traffic for the cluster IP, External for all others.
func (p *ServicePort) Internal() []Endpoint { return p.choose(p.InternalLocal) }
func (p *ServicePort) External() []Endpoint { return p.choose(p.ExternalLocal) }

func (p *ServicePort) choose(local bool) []Endpoint {
	if local {
		return p.Local
	}
	return p.Cluster
}

// IsExternal says whether there is any way in but the cluster IP.
func (p *ServicePort) IsExternal() bool {
	return p.NodePort != 0 || len(p.ExternalIPs) > 0 || len(p.LoadBalancerIPs) > 0
}

// way is one address that leads to a port's endpoints. It is how backends see a
// port that look up addresses rather than walk chains: there, a NodePort is an
// address of the node like any other.
type way struct {
	kind      wayKind
	address   netip.AddrPort
	endpoints []Endpoint
}

type wayKind int

const (
	toClusterIP wayKind = iota
	toExternalIP
	toLoadBalancer
	toNodePort
)

// ways lists them; the first wins where two are the same.
func (p *ServicePort) ways(nodeAddresses []netip.Addr) []way {
	list := []way{{toClusterIP, netip.AddrPortFrom(p.ClusterIP, p.Port), p.Internal()}}
	add := func(kind wayKind, ips []netip.Addr, port uint16) {
		for _, ip := range ips {
			list = append(list, way{kind, netip.AddrPortFrom(ip, port), p.External()})
		}
	}
	add(toExternalIP, p.ExternalIPs, p.Port)
	add(toLoadBalancer, p.LoadBalancerIPs, p.Port)
	for _, ip := range nodeAddresses {
		if p.NodePort != 0 && !ip.IsLoopback() {
			add(toNodePort, []netip.Addr{ip}, p.NodePort)
		}
	}
	return list
}

// sources are the ranges that may use LoadBalancerIPs, none within another. A
// load balancer may be an address of the node itself, which then is the source as
// well when the node is the client: it may, if the node may.
func (p *ServicePort) sources(node, loadBalancer netip.Addr) (ranges []netip.Prefix) {
	all := p.SourceRanges
	if slices.ContainsFunc(all, func(r netip.Prefix) bool { return r.Contains(node) }) {
		all = append(slices.Clone(all), netip.PrefixFrom(loadBalancer, loadBalancer.BitLen()))
	}
	for i, r := range all {
		if !slices.ContainsFunc(all, func(o netip.Prefix) bool { return o.Bits() < r.Bits() && o.Contains(r.Addr()) }) &&
			!slices.Contains(all[:i], r) {
			ranges = append(ranges, r)
		}
	}
	return ranges
}

// Node is what the state depends on of the node that it is for.
type Node struct {
	Name   string
	Zone   string
	Family Family
}

// NewState decides what should be. Objects that are none of ours are skipped:
// headless Services, ExternalNames, those of another proxy.
func NewState(node Node, services []*corev1.Service, endpointSlices []*discoveryv1.EndpointSlice) State {
	return new(Tracker).State(node, services, endpointSlices)
}

// Tracker is NewState with a memory. It still looks at everything, so no lost or
// doubled event can mislead it; but what it looks at are pointers: only a Service
// that is another object than before, or has other slices, gets new ports.
type Tracker struct {
	node     Node
	round    int
	groups   map[serviceKey]*group
	services map[*corev1.Service]*seat
	slices   map[*discoveryv1.EndpointSlice]*seat
}

type serviceKey struct{ namespace, name string }

// group is a Service with all that belongs to it; service is nil while there are
// only slices.
type group struct {
	service *corev1.Service
	slices  []*discoveryv1.EndpointSlice
	ports   []*ServicePort
	changed bool
}

// seat is an object's place, and the last round that it was there.
type seat struct {
	*group
	round int
}

// State decides what should be.
func (t *Tracker) State(node Node, services []*corev1.Service, endpointSlices []*discoveryv1.EndpointSlice) State {
	if t.node != node || t.groups == nil {
		*t = Tracker{node: node, groups: map[serviceKey]*group{}, services: map[*corev1.Service]*seat{}, slices: map[*discoveryv1.EndpointSlice]*seat{}}
	}
	t.round++
	seated(t, t.services, services, func(s *corev1.Service) serviceKey { return serviceKey{s.Namespace, s.Name} },
		func(g *group, s *corev1.Service) { g.service = s },
		func(g *group, s *corev1.Service) {
			if g.service == s {
				g.service = nil
			}
		})
	seated(t, t.slices, endpointSlices, func(s *discoveryv1.EndpointSlice) serviceKey {
		return serviceKey{s.Namespace, s.Labels[discoveryv1.LabelServiceName]}
	}, func(g *group, s *discoveryv1.EndpointSlice) { g.slices = append(g.slices, s) },
		func(g *group, s *discoveryv1.EndpointSlice) {
			g.slices = slices.DeleteFunc(g.slices, func(o *discoveryv1.EndpointSlice) bool { return o == s })
		})
	state := State{Family: node.Family, Ports: make([]*ServicePort, 0, len(services))}
	for _, service := range services {
		g := t.services[service].group
		if g.service != service {
			continue // given twice: the last one counts
		}
		if g.changed {
			g.changed, g.ports = false, nil
			if isOurs(service) {
				slices.SortFunc(g.slices, func(a, b *discoveryv1.EndpointSlice) int { return strings.Compare(a.Name, b.Name) })
				g.ports = newServicePorts(node, service, g.slices)
			}
		}
		state.Ports = append(state.Ports, g.ports...)
	}
	return state
}

// seated finds each object's seat, makes those of new ones, and clears those of
// objects that are there no more.
func seated[T comparable](t *Tracker, seats map[T]*seat, objects []T, key func(T) serviceKey, enter, leave func(*group, T)) {
	there := 0
	for _, o := range objects {
		s := seats[o]
		if s == nil {
			k := key(o)
			g := t.groups[k]
			if g == nil {
				g = &group{}
				t.groups[k] = g
			}
			s = &seat{group: g}
			seats[o], g.changed = s, true
			enter(g, o)
		}
		if s.round != t.round {
			s.round = t.round
			there++
		}
	}
	if there == len(seats) {
		return
	}
	for o, s := range seats {
		if s.round != t.round {
			delete(seats, o)
			s.changed = true
			leave(s.group, o)
			if s.service == nil && len(s.slices) == 0 {
				delete(t.groups, key(o))
			}
		}
	}
}

func newServicePorts(node Node, service *corev1.Service, endpointSlices []*discoveryv1.EndpointSlice) (ports []*ServicePort) {
	for i := range service.Spec.Ports {
		if p, ok := newServicePort(node.Family, service, &service.Spec.Ports[i]); ok {
			p.selectEndpoints(node, findCandidates(node, p, endpointSlices))
			ports = append(ports, p)
		}
	}
	return ports
}

// serviceProxyName is the label that gives a Service to somebody else.
const serviceProxyName = "service.kubernetes.io/service-proxy-name"

func isOurs(s *corev1.Service) bool {
	_, foreign := s.Labels[serviceProxyName]
	return !foreign && s.Spec.Type != corev1.ServiceTypeExternalName &&
		s.Spec.ClusterIP != "" && s.Spec.ClusterIP != corev1.ClusterIPNone
}

// newServicePort copies what the rules need; false if it is of another family or
// of a protocol that we do not speak.
//
// Simplified: SCTP is left out, as it is from the kernels we run on.
func newServicePort(family Family, s *corev1.Service, port *corev1.ServicePort) (*ServicePort, bool) {
	p := &ServicePort{
		Name:     PortName{s.Namespace, s.Name, port.Name},
		Protocol: strings.ToLower(string(cmp.Or(port.Protocol, corev1.ProtocolTCP))),
		Port:     uint16(port.Port), NodePort: uint16(port.NodePort),
		InternalLocal: s.Spec.InternalTrafficPolicy != nil && *s.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal,
		ExternalLocal: s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal,
		ExternalIPs:   family.addresses(s.Spec.ExternalIPs),
	}
	clusterIPs := family.addresses(append([]string{s.Spec.ClusterIP}, s.Spec.ClusterIPs...))
	if len(clusterIPs) == 0 || p.Protocol != "tcp" && p.Protocol != "udp" || !isPort(port.Port) || port.NodePort != 0 && !isPort(port.NodePort) {
		return nil, false
	}
	p.ClusterIP = clusterIPs[0]
	for _, ingress := range s.Status.LoadBalancer.Ingress {
		// Mode Proxy: the load balancer rewrites the address itself, and its
		// health checks must not be short-circuited here.
		if ingress.IPMode == nil || *ingress.IPMode == corev1.LoadBalancerIPModeVIP {
			p.LoadBalancerIPs = append(p.LoadBalancerIPs, family.addresses([]string{ingress.IP})...)
		}
	}
	for _, r := range s.Spec.LoadBalancerSourceRanges {
		if prefix, err := netip.ParsePrefix(strings.TrimSpace(r)); err == nil && family.has(prefix.Addr()) {
			p.SourceRanges = append(p.SourceRanges, prefix.Masked())
		}
	}
	if slices.ContainsFunc(p.SourceRanges, func(r netip.Prefix) bool { return r.Bits() == 0 }) {
		p.SourceRanges = nil // everybody
	}
	if s.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		p.AffinitySeconds = int(corev1.DefaultClientIPServiceAffinitySeconds)
		if c := s.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
			p.AffinitySeconds = int(*c.ClientIP.TimeoutSeconds)
		}
	}
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer && p.ExternalLocal {
		p.HealthCheckNodePort = uint16(s.Spec.HealthCheckNodePort)
	}
	return p, true
}

// candidate is an endpoint with what decides whether it is chosen.
type candidate struct {
	Endpoint
	ready, serving, terminating bool
	zones, nodes                []string // hints; nil: none given
}

// findCandidates collects a port's endpoints from all slices, each address once.
// While an endpoint moves from slice to slice it may be in two; ready wins.
func findCandidates(node Node, p *ServicePort, endpointSlices []*discoveryv1.EndpointSlice) []candidate {
	found := map[netip.AddrPort]candidate{}
	for _, slice := range endpointSlices {
		if slice.AddressType != node.Family.addressType() {
			continue
		}
		for _, port := range slice.Ports {
			if port.Port == nil || !isPort(*port.Port) || value(port.Name) != p.Name.Port ||
				strings.ToLower(string(valueOr(port.Protocol, corev1.ProtocolTCP))) != p.Protocol {
				continue
			}
			for i := range slice.Endpoints {
				c, ok := newCandidate(node, &slice.Endpoints[i], uint16(*port.Port))
				if old, again := found[c.Address]; ok && (!again || !old.ready && c.ready) {
					found[c.Address] = c
				}
			}
		}
	}
	list := make([]candidate, 0, len(found))
	for _, c := range found {
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b candidate) int { return a.Address.Compare(b.Address) })
	return list
}

// newCandidate reads one endpoint. Nobody may lead a Service's traffic to
// loopback, link-local or multicast addresses: from the node that would reach
// what only the node itself should (CVE-2021-25737).
func newCandidate(node Node, e *discoveryv1.Endpoint, port uint16) (candidate, bool) {
	if len(e.Addresses) == 0 {
		return candidate{}, false
	}
	ip, err := netip.ParseAddr(e.Addresses[0]) // the others are not for proxies
	if err != nil || !node.Family.has(ip) || !ip.IsGlobalUnicast() {
		return candidate{}, false
	}
	c := candidate{
		Endpoint: Endpoint{Address: netip.AddrPortFrom(ip, port), IsLocal: node.Name != "" && value(e.NodeName) == node.Name,
			MayBeLocal: node.Name == "" || e.NodeName == nil || *e.NodeName == node.Name},
		ready:       valueOr(e.Conditions.Ready, true),
		terminating: value(e.Conditions.Terminating),
	}
	c.serving = valueOr(e.Conditions.Serving, c.ready)
	if e.Hints != nil {
		for _, z := range e.Hints.ForZones {
			c.zones = append(c.zones, z.Name)
		}
		for _, n := range e.Hints.ForNodes {
			c.nodes = append(c.nodes, n.Name)
		}
	}
	return c, true
}

// selectEndpoints chooses: those that are ready; if none is, those that still
// serve while they terminate, since an answer from a pod that is leaving is
// better than none. Hints then narrow the choice, unless they would leave nothing.
//
// Upstream: kubernetes pkg/proxy/topology.go CategorizeEndpoints
func (p *ServicePort) selectEndpoints(node Node, all []candidate) {
	pick := func(local bool) []Endpoint {
		var ready, leaving []candidate
		for _, c := range all {
			switch {
			case local && !c.IsLocal:
			case c.ready:
				ready = append(ready, c)
			case c.serving && c.terminating:
				leaving = append(leaving, c)
			}
		}
		if len(ready) == 0 {
			ready = leaving
		}
		if !local {
			ready = hinted(node, ready)
		}
		chosen := make([]Endpoint, 0, len(ready))
		for _, c := range ready {
			chosen = append(chosen, c.Endpoint)
		}
		return chosen
	}
	p.Cluster = pick(false)
	if p.HealthCheckNodePort != 0 {
		p.ReadyHere = map[netip.Addr]bool{}
		for _, c := range all {
			if c.IsLocal && c.ready {
				p.ReadyHere[c.Address.Addr()] = true
			}
		}
	}
	if p.InternalLocal || p.ExternalLocal {
		p.Local = pick(true)
	}
}

// hinted keeps the endpoints meant for our node or our zone. A single endpoint
// without a hint means that hints are being rolled out or taken back: then they
// count for nobody.
func hinted(node Node, all []candidate) []candidate {
	for _, by := range []struct {
		ours  string
		hints func(candidate) []string
	}{
		{node.Name, func(c candidate) []string { return c.nodes }},
		{node.Zone, func(c candidate) []string { return c.zones }},
	} {
		var kept []candidate
		complete := by.ours != ""
		for _, c := range all {
			complete = complete && len(by.hints(c)) > 0
			if slices.Contains(by.hints(c), by.ours) {
				kept = append(kept, c)
			}
		}
		if complete && len(kept) > 0 {
			return kept
		}
	}
	return all
}

func isPort(n int32) bool { return n > 0 && n < 1<<16 }

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func valueOr[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

// Summary is one line for people.
func (s State) Summary() string {
	endpoints := 0
	for _, p := range s.Ports {
		endpoints += len(p.Cluster)
	}
	return fmt.Sprintf("%d Service ports, %d endpoints", len(s.Ports), endpoints)
}
