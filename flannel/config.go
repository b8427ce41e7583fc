package flannel

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"time"
)

// Config is what flanneld's flags say.
type Config struct {
	NodeName string
	// NetConfigPath is the cluster's choice of network and backend.
	NetConfigPath string
	// SubnetFile is what the CNI plugin reads.
	SubnetFile string
	// Interface is the name or an address of the link to other nodes; empty:
	// the one with the default route, else the one with PublicIP, else the one
	// with the address that the source gives for this node.
	Interface string
	// PublicIP is what others are told to send to; empty: Interface's address.
	PublicIP netip.Addr
	// IPMasq makes pods' traffic to the world leave under the node's address.
	IPMasq bool
	// ForwardRules let forwarded traffic of pods pass a firewall that drops.
	ForwardRules bool
	// HostRoot is where the machine's root is mounted, for its iptables.
	HostRoot string
	// Resync is how often the kernel is compared with the plan.
	Resync time.Duration
}

// NetConf is net-conf.json.
type NetConf struct {
	Network        netip.Prefix
	EnableIPv4     *bool
	EnableIPv6     bool
	EnableNFTables bool
	Backend        Backend
}

// Backend says how packets travel.
type Backend struct {
	Type          string
	VNI           int
	Port          int
	MTU           int
	DirectRouting bool // vxlan: plain routes to nodes on the same wire
	GBP           bool
	Learning      bool
}

const (
	vxlanBackend  = "vxlan"
	hostGWBackend = "host-gw"

	// Upstream: flannel-io/flannel pkg/backend/vxlan: VNI 1; port 0 means the
	// kernel's own default, which is not IANA's 4789 but the older 8472.
	defaultVNI  = 1
	defaultPort = 8472
	// vxlanOverhead is outer Ethernet, IPv4, UDP and VXLAN headers: 14+20+8+8.
	vxlanOverhead = 50
)

// LoadNetConf reads and checks net-conf.json.
func LoadNetConf(path string) (*NetConf, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("network configuration: %w", err)
	}
	conf, err := parseNetConf(data)
	if err != nil {
		return nil, fmt.Errorf("network configuration %s: %w", path, err)
	}
	return conf, nil
}

func parseNetConf(data []byte) (*NetConf, error) {
	conf := &NetConf{Backend: Backend{Type: "udp", VNI: defaultVNI, Port: defaultPort}}
	if err := json.Unmarshal(data, conf); err != nil {
		return nil, err
	}
	if conf.Backend.Port == 0 {
		conf.Backend.Port = defaultPort
	}
	switch b := conf.Backend; {
	case !conf.Network.IsValid() || !conf.Network.Addr().Is4():
		return nil, fmt.Errorf("field Network: an IPv4 range like 10.244.0.0/16 is needed")
	case conf.EnableIPv6 || conf.EnableIPv4 != nil && !*conf.EnableIPv4:
		return nil, fmt.Errorf("EnableIPv6: not built yet: use IPv4")
	case conf.EnableNFTables:
		return nil, fmt.Errorf("EnableNFTables: not built yet: use false (iptables)")
	case b.Type != vxlanBackend && b.Type != hostGWBackend:
		return nil, fmt.Errorf("Backend.Type %q: not built: use vxlan or host-gw", b.Type)
	case b.GBP || b.Learning:
		return nil, fmt.Errorf("Backend: GBP and Learning are not built")
	case b.VNI < 1 || b.VNI >= 1<<24:
		return nil, fmt.Errorf("Backend.VNI %d: must be 1 to 16777215", b.VNI)
	case b.Port < 1 || b.Port > 65535:
		return nil, fmt.Errorf("Backend.Port %d: must be 1 to 65535", b.Port)
	}
	conf.Network = conf.Network.Masked()
	return conf, nil
}

// subnetEnv is the text of the file for the CNI plugin. FLANNEL_SUBNET is the
// subnet's first usable address, which the bridge will get.
func subnetEnv(network, subnet netip.Prefix, mtu int, ipMasq bool) string {
	first := netip.PrefixFrom(subnet.Masked().Addr().Next(), subnet.Bits())
	return fmt.Sprintf("FLANNEL_NETWORK=%s\nFLANNEL_SUBNET=%s\nFLANNEL_MTU=%d\nFLANNEL_IPMASQ=%t\n", network, first, mtu, ipMasq)
}
