// Package app is the command line of cri.
package app

import (
	"cmp"
	"os"

	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"tinykube/cri"
	"tinykube/internal/flags"
	"tinykube/internal/grpccall"
)

const defaultListen = "unix:///run/tinykube/cri.sock"

// NewCommand makes the cri command.
func NewCommand() *cobra.Command {
	var cfg cri.Config
	cmd := &cobra.Command{
		Use:   "cri",
		Short: "Serve the Container Runtime Interface on top of containerd",
		Args:  cobra.NoArgs,

		SilenceUsage: true,
	}
	fs := cmd.Flags()
	logging := flags.AddLogging(fs)
	fs.StringVar(&cfg.Listen, "listen", defaultListen, "the address to serve on")
	fs.StringVar(&cfg.Containerd, "containerd", "/run/containerd/containerd.sock", "containerd's socket")
	fs.StringVar(&cfg.Root, "root", "/var/lib/tinykube/cri", "directory for what survives a reboot")
	fs.StringVar(&cfg.State, "state", "/run/tinykube/cri", "directory for what does not")
	fs.StringVar(&cfg.NetNSDir, "netns-dir", "/run/netns", "where the pods' network namespaces are pinned")
	fs.StringVar(&cfg.CNIConfDir, "cni-conf-dir", "/etc/cni/net.d", "directory of CNI configuration; the first file by name wins")
	fs.StringSliceVar(&cfg.CNIBinDirs, "cni-bin-dir", []string{"/opt/cni/bin"}, "directories of CNI plugins")
	fs.StringVar(&cfg.PauseImage, "pause-image", "tinykube.local/pause:3.10", "the image of the process that holds a pod's namespaces")
	fs.StringSliceVar(&cfg.RegistryConfigDirs, "registry-config-path", []string{"/etc/containerd/certs.d", "/etc/docker/certs.d"}, "directories with HOST/hosts.toml, which says where a registry's mirrors are")
	fs.StringVar(&cfg.CgroupDriver, "cgroup-driver", "cgroupfs", "who manages cgroups: cgroupfs or systemd")
	fs.StringVar(&cfg.Snapshotter, "snapshotter", "overlayfs", "containerd's snapshotter")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		server, err := cri.New(cfg, logging.Logger("cri"))
		if err != nil {
			return err
		}
		return server.Run(flags.SignalContext())
	}
	cmd.AddCommand(newCall())
	return cmd
}

// newCall makes the kubelet's side of the socket.
func newCall() *cobra.Command {
	const variable = "CONTAINER_RUNTIME_ENDPOINT" // crictl's
	return grpccall.New(grpccall.Protocol{Name: "CRI", Server: "runtime", Example: "RunPodSandbox", Variable: variable, Endpoint: cmp.Or(os.Getenv(variable), defaultListen),
		Services: []string{runtimeapi.RuntimeService_ServiceDesc.ServiceName, runtimeapi.ImageService_ServiceDesc.ServiceName}})
}
