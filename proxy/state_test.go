package proxy

import (
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/internal/iptables"
)

// testPods are the pods of the test's cluster.
var testPods = LocalTraffic{CIDR: netip.MustParsePrefix("10.244.0.0/16")}

var update = flag.Bool("update", false, "write the golden files anew")

// makeService is a ClusterIP Service "default/<name>" with one TCP port 80.
func makeService(name, ip string, change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	s.Spec.ClusterIP = ip
	s.Spec.Ports = []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}
	for _, c := range change {
		c(s)
	}
	return s
}

func nodePort(port int32) func(*corev1.Service) {
	return func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeNodePort
		s.Spec.Ports[0].NodePort = port
	}
}

func externalLocal(s *corev1.Service) {
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
}

func udp(s *corev1.Service) { s.Spec.Ports[0].Protocol = corev1.ProtocolUDP }

// makeSlice takes endpoints as "10.244.0.5@node-0", with words that change them:
// "notready", "leaving", "zone=a", "node=b".
func makeSlice(service string, protocol corev1.Protocol, port int32, endpoints ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4}
	s.Namespace, s.Name, s.Labels = "default", service+"-x", map[string]string{discoveryv1.LabelServiceName: service}
	s.Ports = []discoveryv1.EndpointPort{{Port: &port, Protocol: &protocol}}
	for _, text := range endpoints {
		words := strings.Fields(text)
		ip, node, _ := strings.Cut(words[0], "@")
		yes, no := true, false
		e := discoveryv1.Endpoint{Addresses: []string{ip}, NodeName: &node, Conditions: discoveryv1.EndpointConditions{Ready: &yes}}
		for _, word := range words[1:] {
			kind, value, _ := strings.Cut(word, "=")
			if e.Hints == nil && value != "" {
				e.Hints = &discoveryv1.EndpointHints{}
			}
			switch kind {
			case "notready":
				e.Conditions.Ready = &no
			case "leaving":
				e.Conditions = discoveryv1.EndpointConditions{Ready: &no, Serving: &yes, Terminating: &yes}
			case "zone":
				e.Hints.ForZones = append(e.Hints.ForZones, discoveryv1.ForZone{Name: value})
			case "node":
				e.Hints.ForNodes = append(e.Hints.ForNodes, discoveryv1.ForNode{Name: value})
			}
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

func list(endpoints []Endpoint) string {
	var ips []string
	for _, e := range endpoints {
		ips = append(ips, e.Address.Addr().String())
	}
	return strings.Join(ips, " ")
}

// Which endpoints node-0 in zone a sends a Service's traffic to.
func TestSelectEndpoints(t *testing.T) {
	for _, c := range []struct {
		name      string
		endpoints []string
		cluster   string
		local     string
	}{
		{"ready ones", []string{"10.0.0.1@node-0", "10.0.0.2@node-1", "10.0.0.3@node-1 notready"}, "10.0.0.1 10.0.0.2", "10.0.0.1"},
		{"ready before leaving", []string{"10.0.0.1@node-0 leaving", "10.0.0.2@node-1"}, "10.0.0.2", "10.0.0.1"},
		{"leaving before nothing", []string{"10.0.0.1@node-0 notready", "10.0.0.2@node-1 leaving"}, "10.0.0.2", ""},
		{"nothing", nil, "", ""},
		{"our zone", []string{"10.0.0.1@node-1 zone=a", "10.0.0.2@node-2 zone=b"}, "10.0.0.1", ""},
		{"no zone is ours", []string{"10.0.0.1@node-1 zone=b", "10.0.0.2@node-2 zone=b"}, "10.0.0.1 10.0.0.2", ""},
		{"one without hint", []string{"10.0.0.1@node-1 zone=a", "10.0.0.2@node-2"}, "10.0.0.1 10.0.0.2", ""},
		{"our node before our zone", []string{"10.0.0.1@node-0 zone=a node=node-0", "10.0.0.2@node-2 zone=a node=node-2"}, "10.0.0.1", "10.0.0.1"},
		{"hints do not bind local traffic", []string{"10.0.0.1@node-0 zone=b", "10.0.0.2@node-1 zone=a"}, "10.0.0.2", "10.0.0.1"},
		{"twice the same", []string{"10.0.0.1@node-0 notready", "10.0.0.1@node-0"}, "10.0.0.1", "10.0.0.1"},
		{"forbidden addresses", []string{"127.0.0.1@node-0", "169.254.169.254@node-0", "224.0.0.1@node-0", "0.0.0.0@node-0", "fd00::1@node-0"}, "", ""},
	} {
		s := NewState(Node{Name: "node-0", Zone: "a"}, []*corev1.Service{makeService("s", "10.96.0.9", nodePort(30000), externalLocal)},
			[]*discoveryv1.EndpointSlice{makeSlice("s", corev1.ProtocolTCP, 8080, c.endpoints...)})
		if len(s.Ports) != 1 {
			t.Fatalf("%s: %d ports", c.name, len(s.Ports))
		}
		if got := list(s.Ports[0].Cluster); got != c.cluster {
			t.Errorf("%s: cluster %q, want %q", c.name, got, c.cluster)
		}
		if got := list(s.Ports[0].Local); got != c.local {
			t.Errorf("%s: local %q, want %q", c.name, got, c.local)
		}
	}
}

// Known names. Upstream: kubernetes pkg/proxy/iptables: anybody can look these up
// in any cluster.
func TestChainNames(t *testing.T) {
	for name, want := range map[PortName]string{
		{"default", "kubernetes", "https"}:     "KUBE-SVC-NPX46M4PTMTKRN6Y",
		{"kube-system", "kube-dns", "dns-tcp"}: "KUBE-SVC-ERIFXISQEP7F7OF4",
	} {
		p := &ServicePort{Name: name, Protocol: "tcp"}
		if got := p.chainNames().cluster; got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// The rules for Services of every sort, as a whole; the file reads as a
// description of the layout.
func TestRenderGolden(t *testing.T) {
	services, slices := loadYAML(t, filepath.Join("testdata", "services.yaml"))
	state := NewState(Node{Name: "node-0"}, services, slices)
	for _, mode := range Modes {
		backend, err := NewBackend(mode, "", IPv4, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		got := backend.Text(state, Options{MasqueradeBit: 14, RandomFully: true, Local: testPods,
			NodePortAddresses: []netip.Addr{netip.MustParseAddr("172.30.9.1")}, AllAddresses: true})
		compareGolden(t, filepath.Join("testdata", "services."+mode), got)
	}
}

func compareGolden(t *testing.T, golden, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the rules differ from %s (go test ./proxy -update writes it):\n%s", golden, got)
	}
}

// Options change what they say they change.
func TestRenderOptions(t *testing.T) {
	state := NewState(Node{Name: "node-0"}, []*corev1.Service{makeService("s", "10.96.0.9", nodePort(30000))},
		[]*discoveryv1.EndpointSlice{makeSlice("s", corev1.ProtocolTCP, 8080, "10.244.0.5@node-0")})
	for _, c := range []struct {
		options   Options
		has, lack string
	}{
		{Options{MasqueradeBit: 14}, "--xor-mark 0x4000", "cluster IP\" -m tcp -p tcp -d 10.96.0.9 --dport 80 -j KUBE-MARK-MASQ"},
		{Options{MasqueradeBit: 14, AllAddresses: true}, "! -d 127.0.0.0/8 -j KUBE-NODEPORTS", "KUBE-FIREWALL"},
		{Options{MasqueradeBit: 3}, "--xor-mark 0x8\n", "0x4000"},
		{Options{MasqueradeAll: true}, "-d 10.96.0.9 --dport 80 -j KUBE-MARK-MASQ", "random-fully"},
		{Options{Local: LocalTraffic{Interface: "cni0"}}, "! -i cni0 -j KUBE-MARK-MASQ", "-s 10.244.0.0/16"},
		{Options{TCPBeLiberal: true}, "", "INVALID"},
		{Options{LocalhostNodePorts: true, AllAddresses: true}, "-d 127.0.0.0/8 ! -s 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP", "! -d 127.0.0.0/8"},
		{Options{NodePortAddresses: []netip.Addr{netip.MustParseAddr("172.30.9.1")}}, "-d 172.30.9.1 -j KUBE-NODEPORTS", "dst-type LOCAL"},
	} {
		got := NewIPTables(iptables.Runner{}, nil).Text(state, c.options)
		if !strings.Contains(got, c.has) || strings.Contains(got, c.lack) {
			t.Errorf("%+v: want %q, not %q, in\n%s", c.options, c.has, c.lack, got)
		}
	}
}

// One endpoint more among a thousand Services costs the chains that it concerns.
func TestRestoreIsSmall(t *testing.T) {
	services, slices := manyServices(1000)
	before := new(Renderer).Render(NewState(Node{}, services, slices), Options{})
	slices[500] = makeSlice("s500", corev1.ProtocolTCP, 8080, "10.1.0.1@a", "10.1.0.3@a")
	after := new(Renderer).Render(NewState(Node{}, services, slices), Options{})
	text := restoreText(before, after, entries{})
	chains := strings.Count(text, "- [0:0]")
	if chains != 3 || !strings.Contains(text, "-X KUBE-SEP-") { // the choice, the new endpoint, the old one
		t.Errorf("%d chains:\n%s", chains, text)
	}
	if text := restoreText(after, after, entries{}); text != "" {
		t.Errorf("nothing has changed, but:\n%s", text)
	}
}

func manyServices(n int) (services []*corev1.Service, slices []*discoveryv1.EndpointSlice) {
	for i := range n {
		name := fmt.Sprintf("s%d", i)
		services = append(services, makeService(name, fmt.Sprintf("10.100.%d.%d", i/250, i%250+1)))
		slices = append(slices, makeSlice(name, corev1.ProtocolTCP, 8080, "10.1.0.1@a", "10.1.0.2@a"))
	}
	return services, slices
}

func TestStaleFlows(t *testing.T) {
	state := NewState(Node{Name: "node-0"}, []*corev1.Service{
		makeService("dns", "10.96.0.10", udp, nodePort(30053)), makeService("tcp", "10.96.0.11"),
	}, []*discoveryv1.EndpointSlice{makeSlice("dns", corev1.ProtocolUDP, 53, "10.244.0.5@node-0")})
	flows := newUDPFlows(state, []netip.Addr{netip.MustParseAddr("172.30.9.1")})
	for _, c := range []struct {
		asked, answerer string
		stale           bool
	}{
		{"10.96.0.10:80", "10.244.0.5:53", false},
		{"10.96.0.10:80", "10.244.0.6:53", true},  // an endpoint that is gone
		{"10.96.0.10:80", "10.96.0.10:80", true},  // from before there was one
		{"10.96.0.10:99", "10.96.0.10:99", false}, // no port of ours
		{"10.96.0.11:80", "10.96.0.11:80", false}, // TCP
		{"172.30.9.1:30053", "10.244.0.6:53", true},
		{"172.30.9.1:30053", "10.244.0.5:53", false},
		{"192.0.2.1:30053", "192.0.2.1:30053", false}, // somebody else's port 30053
	} {
		if got := flows.stale(Flow{netip.MustParseAddrPort(c.asked), netip.MustParseAddrPort(c.answerer)}); got != c.stale {
			t.Errorf("%s answered by %s: stale %v", c.asked, c.answerer, got)
		}
	}
}
