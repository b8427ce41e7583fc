package cni

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tinykube/internal/nstest"
)

// GC removes what containers that are no more have left in every plugin, and
// nothing of those that are, or of other networks.
func TestGC(t *testing.T) {
	m := newMachine(t)
	env := filepath.Join(t.TempDir(), "subnet.env")
	if err := os.WriteFile(env, []byte("FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	flannel := fmt.Sprintf(`{"cniVersion":"1.1.0","name":"cbr0","type":"flannel","subnetFile":%q,"delegate":{"isDefaultGateway":true}}`, env)
	portmap := with(`{"cniVersion":"1.1.0","name":"cbr0","type":"portmap"}`, "runtimeConfig",
		map[string]any{"portMappings": []portMapping{{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}}})
	other := with(flannel, "name", "other")
	for id, conf := range map[string]string{"alive": flannel, "dead": flannel, "elsewhere": other} {
		out := m.must("ADD", id, nstest.New(t, id).Path, conf)
		name := "cbr0"
		if id == "elsewhere" {
			name = "other"
		}
		m.must("ADD", id, "/run/netns/x", with(with(portmap, "name", name), "prevResult", json.RawMessage(out)))
	}
	for _, conf := range []string{flannel, portmap} {
		m.must("STATUS", "", "", conf)
		for range 2 {
			m.must("GC", "", "", with(conf, "cni.dev/valid-attachments", []map[string]string{{"containerID": "alive", "ifname": "eth0"}}))
		}
	}
	if !m.onlyOurs("they have no GC: it succeeds and removes nothing") {
		return
	}
	rules := m.node.Run("iptables-save -t nat")
	for id, network := range map[string]string{"alive": "cbr0", "elsewhere": "other", "dead": "cbr0"} {
		for _, prefix := range []string{masqueradePrefix, hostPortPrefix} {
			if got := strings.Contains(rules, ":"+chainName(prefix, network, id)); got != (id != "dead") {
				t.Errorf("chain %s of %s: %v\n%s", prefix, id, got, rules)
			}
		}
	}
	if files, _ := filepath.Glob("/var/lib/cni/networks/*/10.*"); len(files) != 2 {
		t.Errorf("addresses %v", files)
	}
	m.must("DEL", "elsewhere", "", other)
	if files, _ := filepath.Glob("/var/lib/cni/networks/other/10.*"); len(files) != 0 {
		t.Errorf("GC of one network has forgotten another's: %v", files)
	}
}
