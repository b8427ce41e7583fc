package cri

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	cnitypes "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// plugin is a CNI plugin that writes down what it is asked and answers with
// fixed addresses.
const plugin = `#!/bin/sh
if [ "$CNI_COMMAND" = VERSION ]; then
	echo '{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}'
	exit 0
fi
config=$(cat)
echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME netns=$CNI_NETNS $config" >> "$(dirname "$0")/calls"
[ "$CNI_COMMAND" = ADD ] && echo '{"cniVersion":"1.0.0","interfaces":[{"name":"cni0"},{"name":"eth0","sandbox":"'$CNI_NETNS'"}],
	"ips":[{"address":"10.1.1.1/24","interface":0},{"address":"10.1.1.7/24","interface":1},{"address":"fd00::7/64","interface":1}]}'
exit 0
`

func testNetwork(t *testing.T) (n *network, bin string) {
	t.Helper()
	dir := t.TempDir()
	bin = filepath.Join(dir, "bin")
	n = newNetwork(Config{Root: dir, CNIConfDir: filepath.Join(dir, "net.d"), CNIBinDirs: []string{bin}}, slog.New(slog.DiscardHandler))
	for _, sub := range []string{bin, n.confDir} {
		if err := os.MkdirAll(sub, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(bin, "fake"), []byte(plugin), 0o755); err != nil {
		t.Fatal(err)
	}
	return n, bin
}

func (n *network) write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(n.confDir, name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func calls(t *testing.T, bin string) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(bin, "calls"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

const fakeList = `{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"fake","mark":"old","capabilities":{"portMappings":true,"bandwidth":true}}]}`

// Spec: CNI 1.1 §3 "Container runtimes must ... use the result of the ADD, and
// the configuration of the time, for DEL", which may be repeated.
func TestNetworkAddAndRemove(t *testing.T) {
	n, bin := testNetwork(t)
	n.write(t, "10-pods.conflist", fakeList)
	netns := filepath.Join(t.TempDir(), "netns")
	if err := os.WriteFile(netns, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	sb := &sandboxRecord{ID: "5a", NetNS: netns, Config: &runtimeapi.PodSandboxConfig{
		Metadata:    &runtimeapi.PodSandboxMetadata{Name: "web", Namespace: "default", Uid: "u1"},
		Annotations: map[string]string{"kubernetes.io/egress-bandwidth": "10M"},
		PortMappings: []*runtimeapi.PortMapping{{ContainerPort: 80, HostPort: 8080, Protocol: runtimeapi.Protocol_TCP, HostIp: "127.0.0.1"},
			{ContainerPort: 81}},
	}}
	ips, err := n.add(t.Context(), sb)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"10.1.1.7", "fd00::7"}, ips); diff != "" {
		t.Errorf("addresses of the pod (-want +got):\n%s", diff)
	}
	// The configuration changes, and the namespace goes; DEL must not care.
	n.write(t, "10-pods.conflist", strings.Replace(fakeList, "old", "new", 1))
	if err := n.remove(t.Context(), sb); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(netns); err != nil {
		t.Fatal(err)
	}
	if err := n.remove(t.Context(), sb); err != nil {
		t.Fatal(err)
	}
	got := calls(t, bin)
	if len(got) != 3 {
		t.Fatalf("%d calls, want ADD, DEL and another DEL:\n%s", len(got), strings.Join(got, "\n"))
	}
	var config struct {
		Mark          string
		PrevResult    *struct{ IPs []any }
		RuntimeConfig struct {
			PortMappings []map[string]any
			Bandwidth    map[string]float64
		}
	}
	add, del, again := got[0], got[1], got[2]
	if err := json.Unmarshal([]byte(add[strings.Index(add, "{"):]), &config); err != nil {
		t.Fatal(err)
	}
	if m := config.RuntimeConfig.PortMappings; len(m) != 1 || m[0]["hostPort"] != 8080.0 || m[0]["protocol"] != "tcp" || m[0]["hostIP"] != "127.0.0.1" {
		t.Errorf("port mappings: %v", m)
	}
	if b := config.RuntimeConfig.Bandwidth; b["egressRate"] != 10e6 || b["ingressRate"] != 0 {
		t.Errorf("bandwidth: %v", b)
	}
	if err := json.Unmarshal([]byte(del[strings.Index(del, "{"):]), &config); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(del, "DEL 5a eth0 netns="+netns) || config.Mark != "old" || config.PrevResult == nil || len(config.PrevResult.IPs) != 3 {
		t.Errorf("DEL does not see what ADD made: %s", del)
	}
	if !strings.HasPrefix(again, "DEL 5a eth0 netns= ") {
		t.Errorf("the second DEL should say that there is no namespace: %s", again)
	}
}

// The first valid file by name wins, and each is read again every time.
func TestNetworkConfig(t *testing.T) {
	n, _ := testNetwork(t)
	if _, _, err := n.config(); err == nil || !strings.HasPrefix(err.Error(), "cni plugin not initialized") {
		t.Errorf("an empty directory: %v", err)
	}
	n.write(t, "00-broken.conflist", "{")
	n.write(t, "01-escape.conf", `{"cniVersion":"1.0.0","name":"x","type":"../../bin/sh"}`)
	n.write(t, "02-readme.txt", fakeList)
	if _, _, err := n.config(); err == nil || !strings.Contains(err.Error(), "00-broken.conflist") || !strings.Contains(err.Error(), "../../bin/sh") {
		t.Errorf("broken files should be named: %v", err)
	}
	n.write(t, "10-single.conf", `{"cniVersion":"1.0.0","name":"single","type":"fake"}`)
	n.write(t, "20-list.conflist", fakeList)
	list, file, err := n.config()
	if err != nil || list.Name != "single" || filepath.Base(file) != "10-single.conf" {
		t.Errorf("got %v of %s, %v", list, file, err)
	}
}

func TestPodIPsWithoutInterfaces(t *testing.T) {
	result := &cnitypes.Result{}
	if err := json.Unmarshal([]byte(`{"ips":[{"address":"10.0.0.5/24"}]}`), result); err != nil {
		t.Fatal(err)
	}
	if got := podIPs(result); len(got) != 1 || got[0] != "10.0.0.5" {
		t.Errorf("%v", got)
	}
}
