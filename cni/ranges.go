package cni

import (
	"fmt"
	"iter"
	"net/netip"
	"os"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
)

// rangeJSON is a range as people write it.
type rangeJSON struct {
	Subnet     string `json:"subnet"`
	RangeStart string `json:"rangeStart"`
	RangeEnd   string `json:"rangeEnd"`
	Gateway    string `json:"gateway"`
}

// addressRange is a checked one. Invariant: first ≤ last, both within subnet.
type addressRange struct {
	subnet      netip.Prefix
	first, last netip.Addr
	gateway     netip.Addr // never handed out
}

// rangeSet is tried in order; an owner gets one address of it.
type rangeSet []addressRange

func parseRangeSet(list []rangeJSON) (rangeSet, error) {
	if len(list) == 0 {
		return nil, fmt.Errorf("an empty list of ranges")
	}
	var set rangeSet
	for _, j := range list {
		r, err := parseRange(j)
		if err != nil {
			return nil, err
		}
		if len(set) > 0 && r.first.BitLen() != set[0].first.BitLen() {
			return nil, fmt.Errorf("%s: IPv4 and IPv6 in one list", j.Subnet)
		}
		if set.overlaps(rangeSet{r}) {
			return nil, fmt.Errorf("%s overlaps a range before it", j.Subnet)
		}
		set = append(set, r)
	}
	return set, nil
}

// parseRange fills in what is left out: everything but the subnet's own address
// (and IPv4's broadcast), with the first as the gateway.
func parseRange(j rangeJSON) (r addressRange, err error) {
	if r.subnet, err = netip.ParsePrefix(j.Subnet); err != nil {
		return r, fmt.Errorf("subnet %q: not an address range like 10.1.0.0/24", j.Subnet)
	}
	// Host bits are forgiven: flannel writes its subnet as 10.244.1.1/24.
	r.subnet = r.subnet.Masked()
	if r.subnet.Addr().BitLen()-r.subnet.Bits() < 2 {
		return r, fmt.Errorf("subnet %s is too small to give out addresses", r.subnet)
	}
	r.first, r.last = r.subnet.Addr().Next(), lastAddress(r.subnet)
	if r.subnet.Addr().Is4() {
		r.last = r.last.Prev()
	}
	r.gateway = r.first
	for _, field := range []struct {
		name, text string
		to         *netip.Addr
	}{{"rangeStart", j.RangeStart, &r.first}, {"rangeEnd", j.RangeEnd, &r.last}, {"gateway", j.Gateway, &r.gateway}} {
		if field.text == "" {
			continue
		}
		if *field.to, err = netip.ParseAddr(field.text); err != nil {
			return r, fmt.Errorf("%s %q: not an address", field.name, field.text)
		}
		if !r.subnet.Contains(*field.to) {
			return r, fmt.Errorf("%s %s is not in subnet %s", field.name, field.text, r.subnet)
		}
	}
	if r.last.Less(r.first) {
		return r, fmt.Errorf("rangeEnd %s is before rangeStart %s", r.last, r.first)
	}
	return r, nil
}

func lastAddress(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= 1 << (7 - bit%8)
	}
	last, _ := netip.AddrFromSlice(b)
	return last
}

func (r addressRange) contains(ip netip.Addr) bool {
	return ip.BitLen() == r.first.BitLen() && !ip.Less(r.first) && !r.last.Less(ip)
}

func (s rangeSet) contains(ip netip.Addr) bool {
	for _, r := range s {
		if r.contains(ip) {
			return true
		}
	}
	return false
}

// rangeOf answers the range that holds ip, which must be in the set.
func (s rangeSet) rangeOf(ip netip.Addr) addressRange {
	for _, r := range s {
		if r.contains(ip) {
			return r
		}
	}
	panic("cni: address outside of its own ranges")
}

func (s rangeSet) overlaps(other rangeSet) bool {
	for _, a := range s {
		for _, b := range other {
			if a.contains(b.first) || b.contains(a.first) {
				return true
			}
		}
	}
	return false
}

func (s rangeSet) String() string {
	var parts []string
	for _, r := range s {
		parts = append(parts, r.first.String()+"-"+r.last.String())
	}
	return strings.Join(parts, ",")
}

// after walks once around the set, beginning behind last, and leaves gateways
// out. A last that is none of ours means the beginning.
func (s rangeSet) after(last netip.Addr) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		start := 0
		for i, r := range s {
			if r.contains(last) {
				start = i
			}
		}
		resume := s[start].contains(last)
		for n := 0; n <= len(s); n++ {
			r := s[(start+n)%len(s)]
			from, to := r.first, r.last
			switch {
			case n == 0 && resume:
				from = last.Next()
			case n == len(s) && resume:
				to = last // the part of the first range that we jumped over
			case n == len(s):
				return
			}
			for ip := from; ip.IsValid() && !to.Less(ip); ip = ip.Next() {
				if ip != r.gateway && !yield(ip) {
					return
				}
			}
		}
	}
}

// parseResolvConf reads a resolv.conf(5) into a result's DNS part.
func parseResolvConf(path string) (*types.DNS, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("ipam.resolvConf: %w", err)
	}
	return resolvConf(string(data)), nil
}

func resolvConf(text string) *types.DNS {
	dns := &types.DNS{}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			dns.Nameservers = append(dns.Nameservers, fields[1])
		case "domain":
			dns.Domain = fields[1]
		case "search":
			dns.Search = append(dns.Search, fields[1:]...)
		case "options":
			dns.Options = append(dns.Options, fields[1:]...)
		}
	}
	return dns
}
