package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"tinykube/internal/iptables"
	"tinykube/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// world is two nodes on a wire with an outsider, two pods behind each node's
// bridge, and plain routes where a cluster has flannel.
type world struct {
	t       *testing.T
	nodes   [2]*nstest.NS
	outside *nstest.NS
	pods    map[string]*nstest.NS // by address
	proxies [2]*IPTables
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, outside: nstest.New(t, "outside"), pods: map[string]*nstest.NS{}}
	wire := nstest.NewSwitch(t)
	wire.Plug(w.outside, "172.30.9.9/24")
	for i := range w.nodes {
		node := nstest.New(t, fmt.Sprintf("node-%d", i))
		w.nodes[i] = node
		wire.Plug(node, fmt.Sprintf("172.30.9.%d/24", i+1))
		node.Sysctl("net/ipv4/ip_forward", "1")
		// The kernel wants a route before iptables may rewrite the destination.
		node.Run("ip route add default dev eth0")
		node.Route(fmt.Sprintf("10.244.%d.0/24", 1-i), fmt.Sprintf("172.30.9.%d", 2-i))
		node.Run("ip link add cni0 type bridge")
		node.Run("ip link set cni0 up")
		node.Address("cni0", fmt.Sprintf("10.244.%d.1/24", i))
		for n := 5; n <= 6; n++ {
			w.addPod(i, fmt.Sprintf("10.244.%d.%d", i, n))
		}
		w.proxies[i] = &IPTables{Logger: slog.New(slog.DiscardHandler), Options: RuleOptions{
			LocalMatch: "-s 10.244.0.0/16", MasqueradeBit: 14, RandomFully: true}}
	}
	w.outside.Route("10.96.0.0/16", "172.30.9.1")
	return w
}

// addPod makes a pod that answers at port 8080, TCP and UDP, with its address.
func (w *world) addPod(node int, ip string) {
	pod, link := nstest.New(w.t, "pod"), "v"+ip[len("10.244."):]
	nstest.Veth(w.t, w.nodes[node], link, pod, "eth0")
	w.nodes[node].Run("ip link set " + link + " master cni0")
	w.nodes[node].Run("bridge link set dev " + link + " hairpin on")
	pod.Address("eth0", ip+"/24")
	pod.Route("default", fmt.Sprintf("10.244.%d.1", node))
	pod.Echo("tcp", ip+":8080", ip)
	pod.Echo("udp", ip+":8080", ip)
	w.pods[ip] = pod
}

// sync brings both nodes to a state.
func (w *world) sync(services []*corev1.Service, slices ...*discoveryv1.EndpointSlice) {
	w.t.Helper()
	for i, node := range w.nodes {
		node.Must(func() error {
			return w.proxies[i].Sync(context.Background(), NewState(Node{Name: node.Name}, services, slices))
		})
	}
}

// answers asks an address several times and collects who answers.
func (w *world) answers(from *nstest.NS, network, address string) map[string]bool {
	w.t.Helper()
	names := map[string]bool{}
	for range 20 {
		name, _, err := from.Ask(network, address)
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
	_, seen, err := from.Ask("tcp", address)
	if err != nil {
		w.t.Errorf("%s from %s: %v", address, from.Name, err)
		return ""
	}
	host, _, _ := net.SplitHostPort(seen)
	return host
}

// Every way to a Service, from everywhere, in both protocols.
func TestReachability(t *testing.T) {
	w := newWorld(t)
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
			if got := w.answers(client, target.network, target.address); len(got) != target.endpoints {
				t.Errorf("%s %s from %s: only %v answered", target.network, target.address, name, got)
			}
		}
	}
}

// Who the pod sees: the client itself wherever its answer finds the way back, and
// a node's address only where it would not.
func TestSourceAddresses(t *testing.T) {
	w := newWorld(t)
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
		from := w.pods[c.from]
		if from == nil {
			from = w.outside
		}
		if got := w.seen(from, c.address); got != c.want {
			t.Errorf("%s: the pod saw %s, want %s", c.why, got, c.want)
		}
	}
	// node-1 has no local endpoint: nothing from outside, but its own and its pods' traffic.
	if _, _, err := w.outside.Ask("tcp", "172.30.9.2:30002"); err == nil {
		t.Error("policy Local sent a client on to another node")
	}
	if got := w.seen(w.pods["10.244.1.6"], "172.30.9.2:30002"); got != "10.244.1.6" {
		t.Errorf("a pod through its node's port: %s", got)
	}
}

// A Service without endpoints refuses at once; it does not let clients wait.
func TestNoEndpoints(t *testing.T) {
	w := newWorld(t)
	w.sync([]*corev1.Service{makeService("empty", "10.96.0.4", nodePort(30004))})
	for name, c := range map[string]struct {
		from    *nstest.NS
		address string
	}{
		"a pod": {w.pods["10.244.0.5"], "10.96.0.4:80"}, "the node": {w.nodes[0], "10.96.0.4:80"},
		"outside by NodePort": {w.outside, "172.30.9.1:30004"},
	} {
		start := time.Now()
		_, _, err := c.from.Ask("tcp", c.address)
		if err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("from %s: %v after %v, want a refusal", name, err, time.Since(start))
		}
	}
}

// A client comes back to its endpoint, also when more appear.
func TestSessionAffinity(t *testing.T) {
	w := newWorld(t)
	sticky := makeService("sticky", "10.96.0.5", func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP })
	all := []string{"10.244.0.5@node-0", "10.244.0.6@node-0", "10.244.1.5@node-1", "10.244.1.6@node-1"}
	w.sync([]*corev1.Service{sticky}, makeSlice("sticky", corev1.ProtocolTCP, 8080, all[:3]...))
	client := w.pods["10.244.1.6"]
	first := w.answers(client, "tcp", "10.96.0.5:80")
	w.sync([]*corev1.Service{sticky}, makeSlice("sticky", corev1.ProtocolTCP, 8080, all...))
	second := w.answers(client, "tcp", "10.96.0.5:80")
	if len(first) != 1 || fmt.Sprint(first) != fmt.Sprint(second) {
		t.Errorf("the client met %v, then %v", first, second)
	}
}

// A UDP client that never stops sending is led to the new endpoint.
func TestUDPEndpointMoves(t *testing.T) {
	w := newWorld(t)
	dns := []*corev1.Service{makeService("dns", "10.96.0.10", udp)}
	client := w.pods["10.244.0.6"]
	var conn net.Conn
	client.Must(func() (err error) {
		conn, err = net.Dial("udp", "10.96.0.10:80")
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
			local, err := localAddresses()
			if err != nil {
				return err
			}
			n, err := deleteStaleFlows(newUDPFlows(NewState(Node{Name: "node-0"}, dns, []*discoveryv1.EndpointSlice{slice}), local))
			if ip == "10.244.1.5" && n != 1 {
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

// The kernel's rules follow the state, nothing is written twice, other people's
// rules stay, and whatever is flushed comes back.
func TestApply(t *testing.T) {
	w := newWorld(t)
	node, proxy, ctx := w.nodes[0], w.proxies[0], context.Background()
	node.Run("iptables -t nat -N MINE")
	node.Run("iptables -t nat -A MINE -j RETURN")
	node.Run("iptables -t nat -A PREROUTING -j MINE")
	web := []*corev1.Service{makeService("web", "10.96.0.80"), makeService("api", "10.96.0.81")}
	webSlice := makeSlice("web", corev1.ProtocolTCP, 8080, "10.244.0.5@node-0")
	apiSlice := makeSlice("api", corev1.ProtocolTCP, 8080, "10.244.0.6@node-0")
	w.sync(web, webSlice, apiSlice)
	w.sync(web, webSlice, apiSlice)
	if proxy.Writes != 1 {
		t.Errorf("%d writes for one state", proxy.Writes)
	}
	full := node.Run("iptables-save -t nat")

	w.sync(web[:1], webSlice)
	if save := node.Run("iptables-save"); strings.Contains(save, "default/api") || strings.Count(save, ":KUBE-SEP-") != 1 {
		t.Errorf("a removed Service is still there:\n%s", save)
	}
	w.sync(web, webSlice, apiSlice)

	// A new process finds the rules of the old one, and what it no longer wants.
	again := &IPTables{Logger: proxy.Logger, Options: proxy.Options}
	w.proxies[0], proxy = again, again
	w.sync(web[:1], webSlice)
	if save := node.Run("iptables-save"); strings.Contains(save, "default/api") || strings.Count(save, "-j KUBE-SERVICES") != 4 {
		t.Errorf("a restart left rules or doubled jumps:\n%s", save)
	}
	w.sync(web, webSlice, apiSlice)
	if got := node.Run("iptables-save -t nat"); stripped(got) != stripped(full) {
		t.Errorf("two ways to one state:\n%s\nand\n%s", full, got)
	}

	jump := jumps[9]
	for _, harm := range []string{"iptables -t nat -F", "iptables -F", "nft flush ruleset", "jump"} {
		if harm == "jump" {
			node.RunInput("*nat\n-D "+jump.from+" "+jump.match+" -j "+jump.to+"\nCOMMIT\n", "iptables-restore --noflush")
		} else {
			node.Run(harm)
		}
		node.Must(func() error {
			noticed := false
			for range jumpsEvery {
				noticed = noticed || !proxy.Intact(ctx)
			}
			if !noticed {
				t.Errorf("%s was not noticed", harm)
			}
			return nil
		})
		w.sync(web, webSlice, apiSlice)
		node.Must(func() error {
			if !proxy.Intact(ctx) {
				t.Errorf("not intact after the repair of %s", harm)
			}
			return nil
		})
		w.answers(w.pods["10.244.0.6"], "tcp", "10.96.0.80:80")
	}
	node.Run("iptables -t nat -N MINE")
	for range 2 {
		node.Must(func() error { return CleanupIPTables(ctx, iptables.Runner{}) })
	}
	if save := node.Run("iptables-save"); strings.Contains(save, "KUBE-") || !strings.Contains(save, ":MINE") {
		t.Errorf("after the clean-up:\n%s", save)
	}
}

// stripped removes what differs between equal tables: dates and counters.
func stripped(save string) string {
	var out strings.Builder
	for line := range strings.Lines(save) {
		if !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, ":P") && !strings.HasPrefix(line, ":I") && !strings.HasPrefix(line, ":O") {
			out.WriteString(line)
		}
	}
	return out.String()
}

// The legacy flavour accepts the same text.
func TestLegacyFlavour(t *testing.T) {
	services, slices := loadYAML(t, "testdata/services.yaml")
	text := FirstRestore(Render(NewState(Node{Name: "node-0"}, services, slices), RuleOptions{
		MasqueradeBit: 14, RandomFully: true, LocalMatch: "-s 10.244.0.0/16", LocalhostNodePorts: true,
		NodePortAddresses: []netip.Addr{netip.MustParseAddr("172.30.9.1")}}))
	nstest.New(t, "a").RunInput(text, "iptables-legacy-restore --noflush")
}
