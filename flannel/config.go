package flannel

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"iter"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Config is what flanneld's flags say.
type Config struct {
	NodeName string
	// NetConfigPath is the cluster's choice of network and backend.
	NetConfigPath string
	// SubnetFile is what the CNI plugin reads.
	SubnetFile string
	// Interfaces are names or addresses of the link to other nodes: the first that
	// is there. Then InterfacePatterns, then the link that leads to CanReach. If
	// none of the three is given: the link with the default route, else the one
	// with PublicIP, else the one with the address that the source gives for this
	// node.
	Interfaces        []string
	InterfacePatterns []*regexp.Regexp
	CanReach          netip.Addr
	// PublicIP is what others are told to send to; empty: Interface's address.
	PublicIP netip.Addr
	// IPMasq makes pods' traffic to the world leave under the node's address.
	IPMasq bool
	// OrderlyPorts leaves --random-fully out, with which clashes of source ports are
	// rare when many connections start at once.
	OrderlyPorts bool
	// ForwardRules let forwarded traffic of pods pass a firewall that drops.
	ForwardRules bool
	// HostRoot is where the machine's root is mounted, for its iptables.
	HostRoot string
	// Resync is how often the kernel is compared with the plan.
	Resync time.Duration
}

func (c Config) choosesInterface() bool {
	return len(c.Interfaces)+len(c.InterfacePatterns) > 0 || c.CanReach.IsValid()
}

// chosen is the choice in words, for an error.
func (c Config) chosen() string {
	words := slices.Clone(c.Interfaces)
	for _, p := range c.InterfacePatterns {
		words = append(words, "like "+p.String())
	}
	if c.CanReach.IsValid() {
		words = append(words, "to "+c.CanReach.String())
	}
	return strconv.Quote(strings.Join(words, ", "))
}

// NetConf is net-conf.json.
type NetConf struct {
	Network        netip.Prefix
	EnableIPv4     *bool
	EnableIPv6     bool
	EnableNFTables bool
	Backend        Backend
	// For nodes that choose their subnets themselves, from etcd.
	SubnetLen            int
	SubnetMin, SubnetMax netip.Addr
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

// ParseEtcdNetConf reads a configuration that also says how nodes divide the
// network. Where it does not, each gets a /24, or a quarter of a small network;
// the first subnet is left out: its base address is the network's own.
//
// Upstream: flannel-io/flannel pkg/subnet/config.go CheckNetworkConfig
func ParseEtcdNetConf(data []byte) (*NetConf, error) {
	conf, err := parseNetConf(data)
	if err != nil {
		return nil, err
	}
	bits := conf.Network.Bits()
	switch {
	case conf.SubnetLen > 30:
		return nil, fmt.Errorf("SubnetLen %d: must be less than /31", conf.SubnetLen)
	case conf.SubnetLen > 0 && conf.SubnetLen < bits+2 || conf.SubnetLen < 0:
		return nil, fmt.Errorf("SubnetLen %d: network %s must be able to hold at least four subnets", conf.SubnetLen, conf.Network)
	case conf.SubnetLen == 0 && bits > 28:
		return nil, fmt.Errorf("network %s is too small: /28 is the smallest of use", conf.Network)
	case conf.SubnetLen == 0:
		conf.SubnetLen = max(24, bits+2)
	}
	size := uint32(1) << (32 - conf.SubnetLen)
	first := toNumber(conf.Network.Addr())
	for _, end := range []struct {
		name    string
		address *netip.Addr
		number  uint32
	}{{"SubnetMin", &conf.SubnetMin, first + size}, {"SubnetMax", &conf.SubnetMax, first + 1<<(32-bits) - size}} {
		if !end.address.IsValid() {
			*end.address = toAddress(end.number)
		}
		if !conf.Network.Contains(*end.address) {
			return nil, fmt.Errorf("%s %s is not in network %s", end.name, end.address, conf.Network)
		}
		if toNumber(*end.address)%size != 0 {
			return nil, fmt.Errorf("%s %s is not the first address of a /%d", end.name, end.address, conf.SubnetLen)
		}
	}
	return conf, nil
}

// Fits says whether a node may have this subnet.
func (c *NetConf) Fits(subnet netip.Prefix) bool {
	return subnet.Bits() == c.SubnetLen && !subnet.Addr().Less(c.SubnetMin) && !c.SubnetMax.Less(subnet.Addr())
}

// Subnets are all that a node may have, in order.
func (c *NetConf) Subnets() iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		for n := uint64(toNumber(c.SubnetMin)); n <= uint64(toNumber(c.SubnetMax)); n += 1 << (32 - c.SubnetLen) {
			if !yield(netip.PrefixFrom(toAddress(uint32(n)), c.SubnetLen)) {
				return
			}
		}
	}
}

func toNumber(ip netip.Addr) uint32 {
	v4 := ip.As4()
	return binary.BigEndian.Uint32(v4[:])
}

func toAddress(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n)))
}

// subnetEnv is the text of the file for the CNI plugin. FLANNEL_SUBNET is the
// subnet's first usable address, which the bridge will get.
func subnetEnv(network, subnet netip.Prefix, mtu int, ipMasq bool) string {
	first := netip.PrefixFrom(subnet.Masked().Addr().Next(), subnet.Bits())
	return fmt.Sprintf("FLANNEL_NETWORK=%s\nFLANNEL_SUBNET=%s\nFLANNEL_MTU=%d\nFLANNEL_IPMASQ=%t\n", network, first, mtu, ipMasq)
}
