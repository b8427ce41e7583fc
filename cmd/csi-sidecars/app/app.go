// Package app is the command line of csi-sidecars, and of its parts alone:
// csi-provisioner, csi-attacher, csi-resizer and csi-snapshotter, with the flags of
// those.
package app

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"

	"tinykube/api/version"
	"tinykube/client"
	"tinykube/csi/sidecar"
	"tinykube/internal/flags"
)

// options are the values of the flags.
type options struct {
	sidecar.Config
	kubeconfig, master, httpEndpoint string
	election, capacity, perNode      bool
	ownerLevel                       int
	electionNamespace                string
	lease, renew, retry              time.Duration
}

// NewCommand runs all parts, or those that --parts names.
func NewCommand() *cobra.Command { return newCommand("csi-sidecars") }

// NewPart is the command of one part under upstream's name.
func NewPart(part string) func() *cobra.Command {
	return func() *cobra.Command { return newCommand("csi-"+part, part) }
}

func newCommand(name string, parts ...string) *cobra.Command {
	o := &options{}
	o.Parts = parts
	return flags.GoStyle(&cobra.Command{Use: name, Short: "Make, attach, enlarge and copy a CSI driver's volumes as the Kubernetes API asks for them"}, func(fs *pflag.FlagSet) {
		o.addFlags(fs)
		if len(parts) == 0 {
			fs.StringSliceVar(&o.Parts, "parts", nil, "which of provisioner, attacher, resizer and snapshotter run; all if empty")
		}
	}, func(ctx context.Context, logging *flags.Logging) error { return o.run(ctx, name, logging) })
}

// addFlags declares the flags of upstream's three programs.
//
// Upstream: external-provisioner, external-attacher, external-resizer: cmd/*/main.go
func (o *options) addFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.Address, "csi-address", "/run/csi/socket", "the driver's socket")
	fs.StringVar(&o.kubeconfig, "kubeconfig", "", "path of the kubeconfig; the pod's own service account if empty")
	fs.StringVar(&o.master, "master", "", "address of the API server, overriding the kubeconfig's")
	fs.DurationVar(&o.Timeout, "timeout", 15*time.Second, "how long a call may take before it is given up, and made again later")
	fs.BoolVar(&o.Metadata, "extra-create-metadata", false, "tell the driver the names of claim and volume")
	fs.StringVar(&o.DefaultFSType, "default-fstype", "", "file system of volumes whose class names none")
	fs.StringVar(&o.httpEndpoint, "http-endpoint", "", "address on which /healthz/leader-election is served; empty for not at all")
	fs.StringVar(&o.httpEndpoint, "metrics-address", "", "the same, as it was called before")
	fs.BoolVar(&o.election, "leader-election", false, "let only one of several work")
	fs.StringVar(&o.electionNamespace, "leader-election-namespace", "", "namespace of the lease; the pod's own, or default, if empty")
	fs.DurationVar(&o.lease, "leader-election-lease-duration", 15*time.Second, "how long a lease is respected that is not renewed")
	fs.DurationVar(&o.renew, "leader-election-renew-deadline", 10*time.Second, "how long a leader tries to renew before it gives up")
	fs.DurationVar(&o.retry, "leader-election-retry-period", 5*time.Second, "how often it tries")
	flags.AcceptIgnored(fs, "worker-threads", "workers", "retry-interval-start", "retry-interval-max", "kube-api-qps", "kube-api-burst", "feature-gates", "resync",
		"reconcile-sync", "max-entries", "max-grpc-log-length", "metrics-path", "volume-name-prefix", "volume-name-uuid-length", "kube-api-capacity-qps", "kube-api-capacity-burst",
		"cloning-protection-threads", "capacity-threads", "handle-volume-inuse-error", "timeout-controller", "node-deployment-base-delay", "node-deployment-max-delay")
	flags.AcceptIgnoredBool(fs, "strict-topology", "immediate-topology", "prevent-volume-mode-conversion", "controller-publish-readonly", "automaxprocs", "enable-pprof")
	fs.BoolVar(&o.capacity, "enable-capacity", false, "tell the scheduler how much room there is, in CSIStorageCapacity objects of the pod's namespace ($NAMESPACE)")
	fs.DurationVar(&o.Capacity.Period, "capacity-poll-interval", time.Minute, "how often the driver is asked for it")
	fs.BoolVar(&o.Capacity.Immediate, "capacity-for-immediate-binding", false, "also for classes whose volumes do not wait for a pod")
	fs.IntVar(&o.ownerLevel, "capacity-ownerref-level", 1, "whose the objects are, counted from the pod $POD_NAME: 0 the pod's, 1 its owner's, 2 that one's owner's; -1 nobody's")
	fs.BoolVar(&o.perNode, "node-deployment", false, "make the volumes of this node ($NODE_NAME) only: each has a driver and a provisioner of its own")
	fs.BoolVar(&o.NodeTakes, "node-deployment-immediate-binding", true, "with --node-deployment, also take claims that may be anywhere")
}

func (o *options) run(ctx context.Context, name string, logging *flags.Logging) error {
	cfg, err := o.connect(name)
	if err != nil {
		return err
	}
	api, err := client.New(cfg)
	if err != nil {
		return err
	}
	host, _ := os.Hostname()
	o.Election.Identity = host + "_" + string(uuid.NewUUID())
	if o.election {
		o.Election = client.ElectionConfig{Namespace: o.namespace(), Name: name, Identity: o.Election.Identity,
			LeaseDuration: o.lease, RenewDeadline: o.renew, RetryPeriod: o.retry}
	}
	if o.perNode {
		if o.Node = os.Getenv("NODE_NAME"); o.Node == "" {
			return errors.New("the NODE_NAME environment variable must be set when using --node-deployment")
		}
		if o.election || !slices.Equal(o.Parts, []string{sidecar.Provisioner}) {
			return errors.New("--node-deployment is for the provisioner alone, of which no leader is elected")
		}
	}
	if o.capacity {
		if err := o.publishCapacity(ctx, api); err != nil {
			return err
		}
	}
	s, err := sidecar.New(o.Config, api, logging.Logger(name))
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.Run(ctx) })
	if o.httpEndpoint != "" {
		// A leader that cannot renew its lease ends, and nobody else waits to be
		// asked: who lives is well.
		well := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
		g.Go(func() error { return serveHTTP(ctx, o.httpEndpoint, "/healthz/leader-election", well) })
	}
	return g.Wait()
}

// publishCapacity finds out where capacities are published, and whose they are.
func (o *options) publishCapacity(ctx context.Context, api *client.Client) error {
	o.Capacity.Namespace = os.Getenv("NAMESPACE")
	if o.Capacity.Namespace == "" {
		return errors.New("need NAMESPACE env variable for CSIStorageCapacity objects")
	}
	if o.Capacity.Period <= 0 {
		return errors.New("--capacity-poll-interval must be above zero")
	}
	name := os.Getenv("POD_NAME")
	if o.ownerLevel < 0 {
		return nil
	}
	if name == "" {
		return errors.New("need POD_NAME env variable to determine CSIStorageCapacity owner")
	}
	pod, err := client.For(api, client.Pods).Get(ctx, o.Capacity.Namespace, name)
	if err != nil {
		return fmt.Errorf("look up owner(s) of pod %s: %w", name, err)
	}
	o.Capacity.Owner = &metav1.OwnerReference{APIVersion: "v1", Kind: "Pod", Name: name, UID: pod.UID}
	var object client.Object = pod
	for level := o.ownerLevel; level > 0; level-- {
		owner := metav1.GetControllerOf(object)
		if owner == nil {
			return fmt.Errorf("%s %s has no owner, and --capacity-ownerref-level asks for %d more", o.Capacity.Owner.Kind, o.Capacity.Owner.Name, level)
		}
		o.Capacity.Owner = &metav1.OwnerReference{APIVersion: owner.APIVersion, Kind: owner.Kind, Name: owner.Name, UID: owner.UID}
		if level > 1 { // only a Deployment's pods have owners' owners
			if object, err = client.For(api, client.ReplicaSets).Get(ctx, o.Capacity.Namespace, owner.Name); err != nil {
				return fmt.Errorf("look up owner(s) of pod %s: %w", name, err)
			}
		}
	}
	return nil
}

func (o *options) connect(name string) (cfg *client.Config, err error) {
	switch {
	case o.kubeconfig != "":
		cfg, err = client.LoadKubeconfig(o.kubeconfig)
	case o.master != "":
		cfg = &client.Config{}
	default:
		cfg, err = client.InCluster()
	}
	if err != nil {
		return nil, fmt.Errorf("no way to the API server (use --kubeconfig): %w", err)
	}
	if o.master != "" {
		cfg.Host = o.master
	}
	cfg.UserAgent = name + "/" + version.Git
	return cfg, nil
}

// namespace is where the lease lies.
func (o *options) namespace() string {
	if o.electionNamespace != "" {
		return o.electionNamespace
	}
	if raw, err := os.ReadFile("/var/run/secrets/kubernetes.io/serviceaccount/namespace"); err == nil && len(raw) > 0 {
		return string(raw)
	}
	return "default"
}
