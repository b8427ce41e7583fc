package vm

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tinykube/internal/reference"
)

// network are the programs that the tests of proxies use.
var network = []string{"ip", "bridge", "nft", "iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore",
	"iptables-legacy-restore", "ipset", "ipvsadm", "conntrack"}

// build compiles a package's tests into a static program.
func build(t *testing.T, name, tags string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), filepath.Base(name)+".test")
	cmd := exec.Command("go", "test", "-c", "-tags", tags, "-o", path, name)
	cmd.Dir = reference.Checkout(t)
	if inside, ok := strings.CutPrefix(name, "./test/"); ok { // a module of its own
		cmd.Dir, cmd.Args[len(cmd.Args)-1] = filepath.Join(cmd.Dir, "test"), "./"+inside
	}
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go test -c %s: %v\n%s", name, err, out)
	}
	return path
}

// The table of proxy tests runs in mode ipvs, on a kernel that has it.
func TestIPVS(t *testing.T) {
	out := Run(t, Machine{
		Timeout:  15 * time.Minute, // on a machine that is busy
		Programs: network,
		Files:    map[string]string{"/proxy/proxy.test": build(t, "./proxy", "ipvs"), "/proxy/testdata": filepath.Join(reference.Checkout(t), "proxy/testdata")},
		Script:   "modprobe -a ip_vs ip_vs_rr dummy nf_conntrack br_netfilter; cd /proxy && ./proxy.test -test.v -test.run '^Test/ipvs|SwitchModes|IPVS' -test.skip 'Huge|Tracker|Legacy'",
	})
	t.Log(out)
	if !strings.Contains(out, "--- PASS: TestReachability/ipvs-ip") {
		t.Error("the tests did not run")
	}
}
