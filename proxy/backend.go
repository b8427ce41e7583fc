package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"

	"tinykube/internal/iptables"
)

// Backend makes the kernel do what a State says, one way or another.
type Backend interface {
	// Sync brings the kernel to the state and says whether anything had to be
	// changed. It is idempotent, writes only what differs, and touches only what is
	// ours.
	Sync(ctx context.Context, state State, options Options) (bool, error)
	// Intact says whether the kernel still holds what Sync wrote; if not, the
	// next Sync starts from nothing.
	Intact(ctx context.Context) bool
	// Cleanup removes all that this backend, or upstream's, has ever written.
	Cleanup(ctx context.Context) error
	// Text is what would be written on a node that has no rules of ours.
	Text(state State, options Options) string
}

// Modes are the backends' names.
var Modes = []string{modeIPTables, modeNFTables, modeIPVS}

// NewBackend makes the backend of a mode. root is where the machine's root is
// mounted, whose programs are run.
func NewBackend(mode, root string, family Family, log *slog.Logger) (Backend, error) {
	runner := iptables.Runner{Root: root, Family: iptables.Family(family)}
	switch mode {
	case modeIPTables:
		return NewIPTables(runner, log), nil
	case modeNFTables:
		return &NFTables{root: root, family: family, log: log}, nil
	case modeIPVS:
		return &IPVS{restorer: restorer{runner: runner, log: log}, root: root, family: family}, nil
	}
	return nil, fmt.Errorf("%q is none of %s", mode, strings.Join(Modes, ", "))
}

// oldestNFTables is the kernel that upstream, too, wants for nftables.
var oldestNFTables = [2]int{5, 13}

// chooseMode is for a configuration that leaves the choice to us: nftables where
// kernel and machine have it.
func chooseMode(root string) string {
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	_, missing := iptables.Command(context.Background(), root, "nft")
	if err == nil && missing == nil && newEnough(string(release), oldestNFTables) {
		return modeNFTables
	}
	return modeIPTables
}

func newEnough(release string, want [2]int) bool {
	parts := strings.SplitN(release, ".", 3)
	if len(parts) < 2 {
		return false
	}
	major, err1 := strconv.Atoi(parts[0])
	digits := strings.IndexFunc(parts[1]+"-", func(r rune) bool { return r < '0' || r > '9' })
	minor, err2 := strconv.Atoi(parts[1][:digits])
	return err1 == nil && err2 == nil && (major > want[0] || major == want[0] && minor >= want[1])
}

// CleanOthers removes what proxies of other modes have left; "" is for all modes.
// It comes after the first Sync: while both are there, Services work.
func CleanOthers(ctx context.Context, mode, root string, family Family, log *slog.Logger) error {
	var errs []error
	for _, other := range Modes {
		b, err := NewBackend(other, root, family, log)
		if other == mode || err != nil || mode == modeIPVS && other == modeIPTables {
			continue // ipvs and iptables share chains, and each removes those of the other
		}
		if ipvs, ok := b.(*IPVS); ok {
			ipvs.keepRules = mode == modeIPTables
		}
		if err := b.Cleanup(ctx); err != nil {
			errs = append(errs, fmt.Errorf("clean up after mode %s: %w", other, err))
		}
	}
	return errors.Join(errs...)
}
