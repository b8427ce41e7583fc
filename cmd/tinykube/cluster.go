package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"tinykube/bootstrap"
	"tinykube/internal/image"
	"tinykube/internal/node"
)

// cluster is what `up` was asked for, kept in <dir>/cluster.json so that every
// other command knows it too.
//
//	<dir>/cluster.json       this
//	<dir>/admin.conf         kubeconfig, through the relay
//	<dir>/pki.json           the authorities, until down
//	<dir>/payload/{bin,images}
//	<dir>/net                the bridge's network namespace
//	<dir>/nodes/<name>/      everything a node has
//	<dir>/relay.{pid,log}
type cluster struct {
	Dir             string            `json:"-"`
	Nodes           int               `json:"nodes"`
	ProxyMode       string            `json:"proxyMode"`
	RuntimeEndpoint string            `json:"runtimeEndpoint"`
	APIPort         int               `json:"apiPort"`
	Publish         map[string]string `json:"publish"` // port on loopback → NodePort
	NodeCPU         string            `json:"nodeCPU"`
	NodeMemory      int64             `json:"nodeMemory"` // bytes
	Bare            bool              `json:"bare,omitempty"`
}

// The node network. Nothing outside these namespaces ever sees it.
var (
	nodeNetwork   = netip.MustParsePrefix("172.30.9.0/24")
	bridgeAddress = netip.MustParsePrefix("172.30.9.254/24")
)

const (
	maxNodes   = 200
	defaultDir = "/var/lib/tinykube"
)

func addDirFlag(fs *pflag.FlagSet, dir *string) {
	value := os.Getenv("TINYKUBE_DIR")
	if value == "" {
		value = defaultDir
	}
	fs.StringVar(dir, "dir", value, "where the cluster keeps everything (or $TINYKUBE_DIR)")
}

// loadCluster reads the cluster in dir; exists is false if there is none.
func loadCluster(dir string) (c *cluster, exists bool, err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, false, err
	}
	c = &cluster{Dir: dir}
	raw, err := os.ReadFile(c.path("cluster.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return c, false, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, c)
	}
	if err != nil {
		return nil, false, fmt.Errorf("cluster in %s: %w", dir, err)
	}
	return c, true, nil
}

// requireCluster is loadCluster for commands that make no sense without one.
func requireCluster(dir string) (*cluster, error) {
	c, exists, err := loadCluster(dir)
	if err == nil && !exists {
		err = fmt.Errorf("no cluster in %s: bring one up with `tinykube up`", c.Dir)
	}
	return c, err
}

func (c *cluster) save() error { return writeJSON(c.path("cluster.json"), c, 0o644) }

func (c *cluster) path(elements ...string) string {
	return filepath.Join(append([]string{c.Dir}, elements...)...)
}

func (c *cluster) adminConf() string { return c.path("admin.conf") }

// cgroup is the group of all that belongs to this cluster. Clusters in several
// directories do not share one.
func (c *cluster) cgroup() string {
	if c.Dir == defaultDir {
		return node.CgroupParent
	}
	sum := sha256.Sum256([]byte(c.Dir))
	return node.CgroupParent + "-" + hex.EncodeToString(sum[:4])
}

// bootstrap is the cluster as its nodes will see it.
func (c *cluster) bootstrap() *bootstrap.Cluster {
	b := &bootstrap.Cluster{
		Name: "kubernetes", PodCIDR: netip.MustParsePrefix("10.244.0.0/16"), ServiceCIDR: netip.MustParsePrefix("10.96.0.0/12"),
		ClusterDomain: "cluster.local", ProxyMode: c.ProxyMode, RuntimeEndpoint: c.RuntimeEndpoint,
		Image: image.Tinykube, PauseImage: image.Pause, CoreDNSImage: image.CoreDNS,
	}
	address := nodeNetwork.Addr()
	for i := range c.Nodes {
		address = address.Next()
		name := fmt.Sprintf("node-%d", i)
		b.Nodes = append(b.Nodes, bootstrap.Node{Name: name, Address: address, CPU: c.NodeCPU, Memory: c.NodeMemory,
			CgroupRoot: filepath.Join(c.cgroup(), name)})
	}
	return b
}

// specs are the nodes as machines.
func (c *cluster) specs() []*node.Spec {
	var specs []*node.Spec
	for _, n := range c.bootstrap().Nodes {
		specs = append(specs, &node.Spec{
			Name: n.Name, Dir: c.path("nodes", n.Name), Payload: c.path("payload"), Bridge: c.path("net"),
			Address:    netip.PrefixFrom(n.Address, nodeNetwork.Bits()),
			CgroupRoot: n.CgroupRoot, CPU: n.CPU, Memory: n.Memory,
			PauseImage: image.Pause, RuntimeEndpoint: c.RuntimeEndpoint, Bare: c.Bare,
			FirstImages: []string{archivePrefix(image.Pause), archivePrefix(image.Tinykube)},
		})
	}
	return specs
}

// archivePrefix is how the archive of an image is called before its digest.
func archivePrefix(name string) string { return strings.NewReplacer("/", "_", ":", "_").Replace(name) }

// spec finds a node by name.
func (c *cluster) spec(name string) (*node.Spec, error) {
	var names []string
	for _, s := range c.specs() {
		if s.Name == name {
			return s, nil
		}
		names = append(names, s.Name)
	}
	return nil, fmt.Errorf("no node %q; the nodes are %s", name, strings.Join(names, ", "))
}

func writeJSON(file string, value any, mode os.FileMode) error {
	raw, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	temporary := file + ".new"
	if err := os.WriteFile(temporary, append(raw, '\n'), mode); err != nil {
		return err
	}
	return os.Rename(temporary, file)
}
