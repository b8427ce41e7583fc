package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"tinykube/internal/nstest"
)

// What Services cost: all of them into an empty kernel (load), one endpoint of
// one of them (change), and beside it the floor under a load: the kernel's own
// tool reading the same rules from a file that somebody else has made (tool).
//
// Simplified: iptables is not asked to load 10,000 Services through nf_tables:
// that takes the tool alone most of a minute.
func BenchmarkSync(b *testing.B) {
	for _, c := range []struct {
		mode, flavour string
		services      int
		tool          string
	}{
		{modeIPTables, "", 1_000, "iptables-restore --noflush"},
		{modeIPTables, "-legacy", 1_000, "iptables-restore --noflush"},
		{modeIPTables, "-legacy", 10_000, "iptables-restore --noflush"},
		{modeNFTables, "", 1_000, "nft -f -"},
		{modeNFTables, "", 10_000, "nft -f -"},
	} {
		name := func(what string) string { return fmt.Sprintf("%s%s/%d/%s", c.mode, c.flavour, c.services, what) }
		useFlavour(b, c.flavour)
		services, slices := twoEach(c.services)
		options := Options{Local: LocalTraffic{CIDR: netip.MustParsePrefix("10.244.0.0/16")}, MasqueradeBit: 14, RandomFully: true}
		var tracker Tracker
		state := func() State { return tracker.State(Node{Name: "node-0"}, services, slices) }
		b.Run(name("load"), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				node, backend := nstest.New(b, "node"), newBackend(b, c.mode)
				b.StartTimer()
				syncOnce(b, node, backend, state(), options)
			}
		})
		b.Run(name("change"), func(b *testing.B) {
			node, backend := nstest.New(b, "node"), newBackend(b, c.mode)
			syncOnce(b, node, backend, state(), options)
			last, i := len(slices)-1, 0
			for b.Loop() {
				i++
				slices[last] = makeSlice(services[last].Name, corev1.ProtocolTCP, 8080, fmt.Sprintf("10.244.3.%d@node-1", 1+i%2), "10.244.3.9@node-1")
				syncOnce(b, node, backend, state(), options)
			}
		})
		b.Run(name("tool"), func(b *testing.B) {
			text := newBackend(b, c.mode).Text(state(), options)
			for b.Loop() {
				b.StopTimer()
				node := nstest.New(b, "node")
				b.StartTimer()
				if out, err := node.Command(text, c.tool); err != nil {
					b.Fatalf("%s: %v\n%s", c.tool, err, out)
				}
			}
		})
	}
}

// useFlavour makes one of the two programs that are both called iptables the one
// that is found under that name, in this test's mounts only.
func useFlavour(b *testing.B, flavour string) {
	program, err := filepath.EvalSymlinks("/usr/sbin/iptables")
	if err != nil {
		b.Fatal(err)
	}
	_ = unix.Unmount(program, unix.MNT_DETACH) // the last one's, if there is one
	if flavour != "" {
		if err := unix.Mount("/usr/sbin/xtables"+flavour+"-multi", program, "", unix.MS_BIND, ""); err != nil {
			b.Fatal(err)
		}
	}
}

// twoEach are Services of two endpoints each.
func twoEach(n int) (services []*corev1.Service, slices []*discoveryv1.EndpointSlice) {
	for i := range n {
		name := fmt.Sprintf("s%d", i)
		services = append(services, makeService(name, fmt.Sprintf("10.%d.%d.%d", 96+i/62500, i/250%250, 1+i%250)))
		slices = append(slices, makeSlice(name, corev1.ProtocolTCP, 8080,
			fmt.Sprintf("10.244.%d.%d@node-0", i/250%250, 1+i%250), fmt.Sprintf("10.245.%d.%d@node-1", i/250%250, 1+i%250)))
	}
	return services, slices
}

func newBackend(b *testing.B, mode string) Backend {
	backend, err := NewBackend(mode, "", IPv4, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	return backend
}

func syncOnce(b *testing.B, node *nstest.NS, backend Backend, state State, options Options) {
	node.Must(func() error {
		wrote, err := backend.Sync(context.Background(), state, options)
		if err == nil && !wrote {
			err = fmt.Errorf("nothing was written")
		}
		return err
	})
}
