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
// sees them: two processes each. CNI_BIN may name a directory with other
// plugins, to compare.
func BenchmarkBridge(b *testing.B) {
	m := newMachine(b)
	if dir := os.Getenv("CNI_BIN"); dir != "" {
		m.bin = dir
	} else {
		m.bin = b.TempDir()
		build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(m.bin, "cni"), "tinykube/cmd/cni")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		for _, name := range Names() {
			if err := os.Link(filepath.Join(m.bin, "cni"), filepath.Join(m.bin, name)); err != nil {
				b.Fatal(err)
			}
		}
	}
	conf := with(bridgeConf, "ipam", json.RawMessage(fmt.Sprintf(`{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.1.0.0/16"}]]}`, b.TempDir())))
	pod := nstest.New(b, "pod")
	b.Run("ADD", func(b *testing.B) {
		for b.Loop() {
			m.must("ADD", "a", pod.Path, conf)
			b.StopTimer()
			m.must("DEL", "a", pod.Path, conf)
			b.StartTimer()
		}
	})
	b.Run("DEL", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			m.must("ADD", "a", pod.Path, conf)
			b.StartTimer()
			m.must("DEL", "a", pod.Path, conf)
		}
	})
}
