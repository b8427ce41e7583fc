// Package app is the kubelet's command line.
package app

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
	kubeletapis "k8s.io/kubelet/pkg/apis"

	"tinykube/api/version"
	"tinykube/internal/flags"
	"tinykube/internal/heapfloor"
	"tinykube/kubelet"
)

// maxMessageBytes is how long an answer of the runtime may be.
const maxMessageBytes = 16 << 20

// options are the flags that are not fields of KubeletConfiguration.
type options struct {
	config, configDir, kubeconfig, bootstrapKubeconfig string
	hostname, nodeIP, rootDir, certDir, providerID     string
	cloudProvider                                      string
	nodeLabels                                         map[string]string
	nodeCPU, nodeMemory                                string
	logging                                            *flags.Logging
}

// NewCommand makes the kubelet command. Without --kubeconfig it stands alone
// and runs the static pods of --pod-manifest-path.
func NewCommand() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:          "kubelet",
		Short:        "Run the pods of this node",
		Args:         cobra.NoArgs,
		Version:      version.Git,
		SilenceUsage: true,
	}
	fs := cmd.Flags()
	o.logging = flags.AddLogging(fs)
	fs.StringVar(&o.config, "config", "", "a KubeletConfiguration file")
	fs.StringVar(&o.kubeconfig, "kubeconfig", "", "how to reach the API server; without it only static pods run")
	fs.StringVar(&o.configDir, "config-dir", "", "a directory of *.conf files that are laid over --config, in the order of their names")
	fs.StringVar(&o.bootstrapKubeconfig, "bootstrap-kubeconfig", "", "how to ask for a first client certificate, if --kubeconfig has none that is good")
	fs.StringVar(&o.certDir, "cert-dir", "", "directory of certificates (default: pki in --root-dir)")
	fs.StringVar(&o.cloudProvider, "cloud-provider", "", "external: the node is tainted until a cloud controller knows it")
	fs.StringVar(&o.hostname, "hostname-override", "", "the node's name, instead of the host's")
	fs.StringVar(&o.nodeIP, "node-ip", "", "the node's address, or one of each family separated by a comma")
	fs.StringVar(&o.rootDir, "root-dir", "/var/lib/kubelet", "directory of pods, volumes and certificates")
	fs.StringVar(&o.providerID, "provider-id", "", "how a cloud calls this machine")
	fs.StringToStringVar(&o.nodeLabels, "node-labels", nil, "labels to register the node with")
	fs.StringVar(&o.nodeCPU, "node-cpu", "", "CPUs that this node has to give (default: all that the machine has)")
	fs.StringVar(&o.nodeMemory, "node-memory", "", "memory that this node has to give (default: all that the machine has)")
	addConfigFlags(fs)
	addOtherFlags(fs)
	cmd.AddCommand(newCgroups())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return o.run(flags.SignalContext(), cmd.Flags())
	}
	return cmd
}

func (o *options) run(ctx context.Context, fs *pflag.FlagSet) error {
	heapfloor.Tight(25) // most of it are the pods, which change seldom; a node is full of others who want memory
	if err := checkLabels(o.nodeLabels); err != nil {
		return fmt.Errorf("failed to validate kubelet flags: %w", err)
	}
	file, loose, err := kubelet.LoadConfiguration(o.config, o.configDir)
	if err != nil {
		return err
	}
	if err := applyConfigFlags(fs, file); err != nil {
		return err
	}
	cfg, err := o.kubeletConfig(file)
	if err != nil {
		return err
	}
	log := o.logger(fs, file)
	for _, text := range append(loose, cfg.Warnings...) {
		log.Warn(text)
	}
	prepareProcess(file, log)
	deps := kubelet.Deps{Logger: log, Shutdown: powerFailure(ctx)}
	if deps.Runtime, err = dial(cfg.RuntimeEndpoint); err != nil {
		return err
	}
	if cfg.ImageEndpoint != cfg.RuntimeEndpoint {
		if deps.Images, err = dial(cfg.ImageEndpoint); err != nil {
			return err
		}
	}
	if deps.Client, deps.Certificates, err = o.connect(cfg, file.RotateCertificates, log); err != nil {
		return err
	}
	k, err := kubelet.New(cfg, deps)
	if err != nil {
		return err
	}
	return k.Run(ctx)
}

// logger is as the flags say, or else as the file does.
func (o *options) logger(fs *pflag.FlagSet, file *kubeletv1beta1.KubeletConfiguration) *slog.Logger {
	if !fs.Changed("v") {
		o.logging.Verbosity = int(file.Logging.Verbosity)
	}
	if !fs.Changed("logging-format") {
		o.logging.Format = file.Logging.Format
	}
	return o.logging.Logger("kubelet")
}

// prepareProcess asks the kernel for what a node's agent needs: many open files,
// and to be the last one ended for want of memory. Without the rights to ask
// that is as it was.
func prepareProcess(file *kubeletv1beta1.KubeletConfiguration, log *slog.Logger) {
	most := uint64(file.MaxOpenFiles)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: most, Max: most}); err != nil {
		log.Warn("maxOpenFiles", "err", err)
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(int(*file.OOMScoreAdj))), 0o644); err != nil {
		log.Warn("oomScoreAdj", "err", err)
	}
}

// checkLabels refuses labels in upstream's own name that a node may not give
// itself, before the API server does.
//
// Upstream: kubernetes@v1.36 cmd/kubelet/app/options ValidateKubeletFlags.
func checkLabels(labels map[string]string) error {
	var unknown, invalid []string
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		prefix, _, found := strings.Cut(name, "/")
		own := strings.HasSuffix("."+prefix, ".kubernetes.io") || strings.HasSuffix("."+prefix, ".k8s.io")
		if found && own && !kubeletapis.IsKubeletLabel(name) {
			unknown = append(unknown, name)
		}
		if errs := append(validation.IsQualifiedName(name), validation.IsValidLabelValue(labels[name])...); len(errs) > 0 {
			invalid = append(invalid, fmt.Sprintf("'%s' - %s", name, strings.Join(errs, ", ")))
		}
	}
	switch {
	case len(unknown) > 0:
		return fmt.Errorf("unknown 'kubernetes.io' or 'k8s.io' labels specified with --node-labels: %v\n--node-labels in the 'kubernetes.io' namespace must begin with an allowed prefix (%s) or be in the specifically allowed set (%s)",
			unknown, strings.Join(kubeletapis.KubeletLabelNamespaces(), ", "), strings.Join(kubeletapis.KubeletLabels(), ", "))
	case len(invalid) > 0:
		return fmt.Errorf("invalid node labels: %s", strings.Join(invalid, "; "))
	}
	return nil
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
	if o.certDir != "" {
		cfg.CertDir = o.certDir
	}
	switch o.cloudProvider {
	case "":
	case "external":
		cfg.RegisterWithTaints = append(cfg.RegisterWithTaints, corev1.Taint{
			Key: "node.cloudprovider.kubernetes.io/uninitialized", Value: "true", Effect: corev1.TaintEffectNoSchedule})
	default:
		return cfg, fmt.Errorf("unsupported value %q for flag `cloud-provider`: only external is left", o.cloudProvider)
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

func or(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}
