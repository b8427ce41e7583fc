package proxy

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	kubeproxy "k8s.io/kube-proxy/config/v1alpha1"

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
	family  Family
	section section
	backend Backend
	options Options
	tracker Tracker
	local   []netip.Addr          // the node's addresses at the last sync
	udp     map[*ServicePort]bool // the UDP ports whose flows are in order
	synced  bool
	full    bool // the kernel's table of connections, when we last looked
}

// New makes a Proxy; nothing is read or written before Run.
func New(config Config, nodeName string, c *client.Client, log *slog.Logger) (*Proxy, error) {
	setDefaults(&config.KubeProxyConfiguration)
	if err := validate(&config.KubeProxyConfiguration); err != nil {
		return nil, err
	}
	for _, name := range withoutEffect(&config.KubeProxyConfiguration) {
		log.Warn("This field of the configuration has no effect here", "key", name)
	}
	const notOurs = "!" + serviceProxyName + ",!" + corev1.IsHeadlessService
	p := &Proxy{
		config: config, nodeName: nodeName, log: log, ready: make(chan struct{}), dirty: make(chan struct{}, 1),
		services: client.NewInformer(client.For(c, client.Services), client.InformerOptions[*corev1.Service]{LabelSelector: notOurs, Logger: log}),
		slices:   client.NewInformer(client.For(c, client.EndpointSlices), client.InformerOptions[*discoveryv1.EndpointSlice]{LabelSelector: notOurs, Logger: log}),
		nodes:    client.NewInformer(client.For(c, client.Nodes), client.InformerOptions[*corev1.Node]{FieldSelector: "metadata.name=" + nodeName, Logger: log}),
	}
	p.health = newHealth(modeSection(&config.KubeProxyConfiguration).syncPeriod, log)
	p.services.OnChange(func(old, new *corev1.Service) {
		p.health.metrics.services.Inc()
		p.changed()
	})
	p.slices.OnChange(func(old, new *discoveryv1.EndpointSlice) {
		p.health.metrics.endpoints.Inc()
		p.health.triggered(old, new)
		p.changed()
	})
	p.nodes.OnChange(func(old, new *corev1.Node) {
		// A node's status beats like a heart; only this is of interest.
		if old == nil || new == nil || old.Labels[corev1.LabelTopologyZone] != new.Labels[corev1.LabelTopologyZone] || !reflect.DeepEqual(old.Spec.PodCIDRs, new.Spec.PodCIDRs) ||
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
	if p.config.Mode == "" {
		p.config.Mode = kubeproxy.ProxyMode(chooseMode(p.config.HostRoot))
	}
	p.health.mode = string(p.config.Mode)
	p.section = modeSection(&p.config.KubeProxyConfiguration)
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
	if err := p.start(ctx); err != nil {
		return err
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
			p.connectionsFull(connectionTable)
			start := time.Now()
			local, err := localAddresses(p.family)
			same := err != nil || slices.Equal(local, p.local)
			if same && p.backend.Intact(ctx) || ctx.Err() != nil {
				p.health.updated()
				// The legacy flavour reads whole tables to answer: look less often
				// then, and never spend more than a twentieth of our time on it.
				monitor.Reset(max(monitorInterval, 20*time.Since(start)))
				continue
			}
		}
		pause := p.section.minSyncPeriod
		if err := p.sync(ctx); err != nil && ctx.Err() == nil {
			p.log.Error("Could not bring the rules up to date; will try again", "err", err)
			p.health.failed(p.family)
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

// start chooses family and backend, once the caches are full.
func (p *Proxy) start(ctx context.Context) error {
	cidrs := splitList(p.config.ClusterCIDR)
	n, ok := p.nodes.Get(p.nodeName)
	if ok && nodeIP(n).Is6() || !ok && !IPv4.firstCIDR(cidrs).IsValid() && IPv6.firstCIDR(cidrs).IsValid() {
		p.family = IPv6
	}
	config := &p.config.KubeProxyConfiguration
	p.options = Options{MasqueradeAll: p.section.masqueradeAll, MasqueradeBit: p.section.masqueradeBit,
		TCPBeLiberal: config.Conntrack.TCPBeLiberal, LocalhostNodePorts: localhostNodePorts(p.family, config), Scheduler: config.IPVS.Scheduler}
	mode := string(config.Mode)
	if mode == modeNFTables {
		p.log.Info("Using nftables", "family", p.family.nft())
	} else {
		version, err := iptables.Runner{Root: p.config.HostRoot, Family: iptables.Family(p.family)}.Detect(ctx)
		if err != nil {
			return err
		}
		p.options.RandomFully = version.RandomFully()
		p.log.Info("Using "+mode, "iptables", version.Text, "flavour", version.Flavour())
	}
	if err := setSysctls(p.family, config); err != nil {
		p.log.Warn("Some kernel settings stay as they are", "err", err)
	}
	if !bridgeNetfilter() {
		p.log.Warn("Bridged packets do not pass netfilter: pods may not reach Services whose endpoint is on their own node; load br_netfilter and set net.bridge.bridge-nf-call-iptables=1")
	}
	var err error
	p.backend, err = NewBackend(mode, p.config.HostRoot, p.family, p.log)
	if ipvs, ok := p.backend.(*IPVS); ok {
		ipvs.Timeouts = [3]time.Duration{config.IPVS.TCPTimeout.Duration, config.IPVS.TCPFinTimeout.Duration, config.IPVS.UDPTimeout.Duration}
		for _, cidr := range config.IPVS.ExcludeCIDRs {
			ipvs.Exclude = append(ipvs.Exclude, netip.MustParsePrefix(cidr)) // New has validated them
		}
	}
	return err
}

// sync looks at everything anew and writes what differs.
func (p *Proxy) sync(ctx context.Context) error {
	start := time.Now()
	node := Node{Name: p.nodeName, Family: p.family}
	var podCIDRs []string
	if n, ok := p.nodes.Get(p.nodeName); ok {
		node.Zone, podCIDRs = n.Labels[corev1.LabelTopologyZone], append(n.Spec.PodCIDRs, n.Spec.PodCIDR)
		p.options.NodeIP = nodeIP(n)
		p.health.setEligible(n.DeletionTimestamp == nil)
	}
	local, err := localAddresses(p.family)
	if err != nil {
		return err
	}
	config := &p.config.KubeProxyConfiguration
	p.local, p.options.Local = local, localTraffic(config, p.family, podCIDRs)
	p.options.NodePortAddresses, p.options.AllAddresses = nodePortAddresses(nodePortRanges(config), local, p.options.NodeIP)
	covered := p.health.begun()
	state := p.tracker.State(node, p.services.List(), p.slices.List())
	wrote, err := p.backend.Sync(ctx, state, p.options)
	if err != nil {
		return err
	}
	if !p.synced {
		p.synced = true
		close(p.ready)
		if err := CleanOthers(ctx, string(config.Mode), p.config.HostRoot, p.family, p.log); err != nil {
			p.log.Warn("Something of another mode may be left", "err", err)
		}
	}
	if wrote {
		p.log.Info("Rules are up to date", "state", state.Summary(), "duration", time.Since(start).Round(100*time.Microsecond))
	}
	p.health.synced(time.Since(start), covered, state)
	// After the rules: a flow deleted before would be made again by the old ones.
	return p.forgetStaleFlows(state, local)
}

func (p *Proxy) forgetStaleFlows(state State, local []netip.Addr) error {
	udp := map[*ServicePort]bool{}
	for _, port := range state.Ports {
		if port.Protocol == "udp" {
			udp[port] = true
		}
	}
	if maps.Equal(udp, p.udp) {
		return nil
	}
	n, err := deleteStaleFlows(p.family, newUDPFlows(state, local))
	p.health.metrics.flows.WithLabelValues(p.family.label()).Add(float64(n))
	if err != nil {
		return err
	}
	if n > 0 {
		p.log.Info("Deleted stale UDP flows", "count", n)
	}
	p.udp = udp
	return nil
}

// nodePortRanges are where NodePorts are served. nftables' default is the node's
// primary address, as upstream's; the others serve them at all.
func nodePortRanges(c *kubeproxy.KubeProxyConfiguration) []string {
	switch {
	case len(c.NodePortAddresses) > 0:
		return c.NodePortAddresses
	case c.Mode == modeNFTables:
		return []string{"primary"}
	}
	return []string{"0.0.0.0/0", "::/0"}
}

// localhostNodePorts says whether NodePorts answer at 127.0.0.1 as well. It takes
// route_localnet, which opens services bound to 127.0.0.1 to the wire, and so
// rules of its own (CVE-2020-8558): only mode iptables has them.
func localhostNodePorts(f Family, c *kubeproxy.KubeProxyConfiguration) bool {
	return c.Mode == modeIPTables && f == IPv4 && value(c.IPTables.LocalhostNodePorts) &&
		slices.ContainsFunc(nodePortRanges(c), func(r string) bool {
			p, err := netip.ParsePrefix(r)
			return err == nil && (p.Contains(netip.MustParseAddr("127.0.0.1")) || p.Addr().IsLoopback())
		})
}

// nodeIP is the node's primary address, which also says what family we serve.
func nodeIP(n *corev1.Node) netip.Addr {
	for _, a := range n.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
			return ip
		}
	}
	return netip.Addr{}
}
