package flannel

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"tinykube/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// testNode is a machine with a flanneld that a test drives step by step.
type testNode struct {
	*nstest.NS
	f *Flannel
}

// cluster makes n machines on one wire, each with one pod at .7 of its subnet
// behind a veth, and a nodes file that all of them read.
func cluster(t *testing.T, n int, backend string) (nodes []*testNode, nodesFile string, wire *nstest.Switch) {
	t.Helper()
	wire = nstest.NewSwitch(t)
	nodesFile = filepath.Join(t.TempDir(), "nodes")
	var text strings.Builder
	for i := range n {
		fmt.Fprintf(&text, "node-%d 10.244.%d.0/24 172.30.9.%d\n", i, i, i+1)
	}
	if err := os.WriteFile(nodesFile, []byte(text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	conf, err := parseNetConf([]byte(`{"Network":"10.244.0.0/16","Backend":{"Type":"` + backend + `"}}`))
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		ns, pod := nstest.New(t, fmt.Sprintf("node-%d", i)), nstest.New(t, "pod")
		wire.Plug(ns, fmt.Sprintf("172.30.9.%d/24", i+1))
		ns.Sysctl("net/ipv4/ip_forward", "1")
		nstest.Veth(t, ns, "pod", pod, "eth0")
		ns.Address("pod", fmt.Sprintf("10.244.%d.1/24", i))
		pod.Address("eth0", fmt.Sprintf("10.244.%d.7/24", i))
		pod.Route("default", fmt.Sprintf("10.244.%d.1", i))
		pod.Echo("tcp", fmt.Sprintf("10.244.%d.7:80", i), fmt.Sprintf("pod-%d", i))
		config := Config{NodeName: ns.Name, SubnetFile: filepath.Join(t.TempDir(), "subnet.env"), IPMasq: true, ForwardRules: true}
		f, err := New(config, conf, FileSource{Path: nodesFile, Node: ns.Name, Backend: backend}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		node := &testNode{ns, f}
		node.Must(func() error { return f.join(context.Background()) })
		node.sync()
		nodes = append(nodes, node)
	}
	return nodes, nodesFile, wire
}

// sync does what Run does when the file has changed.
func (n *testNode) sync() {
	n.Must(func() error {
		leases, err := n.f.source.(FileSource).read()
		if err != nil {
			return err
		}
		n.f.leases, n.f.known = leases, true
		return n.f.reconcile(context.Background())
	})
}

// pending is what a reconcile would change now.
func (n *testNode) pending() (ops []Op) {
	n.Must(func() error {
		want, _ := makePlan(n.f.conf, n.f.mine, n.f.leases, n.f.external.networks)
		have, err := n.f.readPlan()
		ops = diff("flannel.1", have, want)
		return err
	})
	return ops
}

// Pods of different nodes reach each other, under their own addresses.
func TestPodToPod(t *testing.T) {
	for _, backend := range []string{vxlanBackend, hostGWBackend} {
		t.Run(backend, func(t *testing.T) {
			nodes, _, _ := cluster(t, 3, backend)
			client := nstest.New(t, "client")
			nstest.Veth(t, nodes[0].NS, "client", client, "eth0")
			client.Address("eth0", "10.244.0.9/32")
			client.Run("ip route add 10.244.0.1 dev eth0")
			client.Route("default", "10.244.0.1")
			nodes[0].Run("ip route add 10.244.0.9 dev client")
			for i := 1; i < len(nodes); i++ {
				name, seen, err := client.Ask("tcp", fmt.Sprintf("10.244.%d.7:80", i))
				if err != nil || name != fmt.Sprintf("pod-%d", i) || !strings.HasPrefix(seen, "10.244.0.9:") {
					t.Errorf("pod-%d answered %q and saw %q, %v", i, name, seen, err)
				}
			}
			for i := range nodes {
				if _, _, err := nodes[1].Ask("tcp", fmt.Sprintf("10.244.%d.7:80", i)); err != nil {
					t.Errorf("node-1 to pod-%d: %v", i, err)
				}
			}
			if ops := nodes[0].pending(); len(ops) != 0 {
				t.Errorf("a second reconcile would still change: %v", ops)
			}
		})
	}
}

// What the kernel shows is upstream's: three entries per remote node.
func TestKernelEntries(t *testing.T) {
	nodes, _, _ := cluster(t, 3, vxlanBackend)
	n := nodes[0]
	for command, wants := range map[string][]string{
		"ip -d link show flannel.1": {"vxlan id 1 local 172.30.9.1 dev eth0", "dstport 8472 nolearning", "mtu 1450", "0e:f1:ac:1e:09:01"},
		"ip addr show flannel.1":    {"inet 10.244.0.0/32"},
		"ip neigh show dev flannel.1": {
			"10.244.1.0 lladdr 0e:f1:ac:1e:09:02 PERMANENT", "10.244.2.0 lladdr 0e:f1:ac:1e:09:03 PERMANENT"},
		"bridge fdb show dev flannel.1": {
			"0e:f1:ac:1e:09:02 dst 172.30.9.2 self permanent", "0e:f1:ac:1e:09:03 dst 172.30.9.3 self permanent"},
		"ip route show dev flannel.1": {
			"10.244.1.0/24 via 10.244.1.0 onlink", "10.244.2.0/24 via 10.244.2.0 onlink"},
		"iptables -t nat -S": {
			"-A POSTROUTING -m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG",
			"-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment \"flanneld masq\" -j RETURN",
			"-A FLANNEL-POSTRTG -s 10.244.0.0/24 -d 10.244.0.0/16 -m comment --comment \"flanneld masq\" -j RETURN",
			"-A FLANNEL-POSTRTG -s 10.244.0.0/16 -d 10.244.0.0/24 -m comment --comment \"flanneld masq\" -j RETURN",
			"-A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.0.0/24 -m comment --comment \"flanneld masq\" -j RETURN",
			"-A FLANNEL-POSTRTG -s 10.244.0.0/16 ! -d 224.0.0.0/4 -m comment --comment \"flanneld masq\" -j MASQUERADE --random-fully",
			"-A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.0.0/16 -m comment --comment \"flanneld masq\" -j MASQUERADE --random-fully"},
		"iptables -S": {
			"-A FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD",
			"-A FLANNEL-FWD -s 10.244.0.0/16 -m comment --comment \"flanneld forward\" -j ACCEPT"},
	} {
		got := n.Run(command)
		for _, want := range wants {
			if !strings.Contains(got, want) {
				t.Errorf("%s: no %q in\n%s", command, want, got)
			}
		}
	}
	env, err := os.ReadFile(n.f.config.SubnetFile)
	if err != nil || string(env) != "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.0.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n" {
		t.Errorf("subnet.env: %q, %v", env, err)
	}
}

// A node that goes is forgotten, one that moves is followed, whatever somebody
// deletes comes back, and what others have put there stays.
func TestChanges(t *testing.T) {
	nodes, file, wire := cluster(t, 3, vxlanBackend)
	n := nodes[0]
	n.Run("ip neigh add 192.168.5.5 lladdr 02:00:00:00:00:01 dev flannel.1 nud permanent")
	n.Run("bridge fdb append 02:00:00:00:00:02 dev flannel.1 dst 172.30.9.77 self permanent")
	n.Run("ip route add 192.168.5.0/24 dev flannel.1")

	text := "node-0 10.244.0.0/24 172.30.9.1\nnode-1 10.244.1.0/24 172.30.9.50\n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	n.sync()
	all := n.Run("ip neigh show dev flannel.1") + n.Run("bridge fdb show dev flannel.1") + n.Run("ip route")
	for _, gone := range []string{"10.244.2.0", "172.30.9.3 ", "172.30.9.2 ", "0e:f1:ac:1e:09:02"} {
		if strings.Contains(all, gone) {
			t.Errorf("%s is still there:\n%s", gone, all)
		}
	}
	for _, kept := range []string{"192.168.5.5 lladdr", "02:00:00:00:00:02 dst 172.30.9.77", "192.168.5.0/24 ", "0e:f1:ac:1e:09:32 dst 172.30.9.50"} {
		if !strings.Contains(all, kept) {
			t.Errorf("%s is missing:\n%s", kept, all)
		}
	}

	// Removed by hand, back with the next look.
	n.Run("ip link del flannel.1")
	n.Run("iptables -t nat -F FLANNEL-POSTRTG")
	n.Run("iptables -F FORWARD")
	n.sync()
	if rules := n.Run("iptables-save"); strings.Count(rules, "-j FLANNEL-FWD") != 1 || strings.Count(rules, "-A FLANNEL-POSTRTG") != 6 {
		t.Errorf("rules:\n%s", rules)
	}
	if ops := n.pending(); len(ops) != 0 {
		t.Errorf("still to change: %v", ops)
	}

	// The interface goes, and with it the device; both come back, the one under
	// another address.
	n.Run("ip link del eth0")
	n.Must(func() error {
		if err := n.f.reconcile(context.Background()); err == nil || !strings.Contains(err.Error(), "no interface") {
			t.Errorf("without an interface: %v", err)
		}
		return nil
	})
	wire.Plug(n.NS, "172.30.9.9/24")
	n.sync()
	if link := n.Run("ip -d link show flannel.1"); !strings.Contains(link, "local 172.30.9.9 dev eth0") || n.f.mine.PublicIP.String() != "172.30.9.9" {
		t.Errorf("%v\n%s", n.f.mine, link)
	}
	if ops := n.pending(); len(ops) != 0 {
		t.Errorf("still to change: %v", ops)
	}
}

// A restart touches nothing: same device, same entries, and a connection that
// was open goes on.
func TestRestart(t *testing.T) {
	nodes, _, _ := cluster(t, 2, vxlanBackend)
	n := nodes[0]
	listener := nodes[1].Listen("10.244.1.1:9")
	var conn net.Conn
	n.Must(func() (err error) {
		conn, err = net.DialTimeout("tcp", "10.244.1.1:9", 2*time.Second)
		return err
	})
	defer conn.Close()
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	before := n.Run("ip -o link show flannel.1")

	again, err := New(n.f.config, n.f.conf, n.f.source, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	n.Must(func() error { return again.join(context.Background()) })
	second := &testNode{n.NS, again}
	second.sync()
	if after := n.Run("ip -o link show flannel.1"); after != before {
		t.Errorf("the device changed:\n%s%s", before, after)
	}
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := accepted.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := accepted.Read(make([]byte, 1)); err != nil {
		t.Errorf("the open connection: %v", err)
	}
}

// Links that go down and come back lose their routes and entries, and get them
// again.
func TestLinkDown(t *testing.T) {
	for backend, links := range map[string][]string{vxlanBackend: {"flannel.1", "eth0"}, hostGWBackend: {"eth0"}} {
		nodes, _, _ := cluster(t, 2, backend)
		n := nodes[0]
		for _, link := range links {
			n.Run("ip link set " + link + " down")
			n.Must(func() error {
				_ = n.f.reconcile(context.Background()) // which may find no way to the others
				return nil
			})
			n.Run("ip link set " + link + " up")
			n.sync()
			if ops := n.pending(); len(ops) != 0 {
				t.Errorf("%s, %s: still to change: %v", backend, link, ops)
			}
			nstest.Eventually(t, backend+": pod-1 after "+link+" was down", func() bool {
				_, _, err := n.Ask("tcp", "10.244.1.7:80")
				return err == nil
			})
		}
	}
}

// A lease that nobody can serve keeps nobody else out.
func TestLeaseNobodyCanServe(t *testing.T) {
	nodes, _, _ := cluster(t, 3, hostGWBackend)
	n := nodes[0]
	n.Run("ip route del 10.244.2.0/24")
	n.f.leases = slices.DeleteFunc(n.f.leases, func(l Lease) bool { return l.Node == "node-1" })
	for i, ip := range []string{"172.30.9.1", "172.30.9.255", "255.255.255.255", "fd00::1"} {
		n.f.leases = append(n.f.leases, Lease{Node: fmt.Sprintf("a-%d", i), Backend: hostGWBackend,
			Subnet: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, 1, byte(16 * i)}), 28), PublicIP: netip.MustParseAddr(ip)})
	}
	n.Must(func() error {
		if err := n.f.reconcile(context.Background()); err == nil || !strings.Contains(err.Error(), "10.244.1.16/28 via 172.30.9.255") {
			t.Errorf("a route by the wire's broadcast address: %v", err)
		}
		return nil
	})
	if _, _, err := n.Ask("tcp", "10.244.2.7:80"); err != nil {
		t.Error(err)
	}
}
