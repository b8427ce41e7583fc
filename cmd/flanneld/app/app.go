// Package app is flanneld's command line.
package app

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"tinykube/api/version"
	"tinykube/client"
	"tinykube/flannel"
	"tinykube/flannel/etcd"
	"tinykube/internal/flags"
)

// options are the flags.
type options struct {
	config     flannel.Config
	kube       bool
	nodeFile   string
	kubeconfig string
	apiURL     string
	prefix     string
	etcd       etcd.Config
	condition  bool
	publicIP   string
	patterns   []string
	canReach   string
	healthIP   string
	healthPort int
	resync     int
	// renewMargin is in minutes.
	renewMargin int
	logging     *flags.Logging
}

// NewCommand makes the command.
//
// Upstream: flannel-io/flannel main.go: the same flags, with one dash or two.
func NewCommand() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "flanneld",
		Short: "Connect this node's pods to those of other nodes (vxlan or host-gw)",
		Example: `  flanneld --kube-subnet-mgr --ip-masq
  flanneld --node-file nodes.txt --node-name node-0 --iface eth0     # without a cluster
  flanneld plan --node-file nodes.txt --node-name node-0             # print what it would do, touch nothing
  flanneld install-cni --conf cni-conf.json --to /etc/cni/net.d/10-flannel.conflist`,
		SilenceUsage: true,
		Args:         cobra.ArbitraryArgs, // checked below
		// Parsed below: upstream's flags are Go's, where -iface is a long flag.
		DisableFlagParsing: true,
	}
	o.add(cmd.Flags())
	cmd.AddCommand(newInstallCommand(), newPlanCommand())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := cmd.Flags().Parse(flags.TwoDashes(args)); err != nil {
			return err
		}
		if help, _ := cmd.Flags().GetBool("help"); help {
			return cmd.Help()
		}
		if show, _ := cmd.Flags().GetBool("version"); show {
			fmt.Fprintln(cmd.OutOrStdout(), cmd.Name(), version.Git)
			return nil
		}
		if extra := cmd.Flags().Args(); len(extra) > 0 {
			return fmt.Errorf("unexpected argument %q", extra[0])
		}
		return o.run(flags.SignalContext())
	}
	return cmd
}

func (o *options) add(fs *pflag.FlagSet) {
	fs.Bool("help", false, "show this help")
	fs.Bool("version", false, "show the version")
	fs.BoolVar(&o.kube, "kube-subnet-mgr", false, "learn of nodes from the Kubernetes API")
	fs.StringVar(&o.nodeFile, "node-file", "", "learn of nodes from a file with a line NAME SUBNET PUBLIC-IP per node")
	fs.StringVar(&o.config.NodeName, "node-name", os.Getenv("NODE_NAME"), "this node's name; default $NODE_NAME, then the host's name")
	fs.StringVar(&o.kubeconfig, "kubeconfig-file", "", "how to reach the API server; default: as a pod does")
	fs.StringVar(&o.kubeconfig, "kubeconfig", "", "the same as --kubeconfig-file")
	fs.StringVar(&o.apiURL, "kube-api-url", "", "the API server's URL, in place of the kubeconfig's")
	fs.StringVar(&o.prefix, "kube-annotation-prefix", flannel.DefaultAnnotationPrefix, "prefix of the Node annotations")
	fs.BoolVar(&o.condition, "set-node-network-unavailable", true, "set the Node condition NetworkUnavailable=False")
	fs.StringVar(&o.config.NetConfigPath, "net-config-path", "/etc/kube-flannel/net-conf.json", "network configuration")
	fs.StringVar(&o.config.SubnetFile, "subnet-file", "/run/flannel/subnet.env", "file for the CNI plugin")
	fs.StringArrayVar(&o.config.Interfaces, "iface", nil, "interface (name or address) to the other nodes; may be repeated: the first that is there")
	fs.StringArrayVar(&o.patterns, "iface-regex", nil, "regular expression for the same, tried after --iface; may be repeated")
	fs.StringVar(&o.canReach, "iface-can-reach", "", "an address: the interface by which the node reaches it, tried last")
	fs.StringVar(&o.publicIP, "public-ip", "", "address that other nodes send to; default: the interface's")
	fs.BoolVar(&o.config.IPMasq, "ip-masq", false, "masquerade traffic from pods to the world")
	fs.BoolVar(&o.config.OrderlyPorts, "ip-masq-fully-random-disable", false, "let the kernel choose source ports in order, not by chance")
	fs.BoolVar(&o.config.ForwardRules, "iptables-forward-rules", true, "accept forwarded traffic from and to pods")
	fs.IntVar(&o.resync, "iptables-resync", 5, "seconds between checks of rules, routes and entries")
	fs.StringVar(&o.healthIP, "healthz-ip", "0.0.0.0", "address of /healthz and /readyz")
	fs.IntVar(&o.healthPort, "healthz-port", 0, "port of /healthz and /readyz; 0: none")
	fs.StringVar(&o.config.HostRoot, "host-root", "", "directory where the machine's root is mounted; its iptables is used")
	fs.StringSliceVar(&o.etcd.Endpoints, "etcd-endpoints", []string{"http://127.0.0.1:4001", "http://127.0.0.1:2379"}, "the etcd that nodes learn of each other from, without --kube-subnet-mgr")
	fs.StringVar(&o.etcd.Prefix, "etcd-prefix", "/coreos.com/network", "where in etcd")
	fs.StringVar(&o.etcd.KeyFile, "etcd-keyfile", "", "client key for etcd")
	fs.StringVar(&o.etcd.CertFile, "etcd-certfile", "", "client certificate for etcd")
	fs.StringVar(&o.etcd.CAFile, "etcd-cafile", "", "certificate authority of etcd")
	fs.StringVar(&o.etcd.Username, "etcd-username", "", "user for etcd")
	fs.StringVar(&o.etcd.Password, "etcd-password", "", "password for etcd")
	fs.IntVar(&o.renewMargin, "subnet-lease-renew-margin", 60, "minutes before its end at which a lease in etcd is renewed, 1 to 1439")
	o.logging = flags.AddLogging(fs)
	flags.AcceptIgnored(fs, "public-ipv6")
	flags.AcceptIgnored(fs, "log_backtrace_at")
	flags.Refuse(fs, "ip-blackhole-route", "not built; with the bridge plugin the node has a route for its pods")
}

func (o *options) run(ctx context.Context) error {
	log := o.logging.Logger("flanneld")
	if o.config.NodeName == "" {
		name, err := os.Hostname()
		if err != nil {
			return err
		}
		o.config.NodeName = strings.ToLower(name)
	}
	if o.publicIP != "" {
		ip, err := netip.ParseAddr(o.publicIP)
		if err != nil || !ip.Is4() {
			return fmt.Errorf("--public-ip %q: not an IPv4 address", o.publicIP)
		}
		o.config.PublicIP = ip
	}
	for _, text := range o.patterns {
		pattern, err := regexp.Compile(text)
		if err != nil {
			return fmt.Errorf("--iface-regex: %w", err)
		}
		o.config.InterfacePatterns = append(o.config.InterfacePatterns, pattern)
	}
	if o.canReach != "" {
		var err error
		if o.config.CanReach, err = netip.ParseAddr(o.canReach); err != nil || !o.config.CanReach.Is4() {
			return fmt.Errorf("--iface-can-reach %q: not an IPv4 address", o.canReach)
		}
	}
	o.config.Resync = time.Duration(o.resync) * time.Second
	if o.renewMargin < 1 || o.renewMargin > 1439 {
		return fmt.Errorf("--subnet-lease-renew-margin %d: must be 1 to 1439 minutes", o.renewMargin)
	}
	o.etcd.RenewMargin = time.Duration(o.renewMargin) * time.Minute
	var source flannel.Source
	var conf *flannel.NetConf
	var err error
	if o.nodeFile == "" && !o.kube {
		s, fromEtcd, err := etcd.Open(ctx, o.etcd, log)
		if err != nil {
			return err
		}
		defer s.Close()
		source, conf = s, fromEtcd
	} else if conf, err = flannel.LoadNetConf(o.config.NetConfigPath); err != nil {
		return err
	}
	switch {
	case o.nodeFile != "":
		source = flannel.FileSource{Path: o.nodeFile, Node: o.config.NodeName, Backend: conf.Backend.Type}
	case o.kube:
		c, err := o.client()
		if err != nil {
			return err
		}
		source = &flannel.KubeSource{Client: c, Node: o.config.NodeName, Prefix: o.prefix, SetCondition: o.condition, VNI: conf.Backend.VNI, Logger: log}
	}
	f, err := flannel.New(o.config, conf, source, log)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return f.Run(ctx) })
	if o.healthPort != 0 {
		group.Go(func() error {
			return serveHealth(ctx, net.JoinHostPort(o.healthIP, strconv.Itoa(o.healthPort)), f.Ready())
		})
	}
	return group.Wait()
}

func (o *options) client() (*client.Client, error) {
	var cfg *client.Config
	var err error
	if o.kubeconfig != "" {
		cfg, err = client.LoadKubeconfig(o.kubeconfig)
	} else {
		cfg, err = client.InCluster()
	}
	if err != nil {
		return nil, err
	}
	if o.apiURL != "" {
		cfg.Host = o.apiURL
	}
	cfg.UserAgent = "flanneld"
	return client.New(cfg)
}

// serveHealth answers the kubelet's probes.
func serveHealth(ctx context.Context, address string, ready <-chan struct{}) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "flanneld is running") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		select {
		case <-ready:
			fmt.Fprintln(w, "ok")
		default:
			http.Error(w, "this node has not joined the network yet", http.StatusServiceUnavailable)
		}
	})
	server := &http.Server{Addr: address, Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.ListenAndServe(); ctx.Err() == nil {
		return fmt.Errorf("health server: %w", err)
	}
	return nil
}

// newInstallCommand is what upstream's manifest does with cp in an init
// container; our image has no cp.
func newInstallCommand() *cobra.Command {
	var conf, to string
	cmd := &cobra.Command{
		Use:          "install-cni",
		Short:        "Put the CNI configuration where the container runtime looks for it",
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE:         func(*cobra.Command, []string) error { return install(conf, to) },
	}
	cmd.Flags().StringVar(&conf, "conf", "/etc/kube-flannel/cni-conf.json", "configuration list to install")
	cmd.Flags().StringVar(&to, "to", "/etc/cni/net.d/10-flannel.conflist", "its place")
	return cmd
}

// install copies atomically: the runtime watches the directory and must never
// read half a file.
func install(conf, to string) error {
	data, err := os.ReadFile(conf)
	if err != nil {
		return err
	}
	if !json.Valid(data) {
		return fmt.Errorf("%s is not JSON", conf)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	// The name must not end like a configuration's while it is incomplete.
	temporary := to + ".tmp"
	if err := os.WriteFile(temporary, data, 0o644); err != nil {
		return err
	}
	return os.Rename(temporary, to)
}
