// Package app is kube-controller-manager's command line: upstream's flags on
// the way to controllers.Config.
package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/util/uuid"

	"tinykube/api/version"
	"tinykube/client"
	"tinykube/controllers"
	"tinykube/controllers/nodeipam"
	"tinykube/controllers/nodelifecycle"
	"tinykube/internal/flags"
	"tinykube/internal/healthz"
	"tinykube/internal/heapfloor"
)

// options are the values of the flags that do not go straight into Config.
type options struct {
	controllers.Config

	kubeconfig, master, rootCAFile string
	clusterCIDR, serviceCIDR       string
	maskSize, maskSize4, maskSize6 int
	bindAddress                    net.IP
	cloudProvider                  string
	securePort                     int
	certFile, keyFile              string
	keys                           keys
	election                       *flags.LeaderElection
	logging                        *flags.Logging
}

// NewCommand is the kube-controller-manager command.
func NewCommand() *cobra.Command {
	o := &options{}
	cmd := &cobra.Command{
		Use:   "kube-controller-manager",
		Short: "Run the loops that make the cluster's objects true",
		Long: `Watches the API server and makes what is there fit what is asked for.
Takes upstream's flags. Its controllers:
  ` + strings.Join(controllers.Names(), "\n  "),
		Args:          flags.NoArgs,
		Version:       version.Git,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(*cobra.Command, []string) error { return o.run(flags.SignalContext()) },
	}
	o.addFlags(cmd.Flags())
	cmd.AddCommand(newTimeline())
	return cmd
}

// addFlags declares upstream's flags.
//
// Upstream: kubernetes cmd/kube-controller-manager/app/options
func (o *options) addFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.kubeconfig, "kubeconfig", "", "path of the kubeconfig")
	fs.StringVar(&o.master, "master", "", "address of the API server, overriding the kubeconfig's")
	fs.IPVar(&o.bindAddress, "bind-address", net.IPv4zero, "address on which to serve health and metrics")
	fs.IntVar(&o.securePort, "secure-port", 10257, "port on which to serve them over HTTPS; 0 for not at all")
	fs.StringVar(&o.certFile, "tls-cert-file", "", "certificate for that; self-signed if empty")
	fs.StringVar(&o.keyFile, "tls-private-key-file", "", "its key")
	fs.StringSliceVar(&o.Controllers, "controllers", []string{"*"}, "which controllers run: '*' is all on by default, 'x' switches one on, '-x' off")
	fs.BoolVar(&o.OwnIdentities, "use-service-account-credentials", false, "let each controller act as a service account of its own")
	fs.StringVar(&o.rootCAFile, "root-ca-file", "", "certificate authority to publish in every namespace")

	fs.BoolVar(&o.AllocateNodeCIDRs, "allocate-node-cidrs", false, "give each node a range of pod addresses")
	fs.StringVar(&o.clusterCIDR, "cluster-cidr", "", "range of all pods' addresses; two of different families with a comma")
	fs.StringVar(&o.serviceCIDR, "service-cluster-ip-range", "", "range of Service addresses, which no node gets")
	fs.IntVar(&o.maskSize, "node-cidr-mask-size", 0, "prefix length of a node's range; 24 for IPv4 and 64 for IPv6 if not set")
	fs.IntVar(&o.maskSize4, "node-cidr-mask-size-ipv4", 0, "the same for IPv4 of two families")
	fs.IntVar(&o.maskSize6, "node-cidr-mask-size-ipv6", 0, "the same for IPv6 of two families")

	nodeFlags(fs, &o.NodeLifecycle)
	fs.IntVar(&o.TerminatedPodThreshold, "terminated-pod-gc-threshold", 12500, "how many finished pods may stay; 0 for any number")
	fs.IntVar(&o.EndpointSlice.MaxPerSlice, "max-endpoints-per-slice", 100, "most endpoints in one EndpointSlice")
	fs.BoolVar(&o.GarbageCollector, "enable-garbage-collector", true, "delete objects whose owners are gone")
	fs.StringVar(&o.cloudProvider, "cloud-provider", "", "who makes the machines; only external is left, and means nothing here")
	o.keys.addFlags(fs, &o.Signing)
	o.election = flags.AddLeaderElection(fs, "kube-controller-manager")
	o.logging = flags.AddLogging(fs)
	addIgnored(fs)
}

// nodeFlags declares how patient to be with nodes.
func nodeFlags(fs *pflag.FlagSet, n *nodelifecycle.Config) {
	fs.DurationVar(&n.MonitorPeriod, "node-monitor-period", 5*time.Second, "how often each node's health is looked at")
	fs.DurationVar(&n.GracePeriod, "node-monitor-grace-period", 50*time.Second, "how long a node may be silent before it counts as lost")
	fs.DurationVar(&n.StartupGracePeriod, "node-startup-grace-period", time.Minute, "the same for a node that has never been heard of")
	rate := func(p *float64, name string, value float64, usage string) { fs.Float64Var(p, name, value, usage) }
	rate(&n.EvictionRate, "node-eviction-rate", 0.1, "nodes per second whose pods are evicted in a zone")
	rate(&n.SecondaryEvictionRate, "secondary-node-eviction-rate", 0.01, "the same in a large zone that is unhealthy")
	rate(&n.UnhealthyZoneThreshold, "unhealthy-zone-threshold", 0.55, "fraction of nodes that makes a zone unhealthy when they are lost")
	fs.IntVar(&n.LargeClusterThreshold, "large-cluster-size-threshold", 50, "number of nodes above which a zone is large")
}

// addIgnored declares the flags whose controllers we have not, those that tune
// what needs no tuning here, and those about who may read our few endpoints:
// health is public, metrics are for this machine.
func addIgnored(fs *pflag.FlagSet) {
	flags.AcceptIgnored(fs, flags.Metrics...)
	flags.AcceptIgnored(fs, "authentication-kubeconfig", "authorization-kubeconfig",
		"authentication-token-webhook-cache-ttl", "authorization-webhook-cache-authorized-ttl",
		"authorization-webhook-cache-unauthorized-ttl", "authorization-always-allow-paths",
		"client-ca-file", "requestheader-client-ca-file", "requestheader-allowed-names",
		"requestheader-extra-headers-prefix", "requestheader-group-headers", "requestheader-username-headers",
		"requestheader-uid-headers", "cert-dir", "tls-cipher-suites", "tls-min-version", "tls-sni-cert-key",
		"http2-max-streams-per-connection", "feature-gates", "emulated-version", "min-compatibility-version", "tls-curve-preferences",
		"kube-api-burst", "kube-api-qps", "kube-api-content-type", "min-resync-period", "controller-shutdown-timeout", "controller-start-interval",
		"cluster-name", "cidr-allocator-type", "cloud-config", "external-cloud-volume-plugin",
		"node-sync-period", "route-reconciliation-period", "namespace-sync-period", "resource-quota-sync-period",
		"pvclaimbinder-sync-period", "attach-detach-reconcile-sync-period", "flex-volume-plugin-dir",
		"pv-recycler-minimum-timeout-hostpath", "pv-recycler-minimum-timeout-nfs", "pv-recycler-increment-timeout-nfs",
		"pv-recycler-timeout-increment-hostpath", "pv-recycler-pod-template-filepath-hostpath", "pv-recycler-pod-template-filepath-nfs",
		"horizontal-pod-autoscaler-sync-period", "horizontal-pod-autoscaler-downscale-stabilization",
		"horizontal-pod-autoscaler-cpu-initialization-period", "horizontal-pod-autoscaler-initial-readiness-delay",
		"horizontal-pod-autoscaler-tolerance",
		"legacy-service-account-token-clean-up-period",
		"mirroring-concurrent-service-endpoint-syncs", "mirroring-endpointslice-updates-batch-period",
		"mirroring-max-endpoints-per-subset", "endpoint-updates-batch-period", "endpointslice-updates-batch-period",
		"leader-migration-config")
	for _, what := range []string{"cron-job", "daemonset", "deployment", "endpoint", "ephemeralvolume", "gc",
		"horizontal-pod-autoscaler", "job", "namespace", "rc", "replicaset", "resource-quota", "service", "service-endpoint",
		"serviceaccount-token", "statefulset", "ttl-after-finished", "device-taint-eviction", "resourceclaim", "validating-admission-policy-status"} {
		flags.AcceptIgnoredInt(fs, "concurrent-"+what+"-syncs")
	}
	flags.AcceptIgnoredBool(fs, "profiling", "contention-profiling", "authentication-skip-lookup",
		"authentication-tolerate-lookup-failure", "permit-address-sharing", "permit-port-sharing",
		"disable-http2-serving", "unsupported-kube-api-over-localhost", "emulation-forward-compatible", "configure-cloud-routes", "allow-untagged-cloud",
		"enable-dynamic-provisioning", "enable-hostpath-provisioner", "disable-attach-detach-reconcile-sync",
		"disable-force-detach-on-timeout", "enable-leader-migration")
}

// run is the whole program.
func (o *options) run(ctx context.Context) error {
	if err := o.complete(); err != nil {
		return err
	}
	heapfloor.Tight(50)
	log := o.logging.Logger("controller-manager")
	manager, err := controllers.New(o.Config, log)
	if err != nil {
		return err
	}
	health := &healthz.Server{
		Address:  net.JoinHostPort(o.bindAddress.String(), strconv.Itoa(o.securePort)),
		CertFile: o.certFile, KeyFile: o.keyFile,
		Ready: manager.Ready(), Metrics: manager.Metrics(),
	}
	log.Info("starting", "version", version.Git)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return health.Run(ctx) })
	g.Go(func() error { return manager.Run(ctx) })
	return g.Wait()
}

// complete turns flags into the rest of the Config.
func (o *options) complete() error {
	var err error
	if o.API, err = o.connect(); err != nil {
		return err
	}
	if o.rootCAFile != "" {
		raw, err := os.ReadFile(o.rootCAFile)
		if err != nil {
			return fmt.Errorf("--root-ca-file: %w", err)
		}
		o.RootCA = string(raw)
	}
	if err := o.keys.complete(o); err != nil {
		return err
	}
	if o.AllocateNodeCIDRs {
		if o.NodeIPAM, err = o.nodeIPAM(); err != nil {
			return err
		}
	}
	if o.EndpointSlice.MaxPerSlice < 1 || o.EndpointSlice.MaxPerSlice > 1000 {
		return outOfRange("max-endpoints-per-slice", o.EndpointSlice.MaxPerSlice, 1, 1000)
	}
	if o.cloudProvider != "" && o.cloudProvider != "external" {
		return fmt.Errorf("cloud provider %q was specified, but built-in cloud providers are disabled. "+
			"Please set --cloud-provider=external and migrate to an external cloud provider", o.cloudProvider)
	}
	if err := flags.CheckPort(o.securePort); err != nil {
		return err
	}
	if o.NodeLifecycle.MonitorPeriod <= 0 {
		return errors.New("--node-monitor-period must be above zero")
	}
	if o.election.Enabled {
		if err := flags.CheckElection(o.election.LeaseDuration, o.election.RenewDeadline, o.election.RetryPeriod); err != nil {
			return err
		}
		host, _ := os.Hostname()
		o.Election = client.ElectionConfig{
			Namespace: o.election.Namespace, Name: o.election.Name, Identity: host + "_" + string(uuid.NewUUID()),
			LeaseDuration: o.election.LeaseDuration, RenewDeadline: o.election.RenewDeadline, RetryPeriod: o.election.RetryPeriod,
		}
	}
	return nil
}

func outOfRange(flag string, value, least, most int) error {
	if value < least {
		return fmt.Errorf("%s must not be less than %d, but got %d", flag, least, value)
	}
	return fmt.Errorf("%s must not be more than %d, but got %d", flag, most, value)
}

func (o *options) nodeIPAM() (nodeipam.Config, error) {
	var c nodeipam.Config
	cluster, err := prefixes("--cluster-cidr", o.clusterCIDR)
	if err != nil {
		return c, err
	}
	if c.Reserved, err = prefixes("--service-cluster-ip-range", o.serviceCIDR); err != nil {
		return c, err
	}
	if len(cluster) > 2 || len(cluster) == 2 && cluster[0].Addr().Is4() == cluster[1].Addr().Is4() {
		return c, fmt.Errorf("--cluster-cidr %s: at most one range of each family", o.clusterCIDR)
	}
	for _, p := range cluster {
		bits := 24
		if p.Addr().Is6() {
			bits = 64
		}
		for _, size := range []int{o.maskSize, map[bool]int{true: o.maskSize4, false: o.maskSize6}[p.Addr().Is4()]} {
			if size != 0 {
				bits = size
			}
		}
		c.Ranges = append(c.Ranges, nodeipam.Range{Cluster: p, NodeBits: bits})
	}
	return c, nil
}

func prefixes(flag, list string) ([]netip.Prefix, error) {
	var result []netip.Prefix
	for _, s := range strings.Split(list, ",") {
		if s = strings.TrimSpace(s); s == "" {
			continue
		}
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", flag, err)
		}
		result = append(result, p.Masked())
	}
	return result, nil
}

// connect finds the API server: a kubeconfig, --master, or the pod's own
// service account.
func (o *options) connect() (*client.Config, error) {
	cfg := &client.Config{}
	var err error
	switch {
	case o.kubeconfig != "":
		cfg, err = client.LoadKubeconfig(o.kubeconfig)
	case o.master == "":
		cfg, err = client.InCluster()
	}
	if err != nil {
		return nil, fmt.Errorf("no way to the API server (use --kubeconfig): %w", err)
	}
	if o.master != "" {
		cfg.Host = o.master
	}
	cfg.UserAgent = "kube-controller-manager/" + version.Git
	return cfg, nil
}
