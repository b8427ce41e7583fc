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

// A file is read strictly, defaults are upstream's, and errors name the field.
func TestConfig(t *testing.T) {
	c, err := ParseConfig([]byte(head + "mode: \"\"\nclusterCIDR: 10.200.0.0/16\niptables: {syncPeriod: 0s, masqueradeBit: null}\n"))
	if err != nil {
		t.Fatal(err)
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
		head + "mod: iptables":                                 "mod",
		head + "mode: [iptables]":                              "mode",
		"apiVersion: v1\nkind: Pod\n":                          "not a kubeproxy",
		head + "mode: userspace":                               "none of iptables",
		head + "ipvs: {scheduler: 'rr; reboot'}":               "ipvs.scheduler",
		head + "ipvs: {excludeCIDRs: [x]}":                     "ipvs.excludeCIDRs",
		head + "nftables: {masqueradeBit: -1}":                 "nftables.masqueradeBit",
		head + "nftables: {syncPeriod: 1s, minSyncPeriod: 2s}": "nftables.minSyncPeriod",
		head + "clusterCIDR: 10.0.0.0":                         "clusterCIDR",
		head + "iptables: {masqueradeBit: 32}":                 "masqueradeBit",
		head + "iptables: {syncPeriod: 1s, minSyncPeriod: 2s}": "minSyncPeriod",
		head + "detectLocalMode: Guess":                        "detectLocalMode",
		head + "detectLocalMode: BridgeInterface":              "bridgeInterface",
		head + "healthzBindAddress: here":                      "healthzBindAddress",
		head + "nodePortAddresses: [x]":                        "nodePortAddresses",
	} {
		c, err := ParseConfig([]byte(text))
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
	c, err := LoadConfig(hardWay)
	if err != nil || c.ClusterCIDR != "10.200.0.0/16" || c.ClientConnection.Kubeconfig != "/var/lib/kube-proxy/kubeconfig" {
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
		c, err := ParseConfig([]byte(configMap.Data["config.conf"]))
		if err != nil {
			t.Fatal(err)
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
		if c, err := ParseConfig([]byte(text)); err == nil {
			setDefaults(c)
			_ = validate(c)
			_ = localTraffic(c, IPv4, nil)
		}
	})
}
