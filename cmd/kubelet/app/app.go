// Package app is the kubelet's command line.
package app

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"

	"tinykube/client"
	"tinykube/internal/flags"
	"tinykube/kubelet"
)

// maxMessageBytes is how long an answer of the runtime may be.
const maxMessageBytes = 16 << 20

// options are the flags that are not fields of KubeletConfiguration.
type options struct {
	config, kubeconfig, bootstrapKubeconfig string
	hostname, nodeIP, rootDir, providerID   string
	nodeLabels                              map[string]string
	nodeCPU, nodeMemory                     string
	logging                                 *flags.Logging
}

// NewCommand makes the kubelet command. Without --kubeconfig it stands alone
// and runs the static pods of --pod-manifest-path.
func NewCommand() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:          "kubelet",
		Short:        "Run the pods of this node",
		Args:         cobra.NoArgs,
		SilenceUsage: true,
	}
	fs := cmd.Flags()
	o.logging = flags.AddLogging(fs)
	fs.StringVar(&o.config, "config", "", "a KubeletConfiguration file")
	fs.StringVar(&o.kubeconfig, "kubeconfig", "", "how to reach the API server; without it only static pods run")
	fs.StringVar(&o.bootstrapKubeconfig, "bootstrap-kubeconfig", "", "used by upstream to ask for a first certificate")
	fs.StringVar(&o.hostname, "hostname-override", "", "the node's name, instead of the host's")
	fs.StringVar(&o.nodeIP, "node-ip", "", "the node's address, or one of each family separated by a comma")
	fs.StringVar(&o.rootDir, "root-dir", "/var/lib/kubelet", "directory of pods, volumes and certificates")
	fs.StringVar(&o.providerID, "provider-id", "", "how a cloud calls this machine")
	fs.StringToStringVar(&o.nodeLabels, "node-labels", nil, "labels to register the node with")
	fs.StringVar(&o.nodeCPU, "node-cpu", "", "CPUs that this node has to give (default: all that the machine has)")
	fs.StringVar(&o.nodeMemory, "node-memory", "", "memory that this node has to give (default: all that the machine has)")
	addConfigFlags(fs)
	flags.AcceptIgnored(fs, "cert-dir", "runtime-request-timeout", "event-qps", "event-burst", "kube-api-qps", "kube-api-burst",
		"eviction-hard", "eviction-soft", "image-gc-high-threshold", "image-gc-low-threshold", "minimum-image-ttl-duration", "feature-gates",
		"volume-plugin-dir", "pod-infra-container-image", "container-runtime", "cloud-provider", "runtime-cgroups", "kubelet-cgroups", "oom-score-adj",
		"streaming-connection-idle-timeout", "sync-frequency", "node-status-update-frequency", "tls-cipher-suites", "tls-min-version", "hairpin-mode")
	flags.AcceptIgnoredBool(fs, "rotate-certificates", "rotate-server-certificates", "authentication-token-webhook", "enable-controller-attach-detach",
		"make-iptables-util-chains", "enable-debugging-handlers")
	flags.Refuse(fs, "config-dir", "drop-in configuration files are not merged")
	flags.Refuse(fs, "protect-kernel-defaults", "kernel settings are not checked")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return o.run(flags.SignalContext(), cmd.Flags())
	}
	return cmd
}

func (o *options) run(ctx context.Context, fs *pflag.FlagSet) error {
	log := o.logging.Logger("kubelet")
	file := kubelet.DefaultConfiguration()
	if o.config != "" {
		var err error
		if file, err = kubelet.LoadConfiguration(o.config); err != nil {
			return fmt.Errorf("configuration: %w", err)
		}
	}
	if err := applyConfigFlags(fs, file); err != nil {
		return err
	}
	cfg, err := o.kubeletConfig(file)
	if err != nil {
		return err
	}
	deps := kubelet.Deps{Logger: log}
	if deps.Runtime, err = dial(cfg.RuntimeEndpoint); err != nil {
		return err
	}
	if cfg.ImageEndpoint != cfg.RuntimeEndpoint {
		if deps.Images, err = dial(cfg.ImageEndpoint); err != nil {
			return err
		}
	}
	if deps.Client, err = o.connect(log); err != nil {
		return err
	}
	k, err := kubelet.New(cfg, deps)
	if err != nil {
		return err
	}
	return k.Run(ctx)
}

// kubeletConfig joins the configuration file with the flags that it has no
// fields for.
func (o *options) kubeletConfig(file *kubeletv1beta1.KubeletConfiguration) (kubelet.Config, error) {
	name := o.hostname
	if name == "" {
		var err error
		if name, err = os.Hostname(); err != nil {
			return kubelet.Config{}, err
		}
	}
	cfg, err := kubelet.NewConfig(file, strings.ToLower(strings.TrimSpace(name)), o.rootDir)
	if err != nil {
		return cfg, err
	}
	cfg.NodeLabels, cfg.ProviderID = o.nodeLabels, or(o.providerID, cfg.ProviderID)
	if o.nodeIP != "" {
		cfg.NodeIPs = strings.Split(o.nodeIP, ",")
	}
	for flag, set := range map[string]struct {
		text string
		into *resource.Quantity
	}{"node-cpu": {o.nodeCPU, &cfg.NodeCPU}, "node-memory": {o.nodeMemory, &cfg.NodeMemory}} {
		if set.text == "" {
			continue
		}
		if *set.into, err = resource.ParseQuantity(set.text); err != nil {
			return cfg, fmt.Errorf("--%s=%s: %w", flag, set.text, err)
		}
	}
	return cfg, nil
}

// connect makes the client of the API server, or none.
//
// Simplified: no certificate bootstrap; the kubeconfig must exist.
func (o *options) connect(log *slog.Logger) (*client.Client, error) {
	if o.kubeconfig == "" {
		log.Info("no --kubeconfig: running static pods only")
		return nil, nil
	}
	if o.bootstrapKubeconfig != "" {
		if _, err := os.Stat(o.kubeconfig); err != nil {
			return nil, fmt.Errorf("%s does not exist, and asking for a first certificate with --bootstrap-kubeconfig is not supported yet", o.kubeconfig)
		}
		log.Warn("--bootstrap-kubeconfig is not needed, the kubeconfig exists")
	}
	cfg, err := client.LoadKubeconfig(o.kubeconfig)
	if err != nil {
		return nil, err
	}
	cfg.UserAgent = "kubelet"
	return client.New(cfg)
}

// dial makes a connection to a CRI socket. It does not connect yet.
func dial(endpoint string) (*grpc.ClientConn, error) {
	if strings.HasPrefix(endpoint, "/") {
		endpoint = "unix://" + endpoint
	}
	if !strings.HasPrefix(endpoint, "unix://") {
		return nil, fmt.Errorf("container runtime endpoint %q is not a unix:// socket", endpoint)
	}
	return grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes)))
}

// configFlag is a flag that overrides a field of KubeletConfiguration.
type configFlag struct {
	name, usage string
	boolean     bool
	apply       func(c *kubeletv1beta1.KubeletConfiguration, value string) error
}

// configFlags are upstream's flags which the file has fields for. The flag
// wins over the file.
var configFlags = []configFlag{
	text("pod-manifest-path", "directory of static pods", func(c *kubeletv1beta1.KubeletConfiguration) *string { return &c.StaticPodPath }),
	text("container-runtime-endpoint", "the CRI socket", func(c *kubeletv1beta1.KubeletConfiguration) *string { return &c.ContainerRuntimeEndpoint }),
	text("image-service-endpoint", "the CRI socket for images, if another", func(c *kubeletv1beta1.KubeletConfiguration) *string { return &c.ImageServiceEndpoint }),
	text("cgroup-root", "the cgroup below which pods are grouped", func(c *kubeletv1beta1.KubeletConfiguration) *string { return &c.CgroupRoot }),
	text("cgroup-driver", "who manages cgroups: cgroupfs or systemd", func(c *kubeletv1beta1.KubeletConfiguration) *string { return &c.CgroupDriver }),
	text("cluster-domain", "the cluster's DNS domain", func(c *kubeletv1beta1.KubeletConfiguration) *string { return &c.ClusterDomain }),
	text("address", "where the node API listens", func(c *kubeletv1beta1.KubeletConfiguration) *string { return &c.Address }),
	text("healthz-bind-address", "where the health check listens", func(c *kubeletv1beta1.KubeletConfiguration) *string { return &c.HealthzBindAddress }),
	text("tls-cert-file", "the node API's certificate", func(c *kubeletv1beta1.KubeletConfiguration) *string { return &c.TLSCertFile }),
	text("tls-private-key-file", "the key of --tls-cert-file", func(c *kubeletv1beta1.KubeletConfiguration) *string { return &c.TLSPrivateKeyFile }),
	text("client-ca-file", "the CA of those who may call the node API", func(c *kubeletv1beta1.KubeletConfiguration) *string { return &c.Authentication.X509.ClientCAFile }),
	text("pod-cidr", "ignored where flannel assigns addresses", func(c *kubeletv1beta1.KubeletConfiguration) *string { return &c.PodCIDR }),
	{name: "resolv-conf", usage: "the node's resolver configuration; empty for none", apply: func(c *kubeletv1beta1.KubeletConfiguration, v string) error {
		c.ResolverConfig = &v
		return nil
	}},
	{name: "cluster-dns", usage: "addresses of the cluster's DNS", apply: func(c *kubeletv1beta1.KubeletConfiguration, v string) error {
		c.ClusterDNS = strings.Split(v, ",")
		return nil
	}},
	{name: "authorization-mode", usage: "how calls of the node API are authorized: Webhook", apply: func(c *kubeletv1beta1.KubeletConfiguration, v string) error {
		c.Authorization.Mode = kubeletv1beta1.KubeletAuthorizationMode(v)
		return nil
	}},
	number("max-pods", "how many pods fit on this node", func(c *kubeletv1beta1.KubeletConfiguration, n int32) { c.MaxPods = n }),
	number("port", "port of the node API", func(c *kubeletv1beta1.KubeletConfiguration, n int32) { c.Port = n }),
	number("healthz-port", "port of the health check; 0: none", func(c *kubeletv1beta1.KubeletConfiguration, n int32) { c.HealthzPort = &n }),
	number("read-only-port", "refused unless 0", func(c *kubeletv1beta1.KubeletConfiguration, n int32) { c.ReadOnlyPort = n }),
	boolean("register-node", "create the Node object", func(c *kubeletv1beta1.KubeletConfiguration, b bool) { c.RegisterNode = &b }),
	boolean("anonymous-auth", "refused if true", func(c *kubeletv1beta1.KubeletConfiguration, b bool) { c.Authentication.Anonymous.Enabled = &b }),
	boolean("fail-swap-on", "do not start on a machine that swaps", func(c *kubeletv1beta1.KubeletConfiguration, b bool) { c.FailSwapOn = &b }),
	boolean("fail-cgroupv1", "do not start on a machine with cgroup v1", func(c *kubeletv1beta1.KubeletConfiguration, b bool) { c.FailCgroupV1 = &b }),
	boolean("serialize-image-pulls", "pull one image at a time", func(c *kubeletv1beta1.KubeletConfiguration, b bool) { c.SerializeImagePulls = &b }),
	boolean("seccomp-default", "RuntimeDefault for containers that name no seccomp profile", func(c *kubeletv1beta1.KubeletConfiguration, b bool) { c.SeccompDefault = &b }),
	boolean("cgroups-per-qos", "group pods by quality of service", func(c *kubeletv1beta1.KubeletConfiguration, b bool) { c.CgroupsPerQOS = &b }),
	{name: "register-with-taints", usage: "taints of a new Node: key=value:effect,…", apply: func(c *kubeletv1beta1.KubeletConfiguration, v string) (err error) {
		c.RegisterWithTaints, err = parseTaints(v)
		return err
	}},
	{name: "system-reserved", usage: "cpu=…,memory=… kept for the system", apply: func(c *kubeletv1beta1.KubeletConfiguration, v string) (err error) {
		c.SystemReserved, err = parseMap(v)
		return err
	}},
	{name: "kube-reserved", usage: "cpu=…,memory=… kept for Kubernetes itself", apply: func(c *kubeletv1beta1.KubeletConfiguration, v string) (err error) {
		c.KubeReserved, err = parseMap(v)
		return err
	}},
}

func text(name, usage string, field func(*kubeletv1beta1.KubeletConfiguration) *string) configFlag {
	return configFlag{name: name, usage: usage, apply: func(c *kubeletv1beta1.KubeletConfiguration, v string) error {
		*field(c) = v
		return nil
	}}
}

func number(name, usage string, set func(*kubeletv1beta1.KubeletConfiguration, int32)) configFlag {
	return configFlag{name: name, usage: usage, apply: func(c *kubeletv1beta1.KubeletConfiguration, v string) error {
		n, err := strconv.ParseInt(v, 10, 32)
		set(c, int32(n))
		return err
	}}
}

func boolean(name, usage string, set func(*kubeletv1beta1.KubeletConfiguration, bool)) configFlag {
	return configFlag{name: name, usage: usage, boolean: true, apply: func(c *kubeletv1beta1.KubeletConfiguration, v string) error {
		b, err := strconv.ParseBool(v)
		set(c, b)
		return err
	}}
}

func addConfigFlags(fs *pflag.FlagSet) {
	for _, f := range configFlags {
		fs.String(f.name, "", f.usage)
		if f.boolean {
			fs.Lookup(f.name).NoOptDefVal = "true"
		}
	}
}

func applyConfigFlags(fs *pflag.FlagSet, c *kubeletv1beta1.KubeletConfiguration) error {
	for _, f := range configFlags {
		set := fs.Lookup(f.name)
		if !set.Changed {
			continue
		}
		if err := f.apply(c, set.Value.String()); err != nil {
			return fmt.Errorf("--%s=%s: %w", f.name, set.Value, err)
		}
	}
	return nil
}

func parseMap(text string) (map[string]string, error) {
	out := map[string]string{}
	for _, pair := range strings.Split(text, ",") {
		name, value, found := strings.Cut(pair, "=")
		if !found {
			return nil, fmt.Errorf("%q is not name=value", pair)
		}
		out[name] = value
	}
	return out, nil
}

func parseTaints(text string) ([]corev1.Taint, error) {
	var out []corev1.Taint
	for _, one := range strings.Split(text, ",") {
		if one == "" {
			continue
		}
		left, effect, found := strings.Cut(one, ":")
		key, value, _ := strings.Cut(left, "=")
		if !found || key == "" {
			return nil, fmt.Errorf("%q is not key=value:effect", one)
		}
		out = append(out, corev1.Taint{Key: key, Value: value, Effect: corev1.TaintEffect(effect)})
	}
	return out, nil
}

func or(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}
