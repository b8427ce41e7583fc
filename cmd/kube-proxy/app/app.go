// Package app is kube-proxy's command line.
package app

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeproxy "k8s.io/kube-proxy/config/v1alpha1"

	"tinykube/api/version"
	"tinykube/client"
	"tinykube/internal/flags"
	"tinykube/proxy"
)

// options are the flags. Those with a counterpart in the configuration file are
// used only if there is no file, as upstream does, but for the ones that follow
// each node: --hostname-override and --host-root.
type options struct {
	configFile string
	master     string
	hostname   string
	cleanup    bool
	initOnly   bool
	version    bool
	fromFlags  proxy.Config
	mode       string
	kubeconfig string
	logging    *flags.Logging
}

// NewCommand makes the command.
func NewCommand() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "kube-proxy",
		Short: "Make Services work on this node",
		Long: `kube-proxy watches Services and EndpointSlices and writes rules that lead
every Service address to one of its endpoints.`,
		Example: `  kube-proxy --config=/var/lib/kube-proxy/config.conf --hostname-override=node-1
  kube-proxy render -f services.yaml            # print the rules, touch nothing
  kube-proxy explain 10.244.1.7 10.96.0.10:53   # walk a packet through the kernel's rules
  kube-proxy --cleanup                          # remove all rules of kube-proxy`,
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE:         func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	o.add(cmd.Flags())
	cmd.AddCommand(newRenderCommand(), newExplainCommand())
	return cmd
}

func (o *options) add(fs *pflag.FlagSet) {
	c := &o.fromFlags
	fs.StringVar(&o.configFile, "config", "", "KubeProxyConfiguration file")
	fs.StringVar(&o.kubeconfig, "kubeconfig", "", "how to reach the API server, if there is no --config")
	fs.StringVar(&o.master, "master", "", "the API server's URL, in place of the kubeconfig's")
	fs.StringVar(&o.hostname, "hostname-override", "", "this node's name; default: the host's")
	fs.StringVar(&o.mode, "proxy-mode", "", "iptables, nftables or ipvs; default: nftables if kernel and machine have it, else iptables")
	fs.StringVar(&c.ClusterCIDR, "cluster-cidr", "", "addresses of the cluster's pods")
	fs.StringVar(&c.HealthzBindAddress, "healthz-bind-address", "", "default 0.0.0.0:10256")
	fs.StringVar(&c.MetricsBindAddress, "metrics-bind-address", "", "default 127.0.0.1:10249")
	fs.StringSliceVar(&c.NodePortAddresses, "nodeport-addresses", nil, "ranges of the node's addresses that NodePorts are served at")
	fs.StringVar(&c.IPVS.Scheduler, "ipvs-scheduler", "", "of ipvs: rr, lc, sh, …; default rr")
	fs.StringSliceVar(&c.IPVS.ExcludeCIDRs, "ipvs-exclude-cidrs", nil, "addresses whose virtual servers are somebody else's")
	fs.BoolVar(&c.IPVS.StrictARP, "ipvs-strict-arp", false, "answer ARP only for addresses of the asked link")
	fs.DurationVar(&c.IPVS.SyncPeriod.Duration, "ipvs-sync-period", 0, "default 30s")
	fs.DurationVar(&c.IPVS.MinSyncPeriod.Duration, "ipvs-min-sync-period", 0, "default 0")
	fs.DurationVar(&c.IPVS.TCPTimeout.Duration, "ipvs-tcp-timeout", 0, "of idle connections in IPVS; 0 leaves the kernel's")
	fs.DurationVar(&c.IPVS.TCPFinTimeout.Duration, "ipvs-tcpfin-timeout", 0, "the same after a FIN")
	fs.DurationVar(&c.IPVS.UDPTimeout.Duration, "ipvs-udp-timeout", 0, "the same for UDP")
	fs.BoolVar(&c.IPTables.MasqueradeAll, "masquerade-all", false, "masquerade everything that goes to a Service")
	fs.DurationVar(&c.IPTables.SyncPeriod.Duration, "iptables-sync-period", 0, "default 30s")
	fs.DurationVar(&c.IPTables.MinSyncPeriod.Duration, "iptables-min-sync-period", 0, "default 1s")
	fs.StringVar(&o.fromFlags.HostRoot, "host-root", "", "directory where the machine's root is mounted; its iptables is used")
	fs.BoolVar(&o.cleanup, "cleanup", false, "remove the rules of kube-proxy and end")
	fs.BoolVar(&o.initOnly, "init-only", false, "set what only root may set in the kernel, and end; kube-proxy itself then needs CAP_NET_ADMIN alone")
	fs.BoolVar(&o.version, "version", false, "print the version and end")
	fs.StringVar((*string)(&c.DetectLocalMode), "detect-local-mode", "", "how traffic of this node's pods is known: ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix")
	fs.StringVar(&c.DetectLocal.BridgeInterface, "pod-bridge-interface", "", "the bridge, for BridgeInterface")
	fs.StringVar(&c.DetectLocal.InterfaceNamePrefix, "pod-interface-name-prefix", "", "the prefix, for InterfaceNamePrefix")
	o.addConntrack(fs)
	o.logging = flags.AddLogging(fs)
	flags.AcceptIgnored(fs, "bind-address", "boot-id-file", "config-sync-period", "feature-gates", "kube-api-burst", "kube-api-content-type",
		"kube-api-qps", "machine-id-file", "oom-score-adj", "show-hidden-metrics-for-version")
	flags.AcceptIgnoredBool(fs, "bind-address-hard-fail", "profiling")
	flags.Refuse(fs, "write-config-to", "write a KubeProxyConfiguration by hand")
}

// addConntrack declares what the kernel is told of connections, and the bit of
// a packet's mark. What is zero here means something, so the fields are pointers.
func (o *options) addConntrack(fs *pflag.FlagSet) {
	c := &o.fromFlags
	number := func(to **int32, name string, value int32, usage string) {
		*to = &value
		fs.Int32Var(*to, name, value, usage)
	}
	duration := func(to **metav1.Duration, name string, value time.Duration, usage string) {
		*to = &metav1.Duration{}
		fs.DurationVar(&(*to).Duration, name, value, usage)
	}
	number(&c.Conntrack.MaxPerCore, "conntrack-max-per-core", 32*1024, "most connections to remember, per core; 0 leaves it as it is")
	number(&c.Conntrack.Min, "conntrack-min", 128*1024, "at least as many, whatever the number of cores")
	duration(&c.Conntrack.TCPEstablishedTimeout, "conntrack-tcp-timeout-established", 24*time.Hour, "how long an idle TCP connection is remembered; 0 leaves it as it is")
	duration(&c.Conntrack.TCPCloseWaitTimeout, "conntrack-tcp-timeout-close-wait", time.Hour, "the same for one that is half closed")
	fs.DurationVar(&c.Conntrack.UDPTimeout.Duration, "conntrack-udp-timeout", 0, "the same for UDP without an answer")
	fs.DurationVar(&c.Conntrack.UDPStreamTimeout.Duration, "conntrack-udp-timeout-stream", 0, "the same for UDP with answers")
	fs.BoolVar(&c.Conntrack.TCPBeLiberal, "conntrack-tcp-be-liberal", false, "take packets that are out of their connection's window for valid")
	number(&c.IPTables.MasqueradeBit, "iptables-masquerade-bit", 14, "the bit of a packet's mark that says: masquerade it; 0 to 31")
	local := true
	c.IPTables.LocalhostNodePorts = &local
	fs.BoolVar(&local, "iptables-localhost-nodeports", true, "of iptables: serve NodePorts at 127.0.0.1 as well")
}

func (o *options) run(cmd *cobra.Command) error {
	if o.version {
		fmt.Fprintln(cmd.OutOrStdout(), "Kubernetes", version.Git)
		return nil
	}
	ctx := flags.SignalContext()
	if o.cleanup {
		log := o.logging.Logger("kube-proxy")
		return errors.Join(proxy.CleanOthers(ctx, "", o.fromFlags.HostRoot, proxy.IPv4, log), proxy.CleanOthers(ctx, "", o.fromFlags.HostRoot, proxy.IPv6, log))
	}
	config, ignored, err := o.config()
	if err != nil {
		return err
	}
	// Of logging the flags have the last word.
	if config.Logging.Format != "" && !cmd.Flags().Changed("logging-format") {
		o.logging.Format = config.Logging.Format
	}
	if !cmd.Flags().Changed("v") {
		o.logging.Verbosity = int(config.Logging.Verbosity)
	}
	log := o.logging.Logger("kube-proxy")
	if ignored != nil {
		log.Warn("Using lenient decoding as strict decoding failed", "err", ignored)
	}
	if o.initOnly {
		return proxy.Prepare(config)
	}
	name, err := o.nodeName(config)
	if err != nil {
		return err
	}
	c, err := o.client(config)
	if err != nil {
		return err
	}
	p, err := proxy.New(config, name, c, log)
	if err != nil {
		return err
	}
	log.Info("Starting", "version", version.Git, "node", name)
	return p.Run(ctx)
}

// config is the file's content, or what the flags say.
func (o *options) config() (config proxy.Config, ignored, err error) {
	config = o.fromFlags
	config.ClientConnection.Kubeconfig = o.kubeconfig
	config.Mode = kubeproxy.ProxyMode(o.mode)
	config.NFTables.MasqueradeAll, config.NFTables.MasqueradeBit = config.IPTables.MasqueradeAll, config.IPTables.MasqueradeBit
	if o.configFile == "" {
		return config, nil, nil
	}
	file, ignored, err := proxy.LoadConfig(o.configFile)
	if err != nil {
		return config, nil, err
	}
	return proxy.Config{KubeProxyConfiguration: *file, HostRoot: o.fromFlags.HostRoot}, ignored, nil
}

func (o *options) nodeName(config proxy.Config) (string, error) {
	name := config.HostnameOverride
	if o.hostname != "" {
		name = o.hostname
	}
	if name == "" {
		host, err := os.Hostname()
		if err != nil {
			return "", err
		}
		name = host
	}
	return strings.ToLower(strings.TrimSpace(name)), nil
}

// client reaches the API server by the address in the kubeconfig.
func (o *options) client(config proxy.Config) (*client.Client, error) {
	path := config.ClientConnection.Kubeconfig
	if path == "" && o.master == "" {
		return nil, errors.New("how to reach the API server? clientConnection.kubeconfig in --config, or --kubeconfig (in a pod, a Service address would need the rules that are not there yet)")
	}
	cfg := &client.Config{}
	if path != "" {
		var err error
		if cfg, err = client.LoadKubeconfig(path); err != nil {
			return nil, err
		}
	}
	if o.master != "" {
		cfg.Host = o.master
	}
	cfg.UserAgent = "kube-proxy/" + version.Git
	return client.New(cfg)
}
