package proxy

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// What explain says is what the kernel does: for every client and every way in,
// the walk through the kernel's own listing, and through what render prints, ends
// where connections end.
func TestExplain(t *testing.T) { inModes(t, testExplain) }

func testExplain(t *testing.T, w *world) {
	balanced := func(s *corev1.Service) {
		s.Spec.Type, s.Spec.LoadBalancerSourceRanges = corev1.ServiceTypeLoadBalancer, []string{"10.244.0.0/16"}
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "10.96.88.1"}}
	}
	internalLocal := func(s *corev1.Service) {
		local := corev1.ServiceInternalTrafficPolicyLocal
		s.Spec.InternalTrafficPolicy = &local
	}
	services := []*corev1.Service{
		makeService("near", "10.96.0.1", nodePort(30001)), makeService("kept", "10.96.0.2", nodePort(30002), externalLocal),
		makeService("gone", "10.96.0.3", nodePort(30003)), makeService("far", "10.96.0.4", nodePort(30004), externalLocal, internalLocal),
		makeService("three", "10.96.0.5"), makeService("lb", "10.96.0.6", balanced),
		makeService("dns", "10.96.0.7", udp, nodePort(30007)), makeService("hinted", "10.96.0.8"),
		makeService("sticky", "10.96.0.9", func(s *corev1.Service) {
			s.Spec.SessionAffinity, s.Spec.ExternalIPs = corev1.ServiceAffinityClientIP, []string{"10.96.77.7"}
		}),
	}
	slices := []*discoveryv1.EndpointSlice{
		makeSlice("near", corev1.ProtocolTCP, 8080, "10.244.0.5@node-0"), makeSlice("kept", corev1.ProtocolTCP, 8080, "10.244.0.5@node-0", "10.244.1.5@node-1"),
		makeSlice("far", corev1.ProtocolTCP, 8080, "10.244.1.5@node-1"), makeSlice("lb", corev1.ProtocolTCP, 8080, "10.244.1.6@node-1"),
		makeSlice("three", corev1.ProtocolTCP, 8080, "10.244.0.5@node-0", "10.244.0.6@node-0", "10.244.1.5@node-1"),
		makeSlice("dns", corev1.ProtocolUDP, 8080, "10.244.1.5@node-1"), makeSlice("sticky", corev1.ProtocolTCP, 8080, "10.244.1.6@node-1"),
		makeSlice("hinted", corev1.ProtocolTCP, 8080, "10.244.0.6@node-0 node=node-0", "10.244.1.5@node-1 node=node-1"),
	}
	clients := map[string]string{"10.244.0.5": "10.244.0.5", "10.244.0.6": "10.244.0.6", "outside": "172.30.9.9", "node-0": "172.30.9.1"}
	targets := []string{"tcp 10.96.0.1:80", "tcp 10.96.0.2:80", "tcp 10.96.0.3:80", "tcp 10.96.0.4:80", "tcp 10.96.0.5:80", "tcp 10.96.88.1:80",
		"udp 10.96.0.7:80", "udp 172.30.9.1:30007", "tcp 172.30.9.1:30001", "tcp 172.30.9.1:30002", "tcp 172.30.9.1:30003", "tcp 172.30.9.1:30004",
		"tcp 10.96.0.8:80", "tcp 10.96.0.9:80", "tcp 10.96.77.7:80"}
	w.explains(services, slices, clients, targets)
	for i := range w.options {
		w.options[i].MasqueradeAll = true
	}
	w.explains(services, slices, clients, []string{"tcp 10.96.0.1:80", "tcp 10.96.0.5:80", "tcp 10.96.0.9:80", "tcp 172.30.9.1:30002"})
}

// explains compares what is said of each client's way to each target with where it ends.
func (w *world) explains(services []*corev1.Service, slices []*discoveryv1.EndpointSlice, clients map[string]string, targets []string) {
	w.t.Helper()
	w.sync(services, slices...)
	listed, rendered, local := w.rulesets(services, slices)
	var asking sync.WaitGroup // all at once: to be refused takes a second, to be dropped two
	for client, source := range clients {
		for _, target := range targets {
			if w.mode == modeIPVS && (client == "node-0" || strings.Contains(target, "10.96.0.4") || strings.Contains(target, "30004")) {
				continue // a node's own packets pass IPVS with the address of their destination
			}
			protocol, address, _ := strings.Cut(target, " ")
			packet := Packet{netip.MustParseAddr(w.ip(source)), netip.MustParseAddrPort(w.ip(address)), protocol}
			asking.Go(func() {
				// A machine that is too busy to answer seems to drop: what differs is asked
				// again. Rules that are wrong stay wrong.
				differs := ""
				for range 3 {
					if differs = w.differs(client, target, packet, listed, rendered, local); differs == "" {
						return
					}
				}
				w.t.Error(differs)
			})
		}
	}
	asking.Wait()
}

// differs compares both walks with the kernel; "" if they end alike.
func (w *world) differs(client, target string, packet Packet, listed, rendered Ruleset, local []netip.Addr) string {
	protocol, address, _ := strings.Cut(target, " ")
	measured := ""
	for name, rules := range map[string]Ruleset{"the kernel's listing": listed, "what render prints": rendered} {
		fates, notes := Explain(rules, packet, local)
		ends := map[string]bool{}
		for _, fate := range fates {
			ends[w.visible(fate, packet)] = true
		}
		if measured == "" {
			measured = w.measure(client, protocol, address, len(ends))
		}
		if said := fmt.Sprint(sortedKeys(ends), notes); said != measured {
			return fmt.Sprintf("%s to %s: %s says %s, the kernel does %s: %v", client, target, name, said, measured, fates[0].Steps)
		}
	}
	return ""
}

// rulesets are node-0's rules, from the kernel and from render.
func (w *world) rulesets(services []*corev1.Service, endpointSlices []*discoveryv1.EndpointSlice) (listed, rendered Ruleset, local []netip.Addr) {
	w.nodes[0].Must(func() (err error) {
		var mode string
		listed, mode, err = KernelRules(context.Background(), "", w.family)
		if err == nil && mode != w.mode {
			err = fmt.Errorf("these are rules of mode %s", mode)
		}
		if err == nil {
			local, err = localAddresses(w.family)
		}
		return err
	})
	return listed, ParseRules(w.mode, w.backend().Text(w.state(0, services, endpointSlices), w.options[0]), w.family), local
}

// visible is what a client can tell of a fate.
func (w *world) visible(fate Fate, packet Packet) string {
	if fate.Verdict != "delivered" {
		return fate.Verdict
	}
	seen := packet.Source.String()
	if fate.Masqueraded {
		seen = "a node"
	}
	return fate.Destination.Addr().String() + " sees " + seen
}

// measure asks for real, often enough to meet n ends.
func (w *world) measure(client, protocol, address string, n int) string {
	ends := map[string]bool{}
	for i := 0; i < 3 || i < 200 && len(ends) < n; i++ {
		name, seen, err := w.client(client).Ask(protocol, w.ip(address))
		switch host, _, _ := net.SplitHostPort(seen); {
		case err != nil && (strings.Contains(err.Error(), "refused") || strings.Contains(err.Error(), "not permitted") || strings.Contains(err.Error(), "permission")):
			ends["refused"] = true
		case err != nil:
			ends["dropped"] = true
			return fmt.Sprint(sortedKeys(ends), []string{})
		case slices.Contains([]string{w.ip("172.30.9.1"), w.ip("10.244.0.1")}, host):
			ends[w.ip(name)+" sees a node"] = true
		default:
			ends[w.ip(name)+" sees "+host] = true
		}
	}
	return fmt.Sprint(slices.Sorted(maps.Keys(ends)), []string{})
}

// Whatever the text, the walk ends.
func FuzzExplain(f *testing.F) {
	for _, mode := range Modes {
		f.Add(mode, "add rule ip kube-proxy nat-prerouting ip daddr . meta l4proto . th dport vmap @service-ips\nadd element ip kube-proxy service-ips {\n\t10.96.0.1 . tcp . 80 : goto nat-prerouting }\n")
		f.Add(mode, "*nat\n:PREROUTING - [0:0]\n-A PREROUTING ! -s 10.0.0.0/8 -m statistic --mode random --probability 0.5 -j PREROUTING\n-A PREROUTING -j MARK --set-xmark\nCOMMIT\n")
		f.Add(mode, "ipvsadm -A -t 10.96.0.1:80 -s rr\nadd rule ip t nat-prerouting dnat ip to ip daddr\nadd rule ip t nat-prerouting meta mark &\n")
	}
	f.Fuzz(func(t *testing.T, mode, text string) {
		Explain(ParseRules(mode, text, IPv4), Packet{netip.MustParseAddr("10.244.0.5"), netip.MustParseAddrPort("10.96.0.1:80"), "tcp"}, nil)
	})
}
