package proxy

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/yaml"
)

// loadYAML reads Services and EndpointSlices of a file.
func loadYAML(t *testing.T, path string) (services []*corev1.Service, slices []*discoveryv1.EndpointSlice) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, document := range bytes.Split(data, []byte("\n---\n")) {
		if bytes.Contains(document, []byte("kind: Service\n")) {
			s := &corev1.Service{}
			if err := yaml.UnmarshalStrict(document, s); err != nil {
				t.Fatalf("%v\n%s", err, document)
			}
			services = append(services, s)
		} else {
			s := &discoveryv1.EndpointSlice{}
			if err := yaml.UnmarshalStrict(document, s); err != nil {
				t.Fatalf("%v\n%s", err, document)
			}
			slices = append(slices, s)
		}
	}
	return services, slices
}

const head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"

// Defaults are upstream's, errors name the field, and what is misspelt is told.
func TestConfig(t *testing.T) {
	c, ignored, err := ParseConfig([]byte(head + "mod: iptables\nmode: \"\"\nclusterCIDR: 10.200.0.0/16\niptables: {syncPeriod: 0s, masqueradeBit: null}\n"))
	if err != nil || ignored == nil || !strings.Contains(ignored.Error(), `unknown field "mod"`) {
		t.Fatal(ignored, err)
	}
	setDefaults(c)
	if err := validate(c); err != nil {
		t.Errorf("defaults are not valid: %v", err)
	}
	if c.Mode != "" || c.HealthzBindAddress != "0.0.0.0:10256" || c.MetricsBindAddress != "127.0.0.1:10249" || *c.IPTables.MasqueradeBit != 14 {
		t.Errorf("defaults %+v", c)
	}
	if got := localTraffic(c, IPv4, nil).iptables(""); got != "-s 10.200.0.0/16" {
		t.Errorf("local traffic: %s", got)
	}
	for text, want := range map[string]string{
		head + "logging: {format: xml}":                                        `initialize logging: logging.format: Invalid value: "xml": Unsupported log format`,
		head + "logging: {flushFrequency: -5s}":                                `logging.flushFrequency: Invalid value: "-5s": Must be greater than zero`,
		head + "logging: {vmodule: [{verbosity: 3}]}":                          "logging.vmodule[0]: Required value: File pattern must not be empty",
		head + "mode: [iptables]":                                              "mode",
		"apiVersion: v1\nkind: Pod\n":                                          "not a kubeproxy",
		head + "mode: userspace":                                               `KubeProxyConfiguration.Mode.ProxyMode: Invalid value: "userspace": must be iptables, ipvs, nftables or blank`,
		head + "mode: ipvs\nipvs: {scheduler: 'rr; reboot'}":                   "KubeProxyConfiguration.KubeProxyIPVSConfiguration.Scheduler",
		head + "mode: ipvs\nipvs: {excludeCIDRs: [x]}":                         `KubeProxyConfiguration.KubeProxyIPVSConfiguration.ExcludeCidrs[0]: Invalid value: "x": must be a valid CIDR`,
		head + "mode: ipvs\nipvs: {tcpTimeout: -1s}":                           `KubeProxyConfiguration.KubeProxyIPVSConfiguration.TCPTimeout: Invalid value: "-1s": must be greater than or equal to 0`,
		head + "mode: nftables\nnftables: {masqueradeBit: -1}":                 "KubeProxyConfiguration.KubeProxyNFTablesConfiguration.MasqueradeBit: Invalid value: -1: must be within the range [0, 31]",
		head + "mode: nftables\nnftables: {syncPeriod: 1s, minSyncPeriod: 2s}": `KubeProxyConfiguration.SyncPeriod: Invalid value: "2s": must be greater than or equal to KubeProxyConfiguration.MinSyncPeriod`,
		head + "clusterCIDR: 10.0.0.0":                                         `KubeProxyConfiguration.DetectLocalConfiguration.ClusterCIDRs[0]: Invalid value: "10.0.0.0": must be a valid CIDR block (e.g. 10.100.0.0/16 or fde4:8dba:82e1::/48)`,
		head + "clusterCIDR: '10.0.0.0/8,10.1.0.0/16'":                         `must be a either a single CIDR or dual-stack pair of CIDRs`,
		head + "iptables: {masqueradeBit: 32}":                                 "KubeProxyConfiguration.KubeProxyIPTablesConfiguration.MasqueradeBit: Invalid value: 32: must be within the range [0, 31]",
		head + "conntrack: {maxPerCore: -1}":                                   "KubeProxyConfiguration.KubeProxyLinuxConfiguration.KubeProxyConntrackConfiguration.MaxPerCore: Invalid value: -1: must be greater than or equal to 0",
		head + "conntrack: {udpTimeout: -1s}":                                  "KubeProxyConntrackConfiguration.UDPTimeout",
		head + "oomScoreAdj: 1001":                                             "KubeProxyConfiguration.KubeProxyLinuxConfiguration.OOMScoreAdj: Invalid value: 1001: must be within the range [-1000, 1000]",
		head + "detectLocalMode: Guess":                                        `KubeProxyConfiguration.DetectLocalMode: Unsupported value: "Guess"`,
		head + "detectLocalMode: BridgeInterface":                              `KubeProxyConfiguration.DetectLocalConfiguration.InterfaceName: Invalid value: "": must not be empty`,
		head + "healthzBindAddress: here":                                      `KubeProxyConfiguration.HealthzBindAddress: Invalid value: "here": must be IP:port`,
		head + "metricsBindAddress: '1.2.3.4:70000'":                           `KubeProxyConfiguration.MetricsBindAddress: Invalid value: "70000": must be a valid port`,
		head + "bindAddress: here":                                             `KubeProxyConfiguration.BindAddress: Invalid value: "here": not a valid textual representation of an IP address`,
		head + "nodePortAddresses: [x]":                                        `KubeProxyConfiguration.NodePortAddresses[0]: Invalid value: "x": must be a valid CIDR`,
		head + "nodePortAddresses: [primary, 10.0.0.0/8]":                      "can't use both 'primary' and CIDRs",
		head + "configSyncPeriod: -1s":                                         `KubeProxyConfiguration.ConfigSyncPeriod: Invalid value: "-1s": must be greater than 0`,
	} {
		c, _, err := ParseConfig([]byte(text))
		if err == nil {
			setDefaults(c)
			err = validate(c)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q in it", text, err, want)
		}
	}
}

func TestLocalTraffic(t *testing.T) {
	for text, want := range map[string][2]string{
		"clusterCIDR: 'fd00::/48,10.244.0.0/16'": {"-s 10.244.0.0/16", "ip saddr 10.244.0.0/16"},
		"clusterCIDR: ''":                        {"", ""},
		"detectLocalMode: NodeCIDR":              {"-s 10.244.1.0/24", "ip saddr 10.244.1.0/24"},
		"{detectLocalMode: BridgeInterface, detectLocal: {bridgeInterface: cni0}}":         {"-i cni0", `iifname "cni0"`},
		"{detectLocalMode: InterfaceNamePrefix, detectLocal: {interfaceNamePrefix: veth}}": {"-i veth+", `iifname "veth*"`},
	} {
		var c Config
		if err := yaml.Unmarshal([]byte(text), &c.KubeProxyConfiguration); err != nil {
			t.Fatal(err)
		}
		setDefaults(&c.KubeProxyConfiguration)
		local := localTraffic(&c.KubeProxyConfiguration, IPv4, []string{"10.244.1.0/24"})
		if got := [2]string{local.iptables(""), local.nftables(IPv4, "")}; got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

// The files that kubeadm and Kubernetes the Hard Way write are understood.
func TestRealConfigs(t *testing.T) {
	shared := os.Getenv("TINYKUBE_SHARED")
	if shared == "" {
		shared = filepath.Join("..", "..", "shared")
	}
	hardWay := filepath.Join(shared, "manifests", "hard-way", "kube-proxy-config.yaml")
	if _, err := os.Stat(hardWay); err != nil {
		t.Skipf("the real manifests are not here: %v", err)
	}
	c, ignored, err := LoadConfig(hardWay)
	if err != nil || ignored != nil || c.ClusterCIDR != "10.200.0.0/16" || c.ClientConnection.Kubeconfig != "/var/lib/kube-proxy/kubeconfig" {
		t.Errorf("%+v, %v", c, err)
	}
	data, err := os.ReadFile(filepath.Join(shared, "manifests", "kubeadm", "addon-kube-proxy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, document := range bytes.Split(data, []byte("\n---\n")) {
		var configMap corev1.ConfigMap
		if err := yaml.Unmarshal(document, &configMap); err != nil || configMap.Data["config.conf"] == "" {
			continue
		}
		c, ignored, err := ParseConfig([]byte(configMap.Data["config.conf"]))
		if err != nil || ignored != nil {
			t.Fatal(ignored, err)
		}
		setDefaults(c)
		if err := validate(c); err != nil || c.ClusterCIDR != "10.244.0.0/16" {
			t.Errorf("%+v, %v", c, err)
		}
		return
	}
	t.Error("no config.conf in kubeadm's manifest")
}

func FuzzConfig(f *testing.F) {
	f.Add(head + "mode: iptables\nclusterCIDR: 10.0.0.0/8\n")
	f.Fuzz(func(t *testing.T, text string) {
		if c, _, err := ParseConfig([]byte(text)); err == nil {
			setDefaults(c)
			_ = validate(c)
			_ = localTraffic(c, IPv4, nil)
		}
	})
}
