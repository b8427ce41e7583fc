// Package app is the command line of csi-hostpath.
package app

import (
	"cmp"
	"context"
	"errors"
	"os"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/resource"

	"tinykube/api/version"
	"tinykube/csi/hostpath"
	"tinykube/internal/flags"
	"tinykube/internal/grpccall"
)

const (
	defaultEndpoint = "unix:///tmp/csi.sock"
	tebibyte        = 1 << 40
)

// NewCommand makes the command.
//
// Upstream: csi-driver-host-path cmd/hostpathplugin/main.go: the same flags, with one dash or two.
func NewCommand() *cobra.Command {
	cfg := hostpath.Config{Version: version.Git}
	var noController, noNode bool
	cmd := flags.GoStyle(&cobra.Command{
		Use:   "csi-hostpath",
		Short: "A CSI driver whose volumes are directories and files of this node",
		Example: `  csi-hostpath --endpoint unix:///tmp/csi.sock --nodeid $(hostname) --statedir /tmp/csi-data-dir --enable-attach
  csi-hostpath call NodeGetInfo                                # the kubelet's and the controllers' side of it
  csi-sanity --csi.endpoint /tmp/csi.sock`,
	}, func(fs *pflag.FlagSet) {
		add(fs, &cfg)
		fs.BoolVar(&noController, "disable-controller-expansion", false, "do not expand volumes by ControllerExpandVolume")
		fs.BoolVar(&noNode, "disable-node-expansion", false, "do not expand volumes by NodeExpandVolume")
	}, func(ctx context.Context, logging *flags.Logging) error {
		if cfg.AttachLimit < 0 || cfg.MaxVolumesPerNode < 0 || cfg.MaxVolumeSize < 0 {
			return errors.New("a limit is negative")
		}
		cfg.ControllerExpansion, cfg.NodeExpansion = !noController, !noNode
		driver, err := hostpath.New(cfg, logging.Logger("csi-hostpath"))
		if err != nil {
			return err
		}
		return driver.Run(ctx)
	})
	const variable = "CSI_ENDPOINT" // as in upstream's manifests
	cmd.AddCommand(grpccall.New(grpccall.Protocol{Name: "CSI", Server: "driver", Example: "CreateVolume", Variable: variable, Endpoint: cmp.Or(os.Getenv(variable), defaultEndpoint),
		Services: []string{csi.Identity_ServiceDesc.ServiceName, csi.Controller_ServiceDesc.ServiceName, csi.GroupController_ServiceDesc.ServiceName, csi.Node_ServiceDesc.ServiceName}}))
	return cmd
}

func add(fs *pflag.FlagSet, cfg *hostpath.Config) {
	fs.StringVar(&cfg.Endpoint, "endpoint", defaultEndpoint, "where to serve CSI: unix:///path or tcp://host:port")
	fs.StringVar(&cfg.Name, "drivername", hostpath.DefaultName, "name of the driver")
	fs.StringVar(&cfg.NodeID, "nodeid", "", "this node's name")
	fs.StringVar(&cfg.StateDir, "statedir", "/csi-data-dir", "directory for volumes, snapshots, and what is known of them")
	fs.Int64Var(&cfg.MaxVolumeSize, "max-volume-size", tebibyte, "maximum size of volumes in bytes (inclusive)")
	fs.Int64Var(&cfg.MaxVolumeSizeNode, "max-volume-size-node", 0, "the same for expansion on the node; 0: as --max-volume-size")
	fs.Int64Var(&cfg.MaxVolumesPerNode, "maxvolumespernode", 0, "limit of volumes per node, told to the scheduler; 0: none")
	fs.Int64Var(&cfg.AttachLimit, "attach-limit", 0, "the same, and enforced by ControllerPublishVolume; 0: none")
	fs.Var((*capacity)(&cfg.Capacity), "capacity", "<kind>=<quantity>: how much there is for volumes whose parameter \"kind\" is <kind>; may be used several times")
	fs.BoolVar(&cfg.Attach, "enable-attach", false, "serve ControllerPublishVolume and ControllerUnpublishVolume")
	fs.BoolVar(&cfg.Topology, "enable-topology", true, "say on which node volumes are")
	fs.BoolVar(&cfg.Expansion, "enable-volume-expansion", true, "let volumes be expanded")
	fs.BoolVar(&cfg.Expansion, "node-expand-required", true, "deprecated: the same as --enable-volume-expansion")
	fs.BoolVar(&cfg.ListSnapshots, "enable-list-snapshots", true, "serve ListSnapshots")
	fs.BoolVar(&cfg.Modify, "enable-controller-modify-volume", false, "serve ControllerModifyVolume")
	fs.StringSliceVar(&cfg.MutableParameters, "accepted-mutable-parameter-names", nil, "parameters that can be modified; none: all")
	fs.BoolVar(&cfg.CheckLifecycle, "check-volume-lifecycle", false, "refuse to detach a volume that is staged, instead of warning")
	flags.AcceptIgnored(fs, "snapshot-metadata-block-type")
	flags.AcceptIgnoredBool(fs, "automaxprocs")
	flags.Refuse(fs, "enable-snapshot-metadata", "changed blocks are not tracked")
	flags.Refuse(fs, "ephemeral", "it was for Kubernetes 1.15: a volume is ephemeral when the kubelet says so")
	flags.Refuse(fs, "proxy-endpoint", "only upstream's own test suite proxies through its driver")
}

// capacity is --capacity.
type capacity map[string]resource.Quantity

func (c *capacity) Type() string   { return "kind=quantity" }
func (c *capacity) String() string { return "" }

func (c *capacity) Set(text string) error {
	kind, size, ok := strings.Cut(text, "=")
	if !ok {
		return errors.New("must be of format <type>=<size>")
	}
	quantity, err := resource.ParseQuantity(size)
	if err != nil {
		return err
	}
	if *c == nil {
		*c = capacity{}
	}
	(*c)[kind] = quantity
	return nil
}
