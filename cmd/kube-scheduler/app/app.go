// Package app is kube-scheduler's command line: upstream's flags on the way to
// scheduler.Config, and the offline subcommand simulate.
package app

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/util/uuid"
	configv1 "k8s.io/kube-scheduler/config/v1"

	"tinykube/api/version"
	"tinykube/client"
	"tinykube/internal/flags"
	"tinykube/internal/healthz"
	"tinykube/internal/heapfloor"
	"tinykube/scheduler"
	"tinykube/scheduler/config"
)

// options are the values of the flags.
type options struct {
	configFile, kubeconfig, master, writeConfig string
	bindAddress                                 net.IP
	securePort                                  int
	certFile, keyFile                           string
	election                                    *flags.LeaderElection
	logging                                     *flags.Logging
	flags                                       *pflag.FlagSet
}

// NewCommand is the kube-scheduler command.
func NewCommand() *cobra.Command {
	o := &options{}
	cmd := &cobra.Command{
		Use:   "kube-scheduler",
		Short: "Give every pod the node that suits it best",
		Long: `Watches for pods without a node, filters and scores all nodes for each, and
binds it to the best one. It takes upstream's flags and KubeSchedulerConfiguration
files. See "kube-scheduler simulate" for decisions without a cluster.`,
		Args:          flags.NoArgs,
		Version:       version.Git,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(*cobra.Command, []string) error { return o.run(flags.SignalContext()) },
	}
	o.addFlags(cmd.Flags())
	cmd.AddCommand(newSimulateCommand())
	return cmd
}

// addFlags declares upstream's flags.
//
// Upstream: kubernetes cmd/kube-scheduler/app/options
func (o *options) addFlags(fs *pflag.FlagSet) {
	o.flags = fs
	fs.StringVar(&o.configFile, "config", "", "path of a KubeSchedulerConfiguration file")
	fs.StringVar(&o.kubeconfig, "kubeconfig", "", "path of the kubeconfig; ignored if --config is given")
	fs.StringVar(&o.master, "master", "", "address of the API server, overriding the kubeconfig's")
	fs.StringVar(&o.writeConfig, "write-config-to", "", "write the configuration in force to this file and exit")
	fs.IPVar(&o.bindAddress, "bind-address", net.IPv4zero, "address on which to serve health and metrics")
	fs.IntVar(&o.securePort, "secure-port", 10259, "port on which to serve them over HTTPS; 0 for not at all")
	fs.StringVar(&o.certFile, "tls-cert-file", "", "certificate for that; self-signed if empty")
	fs.StringVar(&o.keyFile, "tls-private-key-file", "", "its key")
	o.election = flags.AddLeaderElection(fs, "kube-scheduler")
	o.logging = flags.AddLogging(fs)

	// Our few endpoints ask nobody who you are: health is public, metrics are
	// for this machine. So there is nothing to authenticate with.
	flags.AcceptIgnored(fs, flags.Metrics...)
	flags.AcceptIgnored(fs, "authentication-kubeconfig", "authorization-kubeconfig",
		"authentication-token-webhook-cache-ttl", "authorization-webhook-cache-authorized-ttl",
		"authorization-webhook-cache-unauthorized-ttl", "authorization-always-allow-paths",
		"client-ca-file", "requestheader-client-ca-file", "requestheader-allowed-names",
		"requestheader-extra-headers-prefix", "requestheader-group-headers", "requestheader-username-headers",
		"requestheader-uid-headers", "cert-dir", "tls-cipher-suites", "tls-min-version", "tls-sni-cert-key",
		"http2-max-streams-per-connection", "feature-gates", "emulated-version", "min-compatibility-version", "tls-curve-preferences", "kube-api-burst", "kube-api-qps",
		"kube-api-content-type", "pod-max-in-unschedulable-pods-duration")
	flags.AcceptIgnoredBool(fs, "profiling", "contention-profiling", "authentication-skip-lookup",
		"authentication-tolerate-lookup-failure", "permit-address-sharing", "permit-port-sharing",
		"disable-http2-serving", "unsupported-kube-api-over-localhost", "emulation-forward-compatible")
}

// run is the whole program.
func (o *options) run(ctx context.Context) error {
	component, err := o.component()
	if err == nil {
		err = flags.CheckPort(o.securePort)
	}
	if err != nil {
		return err
	}
	if o.writeConfig != "" {
		return writeConfig(o.writeConfig, component)
	}
	heapfloor.Tight(50)
	log := o.logging.Logger("scheduler")
	api, err := o.connect(component)
	if err != nil {
		return err
	}
	s, err := scheduler.New(scheduler.Config{Component: component, Election: electionOf(component)}, api, log)
	if err != nil {
		return err
	}
	health := &healthz.Server{
		Address:  net.JoinHostPort(o.bindAddress.String(), strconv.Itoa(o.securePort)),
		CertFile: o.certFile, KeyFile: o.keyFile,
		Ready: s.Ready(), Metrics: s.Metrics(), Config: configz(component),
	}
	log.Info("starting", "version", version.Git)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return health.Run(ctx) })
	g.Go(func() error { return s.Run(ctx) })
	return g.Wait()
}

// component is the configuration in force: the file, then the flags that were
// given. Without a file the flags' defaults count as well.
func (o *options) component() (*configv1.KubeSchedulerConfiguration, error) {
	c := config.Default()
	if o.configFile != "" {
		var err error
		if c, err = config.LoadFile(o.configFile); err != nil {
			return nil, err
		}
	} else if o.kubeconfig != "" {
		c.ClientConnection.Kubeconfig = o.kubeconfig
	}
	e := &c.LeaderElection
	if e.LeaderElect == nil || o.flags.Changed("leader-elect") {
		e.LeaderElect = &o.election.Enabled
	}
	override(o, "leader-elect-lease-duration", &e.LeaseDuration.Duration, o.election.LeaseDuration)
	override(o, "leader-elect-renew-deadline", &e.RenewDeadline.Duration, o.election.RenewDeadline)
	override(o, "leader-elect-retry-period", &e.RetryPeriod.Duration, o.election.RetryPeriod)
	override(o, "leader-elect-resource-name", &e.ResourceName, o.election.Name)
	override(o, "leader-elect-resource-namespace", &e.ResourceNamespace, o.election.Namespace)
	if *e.LeaderElect {
		return c, flags.CheckElection(e.LeaseDuration.Duration, e.RenewDeadline.Duration, e.RetryPeriod.Duration)
	}
	return c, nil
}

// override sets a field from its flag if the flag was given, or if the file
// left the field out.
func override[T comparable](o *options, flag string, field *T, value T) {
	var zero T
	if o.flags.Changed(flag) || *field == zero {
		*field = value
	}
}

func electionOf(c *configv1.KubeSchedulerConfiguration) client.ElectionConfig {
	e := &c.LeaderElection
	if e.LeaderElect == nil || !*e.LeaderElect {
		return client.ElectionConfig{}
	}
	host, _ := os.Hostname()
	return client.ElectionConfig{
		Namespace: e.ResourceNamespace, Name: e.ResourceName, Identity: host + "_" + string(uuid.NewUUID()),
		LeaseDuration: e.LeaseDuration.Duration, RenewDeadline: e.RenewDeadline.Duration, RetryPeriod: e.RetryPeriod.Duration,
	}
}

// connect finds the API server: a kubeconfig, --master, or the pod's own
// service account.
func (o *options) connect(c *configv1.KubeSchedulerConfiguration) (*client.Client, error) {
	cfg := &client.Config{}
	var err error
	switch {
	case c.ClientConnection.Kubeconfig != "":
		cfg, err = client.LoadKubeconfig(c.ClientConnection.Kubeconfig)
	case o.master == "":
		cfg, err = client.InCluster()
	}
	if err != nil {
		return nil, fmt.Errorf("no way to the API server (use --kubeconfig, or clientConnection.kubeconfig in --config): %w", err)
	}
	if o.master != "" {
		cfg.Host = o.master
	}
	cfg.UserAgent = "kube-scheduler/" + version.Git
	return client.New(cfg)
}

func writeConfig(path string, c *configv1.KubeSchedulerConfiguration) error {
	c.APIVersion, c.Kind = configv1.SchemeGroupVersion.String(), "KubeSchedulerConfiguration"
	raw, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(raw, '\n'), 0o600)
}

// configz shows the configuration in force.
func configz(c *configv1.KubeSchedulerConfiguration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"kubescheduler.config.k8s.io": c})
	})
}
