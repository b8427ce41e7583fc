package proxy

import (
	"context"
	"errors"
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

	"golang.org/x/sys/unix"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
	"tinykube/internal/nstest"
	"tinykube/internal/testenv"
	"tinykube/test/clusters"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// api is the one API server that all proxies of a test watch.
type api struct {
	t      testing.TB
	env    *testenv.Env
	client *client.Client
}

func newAPI(t testing.TB) *api {
	a := &api{t: t, env: testenv.New(t)}
	var err error
	if a.client, err = client.New(a.env.Config); err != nil {
		t.Fatal(err)
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-0", Labels: map[string]string{corev1.LabelTopologyZone: "a"}}}
	node.Spec.PodCIDR, node.Spec.PodCIDRs = "10.244.0.0/24", []string{"10.244.0.0/24"}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "172.30.9.1"}}
	if _, err := client.For(a.client, client.Nodes).Create(context.Background(), node); err != nil {
		t.Fatal(err)
	}
	return a
}

// machine is a node with two pods behind its bridge; a neighbour with two pods of
// its own; a pod far away and a client outside, whose way to Services and back is
// through the node.
type machine struct {
	name    string
	t       testing.TB
	node    *nstest.NS
	clients map[string]*nstest.NS
	process *nstest.Process
}

// ports are where each pod answers, TCP and UDP, with its address and that port.
var ports = []int{8080, 8081}

func newMachine(a *api, name string) *machine {
	t := a.t
	m := &machine{name: name, t: t, node: nstest.New(t, "node-0")}
	neighbour, outside, far := nstest.New(t, "neighbour"), nstest.New(t, "outside"), nstest.New(t, "far")
	m.clients = map[string]*nstest.NS{"node": m.node, "far pod": far, "outside": outside}
	wire := nstest.NewSwitch(t)
	for ns, address := range map[*nstest.NS]string{m.node: "172.30.9.1/24", neighbour: "172.30.9.2/24", outside: "172.30.9.9/24", far: "172.30.9.3/24"} {
		ns.Sysctl("net/ipv4/icmp_ratemask", "0") // the kernel refuses a client once a second at most
		ns.Sysctl("net/ipv4/conf/default/accept_redirects", "0")
		ns.Sysctl("net/ipv4/conf/all/accept_redirects", "0")
		wire.Plug(ns, address)
	}
	m.node.Sysctl("net/ipv4/ip_forward", "1")
	m.node.Sysctl("net/ipv4/conf/all/send_redirects", "0")
	m.node.Sysctl("net/ipv4/conf/eth0/send_redirects", "0")
	m.node.Run("ip route add default via 172.30.9.9")
	m.node.Route("10.244.1.0/24", "172.30.9.2")
	m.node.Run("ip link add cni0 type bridge")
	m.node.Run("ip link set cni0 up")
	m.node.Address("cni0", "10.244.0.1/24")
	outside.Route("default", "172.30.9.1")
	m.node.Route("10.244.2.0/24", "172.30.9.3")
	far.Address("lo", "10.244.2.7/32")
	far.Run("ip route replace 172.30.9.0/24 dev eth0 src 10.244.2.7")
	far.Run("ip route add default via 172.30.9.1 src 10.244.2.7")
	neighbour.Route("10.244.2.0/24", "172.30.9.1")
	neighbour.Route("172.30.9.9/32", "172.30.9.1")
	neighbour.Route("10.244.0.0/24", "172.30.9.1")
	for _, n := range []int{5, 6} {
		pod := nstest.New(t, "pod")
		link := fmt.Sprint("pod", n)
		nstest.Veth(t, m.node, link, pod, "eth0")
		m.node.Run("ip link set " + link + " master cni0")
		m.node.Run("bridge link set dev " + link + " hairpin on")
		pod.Address("eth0", fmt.Sprintf("10.244.0.%d/24", n))
		pod.Sysctl("net/ipv4/icmp_ratemask", "0")
		pod.Route("default", "10.244.0.1")
		neighbour.Address("lo", fmt.Sprintf("10.244.1.%d/32", n))
		for _, port := range ports {
			for host, ns := range map[string]*nstest.NS{fmt.Sprintf("10.244.0.%d", n): pod, fmt.Sprintf("10.244.1.%d", n): neighbour} {
				at := net.JoinHostPort(host, fmt.Sprint(port))
				ns.Echo("tcp", at, at)
				ns.Echo("udp", at, at)
			}
		}
		m.clients[fmt.Sprintf("pod 10.244.0.%d", n)] = pod
	}
	host := strings.TrimPrefix(a.env.Config.Host, "https://")
	m.node.Relay(host, host)
	return m
}

// programs are ours and, where it is given, theirs.
func programs(t testing.TB) map[string][]string {
	ours, err := filepath.Abs("../../../bin/tinykube")
	if err != nil {
		t.Fatal(err)
	}
	list := map[string][]string{"ours": {ours, "kube-proxy"}}
	if path := os.Getenv("KUBE_PROXY"); path != "" {
		list["theirs"] = []string{path}
	}
	return list
}

// start runs a kube-proxy on the machine. The size of the machine's connection
// tracking is not a namespace's to set, and the real program ends if it cannot.
func (m *machine) start(a *api, program []string, mode, more string) {
	m.t.Helper()
	config := filepath.Join(m.t.TempDir(), "config")
	text := `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: ` + a.env.Kubeconfig + `, qps: 1000, burst: 1000}
clusterCIDR: 10.244.0.0/16
hostnameOverride: node-0
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
mode: ` + mode + "\n" + more
	if !strings.Contains(more, "minSyncPeriod") {
		text += "iptables: {minSyncPeriod: 10ms, localhostNodePorts: true}\nnftables: {minSyncPeriod: 10ms}\n"
	}
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
	cmd := exec.Command(program[0], append(program[1:], "--config="+config, "--v=2")...)
	m.process = m.node.Start(cmd)
}

// A try is one connection: which endpoint answered, and whom it saw.
func try(ns *nstest.NS, protocol, address string) string {
	return tryFor(2*patience, ns, protocol, address)
}

func tryFor(most time.Duration, ns *nstest.NS, protocol, address string) string {
	var end string
	_ = ns.Do(func() error {
		conn, err := (&net.Dialer{Timeout: most, Control: giveUp}).Dial(protocol, address)
		if err == nil {
			defer conn.Close()
			if protocol == "udp" {
				_ = conn.SetDeadline(time.Now().Add(patience))
				_, _ = conn.Write([]byte("?"))
			}
			var name, seen string
			if name, seen, err = nstest.Exchange(conn); err == nil {
				host, _, _ := net.SplitHostPort(seen)
				end = name + " sees " + host
				return nil
			}
		}
		end = "dropped"
		for word, errno := range map[string]unix.Errno{"refused": unix.ECONNREFUSED, "unreachable": unix.EHOSTUNREACH, "denied": unix.EPERM, "forbidden": unix.EACCES} {
			if strings.Contains(err.Error(), errno.Error()) {
				end = word
			}
		}
		return nil
	})
	return end
}

// patience is how long a try waits before it says "dropped".
const patience = 2 * time.Second

// giveUp makes the kernel tell of a refusal that came while connect() ran: it
// only remembers those.
func giveUp(network, _ string, c syscall.RawConn) (err error) {
	failed := c.Control(func(fd uintptr) {
		if strings.HasPrefix(network, "tcp") {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(patience.Milliseconds()))
		}
	})
	return errors.Join(failed, err)
}

// needsTheirs ends a test that is about theirs, where it is not given.
func needsTheirs(t testing.TB) { clusters.Program(t.(*testing.T), "KUBE_PROXY") }

// get asks by HTTP and answers the status, what matters of the header, and the body.
func get(ns *nstest.NS, address, path string) (answer string) {
	_ = ns.Do(func() error {
		conn, err := net.DialTimeout("tcp", address, patience)
		if err != nil {
			return err
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET %s HTTP/1.0\r\nHost: node\r\n\r\n", path)
		data, err := io.ReadAll(conn)
		var lines []string
		for line := range strings.Lines(string(data)) {
			if !strings.HasPrefix(line, "Date:") && !strings.HasPrefix(line, "Content-Length:") {
				lines = append(lines, strings.TrimSpace(line))
			}
		}
		answer = strings.Join(lines, "\n")
		return err
	})
	return answer
}
