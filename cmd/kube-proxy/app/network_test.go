package app

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	current "github.com/containernetworking/cni/pkg/types/100"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"tinykube/apiserver"
	"tinykube/client"
	flanneld "tinykube/cmd/flanneld/app"
	"tinykube/cni"
	"tinykube/internal/nstest"
	"tinykube/internal/testenv"
)

// TestMain makes the test binary all of a node's network programs, each under
// its own name.
func TestMain(m *testing.M) {
	name := filepath.Base(os.Args[0])
	switch name {
	case "kube-proxy":
		exit(NewCommand().Execute())
	case "flanneld":
		exit(flanneld.NewCommand().Execute())
	case "bridge", "flannel", "host-local", "loopback", "portmap":
		os.Exit(cni.Main(name))
	}
	nstest.Main(m)
}

func exit(err error) {
	if err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

// program is the test binary under another name.
func program(name string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = name
	return cmd
}

// network is a real API server and machines that run kube-proxy and flanneld as
// processes of their own, and the CNI plugins for their pods.
type network struct {
	t          *testing.T
	dir        string
	kubeconfig string
	client     *client.Client
	wire       *nstest.Switch
	nodes      []*nstest.NS
	proxies    []*nstest.Process
	flannels   []*nstest.Process
}

func newNetwork(t *testing.T, nodes int) *network {
	t.Helper()
	n := &network{t: t, dir: t.TempDir(), wire: nstest.NewSwitch(t)}
	n.wire.Plug(nstest.Own(t), "172.30.9.100/24")
	env := testenv.New(t, func(c *apiserver.Config) { c.BindAddress = "0.0.0.0" })
	var err error
	if n.client, err = client.New(env.Config); err != nil {
		t.Fatal(err)
	}
	n.kubeconfig = n.rewrite(env.Kubeconfig, env.Config.Host)
	n.write("net-conf.json", `{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}`)
	for _, name := range cni.Names() {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(self, filepath.Join(n.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range nodes {
		n.addNode(i)
	}
	return n
}

// rewrite makes a kubeconfig that leads to the server from the wire; its
// certificate is checked for the name that it has.
func (n *network) rewrite(path, host string) string {
	n.t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		n.t.Fatal(err)
	}
	at, err := url.Parse(host)
	if err != nil {
		n.t.Fatal(err)
	}
	var config map[string]any
	if err := yaml.Unmarshal(data, &config); err != nil {
		n.t.Fatal(err)
	}
	cluster := config["clusters"].([]any)[0].(map[string]any)["cluster"].(map[string]any)
	cluster["server"] = "https://172.30.9.100:" + at.Port()
	cluster["tls-server-name"] = at.Hostname()
	if data, err = yaml.Marshal(config); err != nil {
		n.t.Fatal(err)
	}
	return n.write("kubeconfig", string(data))
}

func (n *network) write(name, text string) string {
	n.t.Helper()
	path := filepath.Join(n.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		n.t.Fatal(err)
	}
	return path
}

func (n *network) addNode(i int) {
	n.t.Helper()
	n.createNode(i, fmt.Sprintf("10.244.%d.0/24", i))
	ns := nstest.New(n.t, fmt.Sprintf("node-%d", i))
	n.wire.Plug(ns, fmt.Sprintf("172.30.9.%d/24", i+1))
	ns.Run("ip route add default dev eth0")
	n.nodes = append(n.nodes, ns)
	n.proxies = append(n.proxies, n.startProxy(i))
	n.flannels = append(n.flannels, n.startFlannel(i))
}

// get fetches "address:port/path" from inside a node.
func (n *network) get(node int, address string) (answer string) {
	n.t.Helper()
	host, path, _ := strings.Cut(address, "/")
	n.nodes[node].Must(func() error {
		conn, err := net.Dial("tcp", host)
		if err != nil {
			return err
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET /%s HTTP/1.0\r\nHost: %s\r\n\r\n", path, host)
		data, err := io.ReadAll(conn)
		answer = string(data)
		return err
	})
	return answer
}

// createNode does what a kubelet and the IPAM controller do.
func (n *network) createNode(i int, podCIDR string) {
	n.t.Helper()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("node-%d", i)}}
	node.Spec.PodCIDR, node.Spec.PodCIDRs = podCIDR, []string{podCIDR}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("172.30.9.%d", i+1)}}
	create(n, client.Nodes, node)
}

func (n *network) startProxy(i int) *nstest.Process {
	config := n.write(fmt.Sprintf("proxy-%d.conf", i), `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: `+n.kubeconfig+`}
clusterCIDR: 10.244.0.0/16
iptables: {minSyncPeriod: 50ms}
nftables: {minSyncPeriod: 50ms}
mode: "`+[]string{"iptables", "nftables", ""}[i]+`"
`)
	return n.nodes[i].Start(program("kube-proxy", "--config="+config, "--hostname-override="+n.nodes[i].Name, "--host-root=/"))
}

func (n *network) subnetEnv(i int) string {
	return filepath.Join(n.dir, fmt.Sprintf("subnet-%d.env", i))
}

func (n *network) startFlannel(i int) *nstest.Process {
	return n.nodes[i].Start(program("flanneld", "--kube-subnet-mgr", "--ip-masq", "--kubeconfig-file="+n.kubeconfig,
		"--node-name="+n.nodes[i].Name, "--net-config-path="+filepath.Join(n.dir, "net-conf.json"), "--subnet-file="+n.subnetEnv(i)))
}

func create[T client.Object](n *network, kind client.Kind[T], obj T) {
	n.t.Helper()
	if _, err := client.For(n.client, kind).Create(context.Background(), obj); err != nil {
		n.t.Fatal(err)
	}
}

// addPod runs the plugins as a runtime does, and lets the pod answer at port 80,
// TCP and UDP, with its name.
func (n *network) addPod(node int, name string) (*nstest.NS, string) {
	n.t.Helper()
	nstest.Eventually(n.t, "subnet.env on "+n.nodes[node].Name, func() bool {
		_, err := os.Stat(n.subnetEnv(node))
		return err == nil
	})
	pod := nstest.New(n.t, name)
	conf := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"cbr%d","type":"flannel","subnetFile":%q,"delegate":{"hairpinMode":true,"isDefaultGateway":true}}`,
		node, n.subnetEnv(node))
	var out []byte
	n.nodes[node].Must(func() (err error) {
		cmd := exec.Command(filepath.Join(n.dir, "flannel"))
		cmd.Env = append(os.Environ(), "CNI_COMMAND=ADD", "CNI_CONTAINERID="+name, "CNI_NETNS="+pod.Path, "CNI_IFNAME=eth0", "CNI_PATH="+n.dir)
		cmd.Stdin = strings.NewReader(conf)
		if out, err = cmd.Output(); err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	})
	var result current.Result
	if err := json.Unmarshal(out, &result); err != nil {
		n.t.Fatal(err)
	}
	ip := result.IPs[0].Address.IP.String()
	pod.Echo("tcp", ip+":80", name)
	pod.Echo("udp", ip+":80", name)
	return pod, ip
}

// expose creates a Service with a TCP and a UDP port and its endpoints.
func (n *network) expose(name, clusterIP string, nodePort int32, endpoints map[string]string) {
	n.t.Helper()
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	s.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, ClusterIP: clusterIP, Ports: []corev1.ServicePort{
		{Name: "tcp", Port: 80, NodePort: nodePort, Protocol: corev1.ProtocolTCP},
		{Name: "udp", Port: 80, NodePort: nodePort, Protocol: corev1.ProtocolUDP},
	}}
	create(n, client.Services, s)
	create(n, client.EndpointSlices, slice(name, endpoints))
}

// slice takes endpoints as address → node.
func slice(service string, endpoints map[string]string) *discoveryv1.EndpointSlice {
	port, tcp, udp := int32(80), corev1.ProtocolTCP, corev1.ProtocolUDP
	tcpName, udpName := "tcp", "udp"
	s := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{
		{Name: &tcpName, Port: &port, Protocol: &tcp}, {Name: &udpName, Port: &port, Protocol: &udp}}}
	s.Namespace, s.Name, s.Labels = "default", service+"-1", map[string]string{discoveryv1.LabelServiceName: service}
	for ip, node := range endpoints {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{ip}, NodeName: &node})
	}
	return s
}

// answers waits until exactly these pods answer, over a number of tries.
func (n *network) answers(from *nstest.NS, network, address string, want ...string) {
	n.t.Helper()
	var got map[string]bool

	nstest.Eventually(n.t, fmt.Sprintf("%s at %s %s from %s", want, network, address, from.Name), func() bool {
		got = map[string]bool{}
		for range 12 {
			name, _, err := from.Ask(network, address)
			if err != nil {
				return false
			}
			got[name] = true
		}
		for _, name := range want {
			if !got[name] {
				return false
			}
		}
		return len(got) == len(want)
	})
}

// The network as a whole: API server, kube-proxy, flanneld, plugins, kernel.
func TestNetwork(t *testing.T) {
	n := newNetwork(t, 3)
	podA, ipA := n.addPod(0, "a")
	podB, ipB := n.addPod(1, "b")
	podC, ipC := n.addPod(2, "c")
	outside := nstest.New(t, "outside")
	n.wire.Plug(outside, "172.30.9.200/24")

	// What flanneld told the API server, and what it made of the others' words.
	node, err := client.For(n.client, client.Nodes).Get(context.Background(), "", "node-1")
	if err != nil {
		t.Fatal(err)
	}
	if a := node.Annotations; a["flannel.alpha.coreos.com/public-ip"] != "172.30.9.2" || a["flannel.alpha.coreos.com/backend-type"] != "vxlan" ||
		a["flannel.alpha.coreos.com/kube-subnet-manager"] != "true" || !strings.Contains(a["flannel.alpha.coreos.com/backend-data"], `"VNI":1`) {
		t.Errorf("annotations %v", a)
	}
	condition := corev1.NodeCondition{}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeNetworkUnavailable {
			condition = c
		}
	}
	if condition.Status != corev1.ConditionFalse || condition.Reason != "FlannelIsUp" {
		t.Errorf("condition %+v", condition)
	}
	n.answers(podA, "tcp", ipB+":80", "b")
	n.answers(podB, "udp", ipC+":80", "c")
	if _, seen, err := podA.Ask("tcp", ipB+":80"); err != nil || !strings.HasPrefix(seen, ipA+":") {
		t.Errorf("between pods addresses must not change: b saw %s, %v", seen, err)
	}

	// A Service, from everywhere.
	n.expose("web", "10.96.0.80", 30080, map[string]string{ipA: "node-0", ipB: "node-1"})
	for _, from := range []*nstest.NS{podA, podC, n.nodes[0], n.nodes[2]} {
		n.answers(from, "tcp", "10.96.0.80:80", "a", "b")
		n.answers(from, "udp", "10.96.0.80:80", "a", "b")
	}
	for _, address := range []string{"172.30.9.1:30080", "172.30.9.2:30080", "172.30.9.3:30080"} {
		n.answers(outside, "tcp", address, "a", "b")
		n.answers(outside, "udp", address, "a", "b")
	}

	// What the proxy says of itself.
	for address, want := range map[string]string{
		"172.30.9.1:10256/healthz": `"nodeEligible":true`, "127.0.0.1:10249/proxyMode": "iptables",
		"127.0.0.1:10249/metrics": "kubeproxy_sync_proxy_rules_duration_seconds_count",
	} {
		if got := n.get(0, address); !strings.Contains(got, want) {
			t.Errorf("%s: no %q in\n%s", address, want, got)
		}
	}

	// The proxy dies; Services go on. Endpoints change meanwhile; the new proxy
	// catches up and leaves nothing of the old.
	if err := n.proxies[0].Cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = n.proxies[0].Cmd.Wait()
	n.answers(podA, "tcp", "10.96.0.80:80", "a", "b")
	changed := slice("web", map[string]string{ipC: "node-2"})
	changed.Annotations = map[string]string{corev1.EndpointsLastChangeTriggerTime: time.Now().Format(time.RFC3339Nano)}
	if _, err := client.For(n.client, client.EndpointSlices).Update(context.Background(), changed); err != nil {
		t.Fatal(err)
	}
	n.answers(podB, "tcp", "10.96.0.80:80", "c")
	const took = `kubeproxy_network_programming_duration_seconds_count{ip_family="IPv4"} 1`
	nstest.Eventually(t, took, func() bool { return strings.Contains(n.get(1, "127.0.0.1:10249/metrics"), took) })
	n.startProxy(0)
	n.answers(podA, "tcp", "10.96.0.80:80", "c")
	n.answers(podA, "udp", "10.96.0.80:80", "c")

	// Flushed rules return by themselves; so do flannel's entries.
	n.nodes[0].Run("iptables -t nat -F")
	n.nodes[0].Run("ip link del flannel.1")
	n.answers(podA, "tcp", "10.96.0.80:80", "c")
	n.answers(podA, "tcp", ipB+":80", "b")

	// flanneld dies and returns, and is a node that has never been away.
	before := n.nodes[1].Run("ip -o link show flannel.1")
	if err := n.flannels[1].Cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = n.flannels[1].Cmd.Wait()
	n.answers(podA, "tcp", ipB+":80", "b")
	n.startFlannel(1)
	n.answers(podA, "tcp", ipB+":80", "b")
	if after := n.nodes[1].Run("ip -o link show flannel.1"); after != before {
		t.Errorf("the device changed:\n%s%s", before, after)
	}

	// Somebody edits what a node has said of itself: it says it again.
	nodes := client.For(n.client, client.Nodes)
	if _, err := nodes.Patch(context.Background(), "", "node-1", types.MergePatchType, []byte(
		`{"metadata":{"annotations":{"flannel.alpha.coreos.com/public-ip":"172.30.9.99","flannel.alpha.coreos.com/backend-data":"{"}}}`)); err != nil {
		t.Fatal(err)
	}
	nstest.Eventually(t, "node-1's own words", func() bool {
		node, err := nodes.Get(context.Background(), "", "node-1")
		return err == nil && node.Annotations["flannel.alpha.coreos.com/public-ip"] == "172.30.9.2" && strings.Contains(node.Annotations["flannel.alpha.coreos.com/backend-data"], "VtepMAC")
	})
	n.answers(podA, "tcp", ipB+":80", "b")

	// A node that leaves is forgotten.
	if err := client.For(n.client, client.Nodes).Delete(context.Background(), "", "node-2", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	hasRoute := func(subnet string) func() bool {
		return func() bool { return strings.Contains(n.nodes[0].Run("ip route"), subnet+" via") }
	}
	gone := hasRoute("10.244.2.0/24")
	nstest.Eventually(t, "route to node-2 to go", func() bool { return !gone() })

	// Its Node is made anew, as a kubelet does, and knows nothing of flannel: its
	// flanneld, which never ended, says it again.
	n.createNode(2, "10.244.2.0/24")
	nstest.Eventually(t, "route to node-2 to return", hasRoute("10.244.2.0/24"))
	n.answers(podA, "tcp", ipC+":80", "c")

	// The same, with another subnet: flanneld ends, so that it is started again.
	if err := client.For(n.client, client.Nodes).Delete(context.Background(), "", "node-2", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	n.createNode(2, "10.244.7.0/24")
	if err := n.flannels[2].Cmd.Wait(); err == nil || !strings.Contains(n.flannels[2].Output(), "subnet has changed") {
		t.Errorf("flanneld ended with %v and said %s", err, n.flannels[2].Output())
	}
	n.startFlannel(2)
	nstest.Eventually(t, "route to node-2's new subnet", hasRoute("10.244.7.0/24"))
}
