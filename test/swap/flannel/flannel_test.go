package flannel

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
	"tinykube/internal/nstest"
	"tinykube/internal/testenv"
	"tinykube/test/clusters"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// network is two machines on a wire, each with a pod, and the store that their
// flannelds learn from.
type network struct {
	t        testing.TB
	programs map[string][]string // ours and theirs
	config   string              // net-conf.json
	flags    func(machine int) []string
	wire     *nstest.Switch
	nodes    [2]*nstest.NS
	pods     [2]*nstest.NS
	running  [2]*exec.Cmd
	output   [2]*bytes.Buffer
	runs     [2]string // each machine's /run/flannel
}

// netConf is the network's configuration, but for the backend, of which there
// are three.
const netConf = `{"Network":"10.244.0.0/16","Backend":%s}`

const vxlan, direct, hostGW = `{"Type":"vxlan"}`, `{"Type":"vxlan","DirectRouting":true}`, `{"Type":"host-gw"}`

func newNetwork(t testing.TB, backend string) *network {
	t.Helper()
	ours, err := filepath.Abs("../../../bin/tinykube")
	if err != nil {
		t.Fatal(err)
	}
	n := &network{t: t, programs: map[string][]string{"theirs": {os.Getenv("FLANNELD")}, "ours": {ours, "flanneld"}}}
	n.config = filepath.Join(t.TempDir(), "net-conf.json")
	if err := os.WriteFile(n.config, fmt.Appendf(nil, netConf, backend), 0o644); err != nil {
		t.Fatal(err)
	}
	n.wire = nstest.NewSwitch(t)
	for i := range n.nodes {
		n.nodes[i], n.runs[i] = nstest.New(t, fmt.Sprint("node-", i)), t.TempDir()
		n.wire.Plug(n.nodes[i], fmt.Sprintf("172.30.9.%d/24", i+1))
		n.nodes[i].Run("ip route add default dev eth0")
		n.nodes[i].Sysctl("net/ipv4/ip_forward", "1")
	}
	return n
}

// start runs a flanneld on a machine and waits for what it leaves for the CNI plugin.
func (n *network) start(machine int, whose string) {
	n.t.Helper()
	file := filepath.Join(n.runs[machine], "subnet.env")
	args := append(n.programs[whose], "--iface=eth0", "--ip-masq", "--subnet-file="+file)
	args = append(args, n.flags(machine)...)
	n.output[machine] = &bytes.Buffer{}
	n.nodes[machine].Must(func() error {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = append(os.Environ(), fmt.Sprint("NODE_NAME=node-", machine))
		cmd.Stdout, cmd.Stderr = n.output[machine], n.output[machine]
		n.running[machine] = cmd
		return cmd.Start()
	})
	output := n.output[machine]
	n.t.Cleanup(func() {
		n.stop(machine)
		if n.t.Failed() {
			n.t.Logf("%s on node-%d printed:\n%s", whose, machine, output)
		}
	})
	nstest.Eventually(n.t, "subnet.env of node-"+fmt.Sprint(machine), func() bool { return n.subnet(machine) != "" })
}

// stop ends a flanneld as a kubelet does: v0.28.10 of the real one may wait for
// itself for ever after SIGTERM, its watchers for a reader that has gone.
func (n *network) stop(machine int) {
	if cmd := n.running[machine]; cmd != nil {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		grace := time.AfterFunc(30*time.Second, func() {
			if err := cmd.Process.Kill(); err == nil && cmd.Path == n.programs["ours"][0] {
				n.t.Error("our flanneld does not end on SIGTERM")
			}
		})
		_ = cmd.Wait()
		grace.Stop()
		n.running[machine] = nil
	}
}

// subnet is "10.244.7" of a machine that has 10.244.7.0/24.
func (n *network) subnet(machine int) string {
	text, _ := os.ReadFile(filepath.Join(n.runs[machine], "subnet.env"))
	_, rest, _ := strings.Cut(string(text), "FLANNEL_SUBNET=")
	subnet, _, _ := strings.Cut(rest, ".1/24")
	if subnet == rest {
		return ""
	}
	return subnet
}

// addPods makes the pod of each machine, once its subnet is known.
func (n *network) addPods() {
	n.t.Helper()
	for i, node := range n.nodes {
		subnet := n.subnet(i)
		n.pods[i] = nstest.New(n.t, "pod")
		nstest.Veth(n.t, node, "pod", n.pods[i], "eth0")
		node.Address("pod", subnet+".1/24")
		n.pods[i].Address("eth0", subnet+".7/24")
		n.pods[i].Route("default", subnet+".1")
		n.pods[i].Echo("tcp", subnet+".7:80", fmt.Sprint("pod-", i))
	}
}

// connected waits until each pod reaches the other, under its own address.
func (n *network) connected(when string) {
	n.t.Helper()
	for i, pod := range n.pods {
		nstest.Eventually(n.t, fmt.Sprintf("pod-%d to reach the other pod, %s", i, when), func() bool {
			name, seen, err := pod.Ask("tcp", n.subnet(1-i)+".7:80")
			return err == nil && name == fmt.Sprint("pod-", 1-i) && strings.HasPrefix(seen, n.subnet(i)+".7:")
		})
	}
}

// relay makes a server of the test's own namespace reachable at loopback in
// every machine.
func (n *network) relay(port, to string) {
	for _, node := range n.nodes {
		node.Relay("127.0.0.1:"+port, to)
	}
}

// takeTurns is the test: theirs and ours in one network, then each in the other's
// place while a connection between the pods stays open, and back.
func (n *network) takeTurns() {
	clusters.Program(n.t, "FLANNELD")
	n.start(0, "theirs")
	n.start(1, "ours")
	n.addPods()
	n.connected("theirs and ours")
	n.t.Logf("node-0 with theirs:\n%s\nnode-1 with ours:\n%s", n.entries(0), n.entries(1))
	before := []string{n.entries(0), n.entries(1)}

	listener := n.pods[1].Listen(n.subnet(1) + ".7:9")
	var conn net.Conn
	n.pods[0].Must(func() (err error) {
		conn, err = net.DialTimeout("tcp", n.subnet(1)+".7:9", 10*time.Second)
		return err
	})
	defer conn.Close()
	accepted, err := listener.Accept()
	if err != nil {
		n.t.Fatal(err)
	}
	defer accepted.Close()
	for _, turn := range [][2]string{{"ours", "theirs"}, {"theirs", "ours"}} {
		for machine, whose := range turn {
			subnet := n.subnet(machine)
			n.stop(machine)
			n.start(machine, whose)
			n.connected(fmt.Sprint("after ", whose, " has come to node-", machine))
			if n.subnet(machine) != subnet {
				n.t.Errorf("node-%d had %s, and with %s it has %s", machine, subnet, whose, n.subnet(machine))
			}
			_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
			_ = accepted.SetDeadline(time.Now().Add(30 * time.Second))
			if _, err := conn.Write([]byte("x")); err != nil {
				n.t.Fatal(err)
			}
			if _, err := io.ReadFull(accepted, make([]byte, 1)); err != nil {
				n.t.Errorf("the open connection, after %s has come to node-%d: %v", whose, machine, err)
			}
		}
	}
	for i := range n.nodes {
		nstest.Eventually(n.t, "the entries that were there before", func() bool { return n.entries(i) == before[i] })
	}
}

// entries are what a machine's kernel holds for the other.
func (n *network) entries(machine int) string {
	node := n.nodes[machine]
	listing := node.Run("ip route")
	if strings.Contains(node.Run("ip -o link"), "flannel.1") {
		listing += node.Run("ip neigh show dev flannel.1 nud permanent") + node.Run("bridge fdb show dev flannel.1")
	}
	var text string
	for line := range strings.Lines(listing) {
		if strings.HasPrefix(line, "10.244.") && !strings.Contains(line, "scope link") || strings.Contains(line, "dst 172.30.9.") {
			text += line
		}
	}
	return text
}

// Nodes that learn of each other from an etcd, and choose their subnets themselves.
func TestRealFlanneldEtcd(t *testing.T) {
	n := newNetwork(t, vxlan)
	store := n.store(fmt.Sprintf(netConf, vxlan))
	n.flags = func(int) []string { return []string{"--etcd-endpoints=http://172.30.9.9:2379"} }
	n.takeTurns()
	const all = "get --prefix /coreos.com/network/subnets/"
	t.Logf("etcdctl %s\n%s", all, store(all))
	// A key without an etcd lease would never be given back.
	if fields := store(all + " -w fields"); strings.Count(fields, `"Lease" :`) != 2 || strings.Contains(fields, `"Lease" : 0`) {
		t.Errorf("%s", fields)
	}
}

// store is an etcd on the wire with a network configuration, and etcdctl for it.
func (n *network) store(config string) (etcdctl func(line string) string) {
	n.t.Helper()
	machine := nstest.New(n.t, "etcd")
	n.wire.Plug(machine, "172.30.9.9/24")
	const url = "http://172.30.9.9:2379"
	var cmd *exec.Cmd
	machine.Must(func() error {
		cmd = exec.Command(n.programs["ours"][0], "etcd", "--data-dir="+n.t.TempDir(), "--listen-client-urls="+url, "--advertise-client-urls="+url, "--listen-peer-urls=http://127.0.0.1:2380")
		return cmd.Start()
	})
	n.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	ctl := n.programs["ours"][0] + " etcdctl --endpoints=" + url + " "
	nstest.Eventually(n.t, "etcd to take the configuration", func() bool {
		_, err := machine.Command(config, ctl+"put /coreos.com/network/config")
		return err == nil
	})
	return func(line string) string { return machine.Run(ctl + line) }
}

// Nodes of a cluster, with each backend; in the end one gets another address.
func TestRealFlanneldKube(t *testing.T) {
	for name, backend := range map[string]string{"vxlan": vxlan, "DirectRouting": direct, "host-gw": hostGW} {
		t.Run(name, func(t *testing.T) {
			n := newNetwork(t, backend)
			n.kube()
			n.takeTurns()
			for machine, address := range []string{"172.30.9.51", "172.30.9.52"} {
				n.move(machine, address)
			}
		})
	}
}

// kube makes the machines nodes of an API server.
func (n *network) kube() {
	n.t.Helper()
	env := testenv.New(n.t)
	api, err := client.New(env.Config)
	if err != nil {
		n.t.Fatal(err)
	}
	for i := range n.nodes {
		// A real flanneld does not expect a Node without annotations.
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("node-", i), Annotations: map[string]string{"made-by": "test"}}}
		node.Spec.PodCIDR = fmt.Sprintf("10.244.%d.0/24", i+3)
		node.Spec.PodCIDRs = []string{node.Spec.PodCIDR}
		if _, err := client.For(api, client.Nodes).Create(context.Background(), node); err != nil {
			n.t.Fatal(err)
		}
	}
	address := strings.TrimPrefix(env.Config.Host, "https://")
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		n.t.Fatal(err)
	}
	n.relay(port, address) // the same port, so that the kubeconfig is right there, too
	n.flags = func(int) []string {
		return []string{"--kube-subnet-mgr", "--kubeconfig-file=" + env.Kubeconfig, "--net-config-path=" + n.config}
	}
}

// move gives a machine another address, after which its flanneld is started
// again, as after a reboot; the other machine's must follow.
func (n *network) move(machine int, address string) {
	n.t.Helper()
	whose := "theirs"
	if n.running[machine].Path == n.programs["ours"][0] {
		whose = "ours"
	}
	n.stop(machine)
	node := n.nodes[machine]
	node.Run("ip addr flush dev eth0")
	node.Address("eth0", address+"/24")
	node.Run("ip route add default dev eth0")
	n.start(machine, whose)
	n.connected(fmt.Sprintf("after node-%d, with %s, has moved to %s", machine, whose, address))
	if entries := n.entries(1 - machine); !strings.Contains(entries, address) {
		n.t.Errorf("node-%d does not know %s:\n%s", 1-machine, address, entries)
	}
}
