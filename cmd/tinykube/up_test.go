package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFlagsThatMakeNoSense(t *testing.T) {
	good := cluster{Nodes: 3, ProxyMode: "iptables", RuntimeEndpoint: "unix:///x.sock"}
	for _, row := range []struct {
		name    string
		change  func(*cluster)
		memory  string
		publish []string
		want    string
	}{
		{"nodes", func(c *cluster) { c.Nodes = 0 }, "", nil, "--nodes=0"},
		{"too many nodes", func(c *cluster) { c.Nodes = 1000 }, "", nil, "--nodes=1000"},
		{"proxy mode", func(c *cluster) { c.ProxyMode = "magic" }, "", nil, "must be one of iptables, nftables, ipvs"},
		{"endpoint", func(c *cluster) { c.RuntimeEndpoint = "tcp://x" }, "", nil, "unix:///"},
		{"cpu", func(c *cluster) { c.NodeCPU = "many" }, "", nil, "--node-cpu=many"},
		{"negative cpu", func(c *cluster) { c.NodeCPU = "-1" }, "", nil, "--node-cpu=-1"},
		{"memory", func(*cluster) {}, "4", nil, "at least 256Mi"},
		{"publish", func(*cluster) {}, "", []string{"8080"}, "PORT:NODEPORT"},
		{"publish range", func(*cluster) {}, "", []string{"8080:80"}, "30000-32767"},
	} {
		c := good
		row.change(&c)
		if err := c.parse(row.memory, row.publish); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want %q", row.name, err, row.want)
		}
	}
	c := good
	if err := c.parse("1Gi", []string{"8080:30080"}); err != nil || c.NodeMemory != 1<<30 || c.Publish["8080"] != "30080" {
		t.Errorf("%+v: %v", c, err)
	}
}

// A name that no command has is an error under every command, not a help page.
func TestUnknownCommands(t *testing.T) {
	for _, words := range []string{"nosuch", "node nosuch", "lab nosuch", "explain nosuch", "etcdctl nosuch"} {
		root := newRoot()
		root.SetArgs(strings.Fields(words))
		root.SilenceErrors, root.SilenceUsage = true, true
		if err := root.Execute(); err == nil || !strings.Contains(err.Error(), `unknown command "nosuch"`) {
			t.Errorf("tinykube %s: %v", words, err)
		}
	}
}

// A second up over a cluster of another shape must not half-change it.
func TestUpOverAnotherCluster(t *testing.T) {
	dir := t.TempDir()
	first := &cluster{Dir: dir, Nodes: 3, ProxyMode: "iptables", APIPort: 6443}
	if err := first.save(); err != nil {
		t.Fatal(err)
	}
	second := &cluster{Nodes: 2, ProxyMode: "iptables", APIPort: 6443}
	changed := func(name string) bool { return name == "nodes" }
	if _, err := second.resolve(dir, changed); err == nil || !strings.Contains(err.Error(), "--nodes") {
		t.Errorf("another --nodes: %v", err)
	}
	if c, err := second.resolve(dir, func(string) bool { return false }); err != nil || c.Nodes != 3 {
		t.Errorf("without flags: %+v, %v", c, err)
	}
}

func TestNodesAddressesAndDoors(t *testing.T) {
	c := &cluster{Dir: defaultDir, Nodes: 3, APIPort: 6443, Publish: map[string]string{"8080": "30080"}, ProxyMode: "iptables"}
	b := c.bootstrap()
	if b.APIServer() != "https://172.30.9.1:6443" || b.ClusterDNS().String() != "10.96.0.10" || b.KubernetesService().String() != "10.96.0.1" {
		t.Errorf("%s %s %s", b.APIServer(), b.ClusterDNS(), b.KubernetesService())
	}
	doors := c.doors()
	if len(doors) != 2 || doors[1].listen != "127.0.0.1:8080" || len(doors[1].targets) != 3 || doors[1].targets[2] != "172.30.9.3:30080" {
		t.Errorf("%+v", doors)
	}
	if s, err := c.spec("node-2"); err != nil || s.CgroupRoot != "/tinykube/node-2" {
		t.Errorf("%+v %v", s, err)
	}
	if _, err := c.spec("node-9"); err == nil || !strings.Contains(err.Error(), "node-0, node-1, node-2") {
		t.Errorf("%v", err)
	}
}

func TestFlagsFromAFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "up.yaml")
	write := func(content string) {
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("nodes: 5\nnode-cpu: 2\npublish: [\"1:30001\", \"2:30002\"]\n")
	fs := newUp().Flags()
	if err := fs.Parse([]string{"--nodes=4"}); err != nil {
		t.Fatal(err)
	}
	if err := setFromFile(fs, file); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"nodes": "4", "node-cpu": "2", "publish": "[1:30001,2:30002]"} {
		if got := fs.Lookup(name).Value.String(); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	for content, want := range map[string]string{"node: 3": `no flag "node"`, "nodes: many": "nodes", "nodes: [": "up.yaml"} {
		write(content)
		if err := setFromFile(newUp().Flags(), file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", content, err, want)
		}
	}
}
