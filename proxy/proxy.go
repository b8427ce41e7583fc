package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"golang.org/x/sync/errgroup"

	"tinykube/client"
	"tinykube/internal/iptables"
)

// Proxy is one node's kube-proxy.
type Proxy struct {
	config   Config
	nodeName string
	log      *slog.Logger
	ready    chan struct{}
	health   *health

	services *client.Informer[*corev1.Service]
	slices   *client.Informer[*discoveryv1.EndpointSlice]
	nodes    *client.Informer[*corev1.Node]

	// dirty holds at most one token: something has changed since the last sync
	// began. However many changes there are, one more sync covers them all.
	dirty chan struct{}

	// owned by loop
	backend *IPTables
	last    State
	synced  bool
}

// New makes a Proxy; nothing is read or written before Run.
func New(config Config, nodeName string, c *client.Client, log *slog.Logger) (*Proxy, error) {
	setDefaults(&config.KubeProxyConfiguration)
	if err := validate(&config.KubeProxyConfiguration); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	const notOurs = "!" + serviceProxyName + ",!" + corev1.IsHeadlessService
	p := &Proxy{
		config: config, nodeName: nodeName, log: log, ready: make(chan struct{}), dirty: make(chan struct{}, 1),
		services: client.NewInformer(client.For(c, client.Services), client.InformerOptions[*corev1.Service]{LabelSelector: notOurs, Logger: log}),
		slices:   client.NewInformer(client.For(c, client.EndpointSlices), client.InformerOptions[*discoveryv1.EndpointSlice]{LabelSelector: notOurs, Logger: log}),
		nodes:    client.NewInformer(client.For(c, client.Nodes), client.InformerOptions[*corev1.Node]{FieldSelector: "metadata.name=" + nodeName, Logger: log}),
	}
	p.health = newHealth(config.IPTables.SyncPeriod.Duration, log)
	p.services.OnChange(func(old, new *corev1.Service) { p.changed() })
	p.slices.OnChange(func(old, new *discoveryv1.EndpointSlice) { p.changed() })
	p.nodes.OnChange(func(old, new *corev1.Node) {
		// A node's status beats like a heart; only this is of interest.
		if old == nil || new == nil || nodeInfo(old) != nodeInfo(new) || !reflect.DeepEqual(old.Spec.PodCIDRs, new.Spec.PodCIDRs) ||
			nodeIP(old) != nodeIP(new) || !reflect.DeepEqual(old.DeletionTimestamp, new.DeletionTimestamp) {
			p.changed()
		}
	})
	return p, nil
}

// Ready is closed once the rules are in the kernel for the first time.
func (p *Proxy) Ready() <-chan struct{} { return p.ready }

// Run keeps the rules right until ctx ends. They stay when it ends: Services go
// on working while the proxy is being replaced.
func (p *Proxy) Run(ctx context.Context) error {
	runner := iptables.Runner{Root: p.config.HostRoot}
	version, err := runner.Detect(ctx)
	if err != nil {
		return err
	}
	p.log.Info("Using iptables", "version", version.Text, "flavour", version.Flavour())
	if err := setSysctls(&p.config.KubeProxyConfiguration); err != nil {
		p.log.Warn("Some kernel settings stay as they are", "err", err)
	}
	if !bridgeNetfilter() {
		p.log.Warn("Bridged packets do not pass iptables: pods may not reach Services whose endpoint is on their own node; load br_netfilter and set net.bridge.bridge-nf-call-iptables=1")
	}
	p.backend = &IPTables{Runner: runner, Logger: p.log, Options: RuleOptions{
		MasqueradeAll: p.config.IPTables.MasqueradeAll, MasqueradeBit: int(*p.config.IPTables.MasqueradeBit),
		RandomFully: version.RandomFully(), TCPBeLiberal: p.config.Conntrack.TCPBeLiberal,
		LocalhostNodePorts: value(p.config.IPTables.LocalhostNodePorts),
	}}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return p.services.Run(ctx) })
	group.Go(func() error { return p.slices.Run(ctx) })
	group.Go(func() error { return p.nodes.Run(ctx) })
	group.Go(func() error { return p.health.serve(ctx, p.config.HealthzBindAddress, p.config.MetricsBindAddress) })
	group.Go(func() error { return p.loop(ctx) })
	return group.Wait()
}

func (p *Proxy) changed() {
	p.health.queued()
	select {
	case p.dirty <- struct{}{}:
	default: // a sync is due already, and will read the newest
	}
}

const (
	// monitorInterval is how soon flushed rules are noticed.
	monitorInterval = 2 * time.Second
	// retryInterval is the pause after a sync that failed.
	retryInterval = 5 * time.Second
)

// loop syncs when something has changed, at most once per MinSyncPeriod, and
// when the rules are no longer intact. Before all three caches are full nothing
// is written: half a state would remove the rules of the other half.
func (p *Proxy) loop(ctx context.Context) error {
	if !client.WaitSynced(ctx, p.services.Synced(), p.slices.Synced(), p.nodes.Synced()) {
		return nil
	}
	monitor := time.NewTicker(monitorInterval)
	defer monitor.Stop()
	p.changed()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.dirty:
		case <-monitor.C:
			start := time.Now()
			if p.backend.Intact(ctx) || ctx.Err() != nil {
				p.health.updated()
				// The legacy flavour reads whole tables to answer: look less often
				// then, and never spend more than a hundredth of our time on it.
				monitor.Reset(max(monitorInterval, 100*time.Since(start)))
				continue
			}
		}
		pause := p.config.IPTables.MinSyncPeriod.Duration
		if err := p.sync(ctx); err != nil && ctx.Err() == nil {
			p.log.Error("Could not bring the rules up to date; will try again", "err", err)
			p.health.failed()
			p.changed()
			pause = max(pause, retryInterval)
		}
		// The first change of a burst is served at once, the rest together.
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// sync computes everything anew and writes what differs.
func (p *Proxy) sync(ctx context.Context) error {
	start := time.Now()
	node := Node{Name: p.nodeName}
	var podCIDRs []string
	if n, ok := p.nodes.Get(p.nodeName); ok {
		node, podCIDRs = nodeInfo(n), append(n.Spec.PodCIDRs, n.Spec.PodCIDR)
		p.backend.Options.NodeIP = nodeIP(n)
		p.health.setEligible(n.DeletionTimestamp == nil)
	}
	local, err := localAddresses()
	if err != nil {
		return err
	}
	p.backend.Options.LocalMatch = localMatch(&p.config.KubeProxyConfiguration, podCIDRs)
	p.backend.Options.NodePortAddresses = nodePortAddresses(p.config.NodePortAddresses, local, p.backend.Options.NodeIP)
	state := NewState(node, p.services.List(), p.slices.List())
	writes := p.backend.Writes
	if err := p.backend.Sync(ctx, state); err != nil {
		return err
	}
	if !p.synced {
		p.synced = true
		close(p.ready)
	}
	if p.backend.Writes != writes {
		p.log.Info("Rules are up to date", "state", state.Summary(), "duration", time.Since(start).Round(time.Millisecond))
	}
	p.health.synced(time.Since(start), state)
	// After the rules: a flow deleted before would be made again by the old ones.
	return p.forgetStaleFlows(state, local)
}

func (p *Proxy) forgetStaleFlows(state State, local []netip.Addr) error {
	if sameUDP(p.last, state) {
		return nil
	}
	n, err := deleteStaleFlows(newUDPFlows(state, local))
	if err != nil {
		return err
	}
	if n > 0 {
		p.log.Info("Deleted stale UDP flows", "count", n)
	}
	p.last = state
	return nil
}

// sameUDP says whether nothing changed that could make a UDP flow stale.
func sameUDP(a, b State) bool {
	return slices.EqualFunc(udpPorts(a), udpPorts(b), (*ServicePort).equal)
}

func udpPorts(s State) (ports []*ServicePort) {
	for i := range s.Ports {
		if s.Ports[i].Protocol == "udp" {
			ports = append(ports, &s.Ports[i])
		}
	}
	return ports
}

func nodeInfo(n *corev1.Node) Node {
	return Node{Name: n.Name, Zone: n.Labels[corev1.LabelTopologyZone]}
}

// nodeIP is the node's primary IPv4 address.
func nodeIP(n *corev1.Node) netip.Addr {
	for _, a := range n.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil && ip.Is4() && a.Type == corev1.NodeInternalIP {
			return ip
		}
	}
	return netip.Addr{}
}
