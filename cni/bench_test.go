package cni

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"tinykube/internal/nstest"
)

// BenchmarkBridge measures ADD and DEL of bridge with host-local, as a runtime
// sees them: two processes each. With $CNI_BIN, a folder of the reference
// plugins, theirs as well.
func BenchmarkBridge(b *testing.B) {
	theirs := os.Getenv("CNI_BIN")
	ours := b.TempDir()
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(ours, "cni"), "tinykube/cmd/cni")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	for _, name := range Names() {
		if err := os.Link(filepath.Join(ours, "cni"), filepath.Join(ours, name)); err != nil {
			b.Fatal(err)
		}
	}
	conf := with(bridgeConf, "ipam", json.RawMessage(fmt.Sprintf(`{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.1.0.0/16"}]]}`, b.TempDir())))
	for _, verb := range []string{"ADD", "DEL"} {
		for _, whose := range []struct{ name, bin string }{{"ours", ours}, {"reference", theirs}} {
			if whose.bin == "" {
				continue
			}
			b.Run(verb+"/"+whose.name, func(b *testing.B) {
				m := newMachine(b)
				m.bin = whose.bin
				pod := nstest.New(b, "pod")
				for b.Loop() {
					if verb == "DEL" {
						b.StopTimer()
						m.must("ADD", "a", pod.Path, conf)
						b.StartTimer()
						m.must("DEL", "a", pod.Path, conf)
						continue
					}
					m.must("ADD", "a", pod.Path, conf)
					b.StopTimer()
					m.must("DEL", "a", pod.Path, conf)
					b.StartTimer()
				}
			})
		}
	}
}
