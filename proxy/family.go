package proxy

import (
	"net/netip"

	discoveryv1 "k8s.io/api/discovery/v1"

	"tinykube/internal/iptables"
)

// Family is IPv4 or IPv6. Rules of the two never meet: whatever differs between
// them is a method here, and all else is written once.
//
// Simplified: a proxy serves one family, its Node's first address's. Services of
// two families are reached by their address of that one.
type Family iptables.Family

// The families.
const (
	IPv4 = Family(iptables.IPv4)
	IPv6 = Family(iptables.IPv6)
)

// has says whether it is an address of the family as rules can spell it.
func (f Family) has(ip netip.Addr) bool {
	return ip.IsValid() && ip.Is4() == (f == IPv4) && !ip.Is4In6() && ip.Zone() == ""
}

// either picks a word.
func (f Family) either(four, six string) string {
	if f == IPv6 {
		return six
	}
	return four
}

func (f Family) addressType() discoveryv1.AddressType {
	return discoveryv1.AddressType(f.either(string(discoveryv1.AddressTypeIPv4), string(discoveryv1.AddressTypeIPv6)))
}

// loopback is the range that never leaves the machine.
func (f Family) loopback() string { return f.either("127.0.0.0/8", "::1/128") }

// addresses keeps those of the family.
func (f Family) addresses(texts []string) (ips []netip.Addr) {
	for _, text := range texts {
		if ip, err := netip.ParseAddr(text); err == nil && f.has(ip) {
			ips = append(ips, ip)
		}
	}
	return ips
}

// firstCIDR picks the family's range.
func (f Family) firstCIDR(cidrs []string) netip.Prefix {
	for _, cidr := range cidrs {
		if p, err := netip.ParsePrefix(cidr); err == nil && f.has(p.Addr()) {
			return p.Masked()
		}
	}
	return netip.Prefix{}
}
