package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"tinykube/client"
	"tinykube/internal/fakecri"
	"tinykube/internal/flags"
	"tinykube/kubelet"
)

// A hollow node is a whole kubelet over a container runtime that only
// remembers: to the API it is a node like any other. A thousand of them fit into
// one process, which is how schedulers and controllers are tried on more
// machines than one has. They share one watch of all pods, of which each sees
// its own, one of Services, and the sending of events.
//
// A kubelet mounts memory for secrets, which takes root. So the process makes
// itself a user and a mount namespace and is root there, as in rootless labs;
// what was mounted ends with it.

// hollow is what `tinykube hollow` was told.
type hollow struct {
	nodes       int
	prefix      string
	kubeconfig  string
	cpu, memory string
	lease       int32
	logging     *flags.Logging
	shared      *kubelet.Shared
}

// inNamespaces tells the process that is in its namespaces already where its
// folder is.
const inNamespaces = "TINYKUBE_HOLLOW"

func newHollow() *cobra.Command {
	h := &hollow{}
	command := &cobra.Command{
		Use: "hollow --nodes N --kubeconfig FILE", Short: "N kubelets with an in-memory container runtime, in one process, without root", Args: cobra.NoArgs,
		Long: `Registers N nodes and runs their kubelets, each over a container runtime that
keeps containers in memory and starts nothing. Pods get addresses and become
Ready; there is nobody to answer there, so every probe passes, and no logs. Init
containers, and those of Jobs, succeed after a moment.`,
		RunE: func(*cobra.Command, []string) error {
			if dir := os.Getenv(inNamespaces); dir != "" {
				return h.run(flags.SignalContext(), dir)
			}
			return h.enter()
		},
	}
	fs := command.Flags()
	fs.IntVar(&h.nodes, "nodes", 1, "how many nodes")
	fs.StringVar(&h.prefix, "name-prefix", "hollow-", "what their names begin with, before a number")
	fs.StringVar(&h.kubeconfig, "kubeconfig", "", "how to reach the API server")
	fs.StringVar(&h.cpu, "node-cpu", "4", "CPUs that each has to give")
	fs.StringVar(&h.memory, "node-memory", "8Gi", "memory that each has to give")
	fs.Int32Var(&h.lease, "node-lease-duration-seconds", 40, "how long a node's Lease is good for; it is renewed after a quarter of that")
	h.logging = flags.AddLogging(fs)
	return command
}

// enter runs this program again, in namespaces of its own, and waits for it.
func (h *hollow) enter() error {
	dir, err := os.MkdirTemp("", "hollow-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	again := exec.Command("/proc/self/exe", os.Args[1:]...)
	again.Args[0] = os.Args[0]
	again.Env = append(os.Environ(), inNamespaces+"="+dir)
	again.Stdin, again.Stdout, again.Stderr = os.Stdin, os.Stdout, os.Stderr
	again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if uid, gid := os.Geteuid(), os.Getegid(); uid != 0 {
		again.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		again.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: uid, Size: 1}}
		again.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: gid, Size: 1}}
	}
	ctx := flags.SignalContext()
	if err := again.Start(); err != nil {
		return fmt.Errorf("no namespaces of our own: %w (sysctl user.max_user_namespaces)", err)
	}
	stop := context.AfterFunc(ctx, func() { again.Process.Signal(syscall.SIGTERM) })
	defer stop()
	err = again.Wait()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		os.RemoveAll(dir)
		os.Exit(exit.ExitCode()) // it has said why
	}
	return err
}

// run is all kubelets, in a memory of their own.
func (h *hollow) run(ctx context.Context, dir string) error {
	config, err := client.LoadKubeconfig(h.kubeconfig)
	if err != nil {
		return err
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount a tmpfs: %w", err)
	}
	config.UserAgent = "kubelet"
	var api *client.Client
	var nodes []*kubelet.Kubelet
	for i := range h.nodes {
		if i%nodesPerConnection == 0 {
			if api, err = client.New(config); err != nil {
				return err
			}
		}
		if h.shared == nil {
			h.shared = kubelet.NewShared(api, h.logging.Logger("hollow"))
		}
		node, err := h.node(api, dir, i)
		if err != nil {
			return err
		}
		nodes = append(nodes, node)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return h.shared.Run(ctx) })
	for _, node := range nodes {
		group.Go(func() error { return node.Run(ctx) })
	}
	return group.Wait()
}

// nodesPerConnection keeps one connection from being the bottleneck.
const nodesPerConnection = 100

// node makes one kubelet.
func (h *hollow) node(api *client.Client, dir string, i int) (*kubelet.Kubelet, error) {
	name := fmt.Sprintf("%s%d", h.prefix, i)
	file, off := kubelet.DefaultConfiguration(), false
	file.EnableServer, file.CgroupsPerQOS, file.EnforceNodeAllocatable, file.NodeLeaseDurationSeconds = &off, &off, nil, h.lease
	file.PodLogsDir = filepath.Join(dir, name, "log", "pods")
	cfg, err := kubelet.NewConfig(file, name, filepath.Join(dir, name, "kubelet"))
	if err != nil {
		return nil, err
	}
	cfg.WatchFiles, cfg.Server.HealthzPort, cfg.Hollow = false, 0, true
	// An address where nobody listens, and from which nothing leaves the machine.
	cfg.NodeIPs = []string{netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)}).String()}
	if cfg.NodeCPU, err = resource.ParseQuantity(h.cpu); err != nil {
		return nil, fmt.Errorf("--node-cpu=%s: %w", h.cpu, err)
	}
	if cfg.NodeMemory, err = resource.ParseQuantity(h.memory); err != nil {
		return nil, fmt.Errorf("--node-memory=%s: %w", h.memory, err)
	}
	runtime := fakecri.New()
	runtime.ProgramOf = programOf(h.shared.Pods.Part(name))
	runtime.PodCIDR = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244 + byte(i>>8), byte(i), 0}), 24)
	return kubelet.New(cfg, kubelet.Deps{Runtime: runtime.Conn(), Client: api, Shared: h.shared, Logger: h.logging.Logger("hollow").With("node", name)})
}

// moment is how long containers run that are there to end.
const moment = 100 * time.Millisecond

// programOf decides what a container does by what its pod is for: init
// containers and those of Jobs succeed after a moment, all others run.
func programOf(pods *client.Informer[*corev1.Pod]) func(*runtimeapi.ContainerConfig) fakecri.Program {
	return func(config *runtimeapi.ContainerConfig) fakecri.Program {
		pod, ok := pods.Get(config.Labels["io.kubernetes.pod.namespace"] + "/" + config.Labels["io.kubernetes.pod.name"])
		if !ok {
			return fakecri.Program{}
		}
		init := slices.ContainsFunc(pod.Spec.InitContainers, func(c corev1.Container) bool {
			return c.Name == config.Metadata.Name && (c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways)
		})
		owner := metav1.GetControllerOfNoCopy(pod)
		if init || owner != nil && owner.Kind == "Job" {
			return fakecri.Program{Runs: moment}
		}
		return fakecri.Program{}
	}
}
