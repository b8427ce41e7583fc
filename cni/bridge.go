package cni

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
)

// bridgeConfig is upstream's: same names, same defaults.
type bridgeConfig struct {
	types.PluginConf
	Bridge           string `json:"bridge"`           // default cni0
	IsGateway        bool   `json:"isGateway"`        // the bridge gets the subnet's gateway address
	IsDefaultGateway bool   `json:"isDefaultGateway"` // and containers a default route to it
	ForceAddress     bool   `json:"forceAddress"`     // replace another address of the bridge
	IPMasq           bool   `json:"ipMasq"`
	MTU              int    `json:"mtu"`
	HairpinMode      bool   `json:"hairpinMode"` // a container may reach itself through a Service
	PromiscMode      bool   `json:"promiscMode"`
	PortIsolation    bool   `json:"portIsolation"`
	EnableDAD        bool   `json:"enabledad"` // let the kernel look for duplicates of IPv6 addresses
	RuntimeConfig    struct {
		MAC string `json:"mac"`
	} `json:"runtimeConfig"`
	Args struct {
		CNI struct {
			MAC string `json:"mac"`
		} `json:"cni"`
	} `json:"args"`

	// Known and not built. They limit what a container can reach, so ignoring
	// them would be a lie.
	VLAN        int   `json:"vlan"`
	VLANTrunk   []any `json:"vlanTrunk"`
	MACSpoofChk bool  `json:"macspoofchk"`
	NoContainer bool  `json:"disableContainerInterface"`
	// IPMasqBackend may be iptables, which it is anyhow.
	IPMasqBackend string `json:"ipMasqBackend"`

	mac net.HardwareAddr // that the caller wants; nil: it follows from the address
}

// decodeBridge only decodes, for DEL and GC: what ADD refuses they must not.
func decodeBridge(args *skel.CmdArgs) (*bridgeConfig, error) {
	c := &bridgeConfig{Bridge: "cni0"}
	return c, decode(args.StdinData, c)
}

// parseBridge decodes and checks.
func parseBridge(args *skel.CmdArgs) (*bridgeConfig, error) {
	c, err := decodeBridge(args)
	if err != nil {
		return nil, err
	}
	for field, set := range map[string]bool{
		"vlan": c.VLAN != 0, "vlanTrunk": len(c.VLANTrunk) > 0,
		"macspoofchk": c.MACSpoofChk, "disableContainerInterface": c.NoContainer,
		"ipMasqBackend": c.IPMasqBackend != "" && c.IPMasqBackend != "iptables",
	} {
		if set {
			return nil, types.NewError(types.ErrUnsupportedField, "bridge: field "+field+" is not supported", "")
		}
	}
	if c.HairpinMode && c.PromiscMode {
		return nil, invalid("hairpinMode and promiscMode exclude each other")
	}
	if c.MTU < 0 {
		return nil, invalid("mtu %d is negative", c.MTU)
	}
	c.IsGateway = c.IsGateway || c.IsDefaultGateway
	// Three ways to ask for a MAC, the newest wins.
	if wanted := cmp.Or(c.RuntimeConfig.MAC, c.Args.CNI.MAC, envArg(args.Args, "MAC")); wanted != "" {
		if c.mac, err = net.ParseMAC(wanted); err != nil {
			return nil, invalid("mac: %v", err)
		}
	}
	return c, nil
}

// hostLinkName names the node's end of a container's link. It is computed, not
// drawn, so that whoever comes after a crash finds what the dead ADD left.
func hostLinkName(containerID, ifName string) string {
	sum := sha256.Sum256([]byte(containerID + "/" + ifName))
	return "veth" + hex.EncodeToString(sum[:4])
}

// macOf derives a link-layer address from an IPv4 one. An address that moves on
// to another container so keeps its neighbour entry in everybody's cache right;
// with random ones, new containers are mute until old entries expire.
func macOf(ip net.IP) net.HardwareAddr {
	if v4 := ip.To4(); v4 != nil {
		return append(net.HardwareAddr{0x0a, 0x58}, v4...)
	}
	return nil // the kernel draws one
}

// complete turns what IPAM answered into the container's full layer 3: which
// interface each address is on, gateways, and the default route.
func (c *bridgeConfig) complete(result *current.Result) error {
	if len(result.IPs) == 0 {
		return invalid("IPAM plugin %s returned no address", c.IPAM.Type)
	}
	const containerInterface = 2 // its place in Result.Interfaces
	for _, ip := range result.IPs {
		ip.Interface = current.Int(containerInterface)
		if ip.Gateway == nil && c.IsGateway {
			ip.Gateway = firstOf(ip.Address)
		}
	}
	if c.IsDefaultGateway {
		for _, ip := range result.IPs {
			addDefaultRoute(result, ip.Gateway)
		}
	}
	return nil
}

// addDefaultRoute leaves a default route that IPAM has given alone.
func addDefaultRoute(result *current.Result, gateway net.IP) {
	everywhere := net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	if gateway.To4() == nil {
		everywhere = net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	}
	for _, route := range result.Routes {
		if route.Dst.String() == everywhere.String() {
			return
		}
	}
	result.Routes = append(result.Routes, &types.Route{Dst: everywhere, GW: gateway})
}

// firstOf is the first usable address of a network.
func firstOf(n net.IPNet) net.IP {
	base, _ := netip.AddrFromSlice(n.IP.Mask(n.Mask))
	return base.Unmap().Next().AsSlice()
}

// gatewayOf answers the gateway of a route's family.
func gatewayOf(result *current.Result, route *types.Route) net.IP {
	if route.GW != nil {
		return route.GW
	}
	for _, ip := range result.IPs {
		if (ip.Address.IP.To4() != nil) == (route.Dst.IP.To4() != nil) {
			return ip.Gateway
		}
	}
	return nil
}

// checkAttachment finds the container's interface in prevResult.
func checkAttachment(result *current.Result, args *skel.CmdArgs) error {
	if result == nil {
		return invalid("CHECK needs prevResult")
	}
	for _, i := range result.Interfaces {
		if i.Name == args.IfName && i.Sandbox == args.Netns {
			return nil
		}
	}
	return fmt.Errorf("prevResult has no interface %s in %s", args.IfName, args.Netns)
}
