package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"tinykube/internal/nstest"
)

// TestMain makes the test binary the plugins' binary as well: under a plugin's
// name it is that plugin.
func TestMain(m *testing.M) {
	if _, ok := plugins[filepath.Base(os.Args[0])]; ok {
		os.Exit(Main(filepath.Base(os.Args[0])))
	}
	nstest.Main(m)
}

// machine is a node with plugins installed, and how to call them.
type machine struct {
	t    testing.TB
	node *nstest.NS
	bin  string
}

func newMachine(t testing.TB) *machine {
	t.Helper()
	m := &machine{t: t, node: nstest.New(t, "node"), bin: t.TempDir()}
	if err := os.RemoveAll("/var/lib/cni"); err != nil { // private to this binary
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// With $CNI_BIN the same tests judge the plugins of that folder, those that it has.
	for _, name := range Names() {
		program := self
		if theirs := filepath.Join(os.Getenv("CNI_BIN"), name); os.Getenv("CNI_BIN") != "" {
			if _, err := os.Stat(theirs); err == nil {
				program = theirs
			}
		}
		if err := os.Symlink(program, filepath.Join(m.bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// onlyOurs says whether ours are under test: what follows is not asked of the
// reference plugins, for the reason given.
func (m *machine) onlyOurs(reason string) bool {
	m.t.Helper()
	if os.Getenv("CNI_BIN") == "" {
		return true
	}
	m.t.Log("the reference plugins differ: " + reason)
	return false
}

// call executes one verb as a runtime would.
func (m *machine) call(verb, container, netns, conf string) ([]byte, error) {
	var c types.PluginConf
	if err := json.Unmarshal([]byte(conf), &c); err != nil {
		m.t.Fatalf("test configuration: %v\n%s", err, conf)
	}
	out, err := m.run(c.Type, verb, container, netns, conf)
	if err == nil {
		return out, nil
	}
	var failure types.Error
	if jsonErr := json.Unmarshal(out, &failure); jsonErr != nil || failure.Code == 0 {
		m.t.Fatalf("%s %s failed and printed no error object: %v\n%s", verb, c.Type, err, out)
	}
	return nil, &failure
}

// run executes a plugin with any standard input.
func (m *machine) run(plugin, verb, container, netns, stdin string) (out []byte, err error) {
	err = m.node.Do(func() (err error) {
		cmd := exec.Command(filepath.Join(m.bin, plugin))
		cmd.Env = append(os.Environ(), "CNI_COMMAND="+verb, "CNI_CONTAINERID="+container, "CNI_NETNS="+netns, "CNI_IFNAME=eth0", "CNI_PATH="+m.bin)
		cmd.Stdin = strings.NewReader(stdin)
		out, err = cmd.Output()
		return err
	})
	return out, err
}

func (m *machine) must(verb, container, netns, conf string) []byte {
	m.t.Helper()
	out, err := m.call(verb, container, netns, conf)
	if err != nil {
		m.t.Fatalf("%s: %v", verb, err)
	}
	return out
}

// result parses what ADD printed.
func (m *machine) result(out []byte) *current.Result {
	m.t.Helper()
	r, err := current.NewResult(out)
	if err != nil {
		m.t.Fatalf("%v\n%s", err, out)
	}
	return r.(*current.Result)
}

// with adds a field to a configuration.
func with(conf, field string, value any) string {
	var m map[string]any
	if err := json.Unmarshal([]byte(conf), &m); err != nil {
		panic(err)
	}
	m[field] = value
	out, _ := json.Marshal(m)
	return string(out)
}

const bridgeConf = `{"cniVersion":"1.0.0","name":"test","type":"bridge","bridge":"cni0",
	"isDefaultGateway":true,"hairpinMode":true,"mtu":1400,
	"ipam":{"type":"host-local","ranges":[[{"subnet":"10.1.0.0/24"}]],"routes":[{"dst":"10.1.0.0/16"}]},
	"dns":{"nameservers":["10.96.0.10"]}}`

// The whole life of an attachment, with the kernel asked at each step.
func TestBridge(t *testing.T) {
	m := newMachine(t)
	podA, podB := nstest.New(t, "a"), nstest.New(t, "b")
	out := m.must("ADD", "a", podA.Path, bridgeConf)
	a := m.result(out)
	b := m.result(m.must("ADD", "b", podB.Path, bridgeConf))
	if got := a.IPs[0].Address.String() + " " + b.IPs[0].Address.String(); got != "10.1.0.2/24 10.1.0.3/24" {
		t.Errorf("addresses %s", got)
	}
	if a.IPs[0].Gateway.String() != "10.1.0.1" || *a.IPs[0].Interface != 2 || a.Interfaces[2].Name != "eth0" || a.Interfaces[2].Sandbox != podA.Path {
		t.Errorf("result %s", out)
	}
	if a.DNS.Nameservers[0] != "10.96.0.10" || a.CNIVersion != "1.0.0" {
		t.Errorf("result %s", out)
	}
	link := podA.Run("ip -o link show eth0")
	if !strings.Contains(link, "mtu 1400") || !strings.Contains(link, "state UP") {
		t.Errorf("eth0: %s", link)
	}
	if m.onlyOurs("their MAC is chance; ours follows from the address, so that who knew the last pod there need not ask again") && !strings.Contains(link, "0a:58:0a:01:00:02") {
		t.Errorf("eth0: %s", link)
	}
	routes := podA.Run("ip route")
	for _, want := range []string{"default via 10.1.0.1 dev eth0", "10.1.0.0/16 via 10.1.0.1", "10.1.0.0/24 dev eth0 proto kernel scope link src 10.1.0.2"} {
		if !strings.Contains(routes, want) {
			t.Errorf("no route %q in\n%s", want, routes)
		}
	}
	if port := m.node.Run("bridge -d link show"); strings.Count(port, "hairpin on") != 2 {
		t.Errorf("bridge ports:\n%s", port)
	}
	reach(t, podA, podB, "10.1.0.3")
	reach(t, podA, m.node, "10.1.0.1")
	reach(t, m.node, podA, "10.1.0.2")

	checked := with(bridgeConf, "prevResult", a)
	m.must("CHECK", "a", podA.Path, checked)
	podA.Run("ip addr del 10.1.0.2/24 dev eth0")
	if _, err := m.call("CHECK", "a", podA.Path, checked); err == nil {
		t.Error("CHECK did not miss the address")
	}

	goneB := podB.Path
	if m.onlyOurs("without a namespace they leave the host's end to the kernel, which removes it with the other") {
		goneB = ""
	}
	for range 2 {
		m.must("DEL", "a", podA.Path, bridgeConf)
		m.must("DEL", "b", goneB, bridgeConf) // the namespace may be gone already
	}
	if links := m.node.Run("ip -o link"); strings.Contains(links, "veth") {
		t.Errorf("links left:\n%s", links)
	}
	if files, _ := filepath.Glob("/var/lib/cni/networks/test/10.*"); len(files) != 0 {
		t.Errorf("addresses left: %v", files)
	}
}

// A second ADD for a complete attachment is an error and harms nothing; for one
// that a crash left half made it succeeds, with the same address.
func TestBridgeAddAgain(t *testing.T) {
	m := newMachine(t)
	pod := nstest.New(t, "a")
	conf := with(bridgeConf, "ipMasq", true)
	first := m.result(m.must("ADD", "a", pod.Path, conf))
	if _, err := m.call("ADD", "a", pod.Path, conf); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("the second ADD: %v", err)
	}
	reach(t, m.node, pod, "10.1.0.2")

	if !m.onlyOurs("what a crash left half made has to be removed with DEL before another ADD") {
		return
	}
	m.node.Run("ip link set " + hostLinkName("a", "eth0") + " down") // as a crash before connect
	again := m.result(m.must("ADD", "a", pod.Path, conf))
	if again.IPs[0].Address.String() != first.IPs[0].Address.String() {
		t.Errorf("%s became %s", first.IPs[0].Address.String(), again.IPs[0].Address.String())
	}
	if _, _, err := m.node.Ask("tcp", "10.1.0.2:7"); err != nil {
		t.Error(err)
	}
	if rules := m.node.Run("iptables-save -t nat"); strings.Count(rules, "-j "+chainName(masqueradePrefix, "test", "a")) != 1 || strings.Count(rules, "-j MASQUERADE") != 1 {
		t.Errorf("the rules are not there once:\n%s", rules)
	}
	m.must("DEL", "a", pod.Path, conf)
}

// A failing ADD takes back all it did.
func TestBridgeAddFails(t *testing.T) {
	m := newMachine(t)
	m.node.Run("ip link add cni0 type veth peer name other")
	pod := nstest.New(t, "a")
	conf := bridgeConf
	if _, err := m.call("ADD", "a", pod.Path, conf); err == nil || !strings.Contains(err.Error(), "not a bridge") {
		t.Errorf("ADD: %v", err)
	}
	if files, _ := filepath.Glob("/var/lib/cni/networks/test/10.*"); len(files) != 0 {
		t.Errorf("addresses left: %v", files)
	}
}

func TestMasquerade(t *testing.T) {
	m := newMachine(t)
	outside, pod := nstest.New(t, "outside"), nstest.New(t, "a")
	nstest.Veth(t, m.node, "eth0", outside, "eth0")
	m.node.Address("eth0", "192.168.7.1/24")
	outside.Address("eth0", "192.168.7.2/24") // and no way back to 10.1/16
	conf := with(bridgeConf, "ipMasq", true)
	m.must("ADD", "a", pod.Path, conf)
	reach(t, pod, outside, "192.168.7.2")
	for range 2 {
		m.must("DEL", "a", pod.Path, conf)
	}
	if rules := m.node.Run("iptables-save"); strings.Contains(rules, "CNI-") {
		t.Errorf("rules left:\n%s", rules)
	}
}

// flannel, bridge, host-local and portmap as kube's conflist chains them; a host
// port is reached from outside, from the node and from the pod itself.
func TestFlannelAndPortmap(t *testing.T) {
	m := newMachine(t)
	env := filepath.Join(t.TempDir(), "subnet.env")
	flannel := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"cbr0","type":"flannel","subnetFile":%q,"delegate":{"hairpinMode":true,"isDefaultGateway":true}}`, env)
	pod, outside := nstest.New(t, "a"), nstest.New(t, "outside")
	nstest.Veth(t, m.node, "eth0", outside, "eth0")
	m.node.Address("eth0", "172.30.9.1/24")
	outside.Address("eth0", "172.30.9.9/24")

	var failure *types.Error
	if _, err := m.call("ADD", "a", pod.Path, flannel); !errors.As(err, &failure) || failure.Code != types.ErrTryAgainLater {
		t.Errorf("without subnet.env: %v", err)
	}
	m.must("DEL", "a", pod.Path, flannel)
	if err := os.WriteFile(env, []byte("FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	out := m.must("ADD", "a", pod.Path, flannel)
	if m.result(out).IPs[0].Address.String() != "10.244.1.2/24" {
		t.Errorf("result %s", out)
	}
	portmap := with(with(`{"cniVersion":"1.0.0","name":"cbr0","type":"portmap","capabilities":{"portMappings":true}}`,
		"runtimeConfig", map[string]any{"portMappings": []portMapping{{HostPort: 8080, ContainerPort: 80, Protocol: "TCP"}}}),
		"prevResult", json.RawMessage(out))
	chained := m.must("ADD", "a", pod.Path, portmap)
	if string(chained) != string(out) {
		t.Errorf("portmap changed the result:\n%s\n%s", out, chained)
	}
	m.must("ADD", "a", pod.Path, portmap) // rules are not doubled
	m.must("CHECK", "a", pod.Path, portmap)
	pod.Echo("tcp", "10.244.1.2:80", "pod")
	for name, from := range map[string]*nstest.NS{"outside": outside, "the node": m.node, "the pod itself": pod} {
		if _, _, err := from.Ask("tcp", "172.30.9.1:8080"); err != nil {
			t.Errorf("host port from %s: %v", name, err)
		}
	}
	if dnat := m.node.Run("iptables -t nat -S CNI-HOSTPORT-DNAT"); strings.Count(dnat, "-j CNI-DN-") != 1 {
		t.Errorf("jumps:\n%s", dnat)
	}
	for range 2 {
		m.must("DEL", "a", pod.Path, portmap)
		m.must("DEL", "a", pod.Path, flannel)
	}
	if rules := m.node.Run("iptables-save"); strings.Contains(rules, "CNI-DN-") {
		t.Errorf("rules left:\n%s", rules)
	}
	if _, err := os.Stat("/var/lib/cni/flannel/a"); !os.IsNotExist(err) {
		t.Errorf("state left: %v", err)
	}
}

func TestLoopback(t *testing.T) {
	m := newMachine(t)
	pod := nstest.New(t, "a")
	conf := `{"cniVersion":"1.1.0","name":"lo","type":"loopback"}`
	pod.Run("ip link set lo down")
	if _, err := m.call("CHECK", "a", pod.Path, conf); err == nil {
		t.Error("CHECK likes a loopback that is down")
	}
	out := m.must("ADD", "a", pod.Path, conf)
	m.must("CHECK", "a", pod.Path, conf)
	reach(t, pod, pod, "127.0.0.1")
	if m.result(out).IPs[0].Address.String() != "127.0.0.1/8" {
		t.Errorf("result %s", out)
	}
	m.must("DEL", "a", pod.Path, conf)
	m.must("DEL", "a", "/nowhere", conf)
}

// Bad input is answered with the specification's codes.
func TestErrors(t *testing.T) {
	m := newMachine(t)
	pod := nstest.New(t, "a")
	ours := m.onlyOurs("most errors have their code 999, and some leave links")
	plain := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(plain, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, verb, container, netns, conf string
		code                               uint
	}{
		{"version from the future", "ADD", "a", pod.Path, `{"cniVersion":"9.0.0","name":"x","type":"bridge"}`, types.ErrIncompatibleCNIVersion},
		{"unsupported field", "ADD", "a", pod.Path, with(bridgeConf, "vlan", 7), types.ErrUnsupportedField},
		{"no such namespace", "ADD", "a", "/nowhere", bridgeConf, types.ErrUnknownContainer},
		{"a file as namespace", "ADD", "a", plain, bridgeConf, types.ErrInvalidNetNS},
		{"no container", "ADD", "", pod.Path, bridgeConf, types.ErrInvalidEnvironmentVariables},
		{"container ID with a slash", "ADD", "../a", pod.Path, bridgeConf, types.ErrInvalidEnvironmentVariables},
		{"wrong type", "ADD", "a", pod.Path, with(bridgeConf, "mtu", "big"), types.ErrDecodingFailure},
		{"no name", "ADD", "a", pod.Path, `{"cniVersion":"1.0.0","type":"bridge"}`, types.ErrInvalidNetworkConfig},
		{"name with a slash", "ADD", "a", pod.Path, with(bridgeConf, "name", "../x"), types.ErrInvalidNetworkConfig},
		{"no ranges", "ADD", "a", pod.Path, with(bridgeConf, "ipam", map[string]any{"type": "host-local"}), types.ErrInvalidNetworkConfig},
		{"IPAM outside of CNI_PATH", "ADD", "a", pod.Path, with(bridgeConf, "ipam", map[string]any{"type": "../host-local"}), types.ErrInternal},
		{"CHECK in a version without it", "CHECK", "a", pod.Path, with(bridgeConf, "cniVersion", "0.3.1"), types.ErrIncompatibleCNIVersion},
		{"GC in a version without it", "GC", "a", pod.Path, bridgeConf, types.ErrIncompatibleCNIVersion},
		{"delegate with ipam", "ADD", "a", pod.Path, `{"cniVersion":"1.0.0","name":"x","type":"flannel","delegate":{"ipam":{}}}`, types.ErrInvalidNetworkConfig},
		{"portmap without a host port", "ADD", "a", pod.Path, `{"cniVersion":"1.0.0","name":"x","type":"portmap","runtimeConfig":{"portMappings":[{"containerPort":80}]},"prevResult":{"cniVersion":"1.0.0","ips":[{"address":"10.1.0.2/24"}]}}`, types.ErrInvalidNetworkConfig},
		{"portmap with a mark that is none", "ADD", "a", pod.Path, `{"cniVersion":"1.0.0","name":"x","type":"portmap","markMasqBit":-1}`, types.ErrInvalidNetworkConfig},
		{"portmap with two marks", "ADD", "a", pod.Path, `{"cniVersion":"1.0.0","name":"x","type":"portmap","markMasqBit":1,"externalSetMarkChain":"X"}`, types.ErrInvalidNetworkConfig},
		{"portmap with nftables", "ADD", "a", pod.Path, `{"cniVersion":"1.0.0","name":"x","type":"portmap","backend":"nftables"}`, types.ErrUnsupportedField},
		{"a MAC that is none", "ADD", "a", pod.Path, with(bridgeConf, "args", map[string]any{"cni": map[string]any{"mac": "x"}}), types.ErrInvalidNetworkConfig},
		{"portmap alone", "ADD", "a", pod.Path, `{"cniVersion":"1.0.0","name":"x","type":"portmap"}`, types.ErrInvalidNetworkConfig},
	} {
		_, err := m.call(c.verb, c.container, c.netns, c.conf)
		var failure *types.Error
		if !errors.As(err, &failure) || ours && failure.Code != c.code {
			t.Errorf("%s: %v, want code %d", c.name, err, c.code)
		}
		if wellFormed := failure.Code == types.ErrInvalidNetworkConfig || failure.Code == types.ErrUnsupportedField; ours && wellFormed && !strings.Contains(c.name, "name") {
			m.must("DEL", c.container, c.netns, c.conf)
		}
	}
	if !ours {
		return
	}
	if links := m.node.Run("ip -o link"); strings.Contains(links, "cni0") {
		t.Errorf("refused configurations left links:\n%s", links)
	}
}

// Whatever comes in on standard input is answered by an error object and nothing
// else, and nothing is left behind.
func TestGarbage(t *testing.T) {
	m := newMachine(t)
	pod := nstest.New(t, "a")
	for _, name := range Names() {
		for _, verb := range []string{"ADD", "DEL", "CHECK", "GC", "STATUS"} {
			for _, stdin := range []string{"", "{", "null", "[]", `"x"`, "\x00\xff", `{"cniVersion":"1.1.0"}`, `{"cniVersion":7,"name":"x","type":"` + name + `"}`,
				`{"cniVersion":"1.1.0","name":"x","type":"` + name + `","prevResult":[]}`, `{"cniVersion":"1.1.0","name":"x","ipam":{"type":"host-local","ranges":[[{"subnet":"300.1.1.1/99"}]]},"prevResult":{"ips":[{"address":"x"}]}}`,
				strings.Repeat("[", 100_000)} {
				out, err := m.run(name, verb, "a", pod.Path, stdin)
				var answer struct{ Code *uint }
				if err != nil && (json.Unmarshal(out, &answer) != nil || answer.Code == nil) {
					t.Errorf("%s %s of %.60q: %v, and printed %.300q", name, verb, stdin, err, out)
				}
				if err == nil && verb == "ADD" && name != "loopback" {
					t.Errorf("%s ADD of %.60q succeeded: %.300q", name, stdin, out)
				}
			}
		}
	}
	if !m.onlyOurs("a failing ADD leaves the bridge") {
		return
	}
	if links := m.node.Run("ip -o link"); strings.Count(links, "\n") != 1 {
		t.Errorf("links left:\n%s", links)
	}
}

// The pod's interface, its namespace and the bridge may go before DEL comes.
func TestGoneBeforeDEL(t *testing.T) {
	m := newMachine(t)
	pod := nstest.New(t, "a")
	for _, vanish := range []func(){
		func() { pod.Run("ip link del eth0") },
		func() { m.node.Run("ip link del cni0") },
		func() { m.node.Run("ip link set cni0 down") },
		func() {},
	} {
		out := m.must("ADD", "a", pod.Path, bridgeConf)
		reach(t, m.node, pod, m.result(out).IPs[0].Address.IP.String()) // the next ADD mends the bridge
		vanish()
		if links := pod.Run("ip -o link"); !strings.Contains(links, "eth0") {
			if _, err := m.call("CHECK", "a", pod.Path, with(bridgeConf, "prevResult", json.RawMessage(out))); err == nil {
				t.Error("CHECK does not miss the interface")
			}
		}
		for range 2 {
			m.must("DEL", "a", pod.Path, bridgeConf)
		}
		if files, _ := filepath.Glob("/var/lib/cni/networks/test/10.*"); len(files) != 0 {
			t.Errorf("addresses left: %v", files)
		}
	}
}

// Each version that we claim is spoken, and the answer echoes it.
func TestVersions(t *testing.T) {
	m := newMachine(t)
	for i, v := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		pod := nstest.New(t, "v")
		id := fmt.Sprintf("v%d", i)
		conf := with(bridgeConf, "cniVersion", v)
		out := m.must("ADD", id, pod.Path, conf)
		var echo struct{ CNIVersion string }
		if err := json.Unmarshal(out, &echo); err != nil || echo.CNIVersion != v {
			t.Errorf("version %s: %s", v, out)
		}
		m.must("DEL", id, pod.Path, conf)
	}
	out := m.must("VERSION", "", "", bridgeConf)
	if !strings.Contains(string(out), `"1.1.0"`) {
		t.Errorf("VERSION: %s", out)
	}
}

// reach proves that a packet gets from one namespace to an address of another,
// and back.
func reach(t *testing.T, from, to *nstest.NS, address string) {
	t.Helper()
	to.Echo("tcp", address+":7", "there")
	if _, _, err := from.Ask("tcp", address+":7"); err != nil {
		t.Errorf("%s does not reach %s: %v", from.Name, address, err)
	}
}
