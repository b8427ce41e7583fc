package cni

import (
	"encoding/json"
	"flag"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"tinykube/internal/nstest"
)

var update = flag.Bool("update", false, "write testdata/reference.txt; with $CNI_BIN, from the reference plugins")

// What the reference plugins v1.9.1 answer, and leave in the kernel, was recorded
// (CNI_BIN=folder go test ./cni -run TestReference -update). Ours do the same.
func TestReference(t *testing.T) {
	var text strings.Builder
	for _, c := range []struct{ name, conf string }{
		{"a cluster's bridge", bridgeConf},
		{"masqueraded, with the oldest version", with(with(with(bridgeConf, "ipMasq", true), "cniVersion", "0.3.1"), "isDefaultGateway", false)},
		{"two families", with(with(bridgeConf, "ipam", json.RawMessage(`{"type":"host-local","ranges":[[{"subnet":"10.1.0.0/24","rangeStart":"10.1.0.9"}],[{"subnet":"fd00:1::/64"}]]}`)), "cniVersion", "1.1.0")},
		{"promiscuous", with(with(bridgeConf, "hairpinMode", false), "promiscMode", true)},
	} {
		text.WriteString("== " + c.name + "\n" + attachment(t, c.conf))
	}
	const golden = "testdata/reference.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if text.String() != string(want) {
		t.Errorf("this is not what the reference plugins did; got\n%s\nwant\n%s", text.String(), want)
	}
}

// attachment adds a pod to a bridge, with a host port, and tells what there is
// then, and what is left when it is gone again.
func attachment(t *testing.T, conf string) string {
	m := newMachine(t)
	pod := nstest.New(t, "pod")
	out := m.must("ADD", "container", pod.Path, conf)
	var version struct{ CNIVersion string }
	if err := json.Unmarshal([]byte(conf), &version); err != nil {
		t.Fatal(err)
	}
	portmap := `{"cniVersion":"` + version.CNIVersion + `","name":"test","type":"portmap","capabilities":{"portMappings":true},"runtimeConfig":{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]}}`
	portmap = with(portmap, "prevResult", json.RawMessage(out))
	chained := m.must("ADD", "container", pod.Path, portmap)
	if !strings.Contains(conf, `"0.3.1"`) { // which has no CHECK
		m.must("CHECK", "container", pod.Path, with(conf, "prevResult", json.RawMessage(chained)))
	}
	text := "result " + plain(compact(t, chained)) + "\npod\n" + plain(pod.Run("ip -o address show dev eth0")+pod.Run("ip route")+pod.Run("ip -6 route show dev eth0")) +
		"node\n" + plain(m.node.Run("ip -o address show dev cni0")+m.node.Run("bridge -d link show")) + "rules\n" + rulesOf(m)
	for range 2 {
		m.must("DEL", "container", pod.Path, portmap)
		m.must("DEL", "container", pod.Path, conf)
	}
	return text + "left\n" + rulesOf(m) + plain(m.node.Run("bridge link show"))
}

func compact(t *testing.T, out []byte) string {
	var v any
	if err := json.Unmarshal(out, &v); err != nil {
		t.Fatal(err)
	}
	text, _ := json.Marshal(v)
	return strings.ReplaceAll(string(text), `"mtu":1400,`, "") // which the reference does not tell
}

var chance = regexp.MustCompile(`([0-9a-f]{2}:){5}[0-9a-f]{2}|veth[0-9a-f]+|/run/netns/[a-z.0-9]+|link-netns \S+|fe80::[0-9a-f:]+|@if\d+|@eth0|(?m:^\d+: )`)

// settling are words of addresses that a listing shows for a moment.
var settling = strings.NewReplacer(" tentative", "", " nodad", "")

// plain leaves out what is chance, and how a listing is laid out.
func plain(text string) string {
	var lines []string
	for line := range strings.Lines(chance.ReplaceAllString(settling.Replace(text), "…")) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

func rulesOf(m *machine) string {
	var lines []string
	for line := range strings.Lines(m.node.Run("iptables-save") + m.node.Run("ip6tables-save")) {
		// Only ours shuts the loopback again that a host port opens: see openLoopback.
		if strings.HasPrefix(line, "-A") && !strings.Contains(line, "loopback is ours") {
			lines = append(lines, strings.TrimSpace(line)+"\n")
		}
	}
	return strings.Join(lines, "")
}
