package nodeipam

import (
	"errors"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
)

// Range is one cluster CIDR and how long the prefixes cut from it are.
type Range struct {
	Cluster  netip.Prefix
	NodeBits int
}

// Validate says whether a node's prefix fits into the cluster's.
func (r Range) Validate() error {
	// Upstream: kubernetes/kubernetes pkg/controller/nodeipam/ipam/cidrset (clusterSubnetMaxDiff)
	const maxBits = 16
	switch c := r.Cluster; {
	case !c.IsValid():
		return errors.New("no cluster CIDR")
	case r.NodeBits < c.Bits() || r.NodeBits > c.Addr().BitLen():
		return fmt.Errorf("cluster CIDR %s has no room for a node's /%d", c, r.NodeBits)
	case r.NodeBits-c.Bits() > maxBits:
		return fmt.Errorf("cluster CIDR %s holds more than 2^%d times /%d", c, maxBits, r.NodeBits)
	}
	return nil
}

// size is how many node ranges there are.
func (r Range) size() int { return 1 << (r.NodeBits - r.Cluster.Bits()) }

// at returns the i-th node range: i stands in the bits between the two lengths.
func (r Range) at(i int) netip.Prefix {
	raw := r.Cluster.Masked().Addr().AsSlice()
	for bit := r.NodeBits - 1; bit >= r.Cluster.Bits(); bit-- {
		raw[bit/8] |= byte(i&1) << (7 - bit%8)
		i >>= 1
	}
	addr, _ := netip.AddrFromSlice(raw)
	return netip.PrefixFrom(addr, r.NodeBits)
}

// next finds a free node range. taken are the prefixes in use; the search
// starts after the range numbered last and wraps around. ok is false when
// nothing is left.
func (r Range) next(taken []netip.Prefix, last int) (prefix netip.Prefix, index int, ok bool) {
	used := make([]bool, r.size())
	for _, p := range taken {
		r.mark(used, p)
	}
	for step := 1; step <= len(used); step++ {
		if i := (last + step) % len(used); !used[i] {
			return r.at(i), i, true
		}
	}
	return netip.Prefix{}, 0, false
}

// mark notes every node range that p overlaps. p need not have been given by
// us: it may be larger or smaller than a node range, or somewhere else.
func (r Range) mark(used []bool, p netip.Prefix) {
	if p.Addr().Is4() != r.Cluster.Addr().Is4() || !p.Overlaps(r.Cluster) {
		return
	}
	if p.Bits() <= r.Cluster.Bits() {
		for i := range used {
			used[i] = true
		}
		return
	}
	first := r.index(p.Masked().Addr())
	count := 1
	if p.Bits() < r.NodeBits {
		count = 1 << (r.NodeBits - p.Bits())
	}
	for i := first; i < first+count && i < len(used); i++ {
		used[i] = true
	}
}

// index is the number of the node range that addr is in; at's inverse.
func (r Range) index(addr netip.Addr) int {
	i := 0
	raw := addr.AsSlice()
	for bit := r.Cluster.Bits(); bit < r.NodeBits; bit++ {
		i = i<<1 | int(raw[bit/8]>>(7-bit%8))&1
	}
	return i
}

// podCIDRs parses what nodes have. A node's first range is in both fields.
func podCIDRs(node *corev1.Node) []netip.Prefix {
	var prefixes []netip.Prefix
	for _, s := range append([]string{node.Spec.PodCIDR}, node.Spec.PodCIDRs...) {
		if p, err := netip.ParsePrefix(s); err == nil {
			prefixes = append(prefixes, p)
		}
	}
	return prefixes
}
