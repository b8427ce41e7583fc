package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"

	"tinykube/bootstrap"
	"tinykube/client"
	"tinykube/internal/flags"
	"tinykube/internal/image"
	"tinykube/internal/node"
	"tinykube/internal/payload"
	"tinykube/proxy"
)

// up brings a cluster to life in the order in which one comes to life
// anywhere: machines, certificates, a kubelet on each; etcd and the control
// plane as static pods of the first; then, through the API, what every node
// needs; then nodes become Ready and names resolve. Each step can be repeated,
// so `up` over half a cluster, or over a dead one, completes it.

const (
	upTimeout = 5 * time.Minute
	poll      = 100 * time.Millisecond
)

func newUp() *cobra.Command {
	var dir, memory, config string
	var publish []string
	wanted := cluster{}
	command := &cobra.Command{
		Use: "up", Short: "Bring up a cluster on this machine", Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if err := setFromFile(command.Flags(), config); err != nil {
				return err
			}
			if err := wanted.parse(memory, publish); err != nil {
				return err
			}
			c, err := wanted.resolve(dir, command.Flags().Changed)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(flags.SignalContext(), upTimeout)
			defer cancel()
			return c.up(ctx)
		},
	}
	fs := command.Flags()
	addDirFlag(fs, &dir)
	fs.StringVar(&config, "config", "", "YAML file that holds any of these flags by name; what is given here wins")
	fs.IntVar(&wanted.Nodes, "nodes", 3, "number of nodes; the first is the control plane")
	fs.StringVar(&wanted.ProxyMode, "proxy-mode", "iptables", "how kube-proxy makes Services work: iptables, nftables or ipvs")
	fs.StringVar(&wanted.RuntimeEndpoint, "container-runtime-endpoint", node.OurCRI, "CRI socket of the kubelets: ours, or unix://"+node.ContainerdSocket+" for containerd's own")
	fs.IntVar(&wanted.APIPort, "api-port", bootstrap.SecurePort, "port of 127.0.0.1 that leads to the API server")
	fs.StringArrayVar(&publish, "publish", nil, "PORT:NODEPORT, make a NodePort reachable on 127.0.0.1:PORT (repeatable)")
	fs.StringVar(&wanted.NodeCPU, "node-cpu", "", "CPUs that each node has, e.g. 2 or 500m (default: all of the machine's, shared)")
	fs.BoolVar(&wanted.Bare, "bare", false, "machines on which only containerd runs: no kubelet, no certificates, no cluster. The rest is up to you")
	fs.StringVar(&memory, "node-memory", "", "memory that each node has, e.g. 4Gi (default: the machine's, divided by the nodes)")
	return command
}

// kernelHas says whether one of the paths is there.
func kernelHas(paths ...string) bool {
	return slices.ContainsFunc(paths, func(path string) bool {
		_, err := os.Stat(path)
		return err == nil
	})
}

// setFromFile sets the flags that the command line did not from a file like
//
//	nodes: 3
//	publish: ["8080:30080"]
func setFromFile(fs *pflag.FlagSet, file string) error {
	if file == "" {
		return nil
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	var values map[string]any
	if err := yaml.UnmarshalStrict(raw, &values); err != nil {
		return fmt.Errorf("--config=%s: %w", file, err)
	}
	given := map[string]bool{}
	fs.Visit(func(f *pflag.Flag) { given[f.Name] = true })
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if fs.Lookup(name) == nil || name == "config" {
			return fmt.Errorf("--config=%s: there is no flag %q; see tinykube up --help", file, name)
		}
		if given[name] {
			continue
		}
		list, isList := values[name].([]any)
		if !isList {
			list = []any{values[name]}
		}
		for _, value := range list {
			if err := fs.Set(name, fmt.Sprint(value)); err != nil {
				return fmt.Errorf("--config=%s: %s: %w", file, name, err)
			}
		}
	}
	return nil
}

// parse checks the flags that are not plain values.
func (c *cluster) parse(memory string, publish []string) error {
	if c.Nodes < 1 || c.Nodes > maxNodes {
		return fmt.Errorf("--nodes=%d: must be between 1 and %d", c.Nodes, maxNodes)
	}
	if !slices.Contains(proxy.Modes, c.ProxyMode) {
		return fmt.Errorf("--proxy-mode=%s: must be one of %s", c.ProxyMode, strings.Join(proxy.Modes, ", "))
	}
	if c.ProxyMode == "ipvs" && !kernelHas("/proc/net/ip_vs", "/sys/module/ip_vs") {
		return errors.New("--proxy-mode=ipvs: this kernel has no IPVS (neither /proc/net/ip_vs nor the module ip_vs; try modprobe ip_vs)")
	}
	if !strings.HasPrefix(c.RuntimeEndpoint, "unix:///") {
		return fmt.Errorf("--container-runtime-endpoint=%s: must look like unix:///path/to.sock", c.RuntimeEndpoint)
	}
	if c.NodeCPU != "" {
		if q, err := resource.ParseQuantity(c.NodeCPU); err != nil || q.Sign() <= 0 {
			return fmt.Errorf("--node-cpu=%s: must be a positive quantity such as 2 or 500m", c.NodeCPU)
		}
	}
	if memory != "" {
		q, err := resource.ParseQuantity(memory)
		if err != nil || q.Value() < 256<<20 {
			return fmt.Errorf("--node-memory=%s: must be a quantity of at least 256Mi", memory)
		}
		c.NodeMemory = q.Value()
	} else {
		c.NodeMemory = machineMemory() / int64(c.Nodes)
	}
	c.Publish = map[string]string{}
	for _, p := range publish {
		port, nodePort, found := strings.Cut(p, ":")
		if !found || !isPort(port, 1, 65535) || !isPort(nodePort, 30000, 32767) {
			return fmt.Errorf("--publish=%s: must be PORT:NODEPORT with a NodePort of 30000-32767", p)
		}
		c.Publish[port] = nodePort
	}
	return nil
}

// resolve returns the cluster in dir: a new one as wanted, or the one that is
// there, if the flags given do not contradict it.
func (c *cluster) resolve(dir string, changed func(string) bool) (*cluster, error) {
	there, exists, err := loadCluster(dir)
	if err != nil {
		return nil, err
	}
	if !exists {
		c.Dir = there.Dir
		return c, nil
	}
	for _, difference := range []struct {
		flag string
		same bool
	}{
		{"nodes", c.Nodes == there.Nodes}, {"proxy-mode", c.ProxyMode == there.ProxyMode},
		{"container-runtime-endpoint", c.RuntimeEndpoint == there.RuntimeEndpoint}, {"api-port", c.APIPort == there.APIPort},
		{"bare", c.Bare == there.Bare}, {"node-cpu", c.NodeCPU == there.NodeCPU}, {"node-memory", c.NodeMemory == there.NodeMemory},
	} {
		if changed(difference.flag) && !difference.same {
			return nil, fmt.Errorf("the cluster in %s was made with another --%s; run `tinykube down` first", there.Dir, difference.flag)
		}
	}
	if changed("publish") {
		there.Publish = c.Publish
		if err := there.stopRelay(); err != nil { // it will listen anew
			return nil, err
		}
	}
	return there, nil
}

func (c *cluster) up(ctx context.Context) error {
	p := newProgress(os.Stdout)
	if c.Bare {
		return c.upBare(ctx, p)
	}
	specs := c.specs()
	steps := []step{
		{"machine has what a cluster needs", func(context.Context) error { return c.preflight() }},
		{"programs and images unpacked", func(context.Context) error { return c.unpack() }},
		{"certificates and configuration written", func(context.Context) error { return c.writeFiles() }},
		{"bridge between the nodes", func(context.Context) error { return node.CreateBridge(c.path("net"), bridgeAddress) }},
		{fmt.Sprintf("%s started: containerd, cri and kubelet on each", plural(len(specs), "node")), func(ctx context.Context) error { return c.startNodes(ctx) }},
		{"relay on " + loopback(fmt.Sprint(c.APIPort)), func(context.Context) error { return c.startRelay() }},
		{"API server ready (etcd and the control plane are static pods)", c.awaitAPI},
		{"kube-proxy and flannel applied", c.applyNetwork},
	}
	for _, s := range specs {
		steps = append(steps, step{s.Name + " Ready", func(ctx context.Context) error { return c.awaitNode(ctx, s.Name) }})
	}
	steps = append(steps, step{"CoreDNS applied", c.applyDNS}, step{"images on every node", func(ctx context.Context) error { return c.awaitPhase(ctx, "running") }},
		step{"DNS answers", c.awaitDNS}, step{"control plane visible as pods", c.awaitMirrors})
	for _, s := range steps {
		if err := p.run(ctx, s); err != nil {
			return err
		}
	}
	fmt.Printf("\nThe cluster is up after %.1f s. Try:\n\n  tinykube kubectl get pods -A -o wide\n  tinykube status\n  tinykube node shell %s\n  tinykube down\n\nAny other kubectl: export KUBECONFIG=%s\n",
		time.Since(p.started).Seconds(), specs[len(specs)-1].Name, c.adminConf())
	return nil
}

// unpack brings the payload and the image of ourselves to where nodes see them.
func (c *cluster) unpack() error {
	bin, images := c.path("payload", "bin"), c.path("payload", "images")
	if err := payload.Unpack(bin, "containerd", "containerd-shim-runc-v2", "runc", "cni"); err != nil {
		return err
	}
	if err := installSelf(filepath.Join(bin, "tinykube")); err != nil {
		return err
	}
	if _, err := payload.WriteImages(images); err != nil || c.Bare {
		return err
	}
	_, err := payload.WriteImage(images, image.Self(image.Tinykube, append(componentNames(), "kubectl")))
	return err
}

// installSelf gives nodes this very program, even when a newer one is built
// while they run.
func installSelf(target string) error {
	running, err := os.Stat("/proc/self/exe")
	if err != nil {
		return err
	}
	if there, err := os.Stat(target); err == nil && there.Size() == running.Size() && there.ModTime().Equal(running.ModTime()) {
		return nil
	}
	content, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	temporary := target + ".new"
	if err := os.WriteFile(temporary, content, 0o755); err != nil {
		return err
	}
	if err := os.Chtimes(temporary, time.Time{}, running.ModTime()); err != nil {
		return err
	}
	return os.Rename(temporary, target)
}

// writeFiles gives each node its files, once: a second run must not change
// certificates under a running cluster.
func (c *cluster) writeFiles() error {
	if err := c.save(); err != nil {
		return err
	}
	pki, err := c.pki()
	if err != nil {
		return err
	}
	b := c.bootstrap()
	for i, n := range b.Nodes {
		marker := c.path("nodes", n.Name, "bootstrapped")
		if _, err := os.Stat(marker); err == nil {
			continue
		}
		files, err := bootstrap.Files(b, pki, n)
		if err != nil {
			return err
		}
		for name, file := range files {
			target := c.path("nodes", n.Name, name)
			if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(target, file.Content, file.Mode); err != nil {
				return err
			}
		}
		if i == 0 {
			admin := files["/etc/kubernetes/admin.conf"]
			content := bytes.ReplaceAll(admin.Content, []byte(b.APIServer()), []byte("https://"+loopback(fmt.Sprint(c.APIPort))))
			if err := os.WriteFile(c.adminConf(), content, admin.Mode); err != nil {
				return err
			}
		}
		if err := os.WriteFile(marker, nil, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// pki loads the authorities, or makes them.
func (c *cluster) pki() (*bootstrap.PKI, error) {
	raw, err := os.ReadFile(c.path("pki.json"))
	if errors.Is(err, fs.ErrNotExist) {
		fresh, err := bootstrap.NewPKI()
		if err != nil {
			return nil, err
		}
		return fresh, writeJSON(c.path("pki.json"), fresh, 0o600)
	}
	if err != nil {
		return nil, err
	}
	stored := &bootstrap.PKI{}
	if err := json.Unmarshal(raw, stored); err != nil {
		return nil, err
	}
	return stored, stored.Restore()
}

// startNodes starts every node and waits until each PID 1 has started all that
// it starts by hand.
func (c *cluster) startNodes(ctx context.Context) error {
	for _, s := range c.specs() {
		if err := node.Start(s); err != nil {
			return err
		}
	}
	return c.awaitPhase(ctx, "importing images")
}

func (c *cluster) client() (*client.Client, error) {
	config, err := client.LoadKubeconfig(c.adminConf())
	if err != nil {
		return nil, err
	}
	return client.New(config)
}

// applyNetwork does what an administrator would: kubectl apply, kubectl label.
func (c *cluster) applyNetwork(ctx context.Context) error {
	stream, err := bootstrap.NetworkAddons(c.bootstrap())
	if err != nil {
		return err
	}
	if err := c.kubectl(ctx, stream, "apply", "-f", "-"); err != nil {
		return err
	}
	control := c.bootstrap().ControlPlane().Name
	api, err := c.client()
	if err != nil {
		return err
	}
	if err := until(ctx, "registration of "+control, func() (bool, string, error) {
		_, err := client.For(api, client.Nodes).Get(ctx, "", control)
		return err == nil, fmt.Sprint(err), nil
	}); err != nil {
		return err
	}
	return c.kubectl(ctx, nil, "label", "--overwrite", "node", control, bootstrap.ControlPlaneRole+"=")
}

func (c *cluster) applyDNS(ctx context.Context) error {
	stream, err := bootstrap.DNSAddon(c.bootstrap())
	if err != nil {
		return err
	}
	return c.kubectl(ctx, stream, "apply", "-f", "-")
}

// kubectl runs the embedded kubectl and fails with what it printed.
func (c *cluster) kubectl(ctx context.Context, stdin []byte, args ...string) error {
	command := exec.CommandContext(ctx, "/proc/self/exe", args...)
	command.Args[0] = "kubectl"
	command.Env = append(os.Environ(), "KUBECONFIG="+c.adminConf(), "KUBECACHEDIR="+c.path("kubectl-cache"))
	command.Stdin = bytes.NewReader(stdin)
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}
