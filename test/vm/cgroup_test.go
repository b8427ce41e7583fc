package vm

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tinykube/internal/reference"
)

// containers are the programs that a CRI server's network needs.
var containers = []string{"ip", "iptables", "iptables-restore", "iptables-save", "busybox", "mount", "umount", "sh", "cat"}

// prepare loads what Debian's kernel has as modules. Everything takes ten times
// as long here, and so may take ten times as long to come about.
const prepare = "modprobe -a overlay veth bridge nf_tables nft_compat nf_conntrack br_netfilter xt_comment xt_MASQUERADE; export TINYKUBE_PATIENCE=5m\n"

// A kubelet, our CRI server and containerd on a kernel with cgroup v2: what a
// pod asks for is what the kernel enforces.
func TestCgroupV2(t *testing.T) {
	checkout := reference.Checkout(t)
	out := Run(t, Machine{
		Programs: containers,
		Files: map[string]string{
			"/checkout/go.mod":                    filepath.Join(checkout, "go.mod"),
			"/checkout/bin/tinykube":              filepath.Join(checkout, "bin/tinykube"),
			"/checkout/bin/critest-nginx":         filepath.Join(checkout, "bin/critest-nginx"),
			"/checkout/test/critest/critest.test": build(t, "./test/critest", ""),
		},
		Script:    prepare + "cd /checkout/test/critest && ./critest.test -test.v -test.run TestCgroups",
		MemoryMiB: 4096, Timeout: 20 * time.Minute,
	})
	t.Log(out)
	if !strings.Contains(out, "--- PASS: TestCgroups") || !strings.Contains(out, "v2 is true") {
		t.Error("the test did not run, or not on v2")
	}
}

// The CRI server's own test on cgroup v2: limits and their change, statistics,
// the end for lack of memory.
func TestRuntimeOnCgroupV2(t *testing.T) {
	out := Run(t, Machine{
		Programs: containers,
		Files: map[string]string{
			"/checkout/go.mod":       filepath.Join(reference.Checkout(t), "go.mod"),
			"/checkout/cri/cri.test": build(t, "./cri", ""),
		},
		Script:    prepare + "cd /checkout/cri && TINYKUBE_MUST_RUN=1 ./cri.test -test.v -test.run 'TestRuntime/(Pod|Exits|ImageVolume|NothingIsLeft)'",
		MemoryMiB: 4096, Timeout: 20 * time.Minute,
	})
	t.Log(out)
	if !strings.Contains(out, "--- PASS: TestRuntime") {
		t.Error("the test did not run")
	}
}
