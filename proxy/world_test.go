package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	kubeproxy "k8s.io/kube-proxy/config/v1alpha1"

	"tinykube/internal/nstest"
)

// testModes are what the tests of this file run in. Another kernel has others:
// see modes_ipvs_test.go, and go test -tags ipvs.
var testModes = []testMode{{modeIPTables, IPv4}, {modeNFTables, IPv4}, {modeNFTables, IPv6}}

type testMode struct {
	mode   string
	family Family
}

// inModes runs a test once per mode. The test speaks IPv4; addresses change as
// they pass through the world: 10.244.0.5 is fd00::10:244:0:5.
func inModes(t *testing.T, test func(t *testing.T, w *world)) {
	for _, m := range testModes {
		t.Run(m.mode+"-"+m.family.nft(), func(t *testing.T) {
			t.Parallel()
			test(t, newWorld(t, m))
		})
	}
}

var quad = regexp.MustCompile(`(\d+)\.(\d+)\.(\d+)\.(\d+)(/\d+)?(:\d+)?`)

// ip rewrites addresses for the world's family.
func (w *world) ip(text string) string {
	if w.family == IPv4 {
		return text
	}
	return quad.ReplaceAllStringFunc(text, func(found string) string {
		m := quad.FindStringSubmatch(found)
		ip := "fd00::" + strings.Join(m[1:5], ":")
		if m[6] != "" {
			return "[" + ip + "]" + m[6]
		}
		return ip + map[string]string{"": "", "/16": "/96", "/24": "/112", "/32": "/128"}[m[5]]
	})
}

// rewrite is ip for whole objects.
func rewrite[T any](w *world, in T) T {
	data, err := json.Marshal(in)
	if err != nil {
		w.t.Fatal(err)
	}
	text := strings.ReplaceAll(w.ip(string(data)), "IPv4", w.family.either("IPv4", "IPv6"))
	var out T
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		w.t.Fatal(err)
	}
	return out
}

// world is two nodes on a wire with an outsider, two pods behind each node's
// bridge, and plain routes where a cluster has flannel.
type world struct {
	testMode
	t       *testing.T
	nodes   [2]*nstest.NS
	outside *nstest.NS
	pods    map[string]*nstest.NS // by address
	proxies [2]Backend
	options [2]Options
	writes  int // of node 0
}

func newWorld(t *testing.T, mode testMode) *world {
	t.Helper()
	w := &world{testMode: mode, t: t, pods: map[string]*nstest.NS{}}
	w.outside = w.machine("outside")
	wire := nstest.NewSwitch(t)
	wire.Plug(w.outside, w.ip("172.30.9.9/24"))
	for i := range w.nodes {
		node := w.machine(fmt.Sprintf("node-%d", i))
		w.nodes[i] = node
		wire.Plug(node, w.ip(fmt.Sprintf("172.30.9.%d/24", i+1)))
		// The kernel wants a route before it may rewrite the destination.
		node.Run(w.family.either("ip", "ip -6") + " route add default dev eth0")
		node.Route(w.ip(fmt.Sprintf("10.244.%d.0/24", 1-i)), w.ip(fmt.Sprintf("172.30.9.%d", 2-i)))
		node.Run("ip link add cni0 type bridge")
		node.Run("ip link set cni0 up")
		node.Address("cni0", w.ip(fmt.Sprintf("10.244.%d.1/24", i)))
		for n := 5; n <= 6; n++ {
			w.addPod(i, fmt.Sprintf("10.244.%d.%d", i, n))
		}
		w.proxies[i] = w.backend()
		w.options[i] = Options{Local: LocalTraffic{CIDR: netip.MustParsePrefix(w.ip("10.244.0.0/16"))},
			MasqueradeBit: 14, RandomFully: true, NodeIP: netip.MustParseAddr(w.ip(fmt.Sprintf("172.30.9.%d", i+1)))}
		node.Must(func() error {
			local, err := localAddresses(w.family)
			w.options[i].NodePortAddresses, w.options[i].AllAddresses = nodePortAddresses([]string{"0.0.0.0/0", "::/0"}, local, w.options[i].NodeIP)
			return err
		})
	}
	w.setSysctls()
	w.outside.Route(w.ip("10.96.0.0/16"), w.ip("172.30.9.1"))
	for _, ns := range append(slices.Collect(maps.Values(w.pods)), w.nodes[0], w.nodes[1], w.outside) {
		nstest.Eventually(t, "addresses to be usable", func() bool { return !strings.Contains(ns.Run("ip addr show tentative"), "fd00") })
	}
	return w
}

// setSysctls does what a proxy does as it starts.
func (w *world) setSysctls() {
	c := kubeproxy.KubeProxyConfiguration{Mode: kubeproxy.ProxyMode(w.mode)}
	for _, node := range w.nodes {
		node.Must(func() error {
			if err := setSysctls(w.family, &c); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrPermission) {
				w.t.Log(err) // the size of the connection tracking table is the machine's
			}
			return nil
		})
	}
}

func (w *world) backend() Backend {
	b, err := NewBackend(w.mode, "", w.family, slog.New(slog.DiscardHandler))
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

// machine is a namespace whose IPv6 addresses are good at once.
func (w *world) machine(name string) *nstest.NS {
	ns := nstest.New(w.t, name)
	ns.Sysctl("net/ipv6/conf/default/accept_dad", "0")
	ns.Sysctl("net/ipv6/ip_nonlocal_bind", "1")
	// The kernel refuses a client once a second at most; tests ask faster.
	ns.Sysctl("net/ipv6/icmp/ratelimit", "0")
	ns.Sysctl("net/ipv4/icmp_ratelimit", "0")
	// A node whose default route is the wire tells a client that the Service's
	// address is on the wire too, before any rule has seen the packet.
	ns.Sysctl("net/ipv6/conf/default/accept_redirects", "0")
	ns.Sysctl("net/ipv6/conf/all/accept_redirects", "0")
	return ns
}

// addPod makes a pod that answers at port 8080, TCP and UDP, with its address.
func (w *world) addPod(node int, ip string) {
	pod, link := w.machine("pod"), "v"+ip[len("10.244."):]
	nstest.Veth(w.t, w.nodes[node], link, pod, "eth0")
	w.nodes[node].Run("ip link set " + link + " master cni0")
	w.nodes[node].Run("bridge link set dev " + link + " hairpin on")
	pod.Address("eth0", w.ip(ip+"/24"))
	pod.Route("default", w.ip(fmt.Sprintf("10.244.%d.1", node)))
	pod.Echo("tcp", w.ip(ip+":8080"), ip)
	pod.Echo("udp", w.ip(ip+":8080"), ip)
	w.pods[ip] = pod
}

// client is a namespace by its name, or a pod by its address.
func (w *world) client(name string) *nstest.NS {
	if pod := w.pods[name]; pod != nil {
		return pod
	}
	return map[string]*nstest.NS{"outside": w.outside, "node-0": w.nodes[0], "node-1": w.nodes[1]}[name]
}

func (w *world) state(node int, services []*corev1.Service, slices []*discoveryv1.EndpointSlice) State {
	return NewState(Node{Name: w.nodes[node].Name, Family: w.family}, rewrite(w, services), rewrite(w, slices))
}

// sync brings both nodes to a state.
func (w *world) sync(services []*corev1.Service, slices ...*discoveryv1.EndpointSlice) {
	w.t.Helper()
	for i, node := range w.nodes {
		node.Must(func() error {
			wrote, err := w.proxies[i].Sync(context.Background(), w.state(i, services, slices), w.options[i])
			if wrote && i == 0 {
				w.writes++
			}
			return err
		})
	}
}

// what is everything that the kernel holds of ours.
func (w *world) what(node *nstest.NS) string {
	var text strings.Builder
	for _, line := range map[string][]string{
		modeIPTables: {"iptables-save"}, modeNFTables: {"nft list table " + w.family.nft() + " kube-proxy"},
		modeIPVS: {"iptables-save", "ipset save", "ipvsadm -S -n"},
	}[w.mode] {
		out, err := node.Command("", line)
		if err == nil {
			text.WriteString(out)
		}
	}
	return stripped(text.String())
}

// stripped removes what differs between equal tables: dates, counters and order.
func stripped(save string) string {
	var lines []string
	for line := range strings.Lines(save) {
		if !strings.HasPrefix(line, "#") && !strings.Contains(line, "MINE") && !strings.HasPrefix(line, ":P") && !strings.HasPrefix(line, ":I") && !strings.HasPrefix(line, ":O") && !strings.HasPrefix(line, "create ") {
			line = strings.Replace(strings.Replace(line, "elements = {", "", 1), "}", "", 1)
			lines = append(lines, strings.Trim(line, " \t\n,"))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
