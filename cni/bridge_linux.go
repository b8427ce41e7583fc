package cni

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// bridgeAdd joins a container to a bridge of the node.
//
// The order is chosen for crashes. The address comes first: it is remembered
// under the container's name, so a second ADD gets the same one. The node's end
// of the link is connected and set up last: an end that is up means "complete".
func bridgeAdd(args *skel.CmdArgs) (err error) {
	c, err := parseBridge(args)
	if err != nil {
		return err
	}
	pod, err := openNetns(args.Netns)
	if err != nil {
		return err
	}
	defer pod.close()
	if err := clearLeftover(pod, args); err != nil {
		return err
	}
	result, err := c.addresses(args)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = bridgeDel(args) // all or nothing; the error that matters is the first
		}
	}()
	bridge, err := c.ensureBridge(result)
	if err != nil {
		return err
	}
	host, inside, err := c.makeLink(pod, args, result)
	if err != nil {
		return err
	}
	if err := c.configure(pod, inside, result); err != nil {
		return err
	}
	if c.IPMasq {
		if err := masquerade(c.Name, args.ContainerID, result.IPs); err != nil {
			return err
		}
	}
	if err := c.connect(host, bridge); err != nil {
		return err
	}
	result.DNS = mergeDNS(result.DNS, c.DNS)
	result.Interfaces = []*current.Interface{
		{Name: c.Bridge, Mac: bridge.Attrs().HardwareAddr.String()},
		{Name: host.Attrs().Name, Mac: host.Attrs().HardwareAddr.String()},
		{Name: args.IfName, Mac: inside.Attrs().HardwareAddr.String(), Mtu: inside.Attrs().MTU, Sandbox: args.Netns},
	}
	return types.PrintResult(result, c.CNIVersion)
}

// clearLeftover removes the half-made link of an ADD that died, and refuses a
// complete one. Spec: CNI 1.1 §ADD: an interface of that name is an error.
func clearLeftover(pod *netns, args *skel.CmdArgs) error {
	host, err := netlink.LinkByName(hostLinkName(args.ContainerID, args.IfName))
	if err == nil && host.Attrs().Flags&net.FlagUp == 0 {
		if err := netlink.LinkDel(host); err != nil {
			return fmt.Errorf("remove what a crashed ADD left: %w", err)
		}
	}
	if _, err := pod.LinkByName(args.IfName); err == nil {
		return fmt.Errorf("the container already has an interface %s", args.IfName)
	}
	return nil
}

// addresses asks the IPAM plugin.
//
// Simplified: upstream also makes bridges without any IPAM, for plain layer 2;
// a Kubernetes pod always has an address.
func (c *bridgeConfig) addresses(args *skel.CmdArgs) (*current.Result, error) {
	if c.IPAM.Type == "" {
		return nil, invalid("ipam.type: missing")
	}
	answer, err := invoke.DelegateAdd(background(), c.IPAM.Type, args.StdinData, nil)
	if err != nil {
		return nil, err
	}
	result, err := current.NewResultFromResult(answer)
	if err == nil {
		err = c.complete(result)
	}
	if err != nil {
		_ = invoke.DelegateDel(background(), c.IPAM.Type, args.StdinData, nil)
		return nil, err
	}
	return result, nil
}

// ensureBridge makes the bridge unless it is there, and gives it the gateway
// addresses.
//
//	ip link add cni0 type bridge; ip link set cni0 up; ip addr add 10.244.1.1/24 dev cni0
func (c *bridgeConfig) ensureBridge(result *current.Result) (netlink.Link, error) {
	link, err := netlink.LinkByName(c.Bridge)
	if err != nil {
		if link, err = c.makeBridge(result); err != nil {
			return nil, fmt.Errorf("bridge %s: %w", c.Bridge, err)
		}
	}
	if link.Type() != "bridge" {
		return nil, fmt.Errorf("%q already exists but is not a bridge: it is a %s", c.Bridge, link.Type())
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(link); err != nil {
			return nil, fmt.Errorf("set %s up: %w", c.Bridge, err)
		}
	}
	if c.PromiscMode {
		if err := netlink.SetPromiscOn(link); err != nil {
			return nil, err
		}
	}
	if !c.IsGateway {
		return link, nil
	}
	for _, ip := range result.IPs {
		address := net.IPNet{IP: ip.Gateway, Mask: ip.Address.Mask}
		if err := ensureAddress(link, &address, c.ForceAddress); err != nil {
			return nil, err
		}
		if err := enableForwarding(ip.Gateway); err != nil {
			return nil, err
		}
	}
	return link, nil
}

// makeBridge fixes the bridge's own link-layer address: left alone, a bridge
// takes the lowest of its ports', which changes whenever containers come and go.
func (c *bridgeConfig) makeBridge(result *current.Result) (netlink.Link, error) {
	attributes := netlink.NewLinkAttrs()
	attributes.Name, attributes.MTU = c.Bridge, c.MTU
	if c.IsGateway {
		attributes.HardwareAddr = macOf(result.IPs[0].Gateway)
	}
	err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attributes})
	if err != nil && !errors.Is(err, unix.EEXIST) { // another ADD was faster
		return nil, err
	}
	link, err := netlink.LinkByName(c.Bridge)
	if err == nil && attributes.HardwareAddr == nil {
		err = netlink.LinkSetHardwareAddr(link, link.Attrs().HardwareAddr)
	}
	return link, err
}

// ensureAddress adds an address to the bridge. Several are fine as long as their
// networks differ.
func ensureAddress(link netlink.Link, address *net.IPNet, force bool) error {
	have, err := netlink.AddrList(link, family(address.IP))
	if err != nil {
		return err
	}
	for _, a := range have {
		if a.IPNet.String() == address.String() {
			return nil
		}
		if !a.IPNet.Contains(address.IP) && !address.Contains(a.IP) {
			continue
		}
		if !force {
			return fmt.Errorf("%s has the address %s already, which is in the way of %s (forceAddress would replace it)", link.Attrs().Name, a.IPNet, address)
		}
		if err := netlink.AddrDel(link, &a); err != nil {
			return err
		}
	}
	err = netlink.AddrAdd(link, &netlink.Addr{IPNet: address, Flags: noDAD(address.IP)})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add %s to %s: %w", address, link.Attrs().Name, err)
	}
	return nil
}

// makeLink makes the pair: one end in the container under its final name, one on
// the node, still down.
//
//	ip link add vethX type veth peer name eth0 netns POD
func (c *bridgeConfig) makeLink(pod *netns, args *skel.CmdArgs, result *current.Result) (host, inside netlink.Link, err error) {
	mac := c.mac
	if mac == nil {
		mac = macOf(result.IPs[0].Address.IP)
	}
	attributes := netlink.NewLinkAttrs()
	attributes.Name, attributes.MTU = hostLinkName(args.ContainerID, args.IfName), c.MTU
	err = netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: attributes, PeerName: args.IfName, PeerHardwareAddr: mac,
		PeerMTU: uint32(c.MTU), PeerNamespace: netlink.NsFd(int(pod.handle)),
	})
	if err != nil {
		return nil, nil, fmt.Errorf("veth %s: %w", attributes.Name, err)
	}
	if host, err = netlink.LinkByName(attributes.Name); err != nil {
		return nil, nil, err
	}
	inside, err = pod.LinkByName(args.IfName)
	return host, inside, err
}

// configure gives the container's end its addresses and routes.
func (c *bridgeConfig) configure(pod *netns, inside netlink.Link, result *current.Result) error {
	for _, ip := range result.IPs {
		address := &netlink.Addr{IPNet: &ip.Address}
		if !c.EnableDAD {
			address.Flags = noDAD(ip.Address.IP)
		}
		if err := pod.AddrAdd(inside, address); err != nil {
			return fmt.Errorf("add %s to the container: %w", ip.Address.String(), err)
		}
	}
	if err := pod.LinkSetUp(inside); err != nil {
		return err
	}
	for _, r := range result.Routes {
		route := &netlink.Route{
			LinkIndex: inside.Attrs().Index, Dst: &r.Dst, Gw: gatewayOf(result, r),
			MTU: r.MTU, AdvMSS: r.AdvMSS, Priority: r.Priority,
		}
		if r.Table != nil {
			route.Table = *r.Table
		}
		if r.Scope != nil {
			route.Scope = netlink.Scope(*r.Scope)
		}
		if err := pod.RouteAdd(route); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("route to %s via %s: %w", r.Dst.String(), route.Gw, err)
		}
	}
	return nil
}

// connect plugs the node's end into the bridge, and with that the container is
// on the network.
//
//	ip link set vethX master cni0; bridge link set dev vethX hairpin on; ip link set vethX up
func (c *bridgeConfig) connect(host, bridge netlink.Link) error {
	if err := netlink.LinkSetMaster(host, bridge); err != nil {
		return fmt.Errorf("connect %s to %s: %w", host.Attrs().Name, c.Bridge, err)
	}
	if c.HairpinMode {
		if err := netlink.LinkSetHairpin(host, true); err != nil {
			return fmt.Errorf("hairpin mode of %s: %w", host.Attrs().Name, err)
		}
	}
	if c.PortIsolation {
		if err := netlink.LinkSetIsolated(host, true); err != nil {
			return fmt.Errorf("port isolation of %s: %w", host.Attrs().Name, err)
		}
	}
	return netlink.LinkSetUp(host)
}

// bridgeDel undoes ADD, or whatever part of it happened; what is gone is gone.
// The link goes before the address: nobody may get an address that still answers.
func bridgeDel(args *skel.CmdArgs) error {
	c, err := decodeBridge(args)
	if err != nil {
		return err
	}
	name := hostLinkName(args.ContainerID, args.IfName)
	if err := removeLink(netlink.LinkByName, netlink.LinkDel, name); err != nil {
		return err
	}
	// A link that upstream's plugin made has another name on the node; its other
	// end is enough.
	if pod, err := openNetns(args.Netns); err == nil {
		defer pod.close()
		if err := removeLink(pod.LinkByName, pod.LinkDel, args.IfName); err != nil {
			return err
		}
	}
	if c.IPMasq {
		if err := unmasquerade(c.Name, args.ContainerID); err != nil {
			return err
		}
	}
	if c.IPAM.Type == "" {
		return nil
	}
	return invoke.DelegateDel(background(), c.IPAM.Type, args.StdinData, nil)
}

func removeLink(find func(string) (netlink.Link, error), remove func(netlink.Link) error, name string) error {
	link, err := find(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil {
		err = remove(link)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}

// bridgeCheck compares the kernel with what ADD answered. Spec: CNI 1.1 §CHECK.
func bridgeCheck(args *skel.CmdArgs) error {
	c, err := parseBridge(args)
	if err != nil {
		return err
	}
	result, err := previousResult(&c.PluginConf)
	if err != nil {
		return err
	}
	if err := checkAttachment(result, args); err != nil {
		return err
	}
	bridge, err := netlink.LinkByName(c.Bridge)
	if err != nil {
		return fmt.Errorf("bridge %s: %w", c.Bridge, err)
	}
	host, err := netlink.LinkByName(hostLinkName(args.ContainerID, args.IfName))
	if err != nil {
		return fmt.Errorf("the node's end of %s: %w", args.IfName, err)
	}
	if host.Attrs().MasterIndex != bridge.Attrs().Index || host.Attrs().Flags&net.FlagUp == 0 {
		return fmt.Errorf("%s is not connected to %s", host.Attrs().Name, c.Bridge)
	}
	if err := checkInside(args, result); err != nil {
		return err
	}
	return invoke.DelegateCheck(background(), c.IPAM.Type, args.StdinData, nil)
}

// checkInside looks for every address and route of the result in the container.
func checkInside(args *skel.CmdArgs, result *current.Result) error {
	pod, err := openNetns(args.Netns)
	if err != nil {
		return err
	}
	defer pod.close()
	inside, err := pod.LinkByName(args.IfName)
	if err != nil {
		return fmt.Errorf("interface %s: %w", args.IfName, err)
	}
	for _, ip := range result.IPs {
		found := false
		addresses, err := pod.AddrList(inside, family(ip.Address.IP))
		if err != nil {
			return err
		}
		for _, a := range addresses {
			found = found || a.IPNet.String() == ip.Address.String()
		}
		if !found {
			return fmt.Errorf("interface %s has lost its address %s", args.IfName, ip.Address.String())
		}
	}
	for _, r := range result.Routes {
		filter := &netlink.Route{LinkIndex: inside.Attrs().Index, Dst: &r.Dst}
		routes, err := pod.RouteListFiltered(family(r.Dst.IP), filter, netlink.RT_FILTER_OIF|netlink.RT_FILTER_DST)
		if err != nil {
			return err
		}
		if len(routes) == 0 {
			return fmt.Errorf("the container has lost its route to %s", r.Dst.String())
		}
	}
	return nil
}

func bridgeStatus(args *skel.CmdArgs) error {
	c, err := parseBridge(args)
	if err != nil {
		return err
	}
	return invoke.DelegateStatus(background(), c.IPAM.Type, args.StdinData, nil)
}

// bridgeGC hands on to IPAM, where leftovers cost something. Links of dead
// containers need no collecting: they went with the container's namespace.
func bridgeGC(args *skel.CmdArgs) error {
	c, err := decodeBridge(args)
	if err != nil {
		return err
	}
	if c.IPMasq {
		if err := collectChains(masqueradePrefix, &c.PluginConf); err != nil {
			return err
		}
	}
	return invoke.DelegateGC(background(), c.IPAM.Type, args.StdinData, nil)
}

// mergeDNS: what the network's configuration says wins over IPAM's.
func mergeDNS(fromIPAM, fromConfig types.DNS) types.DNS {
	if fromConfig.IsEmpty() {
		return fromIPAM
	}
	return fromConfig
}

// enableForwarding makes the node a router: it has just become a gateway.
func enableForwarding(gateway net.IP) error {
	path := "/proc/sys/net/ipv4/ip_forward"
	if gateway.To4() == nil {
		path = "/proc/sys/net/ipv6/conf/all/forwarding"
	}
	if have, err := os.ReadFile(path); err == nil && len(have) > 0 && have[0] == '1' {
		return nil
	}
	if err := os.WriteFile(path, []byte("1"), 0o644); err != nil {
		return fmt.Errorf("enable forwarding: %w", err)
	}
	return nil
}

func family(ip net.IP) int {
	if ip.To4() != nil {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

// noDAD skips IPv6's search for duplicates: IPAM has done it, and a container
// should not wait a second for the kernel to repeat it.
func noDAD(ip net.IP) int {
	if ip.To4() != nil {
		return 0
	}
	return unix.IFA_F_NODAD
}

// linkTo names the interface by which the node reaches an address.
func linkTo(ip net.IP) (string, error) {
	routes, err := netlink.RouteGet(ip)
	if err != nil || len(routes) == 0 {
		return "", fmt.Errorf("find the way to %s: %w", ip, err)
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return "", fmt.Errorf("find the way to %s: %w", ip, err)
	}
	return link.Attrs().Name, nil
}
