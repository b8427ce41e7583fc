package flannel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"tinykube/internal/iptables"
)

// Flannel is one node's flanneld.
type Flannel struct {
	config Config
	conf   *NetConf
	source Source
	log    *slog.Logger
	ready  chan struct{}

	// owned by Run
	mine     Lease
	external external
	problems map[string]bool // told already
	chains   []ruleChain

	mu     sync.Mutex // guards leases, which Watch writes and the loop reads
	leases []Lease
	known  bool
}

// New makes a Flannel; nothing is touched before Run.
func New(config Config, conf *NetConf, source Source, log *slog.Logger) (*Flannel, error) {
	if config.NodeName == "" {
		return nil, fmt.Errorf("no node name")
	}
	if config.Resync <= 0 {
		config.Resync = 5 * time.Second
	}
	return &Flannel{config: config, conf: conf, source: source, log: log, ready: make(chan struct{}), problems: map[string]bool{}}, nil
}

// Ready is closed once this node's pods can be given addresses and the other
// nodes known so far can be reached.
func (f *Flannel) Ready() <-chan struct{} { return f.ready }

// Run keeps the kernel as the leases want it until ctx ends. What it made stays:
// pods go on talking while flanneld is being replaced.
func (f *Flannel) Run(ctx context.Context) error {
	if err := f.join(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	changed := make(chan struct{}, 1)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return f.source.Watch(ctx, func(leases []Lease) {
			f.mu.Lock()
			f.leases, f.known = leases, true
			f.mu.Unlock()
			select {
			case changed <- struct{}{}:
			default: // a reconcile is due already, and will read the newest
			}
		})
	})
	group.Go(func() error { return f.loop(ctx, changed) })
	return group.Wait()
}

// join makes this node part of the network: find the wire, make the device, tell
// the others, leave the file for the CNI plugin.
func (f *Flannel) join(ctx context.Context) error {
	mine, err := f.source.Mine(ctx, f.self())
	if err != nil {
		return err
	}
	if !f.conf.Network.Contains(mine.Subnet.Addr()) || mine.Subnet.Bits() < f.conf.Network.Bits() {
		return fmt.Errorf("node %s: podCIDR %s is not in flannel's network %s", mine.Node, mine.Subnet, f.conf.Network)
	}
	if f.external, err = findExternal(f.config, mine.PublicIP); err != nil {
		return err
	}
	mine.Backend, mine.PublicIP = f.conf.Backend.Type, f.external.address
	if f.config.PublicIP.IsValid() {
		mine.PublicIP = f.config.PublicIP
	}
	f.mine = mine
	f.log.Info("Joining the network", "node", mine.Node, "subnet", mine.Subnet, "interface", f.external.name, "address", mine.PublicIP, "backend", mine.Backend)
	if err := f.ensureDevice(); err != nil {
		return err
	}
	if err := f.publish(ctx); err != nil {
		return err
	}
	return f.writeSubnetEnv()
}

// self is what an earlier life has left on this machine: the subnet in the file,
// the device's MAC, and the address that others send to, if it is clear which.
func (f *Flannel) self() Lease {
	l := Lease{Node: f.config.NodeName, Backend: f.conf.Backend.Type, PublicIP: f.config.PublicIP}
	if external, err := findExternal(f.config, netip.Addr{}); err == nil && !l.PublicIP.IsValid() {
		l.PublicIP = external.address
	}
	l.VTEP = f.deviceMAC()
	text, _ := os.ReadFile(f.config.SubnetFile) // none: this is the first life
	for line := range strings.Lines(string(text)) {
		if cidr, ok := strings.CutPrefix(strings.TrimSpace(line), "FLANNEL_SUBNET="); ok {
			l.Subnet, _ = netip.ParsePrefix(cidr)
		}
	}
	return l
}

// publish retries: the API server may be away for a while.
func (f *Flannel) publish(ctx context.Context) error {
	ticker := time.NewTicker(retryInterval)
	defer ticker.Stop()
	last := ""
	for {
		err := f.source.Publish(ctx, f.mine)
		if err == nil || errors.Is(err, ErrMoved) {
			return err
		}
		if err.Error() != last { // once per reason
			last = err.Error()
			f.log.Warn("Could not tell the others about this node; will try again", "err", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

func (f *Flannel) mtu() int {
	mtu := f.external.mtu
	if f.conf.Backend.MTU > 0 {
		mtu = f.conf.Backend.MTU
	}
	if f.conf.Backend.Type == vxlanBackend {
		mtu -= vxlanOverhead
	}
	return mtu
}

// writeSubnetEnv is atomic: a plugin reads the old file or the new one.
func (f *Flannel) writeSubnetEnv() error {
	text := subnetEnv(f.conf.Network, f.mine.Subnet, f.mtu(), f.config.IPMasq)
	if have, err := os.ReadFile(f.config.SubnetFile); err == nil && string(have) == text {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(f.config.SubnetFile), 0o755); err != nil {
		return err
	}
	temporary := f.config.SubnetFile + ".new"
	if err := os.WriteFile(temporary, []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(temporary, f.config.SubnetFile)
}

// loop reconciles on every change and every Resync. The loop is the only one
// that writes to the kernel.
func (f *Flannel) loop(ctx context.Context, changed <-chan struct{}) error {
	ticker := time.NewTicker(f.config.Resync)
	defer ticker.Stop()
	renew := make(<-chan time.Time)
	if r, ok := f.source.(interface{ Renewal() time.Duration }); ok {
		renewal := time.NewTicker(r.Renewal())
		defer renewal.Stop()
		renew = renewal.C
	}
	isReady := false
	for {
		err := f.reconcile(ctx)
		if errors.Is(err, ErrMoved) {
			return err
		}
		if err != nil && ctx.Err() == nil {
			f.log.Error("Could not bring the kernel up to date; will try again", "err", err)
		} else if f.known && !isReady {
			isReady = true
			close(f.ready)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-ticker.C:
		case <-renew:
			if err := f.publish(ctx); err != nil && ctx.Err() == nil {
				return err
			}
		}
	}
}

// reconcile makes everything right that is not. Deleting the device, a route, a
// rule or the file by hand is repaired here and nowhere else.
func (f *Flannel) reconcile(ctx context.Context) error {
	if err := f.followInterface(); err != nil {
		return err
	}
	if err := f.ensureDevice(); err != nil {
		return err
	}
	if err := f.writeSubnetEnv(); err != nil {
		return err
	}
	if err := f.ensureRules(ctx, iptables.Runner{Root: f.config.HostRoot}); err != nil {
		return err
	}
	f.mu.Lock()
	leases, known := f.leases, f.known
	f.mu.Unlock()
	if !known {
		return nil // nobody has told us of anybody yet: remove nothing
	}
	if err := f.checkMine(ctx, leases); err != nil {
		return err
	}
	want, problems := makePlan(f.conf, f.mine, leases, f.external.networks)
	f.complain(problems)
	have, err := f.readPlan()
	if err != nil {
		return err
	}
	var errs []error // what cannot be done for one node must not keep the others out
	for _, op := range diff(f.deviceName(), have, want) {
		f.log.Info("Change", "op", op)
		if err := f.apply(op); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", op, err))
		}
	}
	return errors.Join(errs...)
}

// followInterface looks our end of the wire up again: an interface that went away,
// and our device with it, comes back as another one of the same name; and a
// lease of DHCP may give another address, which then the others must know.
func (f *Flannel) followInterface() error {
	found, err := findExternal(Config{Interfaces: []string{f.external.name}}, netip.Addr{})
	if err != nil {
		return err
	}
	if slices.ContainsFunc(found.networks, func(p netip.Prefix) bool { return p.Addr() == f.external.address }) {
		found.address = f.external.address // one of several
	}
	if found.index != f.external.index || found.address != f.external.address {
		f.log.Warn("The interface to the other nodes is another one", "interface", found.name, "address", found.address, "before", f.external.address)
		if !f.config.PublicIP.IsValid() {
			f.mine.PublicIP = found.address // checkMine publishes it
		}
	}
	f.external = found
	return nil
}

// ErrMoved ends Run: device, rules and file are all made for another subnet. Who
// supervises us starts us again, and we join anew.
var ErrMoved = errors.New("this node's subnet has changed")

// checkMine compares what the others hear about us with what is true. Somebody
// may have deleted our Node; its kubelet makes a new one, which knows nothing of
// us and may have another subnet.
func (f *Flannel) checkMine(ctx context.Context, leases []Lease) error {
	for _, l := range leases {
		if l.Node == f.mine.Node && l.Subnet != f.mine.Subnet {
			return fmt.Errorf("%w from %s to %s", ErrMoved, f.mine.Subnet, l.Subnet)
		}
		if l == f.mine {
			return nil
		}
	}
	return f.source.Publish(ctx, f.mine)
}

// complain logs each problem once, and again if it returns.
func (f *Flannel) complain(problems []string) {
	now := map[string]bool{}
	for _, p := range problems {
		now[p] = true
		if !f.problems[p] {
			f.log.Warn("Left a node out", "err", p)
		}
	}
	f.problems = now
}

// external is our end of the wire between nodes.
type external struct {
	name     string
	index    int
	mtu      int
	address  netip.Addr
	networks []netip.Prefix
}
