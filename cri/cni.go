package cri

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/containernetworking/cni/libcni"
	cnitypes "github.com/containernetworking/cni/pkg/types/100"
	"k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// network runs the CNI plugins for sandboxes. It keeps no configuration in
// memory: the directory is read each time, so a plugin that is installed after
// us (as flannel's DaemonSet does) works without a restart, and a test that
// deletes the file sees the node turn not-ready.
//
// Spec: CNI 1.1 §3. ADD runs the list forward; DEL backward, with the
// result and the configuration that ADD was given, which libcni keeps as one
// file per sandbox under cacheDir.
type network struct {
	confDir string
	cni     *libcni.CNIConfig
	logger  *slog.Logger

	mu      sync.Mutex // guards current
	current string     // the file that won last, to say so when it changes
}

const (
	podInterface = "eth0"
	// cniTimeout bounds one plugin chain, and is all that does: a plugin is not
	// killed because its caller hung up, since half an ADD or DEL is harder to
	// undo than a whole one.
	cniTimeout = 2 * time.Minute
)

func newNetwork(cfg Config, logger *slog.Logger) *network {
	return &network{
		confDir: cfg.CNIConfDir,
		logger:  logger,
		cni:     libcni.NewCNIConfigWithCacheDir(cfg.CNIBinDirs, filepath.Join(cfg.Root, "cni"), nil),
	}
}

// errNoNetwork has the words that people search for.
var errNoNetwork = errors.New("cni plugin not initialized")

// config returns the first valid configuration by file name, as every CRI
// runtime chooses, and the file it came from.
func (n *network) config() (*libcni.NetworkConfigList, string, error) {
	files, err := libcni.ConfFiles(n.confDir, []string{".conf", ".conflist", ".json"})
	if err != nil && !os.IsNotExist(err) {
		return nil, "", err
	}
	sort.Strings(files)
	var problems []error
	for _, file := range files {
		list, err := loadConfig(file)
		if err == nil {
			n.announce(list.Name, file)
			return list, file, nil
		}
		problems = append(problems, fmt.Errorf("%s: %w", file, err))
	}
	if len(problems) == 0 {
		problems = append(problems, fmt.Errorf("no network config found in %s", n.confDir))
	}
	return nil, "", fmt.Errorf("%w: %w", errNoNetwork, errors.Join(problems...))
}

// announce says which file won, since a second one that nobody expected is the
// usual riddle.
func (n *network) announce(name, file string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.current != file {
		n.current = file
		n.logger.Info("network configuration", "key", file, "network", name)
	}
}

func loadConfig(file string) (*libcni.NetworkConfigList, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var list *libcni.NetworkConfigList
	if strings.HasSuffix(file, ".conflist") {
		list, err = libcni.NetworkConfFromBytes(data)
	} else {
		var single *libcni.PluginConfig
		if single, err = libcni.NetworkPluginConfFromBytes(data); err == nil {
			list, err = libcni.ConfListFromConf(single)
		}
	}
	if err != nil {
		return nil, err
	}
	for _, plugin := range list.Plugins {
		// A type is a file name inside the plugin directories, never a path.
		if t := plugin.Network.Type; t == "" || t != filepath.Base(t) || t == ".." || t == "." {
			return nil, fmt.Errorf("invalid plugin type %q", t)
		}
	}
	if len(list.Plugins) == 0 {
		return nil, errors.New("no plugins in the list")
	}
	return list, nil
}

// add connects a sandbox and returns its addresses, the primary one first.
func (n *network) add(ctx context.Context, sb *sandboxRecord) ([]string, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cniTimeout)
	defer cancel()
	list, _, err := n.config()
	if err != nil {
		return nil, err
	}
	result, err := n.cni.AddNetworkList(ctx, list, cniRuntime(sb))
	if err != nil {
		return nil, fmt.Errorf("CNI network %q: %w", list.Name, err)
	}
	current, err := cnitypes.NewResultFromResult(result)
	if err != nil {
		return nil, fmt.Errorf("CNI network %q: result: %w", list.Name, err)
	}
	ips := podIPs(current)
	if len(ips) == 0 {
		return nil, fmt.Errorf("CNI network %q gave no address to %s", list.Name, podInterface)
	}
	return ips, nil
}

// inspect answers what ADD has said of a sandbox, and whether CHECK finds it
// still so: for people who look at a pod (crictl inspectp).
func (n *network) inspect(ctx context.Context, sb *sandboxRecord) (result any, check string) {
	saved, err := n.cni.GetCachedAttachments(sb.ID)
	if err != nil || len(saved) == 0 {
		return nil, "nothing is saved of this pod's network"
	}
	list, err := libcni.NetworkConfFromBytes(saved[0].Config)
	if err != nil {
		return nil, err.Error()
	}
	ctx, cancel := context.WithTimeout(ctx, cniTimeout)
	defer cancel()
	if added, err := n.cni.GetNetworkListCachedResult(list, cniRuntime(sb)); err == nil {
		result = added
	}
	if err := n.cni.CheckNetworkList(ctx, list, cniRuntime(sb)); err != nil {
		return result, err.Error()
	}
	return result, "ok"
}

// podIPs picks the addresses of the pod's own interface out of a result, which
// also names the bridge and the host's end of the cable.
func podIPs(result *cnitypes.Result) []string {
	var ips []string
	for _, ip := range result.IPs {
		if i := ip.Interface; i != nil && *i >= 0 && *i < len(result.Interfaces) {
			if owner := result.Interfaces[*i]; owner.Sandbox == "" || owner.Name != podInterface {
				continue
			}
		}
		ips = append(ips, ip.Address.IP.String())
	}
	return ips
}

// remove disconnects a sandbox. It may be called any number of times, and for
// a sandbox whose ADD was never finished.
func (n *network) remove(ctx context.Context, sb *sandboxRecord) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cniTimeout)
	defer cancel()
	runtimeConf := cniRuntime(sb)
	if _, err := os.Stat(sb.NetNS); err != nil {
		// Spec: CNI 1.1 §DEL "generally complete ... even if the namespace is
		// gone"; an empty CNI_NETNS tells the plugin so.
		runtimeConf.NetNS = ""
	}
	saved, err := n.cni.GetCachedAttachments(sb.ID)
	if err != nil {
		return err
	}
	for _, attachment := range saved {
		list, err := libcni.NetworkConfFromBytes(attachment.Config)
		if err != nil {
			return fmt.Errorf("saved CNI config: %w", err)
		}
		if err := n.cni.DelNetworkList(ctx, list, runtimeConf); err != nil {
			return fmt.Errorf("CNI network %q: %w", list.Name, err)
		}
	}
	if len(saved) > 0 {
		return nil
	}
	// ADD was interrupted before its result was saved: clean up with what is
	// configured now. With no configuration there is nothing to undo.
	list, _, err := n.config()
	if err != nil {
		return nil
	}
	if err := n.cni.DelNetworkList(ctx, list, runtimeConf); err != nil {
		return fmt.Errorf("CNI network %q: %w", list.Name, err)
	}
	return nil
}

// cniRuntime is what the plugins are told about one pod. Capability arguments
// reach only those plugins that declare the capability.
//
// Spec: CNI CONVENTIONS.md (portMappings, bandwidth, dns)
func cniRuntime(sb *sandboxRecord) *libcni.RuntimeConf {
	meta, args := sb.Config.GetMetadata(), map[string]any{}
	if mappings := portMappings(sb.Config.GetPortMappings()); len(mappings) > 0 {
		args["portMappings"] = mappings
	}
	if bandwidth := bandwidthArgs(sb.Config.GetAnnotations()); len(bandwidth) > 0 {
		args["bandwidth"] = bandwidth
	}
	if dns := sb.Config.GetDnsConfig(); dns != nil {
		args["dns"] = map[string]any{"servers": dns.GetServers(), "searches": dns.GetSearches(), "options": dns.GetOptions()}
	}
	return &libcni.RuntimeConf{
		ContainerID: sb.ID, NetNS: sb.NetNS, IfName: podInterface,
		Args: [][2]string{
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", meta.GetNamespace()},
			{"K8S_POD_NAME", meta.GetName()},
			{"K8S_POD_INFRA_CONTAINER_ID", sb.ID},
			{"K8S_POD_UID", meta.GetUid()},
		},
		CapabilityArgs: args,
	}
}

// portMappings keeps those with a host port.
func portMappings(mappings []*runtimeapi.PortMapping) []map[string]any {
	var list []map[string]any
	for _, m := range mappings {
		if m.GetHostPort() <= 0 {
			continue
		}
		list = append(list, map[string]any{
			"hostPort":      m.GetHostPort(),
			"containerPort": m.GetContainerPort(),
			"protocol":      strings.ToLower(m.GetProtocol().String()),
			"hostIP":        m.GetHostIp(),
		})
	}
	return list
}

// bandwidthArgs reads the two annotations by which a pod asks to be shaped.
func bandwidthArgs(annotations map[string]string) map[string]int64 {
	args := map[string]int64{}
	for annotation, direction := range map[string]string{
		"kubernetes.io/ingress-bandwidth": "ingress",
		"kubernetes.io/egress-bandwidth":  "egress",
	} {
		rate, err := resource.ParseQuantity(annotations[annotation])
		if err != nil || rate.Value() <= 0 {
			continue
		}
		// The plugin insists on a burst: the largest it accepts, in bits.
		args[direction+"Rate"], args[direction+"Burst"] = rate.Value(), math.MaxUint32
	}
	return args
}
