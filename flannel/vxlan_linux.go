package flannel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// findExternal chooses the interface that leads to other nodes.
func findExternal(config Config, known netip.Addr) (external, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return external{}, err
	}
	rules := interfaceRules(config, known)
	for _, rule := range rules {
		for _, link := range links {
			networks := addresses(link)
			for _, n := range networks {
				if rule(link, n.Addr()) {
					a := link.Attrs()
					return external{a.Name, a.Index, a.MTU, n.Addr(), networks}, nil
				}
			}
		}
	}
	if config.choosesInterface() {
		return external{}, fmt.Errorf("no interface %s with an IPv4 address on this node", config.chosen())
	}
	return external{}, errors.New("no interface with a default route on this node, and none with the node's address: choose one with --iface")
}

// interfaceRules are tried one after the other; the first that finds a link decides.
func interfaceRules(config Config, known netip.Addr) (rules []func(netlink.Link, netip.Addr) bool) {
	if !config.choosesInterface() {
		defaultRoute := defaultRouteLink()
		return []func(netlink.Link, netip.Addr) bool{
			func(l netlink.Link, _ netip.Addr) bool { return l.Attrs().Index == defaultRoute },
			func(_ netlink.Link, ip netip.Addr) bool { return ip == config.PublicIP },
			func(_ netlink.Link, ip netip.Addr) bool { return ip == known },
		}
	}
	for _, name := range config.Interfaces {
		rules = append(rules, func(l netlink.Link, ip netip.Addr) bool { return l.Attrs().Name == name || ip.String() == name })
	}
	for _, pattern := range config.InterfacePatterns {
		rules = append(rules,
			func(_ netlink.Link, ip netip.Addr) bool { return pattern.MatchString(ip.String()) },
			func(l netlink.Link, _ netip.Addr) bool { return pattern.MatchString(l.Attrs().Name) })
	}
	if config.CanReach.IsValid() {
		if routes, err := netlink.RouteGet(config.CanReach.AsSlice()); err == nil && len(routes) > 0 {
			rules = append(rules, func(l netlink.Link, _ netip.Addr) bool { return l.Attrs().Index == routes[0].LinkIndex })
		}
	}
	return rules
}

// addresses are a link's IPv4 addresses with their networks.
func addresses(link netlink.Link) (prefixes []netip.Prefix) {
	list, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return nil
	}
	for _, a := range list {
		if ip, ok := netip.AddrFromSlice(a.IP.To4()); ok && ip.IsGlobalUnicast() {
			ones, _ := a.Mask.Size()
			prefixes = append(prefixes, netip.PrefixFrom(ip, ones))
		}
	}
	return prefixes
}

func defaultRouteLink() int {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return 0
	}
	for _, r := range routes {
		if r.Dst == nil || r.Dst.IP.IsUnspecified() {
			return r.LinkIndex
		}
	}
	return 0
}

func (f *Flannel) deviceName() string { return fmt.Sprintf("flannel.%d", f.conf.Backend.VNI) }

// deviceMAC is that of the device which is there already; zero: there is none.
func (f *Flannel) deviceMAC() (mac MAC) {
	if link, err := netlink.LinkByName(f.deviceName()); err == nil {
		copy(mac[:], link.Attrs().HardwareAddr)
	}
	return mac
}

// ensureDevice makes the vxlan device, keeps one that fits, and replaces one
// that does not. Keeping it is what makes a restart unnoticeable.
//
//	ip link add flannel.1 type vxlan id 1 local 172.30.9.1 dev eth0 dstport 8472 nolearning
//	ip addr add 10.244.0.0/32 dev flannel.1; ip link set flannel.1 up
func (f *Flannel) ensureDevice() error {
	if f.conf.Backend.Type != vxlanBackend {
		return nil
	}
	attributes := netlink.NewLinkAttrs()
	attributes.Name, attributes.MTU = f.deviceName(), f.mtu()
	if !f.mine.VTEP.IsZero() {
		attributes.HardwareAddr = net.HardwareAddr(f.mine.VTEP[:])
	}
	want := &netlink.Vxlan{
		LinkAttrs: attributes, VxlanId: f.conf.Backend.VNI, VtepDevIndex: f.external.index,
		SrcAddr: f.external.address.AsSlice(), Port: f.conf.Backend.Port, Learning: false,
	}
	link, err := netlink.LinkByName(want.Name)
	if err == nil && !sameDevice(link, want) {
		f.log.Info("Replacing a device that does not fit", "device", want.Name)
		if err := netlink.LinkDel(link); err != nil {
			return fmt.Errorf("remove %s: %w", want.Name, err)
		}
		err = errors.New("removed")
	}
	if err != nil {
		if err := netlink.LinkAdd(want); err != nil {
			return fmt.Errorf("vxlan device %s: %w", want.Name, err)
		}
		if link, err = netlink.LinkByName(want.Name); err != nil {
			return err
		}
	}
	copy(f.mine.VTEP[:], link.Attrs().HardwareAddr)
	if err := f.ensureAddress(link); err != nil {
		return err
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		return netlink.LinkSetUp(link)
	}
	return nil
}

// sameDevice compares what cannot be changed later, and the MTU, which should
// not differ.
func sameDevice(link netlink.Link, want *netlink.Vxlan) bool {
	have, ok := link.(*netlink.Vxlan)
	return ok && have.VxlanId == want.VxlanId && have.VtepDevIndex == want.VtepDevIndex &&
		have.SrcAddr.Equal(want.SrcAddr) && have.Port == want.Port && !have.Learning && have.MTU == want.MTU &&
		(want.HardwareAddr == nil || have.HardwareAddr.String() == want.HardwareAddr.String())
}

// ensureAddress gives the device the subnet's base address and no other: hosts
// that speak to remote pods do so under it.
func (f *Flannel) ensureAddress(link netlink.Link) error {
	want := &net.IPNet{IP: f.mine.Subnet.Masked().Addr().AsSlice(), Mask: net.CIDRMask(32, 32)}
	have, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	for _, a := range have {
		if a.IPNet.String() == want.String() {
			return nil
		}
		if err := netlink.AddrDel(link, &a); err != nil {
			return err
		}
	}
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: want}); err != nil {
		return fmt.Errorf("add %s to %s: %w", want, link.Attrs().Name, err)
	}
	return nil
}

// readPlan reads back what is ours, and only that:
//
//   - routes into the cluster's network through our device, onlink to their own
//     base address, or (direct) through the external interface to a neighbour;
//   - permanent ARP entries for addresses of the cluster's network;
//   - FDB entries for MACs that such an ARP entry names.
//
// So whatever else somebody puts on the device stays, and after a crash between
// any two operations what is left is still recognised: ARP goes last.
func (f *Flannel) readPlan() (Plan, error) {
	plan := newPlan()
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return plan, err
	}
	device := 0
	if link, err := netlink.LinkByName(f.deviceName()); err == nil {
		device = link.Attrs().Index
	}
	for _, r := range routes {
		dst, ok := prefixOf(r.Dst)
		via, viaOK := netip.AddrFromSlice(r.Gw.To4())
		if !ok || !viaOK || !f.conf.Network.Contains(dst.Addr()) {
			continue
		}
		if device != 0 && r.LinkIndex == device && via == dst.Addr() {
			plan.Routes[dst] = Route{Via: via}
		} else if r.LinkIndex == f.external.index && isLocal(f.external.networks, via) {
			plan.Routes[dst] = Route{Via: via, Direct: true}
		}
	}
	if device == 0 {
		return plan, nil
	}
	neighbours, err := netlink.NeighList(device, netlink.FAMILY_V4)
	if err != nil {
		return plan, err
	}
	ours := map[MAC]bool{}
	for _, n := range neighbours {
		ip, ok := netip.AddrFromSlice(n.IP.To4())
		if ok && n.State&netlink.NUD_PERMANENT != 0 && f.conf.Network.Contains(ip) && len(n.HardwareAddr) == 6 {
			plan.ARP[ip] = MAC(n.HardwareAddr)
			ours[MAC(n.HardwareAddr)] = true
		}
	}
	entries, err := netlink.NeighList(device, unix.AF_BRIDGE)
	if err != nil {
		return plan, err
	}
	for _, n := range entries {
		if to, ok := netip.AddrFromSlice(n.IP.To4()); ok && len(n.HardwareAddr) == 6 && ours[MAC(n.HardwareAddr)] {
			plan.FDB[MAC(n.HardwareAddr)] = to
		}
	}
	return plan, nil
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	ip, ok := netip.AddrFromSlice(n.IP.To4())
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(ip, ones), ok
}

// apply does one Op by netlink; Op.String is the same as a command.
func (f *Flannel) apply(op Op) error {
	device := f.external.index
	if !op.Route.Direct {
		link, err := netlink.LinkByName(f.deviceName())
		if err != nil {
			return err
		}
		device = link.Attrs().Index
	}
	if op.Subnet.IsValid() {
		return applyRoute(op, device)
	}
	entry := &netlink.Neigh{LinkIndex: device, State: netlink.NUD_PERMANENT}
	if op.ARP.IsValid() {
		entry.Family, entry.Type = netlink.FAMILY_V4, unix.RTN_UNICAST
		entry.IP, entry.HardwareAddr = op.ARP.AsSlice(), op.MAC[:]
	} else {
		entry.Family, entry.Flags = unix.AF_BRIDGE, netlink.NTF_SELF
		entry.IP, entry.HardwareAddr = op.To.AsSlice(), op.FDB[:]
	}
	if !op.Remove {
		return netlink.NeighSet(entry)
	}
	return gone(netlink.NeighDel(entry))
}

func applyRoute(op Op, device int) error {
	dst := &net.IPNet{IP: op.Subnet.Addr().AsSlice(), Mask: net.CIDRMask(op.Subnet.Bits(), 32)}
	route := &netlink.Route{LinkIndex: device, Dst: dst, Gw: op.Route.Via.AsSlice()}
	if !op.Route.Direct {
		route.SetFlag(netlink.FLAG_ONLINK)
	}
	if op.Remove {
		return gone(netlink.RouteDel(route))
	}
	return netlink.RouteReplace(route)
}

// gone forgives removing what is not there.
func gone(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EADDRNOTAVAIL) {
		return nil
	}
	return err
}
