package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"tinykube/internal/iptables"
	"tinykube/internal/nstest"
)

// useFlavour lets "iptables" be the legacy or the nft program, for this test
// binary only: its mounts are private.
func useFlavour(b *testing.B, flavour string) {
	b.Helper()
	const dir = "/etc/alternatives"
	if err := unix.Mount("nstest", dir, "tmpfs", 0, ""); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	for _, suffix := range []string{"", "-save", "-restore"} {
		if err := os.Symlink("/usr/sbin/iptables-"+flavour+suffix, filepath.Join(dir, "iptables"+suffix)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSync: rules for n Services of two endpoints each from nothing; then
// one endpoint changes among them; then nothing changes. "restore" beside them is
// the floor: the machine's iptables-restore alone, given the same text.
func BenchmarkSync(b *testing.B) {
	for _, flavour := range []string{"nft", "legacy"} {
		for _, n := range []int{1000} {
			b.Run(fmt.Sprintf("%s/%d", flavour, n), func(b *testing.B) { benchmarkSync(b, flavour, n) })
		}
	}
}

func benchmarkSync(b *testing.B, flavour string, n int) {
	useFlavour(b, flavour)
	ctx, node := context.Background(), nstest.New(b, "node")
	services, slices := manyServices(n)
	backend := func() *IPTables {
		return &IPTables{Logger: slog.New(slog.DiscardHandler), Options: RuleOptions{LocalMatch: "-s 10.244.0.0/16", MasqueradeBit: 14}}
	}
	in := func(b *testing.B, fn func() error) {
		b.Helper()
		if err := node.Do(fn); err != nil {
			b.Fatal(err)
		}
	}
	sync := func(b *testing.B, p *IPTables, services []*corev1.Service, slices []*discoveryv1.EndpointSlice) {
		b.Helper()
		in(b, func() error { return p.Sync(ctx, NewState(Node{}, services, slices)) })
	}
	empty := func(b *testing.B) {
		b.StopTimer()
		in(b, func() error { return CleanupIPTables(ctx, iptables.Runner{}) })
		b.StartTimer()
	}
	b.Run("restore", func(b *testing.B) {
		text := []byte(FirstRestore(Render(NewState(Node{}, services, slices), backend().Options)))
		for b.Loop() {
			empty(b)
			in(b, func() error { return iptables.Runner{}.Restore(ctx, text) })
		}
	})
	b.Run("all", func(b *testing.B) {
		for b.Loop() {
			empty(b)
			sync(b, backend(), services, slices)
		}
	})
	p := backend()
	sync(b, p, services, slices)
	b.Run("one", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			slices[n/2] = makeSlice(fmt.Sprintf("s%d", n/2), corev1.ProtocolTCP, 8080, "10.1.0.1@a", fmt.Sprintf("10.1.0.%d@a", 3+i%2))
			sync(b, p, services, slices)
		}
	})
	b.Run("none", func(b *testing.B) {
		for b.Loop() {
			sync(b, p, services, slices)
		}
	})
	b.Run("intact", func(b *testing.B) {
		for b.Loop() {
			in(b, func() error {
				if !p.Intact(ctx) {
					b.Error("not intact")
				}
				return nil
			})
		}
	})
}
