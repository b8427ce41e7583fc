package vm

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tinykube/internal/reference"
)

// A kubelet, our CRI server and containerd on a kernel with cgroup v2: what a
// pod asks for is what the kernel enforces. The second test is the CRI server's
// own: limits and their change, statistics, the end for lack of memory.
func TestCgroupV2(t *testing.T) {
	checkout := reference.Checkout(t)
	out := Run(t, Machine{
		Programs: []string{"ip", "iptables", "iptables-restore", "iptables-save", "busybox", "mount", "umount", "sh", "cat"},
		Files: map[string]string{
			"/checkout/bin/tinykube":              filepath.Join(checkout, "bin/tinykube"),
			"/checkout/bin/critest-nginx":         filepath.Join(checkout, "bin/critest-nginx"),
			"/checkout/test/critest/critest.test": build(t, "./test/critest", ""),
			"/checkout/go.mod":                    filepath.Join(checkout, "go.mod"),
			"/checkout/cri/cri.test":              build(t, "./cri", ""),
		},
		Script: "modprobe -a overlay veth bridge nf_tables nft_compat nf_conntrack br_netfilter xt_comment xt_MASQUERADE; export TINYKUBE_PATIENCE=5m\n" +
			"cd /checkout/test/critest && ./critest.test -test.v -test.run TestCgroups || exit 1\n" +
			"cd /checkout/cri && TINYKUBE_MUST_RUN=1 ./cri.test -test.v -test.run 'TestRuntime/(Pod|Exits|ImageVolume|NothingIsLeft)' || exit 1",
		Timeout:   15 * time.Minute,
		MemoryMiB: 4096,
	})
	t.Log(out)
	for _, passed := range []string{"--- PASS: TestCgroups", "--- PASS: TestRuntime"} {
		if !strings.Contains(out, passed) {
			t.Errorf("there is no %q", passed)
		}
	}
}
