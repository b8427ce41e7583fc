package cni

// host-local hands out addresses of this node's own ranges. Its whole memory is
// a directory, so that a person can look, and so that a crash at any instruction
// leaves either an address with an owner or no address at all:
//
//	/var/lib/cni/networks/cbr0/
//	    10.244.1.2              "<container id>\r\neth0"
//	    10.244.1.3              …
//	    last_reserved_ip.0      where the next search begins
//	    lock                    flock(2), held for one verb
//
// Addresses are given round robin, not lowest first: one that was just released
// rests for as long as possible, while others forget whom it belonged to.
//
// Upstream: containernetworking/plugins plugins/ipam/host-local; same files, so
// the two can take each other's place on a running node.

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
)

// hostLocalConfig is the part of a network's configuration that we read.
type hostLocalConfig struct {
	types.PluginConf
	IPAM *struct {
		Type       string         `json:"type"`
		rangeJSON                 // the old way: one range, not in a list
		Ranges     [][]rangeJSON  `json:"ranges"` // one address out of each inner list
		Routes     []*types.Route `json:"routes"`
		DataDir    string         `json:"dataDir"`
		ResolvConf string         `json:"resolvConf"`
	} `json:"ipam"`
	Args struct {
		CNI struct {
			IPs []string `json:"ips"`
		} `json:"cni"`
	} `json:"args"`
	RuntimeConfig struct {
		IPs      []string      `json:"ips"`
		IPRanges [][]rangeJSON `json:"ipRanges"`
	} `json:"runtimeConfig"`
}

// request is a checked hostLocalConfig.
type request struct {
	network    string
	version    string
	dataDir    string
	resolvConf string
	sets       []rangeSet
	routes     []*types.Route
	wanted     []netip.Addr // addresses that the caller asks for
}

func parseHostLocal(args *skel.CmdArgs) (*request, error) {
	c, r, err := storeOf(args)
	if err != nil {
		return nil, err
	}
	if c.IPAM == nil {
		return nil, invalid("ipam: missing")
	}
	r.resolvConf, r.routes = c.IPAM.ResolvConf, c.IPAM.Routes
	ranges := c.RuntimeConfig.IPRanges
	if c.IPAM.rangeJSON.Subnet != "" {
		ranges = append(ranges, []rangeJSON{c.IPAM.rangeJSON})
	}
	ranges = append(ranges, c.IPAM.Ranges...)
	if len(ranges) == 0 {
		return nil, invalid("ipam.ranges: no range given")
	}
	for i, list := range ranges {
		set, err := parseRangeSet(list)
		if err != nil {
			return nil, invalid("ipam.ranges[%d]: %v", i, err)
		}
		for j, other := range r.sets {
			if set.overlaps(other) {
				return nil, invalid("ipam.ranges[%d] overlaps ipam.ranges[%d]", i, j)
			}
		}
		r.sets = append(r.sets, set)
	}
	ips := slices.Concat(c.Args.CNI.IPs, c.RuntimeConfig.IPs)
	if ip := envArg(args.Args, "IP"); ip != "" {
		ips = append([]string{ip}, ips...)
	}
	return r, r.want(ips)
}

// storeOf reads only where a network's addresses are. DEL and GC need no more: what
// ADD would refuse today must not keep an address for ever.
func storeOf(args *skel.CmdArgs) (*hostLocalConfig, *request, error) {
	c := &hostLocalConfig{}
	if err := decode(args.StdinData, c); err != nil {
		return nil, nil, err
	}
	r := &request{network: c.Name, version: c.CNIVersion, dataDir: defaultDataDir}
	if c.IPAM != nil && c.IPAM.DataDir != "" {
		r.dataDir = c.IPAM.DataDir
	}
	return c, r, nil
}

// envArg finds a value in CNI_ARGS, the oldest way to ask for something:
// IP=1.2.3.4;MAC=…
func envArg(args, name string) string {
	for _, pair := range strings.Split(args, ";") {
		if key, value, _ := strings.Cut(pair, "="); key == name {
			return value
		}
	}
	return ""
}

func (r *request) want(ips []string) error {
	for _, s := range ips {
		address, _, _ := strings.Cut(s, "/")
		ip, err := netip.ParseAddr(address)
		if err != nil {
			return invalid("requested address %q: not an address", s)
		}
		if r.setOf(ip) < 0 {
			return invalid("requested address %s is in none of the network's ranges", ip)
		}
		r.wanted = append(r.wanted, ip)
	}
	return nil
}

func (r *request) setOf(ip netip.Addr) int {
	for i, set := range r.sets {
		if set.contains(ip) {
			return i
		}
	}
	return -1
}

// withStore reads the configuration and runs fn with the network's addresses
// locked.
func withStore(args *skel.CmdArgs, fn func(*request, *store, owner) error) error {
	r, err := parseHostLocal(args)
	if err != nil {
		return err
	}
	return r.locked(func(s *store) error { return fn(r, s, owner{args.ContainerID, args.IfName}) })
}

func (r *request) locked(fn func(*store) error) error {
	s, err := openStore(r.dataDir, r.network)
	if err != nil {
		return err
	}
	defer s.close()
	return fn(s)
}

func hostLocalAdd(args *skel.CmdArgs) error {
	return withStore(args, func(r *request, s *store, o owner) error {
		result := &current.Result{CNIVersion: current.ImplementedSpecVersion, Routes: r.routes}
		if r.resolvConf != "" {
			dns, err := parseResolvConf(r.resolvConf)
			if err != nil {
				return err
			}
			result.DNS = *dns
		}
		owned, err := s.owned(o)
		if err != nil {
			return err
		}
		for i, set := range r.sets {
			ip, err := allocate(s, o, i, set, r.wanted, owned)
			if err != nil {
				_ = s.release(o) // an address of each range or none at all
				return fmt.Errorf("failed to allocate for range %d: %w", i, err)
			}
			in := set.rangeOf(ip)
			result.IPs = append(result.IPs, &current.IPConfig{
				Address: net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(in.subnet.Bits(), ip.BitLen())},
				Gateway: in.gateway.AsSlice(),
			})
		}
		return types.PrintResult(result, r.version)
	})
}

// allocate gives the owner one address of the set: the one it has already, from
// an ADD that died before it could answer; else the one it wants; else the next
// free one after the last that was given.
//
// LAB 18 allocate: store.reserve writes the file of an address, and answers false
// if there is one already; set.after walks once around the set, without gateways,
// beginning behind store.lastReserved. An address that was asked for and cannot
// be had is an error ("… is not available …"), and so is a set with nothing left
// ("no IP addresses available …").
func allocate(store *store, owner owner, index int, set rangeSet, wanted, owned []netip.Addr) (netip.Addr, error) {
	for _, ip := range owned {
		if set.contains(ip) {
			return ip, nil
		}
	}
	for _, ip := range wanted {
		if !set.contains(ip) {
			continue
		}
		if set.rangeOf(ip).gateway == ip {
			return ip, fmt.Errorf("requested address %s is the gateway's", ip)
		}
		ok, err := store.reserve(owner, index, ip)
		if err == nil && !ok {
			err = fmt.Errorf("requested IP address %s is not available in range set %s", ip, set)
		}
		return ip, err
	}
	for ip := range set.after(store.lastReserved(index)) {
		ok, err := store.reserve(owner, index, ip)
		if ok || err != nil {
			return ip, err
		}
	}
	return netip.Addr{}, fmt.Errorf("no IP addresses available in range set: %s", set)
}

func hostLocalDel(args *skel.CmdArgs) error {
	_, r, err := storeOf(args)
	if err != nil {
		return err
	}
	return r.locked(func(s *store) error { return s.release(owner{args.ContainerID, args.IfName}) })
}

func hostLocalCheck(args *skel.CmdArgs) error {
	return withStore(args, func(r *request, s *store, o owner) error {
		owned, err := s.owned(o)
		if err == nil && len(owned) < len(r.sets) {
			err = fmt.Errorf("container %s has %d of its %d addresses", o.containerID, len(owned), len(r.sets))
		}
		return err
	})
}

// hostLocalStatus: ready means an address could be given. Spec: CNI 1.1 §STATUS.
func hostLocalStatus(args *skel.CmdArgs) error {
	err := withStore(args, func(*request, *store, owner) error { return nil })
	if err != nil {
		return types.NewError(types.ErrPluginNotAvailable, err.Error(), "")
	}
	return nil
}

// hostLocalGC frees what no attachment owns any more. Spec: CNI 1.1 §GC.
func hostLocalGC(args *skel.CmdArgs) error {
	c, r, err := storeOf(args)
	if err != nil {
		return err
	}
	valid := map[owner]bool{}
	for _, a := range c.ValidAttachments {
		valid[owner{a.ContainerID, a.IfName}] = true
	}
	return r.locked(func(s *store) error {
		return s.keep(func(o owner) bool { return valid[o] })
	})
}
