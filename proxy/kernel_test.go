package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"tinykube/internal/iptables"
	"tinykube/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// answers asks an address several times and collects who answers: often enough
// that chance does not hide one of n.
func (w *world) answers(from *nstest.NS, network, address string, n int) map[string]bool {
	w.t.Helper()
	names := map[string]bool{}
	for i := 0; i < 10 || i < 200 && len(names) < n; i++ {
		name, _, err := from.Ask(network, w.ip(address))
		if err != nil {
			w.t.Errorf("%s from %s: %v", address, from.Name, err)
			return names
		}
		names[name] = true
	}
	return names
}

// seen asks once and answers whom the pod saw.
func (w *world) seen(from *nstest.NS, address string) string {
	w.t.Helper()
	_, seen, err := from.Ask("tcp", w.ip(address))
	if err != nil {
		w.t.Errorf("%s from %s: %v", address, from.Name, err)
		return ""
	}
	host, _, _ := net.SplitHostPort(seen)
	return host
}

// Every way to a Service, from everywhere, in both protocols.
func TestReachability(t *testing.T) { inModes(t, testReachability) }

func testReachability(t *testing.T, w *world) {
	external := func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"10.96.77.7"} }
	w.sync([]*corev1.Service{
		makeService("web", "10.96.0.80", nodePort(30080), external),
		makeService("dns", "10.96.0.10", udp, nodePort(30053)),
	},
		makeSlice("web", corev1.ProtocolTCP, 8080, "10.244.0.5@node-0", "10.244.0.6@node-0", "10.244.1.5@node-1"),
		makeSlice("dns", corev1.ProtocolUDP, 8080, "10.244.0.5@node-0", "10.244.1.5@node-1"))
	clients := map[string]*nstest.NS{"node-0": w.nodes[0], "node-1": w.nodes[1], "outside": w.outside,
		"pod 10.244.0.5": w.pods["10.244.0.5"], "pod 10.244.1.6": w.pods["10.244.1.6"]}
	for name, client := range clients {
		for _, target := range []struct {
			network, address string
			endpoints        int
		}{
			{"tcp", "10.96.0.80:80", 3}, {"udp", "10.96.0.10:80", 2},
			{"tcp", "172.30.9.1:30080", 3}, {"tcp", "172.30.9.2:30080", 3}, {"udp", "172.30.9.2:30053", 2},
			{"tcp", "10.96.77.7:80", 3},
		} {
			if got := w.answers(client, target.network, target.address, target.endpoints); len(got) != target.endpoints {
				t.Errorf("%s %s from %s: only %v answered", target.network, target.address, name, got)
			}
		}
	}
}

// Who the pod sees: the client itself wherever its answer finds the way back, and
// a node's address only where it would not.
func TestSourceAddresses(t *testing.T) { inModes(t, testSourceAddresses) }

func testSourceAddresses(t *testing.T, w *world) {
	w.sync([]*corev1.Service{
		makeService("near", "10.96.0.1", nodePort(30001)),
		makeService("kept", "10.96.0.2", nodePort(30002), externalLocal),
	},
		makeSlice("near", corev1.ProtocolTCP, 8080, "10.244.0.5@node-0"),
		makeSlice("kept", corev1.ProtocolTCP, 8080, "10.244.0.5@node-0"))
	for _, c := range []struct {
		why, from, address, want string
	}{
		{"a pod of another node keeps its address", "10.244.1.6", "10.96.0.1:80", "10.244.1.6"},
		{"a pod of the same node keeps its address", "10.244.0.6", "10.96.0.1:80", "10.244.0.6"},
		{"hairpin is masqueraded", "10.244.0.5", "10.96.0.1:80", "10.244.0.1"},
		{"from outside, policy Cluster masquerades", "outside", "172.30.9.1:30001", "10.244.0.1"},
		{"from outside, policy Local keeps the client", "outside", "172.30.9.1:30002", "172.30.9.9"},
		{"from outside to the cluster IP", "outside", "10.96.0.1:80", "10.244.0.1"},
	} {
		if got := w.seen(w.client(c.from), c.address); got != w.ip(c.want) {
			t.Errorf("%s: the pod saw %s, want %s", c.why, got, c.want)
		}
	}
	// node-1 has no local endpoint: nothing from outside, but its own and its pods' traffic.
	if _, _, err := w.outside.Ask("tcp", w.ip("172.30.9.2:30002")); err == nil {
		t.Error("policy Local sent a client on to another node")
	}
	if w.mode == modeIPVS {
		return // Simplified: there, our own clients have the same virtual server
	}
	if got := w.seen(w.pods["10.244.1.6"], "172.30.9.2:30002"); got != w.ip("10.244.1.6") {
		t.Errorf("a pod through its node's port: %s", got)
	}
}

// A Service without endpoints refuses at once; it does not let clients wait.
func TestNoEndpoints(t *testing.T) { inModes(t, testNoEndpoints) }

func testNoEndpoints(t *testing.T, w *world) {
	w.sync([]*corev1.Service{makeService("empty", "10.96.0.4", nodePort(30004))})
	for name, c := range map[string]struct {
		from    *nstest.NS
		address string
	}{
		"a pod": {w.pods["10.244.0.5"], "10.96.0.4:80"}, "the node": {w.nodes[0], "10.96.0.4:80"},
		"outside by NodePort": {w.outside, "172.30.9.1:30004"},
	} {
		start := time.Now()
		_, _, err := c.from.Ask("tcp", w.ip(c.address))
		if err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("from %s: %v after %v, want a refusal", name, err, time.Since(start))
		}
	}
}

// A client comes back to its endpoint, also when more appear.
func TestSessionAffinity(t *testing.T) { inModes(t, testSessionAffinity) }

func testSessionAffinity(t *testing.T, w *world) {
	sticky := makeService("sticky", "10.96.0.5", func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP })
	all := []string{"10.244.0.5@node-0", "10.244.0.6@node-0", "10.244.1.5@node-1", "10.244.1.6@node-1"}
	meets := func(endpoints ...string) string {
		w.sync([]*corev1.Service{sticky}, makeSlice("sticky", corev1.ProtocolTCP, 8080, endpoints...))
		return fmt.Sprint(slices.Collect(maps.Keys(w.answers(w.outside, "tcp", "10.96.0.5:80", 1))))
	}
	first := meets(all[:3]...)
	if strings.Contains(first, " ") {
		t.Fatalf("the client met %s", first)
	}
	if w.mode == modeNFTables && w.family == IPv6 {
		return // Simplified: no memory there
	}
	if second := meets(all...); second != first {
		t.Errorf("the client met %s, then %s", first, second)
	}
	w.proxies[0] = w.backend()
	if third := meets(all...); third != first && w.mode != modeIPTables { // which makes its chains anew
		t.Errorf("the client met %s, and another proxy's %s", first, third)
	}
	// The endpoint goes, and the client goes to another, and stays there.
	left := slices.DeleteFunc(all, func(e string) bool { return strings.HasPrefix(e, strings.Trim(first, "[]")+"@") })
	fourth := meets(left...)
	if fifth := meets(left...); strings.Contains(fourth, " ") || fifth != fourth || fourth == first {
		t.Errorf("the client met %s, and when that was gone %s and %s", first, fourth, fifth)
	}
}

// A UDP client that never stops sending is led to the new endpoint.
func TestUDPEndpointMoves(t *testing.T) { inModes(t, testUDPEndpointMoves) }

func testUDPEndpointMoves(t *testing.T, w *world) {
	dns := []*corev1.Service{makeService("dns", "10.96.0.10", udp)}
	client := w.pods["10.244.0.6"]
	var conn net.Conn
	client.Must(func() (err error) {
		conn, err = net.Dial("udp", w.ip("10.96.0.10:80"))
		return err
	})
	defer conn.Close()
	ask := func() string {
		name, _, err := nstest.Exchange(conn)
		if err != nil {
			t.Fatal(err)
		}
		return name
	}
	move := func(ip, node string) {
		slice := makeSlice("dns", corev1.ProtocolUDP, 8080, ip+"@"+node)
		w.sync(dns, slice)
		w.nodes[0].Must(func() error {
			local, err := localAddresses(w.family)
			if err != nil {
				return err
			}
			n, err := deleteStaleFlows(w.family, newUDPFlows(w.state(0, dns, []*discoveryv1.EndpointSlice{slice}), local))
			// IPVS forgets a flow with its server, and the kernel's tracking with it.
			if ip == "10.244.1.5" && n != 1 && w.mode != modeIPVS {
				t.Errorf("deleted %d flows", n)
			}
			return err
		})
	}
	move("10.244.0.5", "node-0")
	if got := ask(); got != "10.244.0.5" {
		t.Errorf("first %s", got)
	}
	move("10.244.1.5", "node-1")
	if got := ask(); got != "10.244.1.5" {
		t.Errorf("then %s", got)
	}
}

// A load balancer's address, for clients of its ranges only; nobody else gets
// past it, whatever else leads to the Service.
func TestSourceRanges(t *testing.T) { inModes(t, testSourceRanges) }

func testSourceRanges(t *testing.T, w *world) {
	balanced := func(ranges ...string) func(s *corev1.Service) {
		return func(s *corev1.Service) {
			s.Spec.Type, s.Spec.LoadBalancerSourceRanges = corev1.ServiceTypeLoadBalancer, ranges
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "10.96.88." + s.Spec.ClusterIP[len("10.96.0."):]}}
		}
	}
	slice := func(name string) *discoveryv1.EndpointSlice {
		return makeSlice(name, corev1.ProtocolTCP, 8080, "10.244.0.5@node-0")
	}
	w.sync([]*corev1.Service{makeService("few", "10.96.0.1", balanced("10.244.0.0/16", "10.244.1.0/24")),
		makeService("wire", "10.96.0.2", balanced("172.30.9.0/24")), makeService("all", "10.96.0.3", balanced())},
		slice("few"), slice("wire"), slice("all"))
	for _, c := range []struct {
		from, address string
		ok            bool
	}{
		{"outside", "10.96.88.1:80", false}, {"outside", "10.96.88.2:80", true}, {"outside", "10.96.88.3:80", true},
		{"10.244.0.6", "10.96.88.1:80", true}, {"10.244.0.6", "10.96.88.2:80", false}, {"outside", "10.96.0.1:80", true},
	} {
		if _, _, err := w.client(c.from).Ask("tcp", w.ip(c.address)); (err == nil) != c.ok {
			t.Errorf("%s from %s: %v", c.address, c.from, err)
		}
	}
}

// The kernel's rules follow the state, nothing is written twice, other people's
// rules stay, and whatever is flushed comes back.
func TestApply(t *testing.T) { inModes(t, testApply) }

func testApply(t *testing.T, w *world) {
	node, ctx := w.nodes[0], context.Background()
	program := w.family.either("iptables", "ip6tables")
	node.Run(program + " -t nat -N MINE")
	node.Run(program + " -t nat -A MINE -j RETURN")
	node.Run(program + " -t nat -A PREROUTING -j MINE")
	node.Run("nft add table " + w.family.nft() + " mine")
	web := []*corev1.Service{makeService("web", "10.96.0.80"), makeService("api", "10.96.0.81")}
	webSlice := makeSlice("web", corev1.ProtocolTCP, 8080, "10.244.0.5@node-0")
	apiSlice := makeSlice("api", corev1.ProtocolTCP, 8080, "10.244.0.6@node-0")
	w.sync(web, webSlice, apiSlice)
	w.sync(web, webSlice, apiSlice)
	if w.writes != 1 {
		t.Errorf("%d writes for one state", w.writes)
	}
	full := w.what(node)

	w.sync(web[:1], webSlice)
	if now := w.what(node); strings.Contains(now, w.ip("10.96.0.81")) || strings.Contains(now, w.ip("10.244.0.6")) {
		t.Errorf("a removed Service is still there:\n%s", now)
	}
	w.sync(web, webSlice, apiSlice)

	// A new process finds the rules of the old one, and what it no longer wants.
	w.proxies[0] = w.backend()
	w.sync(web[:1], webSlice)
	if now := w.what(node); strings.Contains(now, w.ip("10.96.0.81")) {
		t.Errorf("a restart left rules:\n%s", now)
	}
	w.sync(web, webSlice, apiSlice)
	if now := w.what(node); now != full {
		t.Errorf("two ways to one state:\n%s\nand\n%s", full, now)
	}
	for _, harm := range w.harms() {
		node.RunInput(harm[1], harm[0])
		node.Must(func() error {
			noticed := false
			for range jumpsEvery {
				noticed = noticed || !w.proxies[0].Intact(ctx)
			}
			if !noticed {
				t.Errorf("%s was not noticed", harm)
			}
			return nil
		})
		w.sync(web, webSlice, apiSlice)
		node.Must(func() error {
			if !w.proxies[0].Intact(ctx) {
				t.Errorf("not intact after the repair of %s", harm)
			}
			return nil
		})
		if now := w.what(node); now != full {
			t.Errorf("the repair of %s led to\n%s\nnot\n%s", harm, now, full)
		}
		w.answers(w.pods["10.244.0.6"], "tcp", "10.96.0.80:80", 1)
	}
	node.Command("", program+" -t nat -N MINE")
	node.Command("", "nft add table "+w.family.nft()+" mine")
	for range 2 {
		node.Must(func() error { return w.proxies[0].Cleanup(ctx) })
	}
	if save := w.what(node); strings.Contains(save, "KUBE-") || strings.Contains(save, "kube-proxy") {
		t.Errorf("after the clean-up:\n%s", save)
	}
	if mine := node.Run(program+"-save") + node.Run("nft list tables"); !strings.Contains(mine, ":MINE") || !strings.Contains(mine, " mine") {
		t.Errorf("somebody else's rules are gone:\n%s", mine)
	}
}

// harms are commands, with what they read, that a proxy must notice.
func (w *world) harms() [][2]string {
	if w.mode == modeNFTables {
		table := w.family.nft() + " kube-proxy"
		return [][2]string{{"nft flush ruleset", ""}, {"nft delete table " + table, ""}, {"nft flush table " + table, ""},
			{"nft flush chain " + table + " nat-output", ""}, {"nft add rule " + table + " nat-output accept", ""}}
	}
	harms := [][2]string{{"iptables -t nat -F", ""}, {"iptables -F", ""}, {"nft flush ruleset", ""}}
	if w.mode == modeIPVS {
		return append(harms, [2]string{"ipvsadm -C", ""}, [2]string{"ip link del kube-ipvs0", ""}, [2]string{"ipset flush KUBE-CLUSTER-IP", ""},
			[2]string{"ipvsadm -d -t 10.96.0.80:80 -r 10.244.0.5:8080", ""})
	}
	return append(harms, [2]string{"iptables-restore --noflush", "*nat\n-D " + jumps[9].from + " " + jumps[9].match + " -j " + jumps[9].to + "\nCOMMIT\n"})
}

// Every mode takes over from every other: Services go on, nothing of the old one
// is left.
func TestSwitchModes(t *testing.T) {
	w := newWorld(t, testModes[0])
	web := []*corev1.Service{makeService("web", "10.96.0.80", nodePort(30080))}
	slice := makeSlice("web", corev1.ProtocolTCP, 8080, "10.244.0.5@node-0")
	ctx, log := context.Background(), slog.New(slog.DiscardHandler)
	modes := Modes
	if !slices.Contains(testModes, testMode{modeIPVS, IPv4}) {
		modes = []string{modeIPTables, modeNFTables}
	}
	for _, mode := range append(modes, modes...) {
		w.mode = mode
		w.proxies = [2]Backend{w.backend(), w.backend()}
		w.setSysctls()
		w.sync(web, slice)
		for _, node := range w.nodes {
			node.Must(func() error { return CleanOthers(ctx, mode, "", IPv4, log) })
		}
		w.answers(w.pods["10.244.1.6"], "tcp", "10.96.0.80:80", 1)
		w.answers(w.outside, "tcp", "172.30.9.2:30080", 1)
		traces := map[string]string{modeIPTables: "KUBE-SVC-", modeNFTables: "table ip kube-proxy", modeIPVS: "CLUSTER-IP"}
		all := w.nodes[0].Run("iptables-save") + w.nodes[0].Run("nft list tables")
		for other, trace := range traces {
			if strings.Contains(all, trace) != (other == mode) {
				t.Errorf("in mode %s: %q in\n%s", mode, trace, all)
			}
		}
	}
	for _, node := range w.nodes {
		node.Must(func() error { return CleanOthers(ctx, "", "", IPv4, log) })
		if all := node.Run("iptables-save") + node.Run("nft list tables"); strings.Contains(all, "KUBE-") || strings.Contains(all, "kube-proxy") {
			t.Errorf("left:\n%s", all)
		}
	}
}

// The legacy flavour accepts the same text.
func TestLegacyFlavour(t *testing.T) {
	services, slices := loadYAML(t, "testdata/services.yaml")
	text := NewIPTables(iptables.Runner{}, nil).Text(NewState(Node{Name: "node-0"}, services, slices), Options{
		MasqueradeBit: 14, RandomFully: true, Local: testPods, LocalhostNodePorts: true,
		NodePortAddresses: []netip.Addr{netip.MustParseAddr("172.30.9.1")}})
	nstest.New(t, "a").RunInput(text, "iptables-legacy-restore --noflush")
}
