package cni

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
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
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(resolv, []byte("nameserver 10.96.0.11\nsearch a.example b.example\noptions ndots:5\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, conf, portmap string }{
		{"a cluster's bridge", bridgeConf, ""},
		{"masqueraded, with the oldest version", with(with(with(bridgeConf, "ipMasq", true), "cniVersion", "0.3.1"), "isDefaultGateway", false), ""},
		{"two families", with(with(bridgeConf, "ipam", json.RawMessage(`{"type":"host-local","ranges":[[{"subnet":"10.1.0.0/24","rangeStart":"10.1.0.9"}],[{"subnet":"fd00:1::/64"}]]}`)), "cniVersion", "1.1.0"), ""},
		{"promiscuous", with(with(bridgeConf, "hairpinMode", false), "promiscMode", true), ""},
		{"host-local's other words", with(with(with(with(with(bridgeConf, "isDefaultGateway", false), "isGateway", true), "ipam", map[string]any{"type": "host-local", "subnet": "10.1.0.0/24", "rangeStart": "10.1.0.20", "rangeEnd": "10.1.0.30",
			"gateway": "10.1.0.254", "routes": []map[string]any{{"dst": "0.0.0.0/0"}, {"dst": "10.9.0.0/16", "gw": "10.1.0.253"}}, "dataDir": "/var/lib/cni/other", "resolvConf": resolv}),
			"dns", nil), "args", json.RawMessage(`{"cni":{"ips":["10.1.0.25"],"mac":"02:00:00:00:00:07"}}`)), `{"portMappings":[{"hostPort":53,"containerPort":5353,"protocol":"udp","hostIP":"10.1.0.254"},
			{"hostPort":54,"containerPort":54,"protocol":"tcp","hostIP":"fd00::1"},{"hostPort":55,"containerPort":55,"protocol":"tcp","hostIP":"0.0.0.0"}]}`},
		{"host ports with another mark, for all", bridgeConf, `{"markMasqBit":5,"masqAll":true}`},
		{"host ports whose clients are seen", bridgeConf, `{"snat":false}`},
		{"host ports under conditions, marked by others", bridgeConf, `{"conditionsV4":["-s","172.30.9.0/24"],"conditionsV6":["-s","fd00::/64"],"externalSetMarkChain":"KUBE-MARK-MASQ"}`},
	} {
		text.WriteString("== " + c.name + "\n" + attachment(t, c.conf, c.portmap))
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

// attachment adds a pod to a bridge, with a host port (or what the words for portmap
// say), and tells what there is then, and what is left when it is gone again.
func attachment(t *testing.T, conf, words string) string {
	m := newMachine(t)
	pod := nstest.New(t, "pod")
	m.node.Run("iptables -t nat -N KUBE-MARK-MASQ")
	out := m.must("ADD", "container", pod.Path, conf)
	var version struct{ CNIVersion string }
	if err := json.Unmarshal([]byte(conf), &version); err != nil {
		t.Fatal(err)
	}
	portmap := with(with(`{"name":"test","type":"portmap","capabilities":{"portMappings":true}}`, "cniVersion", version.CNIVersion),
		"runtimeConfig", json.RawMessage(`{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]}`))
	var extra map[string]any
	if words != "" {
		if err := json.Unmarshal([]byte(words), &extra); err != nil {
			t.Fatal(err)
		}
	}
	for word, value := range extra {
		if word == "portMappings" {
			word, value = "runtimeConfig", map[string]any{word: value}
		}
		portmap = with(portmap, word, value)
	}
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
