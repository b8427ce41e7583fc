package app

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tinykube/internal/nstest"
)

// TestMain makes the test binary flanneld as well, under that name.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "flanneld" {
		if err := NewCommand().Execute(); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	nstest.Main(m)
}

func flanneld(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Args[0] = "flanneld"
	return cmd
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// The program, alone with a file of nodes: it becomes ready, repairs what is
// broken behind its back, and leaves the network standing when it ends.
func TestStandAlone(t *testing.T) {
	wire, ns := nstest.NewSwitch(t), nstest.New(t, "node-0")
	wire.Plug(ns, "172.30.9.1/24")
	nodes := write(t, "nodes", "node-0 10.244.0.0/24 172.30.9.1\nnode-1 10.244.1.0/24 172.30.9.2\n")
	conf := write(t, "net-conf.json", `{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}`)
	p := ns.Start(flanneld(t, "-node-file="+nodes, "--node-name", "node-0", "-ip-masq", "-iface=eth7", "-iface-regex=^eth[0-6]$", "-iptables-resync=1",
		"--net-config-path", conf, "--healthz-port=8081"))
	hasRoute := func() bool {
		return strings.Contains(ns.Run("ip route"), "10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink")
	}
	nstest.Eventually(t, "route to node-1", hasRoute)
	ns.Must(func() error {
		conn, err := net.Dial("tcp", "127.0.0.1:8081")
		if err != nil {
			return err
		}
		defer conn.Close()
		fmt.Fprint(conn, "GET /readyz HTTP/1.0\r\n\r\n")
		if answer, err := io.ReadAll(conn); err != nil || !strings.Contains(string(answer), "200 OK") {
			t.Errorf("/readyz: %q %v", answer, err)
		}
		return nil
	})
	ns.Run("ip route del 10.244.1.0/24")
	nstest.Eventually(t, "route to node-1 after its removal", hasRoute)
	if err := os.WriteFile(nodes, []byte("node-0 10.244.0.0/24 172.30.9.1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	nstest.Eventually(t, "route to node-1 to go with the node", func() bool { return !hasRoute() })
	if err := p.Stop(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	if !strings.Contains(ns.Run("ip -o link"), "flannel.1") {
		t.Error("the device is gone; a restart would break every connection")
	}
}

func TestBadInput(t *testing.T) {
	conf := write(t, "net-conf.json", `{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}`)
	for want, args := range map[string][]string{
		"unknown flag":      {"--no-such-flag"},
		"1 to 1439 minutes": {"--subnet-lease-renew-margin", "0"},
		"not built":         {"-ip-blackhole-route"},
		"missing closing )": {"--iface-regex", "eth("},
		"iface-can-reach":   {"--iface-can-reach", "fd00::1"},
		"not an IPv4":       {"--public-ip", "x"},
		"network config":    {"--kube-subnet-mgr", "--net-config-path", "/nowhere"},
		"no line for":       {"--net-config-path", conf, "--node-file", write(t, "nodes", ""), "--node-name", "a"},
		"unexpected argum":  {"--net-config-path", conf, "extra"},
		"is not JSON":       {"install-cni", "--conf", write(t, "x", "{"), "--to", filepath.Join(t.TempDir(), "y")},
		"no such file or d": {"install-cni", "--conf", "/nowhere"},
	} {
		cmd := NewCommand()
		cmd.SetArgs(args)
		cmd.SilenceErrors = true
		if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", args, err, want)
		}
	}
}

// A plan needs neither a kernel nor root.
func TestPlan(t *testing.T) {
	conf := write(t, "net-conf.json", `{"Network":"10.244.0.0/16","Backend":{"Type":"host-gw"}}`)
	cmd := NewCommand()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetArgs([]string{"plan", "--net-config-path", conf, "--node-name", "a", "--wire", "172.30.9.0/24",
		"--node-file", write(t, "nodes", "a 10.244.0.0/24 172.30.9.1\nb 10.244.1.0/24 172.30.9.2\nc 10.244.2.0/24 192.0.2.2")})
	const want = `ip route replace 10.244.1.0/24 via 172.30.9.2
# left out: node c at 192.0.2.2 is not on this node's wire: host-gw cannot reach it
`
	if err := cmd.Execute(); err != nil || out.String() != want {
		t.Errorf("%v\n%s", err, out.String())
	}
}

func TestInstallCNI(t *testing.T) {
	to := filepath.Join(t.TempDir(), "net.d", "10-flannel.conflist")
	cmd := NewCommand()
	cmd.SetArgs([]string{"install-cni", "--conf", write(t, "c", `{"name":"cbr0"}`), "--to", to})
	if err := cmd.Execute(); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(to); err != nil || string(got) != `{"name":"cbr0"}` {
		t.Errorf("%s %v", got, err)
	}
	if entries, _ := os.ReadDir(filepath.Dir(to)); len(entries) != 1 {
		t.Errorf("%v", entries)
	}
}
