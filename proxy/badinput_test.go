package proxy

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"tinykube/internal/iptables"
	"tinykube/internal/nstest"
)

// Whatever stands in objects, what cannot be written never reaches the rules: one
// bad word in a transaction would keep out everything else.
func TestBadObjects(t *testing.T) {
	for _, bad := range []string{"", "300.1.1.1", "10.244.0.5/24", "localhost", "fd00::1%eth0", "::ffff:10.244.0.5", "10.244.0.5 . 80 }", "127.0.0.1", "169.254.169.254", "::1", "fe80::1", "255.255.255.255"} {
		for _, family := range []Family{IPv4, IPv6} {
			slice := makeSlice("s", corev1.ProtocolTCP, 8080, "10.244.0.9@node-0")
			slice.AddressType = family.addressType()
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{bad}}, discoveryv1.Endpoint{})
			s := makeService("s", family.either("10.96.0.1", "fd00::96"), nodePort(30000))
			s.Spec.ExternalIPs = []string{bad}
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: bad}, {Hostname: "lb.example"}}
			s.Spec.LoadBalancerSourceRanges = []string{bad}
			p := NewState(Node{Name: "node-0", Family: family}, []*corev1.Service{s}, []*discoveryv1.EndpointSlice{slice}).Ports[0]
			if want := family.either("10.244.0.9", ""); list(p.Cluster) != want {
				t.Errorf("endpoint %q: %q, want %q", bad, list(p.Cluster), want)
			}
			for _, ip := range append(p.ExternalIPs, p.LoadBalancerIPs...) {
				if ip.Zone() != "" || ip.Is4In6() || !family.has(ip) {
					t.Errorf("address %q became %s", bad, ip)
				}
			}
		}
	}
	for _, port := range []int32{0, -1, 65536, 65616} {
		s := makeService("s", "10.96.0.1")
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "bad", Port: port, NodePort: port})
		state := NewState(Node{}, []*corev1.Service{s}, []*discoveryv1.EndpointSlice{makeSlice("s", corev1.ProtocolTCP, port, "10.244.0.9@node-0")})
		if len(state.Ports) != 1 || len(state.Ports[0].Cluster) != 0 {
			t.Errorf("port %d: %d ports, endpoints %v", port, len(state.Ports), state.Ports[0].Cluster)
		}
	}
}

// A Service of a thousand ports, one of ten thousand endpoints, and the longest
// names that there are.
func TestHugeServices(t *testing.T) {
	long := strings.Repeat("n", 63)
	many, crowd := makeService(long, "10.96.0.1"), makeService("crowd", "10.96.0.2", nodePort(30000))
	many.Namespace, many.Spec.Ports = long, nil
	slice := makeSlice(long, corev1.ProtocolTCP, 8080, "10.244.0.5@node-0", "10.244.0.6@node-1")
	slice.Namespace, slice.Ports = long, nil
	for i := range int32(1000) {
		name := fmt.Sprintf("%s%04d", long[4:], i)
		many.Spec.Ports = append(many.Spec.Ports, corev1.ServicePort{Name: name, Port: 1000 + i, NodePort: 30001 + i})
		port := 1000 + i
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &name, Port: &port})
	}
	endpointSlices := []*discoveryv1.EndpointSlice{slice}
	for i := range 10 {
		var endpoints []string
		for n := range 1000 {
			endpoints = append(endpoints, fmt.Sprintf("10.%d.%d.%d@node-1", 200+i, n/250, 1+n%250))
		}
		s := makeSlice("crowd", corev1.ProtocolTCP, 8080, endpoints...)
		s.Name = fmt.Sprint("crowd-", i)
		endpointSlices = append(endpointSlices, s)
	}
	state := NewState(Node{Name: "node-0"}, []*corev1.Service{many, crowd}, endpointSlices)
	if len(state.Ports) != 1001 || len(state.Ports[1000].Cluster) != 10_000 || len(state.Ports[0].Cluster) != 2 {
		t.Fatal(state.Summary())
	}
	options := Options{MasqueradeBit: 14, RandomFully: true, Local: testPods, NodePortAddresses: []netip.Addr{netip.MustParseAddr("172.30.9.1")}}
	nstest.New(t, "legacy").RunInput(NewIPTables(iptables.Runner{}, nil).Text(state, options), "iptables-legacy-restore --noflush")
	node := nstest.New(t, "nft")
	node.RunInput((&NFTables{}).Text(state, options), "nft -f -")
	if rules := node.Run("nft list chain ip kube-proxy tcp-cluster-10000"); !strings.Contains(rules, "mod 10000") {
		t.Error(rules)
	}
}

// With more than a thousand endpoints rules have few comments, and have them
// again with fewer, whatever the renderer remembers.
func TestLargeCluster(t *testing.T) {
	var remembers Renderer
	options := Options{MasqueradeBit: 14, Local: testPods}
	for _, c := range []struct{ services, comments int }{{500, 500 * 8}, {501, 501 * 1}, {500, 500 * 8}} {
		services, slices := twoEach(c.services)
		state := NewState(Node{Name: "node-0"}, services, slices)
		rules := remembers.Render(state, options)
		if !reflect.DeepEqual(rules, Render(state, options)) {
			t.Errorf("%d Services: a renderer with a memory writes other rules", c.services)
		}
		text := restoreText(nil, Rules{"nat": rules["nat"]}, entries{})
		if got := strings.Count(text, `--comment "default/`); got != c.comments {
			t.Errorf("%d Services: %d comments, want %d", c.services, got, c.comments)
		}
	}
}

// Endpoints that lead nowhere, or back: clients fail, the node lives on, and other
// Services answer.
func TestEndpointsThatLeadBack(t *testing.T) { inModes(t, testEndpointsThatLeadBack) }

func testEndpointsThatLeadBack(t *testing.T, w *world) {
	w.nodes[0].Echo("tcp", w.ip("172.30.9.1:8080"), "node-0")
	w.sync([]*corev1.Service{makeService("itself", "10.96.0.1", nodePort(30001)), makeService("other", "10.96.0.2"), makeService("host", "10.96.0.3", nodePort(30003)), makeService("web", "10.96.0.4")},
		makeSlice("itself", corev1.ProtocolTCP, 80, "10.96.0.1@node-0"), makeSlice("other", corev1.ProtocolTCP, 30001, "172.30.9.1@node-0"),
		makeSlice("host", corev1.ProtocolTCP, 8080, "172.30.9.1@node-0"), makeSlice("web", corev1.ProtocolTCP, 8080, "10.244.0.5@node-0"))
	for _, address := range []string{"10.96.0.1:80", "10.96.0.2:80"} {
		if name, _, err := w.pods["10.244.0.6"].Ask("tcp", w.ip(address)); err == nil && w.mode != modeIPVS {
			t.Errorf("%s at %s answered", name, address)
		}
	}
	for _, client := range []string{"10.244.0.6", "outside", "node-0"} {
		w.answers(w.client(client), "tcp", "10.96.0.4:80", 1)
		if got := w.answers(w.client(client), "tcp", "10.96.0.3:80", 1); !got["node-0"] {
			t.Errorf("the node's own program from %s: %v", client, got)
		}
	}
}

// A link with an address for NodePorts comes and goes.
func TestInterfaceDisappears(t *testing.T) { inModes(t, testInterfaceDisappears) }

func testInterfaceDisappears(t *testing.T, w *world) {
	node := w.nodes[0]
	web := []*corev1.Service{makeService("web", "10.96.0.80", nodePort(30080))}
	slice := makeSlice("web", corev1.ProtocolTCP, 8080, "10.244.0.5@node-0")
	look := func() {
		node.Must(func() error {
			local, err := localAddresses(w.family)
			w.options[0].NodePortAddresses, w.options[0].AllAddresses = nodePortAddresses([]string{"0.0.0.0/0", "::/0"}, local, w.options[0].NodeIP)
			return err
		})
		w.sync(web, slice)
	}
	before := ""
	for range 2 {
		look()
		before = w.what(node)
		nstest.Veth(t, node, "extra", nstest.New(t, "peer"), "eth0")
		node.Address("extra", w.ip("172.31.0.1/24"))
		w.outside.Command("", w.family.either("ip", "ip -6")+" route replace "+w.ip("172.31.0.0/24")+" via "+w.ip("172.30.9.1"))
		nstest.Eventually(t, "the new address to be usable", func() bool { return !strings.Contains(node.Run("ip addr show tentative"), "fd00") })
		look()
		w.answers(w.outside, "tcp", "172.31.0.1:30080", 1)
		node.Run("ip link del extra")
	}
	look()
	w.answers(w.outside, "tcp", "172.30.9.1:30080", 1)
	if now := w.what(node); now != before {
		t.Errorf("rules for an address that is gone:\n%s\nbefore it came:\n%s", now, before)
	}
}

// A table of connections that fills up is told once, and again after it was empty.
func TestConnectionsFull(t *testing.T) {
	var told strings.Builder
	p := &Proxy{log: slog.New(slog.NewTextHandler(&told, nil))}
	table := filepath.Join(t.TempDir(), "nf_conntrack_")
	p.connectionsFull(table) // no such kernel
	for _, c := range []struct{ count, most, warnings int }{{0, 1000, 0}, {950, 1000, 0}, {951, 1000, 1}, {1000, 1000, 1}, {10, 1000, 1}, {960, 1000, 2}, {960, 2000, 2}} {
		for name, n := range map[string]int{"count": c.count, "max": c.most} {
			if err := os.WriteFile(table+name, fmt.Appendln(nil, n), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		p.connectionsFull(table)
		if got := strings.Count(told.String(), "nearly full"); got != c.warnings {
			t.Errorf("%d of %d: %d warnings, want %d\n%s", c.count, c.most, got, c.warnings, told.String())
		}
	}
}
