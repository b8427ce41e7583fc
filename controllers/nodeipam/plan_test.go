package nodeipam

import (
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func parse(t testing.TB, list string) []netip.Prefix {
	t.Helper()
	var prefixes []netip.Prefix
	for _, s := range strings.Fields(list) {
		prefixes = append(prefixes, netip.MustParsePrefix(s))
	}
	return prefixes
}

func TestNext(t *testing.T) {
	small := Range{netip.MustParsePrefix("10.244.0.0/22"), 24} // four ranges
	for _, test := range []struct {
		name  string
		r     Range
		taken string
		last  int
		want  string
	}{
		{"first", small, "", -1, "10.244.0.0/24"},
		{"after the last", small, "10.244.0.0/24", 0, "10.244.1.0/24"},
		{"a range that came free is used last", small, "10.244.1.0/24", 1, "10.244.2.0/24"},
		{"wraps around", small, "10.244.1.0/24 10.244.2.0/24 10.244.3.0/24", 3, "10.244.0.0/24"},
		{"none left", small, "10.244.0.0/24 10.244.1.0/24 10.244.2.0/24 10.244.3.0/24", 2, ""},
		{"a part of a range takes it", small, "10.244.0.128/25", -1, "10.244.1.0/24"},
		{"a larger prefix takes all under it", small, "10.244.0.0/23", -1, "10.244.2.0/24"},
		{"the whole", small, "10.0.0.0/8", -1, ""},
		{"elsewhere and of another family", small, "192.168.0.0/16 fd00::/48", -1, "10.244.0.0/24"},
		{"not at a byte's edge", Range{netip.MustParsePrefix("10.8.0.0/13"), 26}, "10.8.0.0/26 10.8.0.64/26", -1, "10.8.0.128/26"},
		{"IPv6", Range{netip.MustParsePrefix("fd00:10:244::/56"), 64}, "fd00:10:244::/64", -1, "fd00:10:244:1::/64"},
	} {
		got, index, ok := test.r.next(parse(t, test.taken), test.last)
		if ok != (test.want != "") || ok && got.String() != test.want {
			t.Errorf("%s: %v %v, want %q", test.name, got, ok, test.want)
		}
		if ok && test.r.at(index) != got {
			t.Errorf("%s: index %d is %v", test.name, index, test.r.at(index))
		}
	}
}

// TestNeverOverlaps gives ranges to nodes that come and go until all are used,
// and compares each with every other.
func TestNeverOverlaps(t *testing.T) {
	r := Range{netip.MustParsePrefix("10.244.0.0/17"), 24}
	var held []netip.Prefix
	last := -1
	for round := range 1000 {
		if round%3 == 2 && len(held) > 0 {
			i := (round * 7919) % len(held)
			held = append(held[:i], held[i+1:]...)
			continue
		}
		p, index, ok := r.next(held, last)
		if !ok {
			if len(held) != r.size() {
				t.Fatalf("nothing left with %d of %d held", len(held), r.size())
			}
			return
		}
		for _, other := range held {
			if p.Overlaps(other) {
				t.Fatalf("%v overlaps %v", p, other)
			}
		}
		held, last = append(held, p), index
	}
	t.Fatal("never used up")
}

func FuzzIndex(f *testing.F) {
	f.Add("10.244.0.0/16", 24, 7)
	f.Add("fd00::/48", 64, 65535)
	f.Add("10.8.0.0/13", 27, 100)
	f.Fuzz(func(t *testing.T, cluster string, bits, i int) {
		p, err := netip.ParsePrefix(cluster)
		r := Range{p, bits}
		if err != nil || r.Validate() != nil || i < 0 || i >= r.size() {
			return
		}
		got := r.at(i)
		if !r.Cluster.Masked().Contains(got.Addr()) || got.Bits() != bits || r.index(got.Addr()) != i {
			t.Fatalf("range %d of %v is %v, whose index is %d", i, r, got, r.index(got.Addr()))
		}
	})
}

func TestValidate(t *testing.T) {
	for cluster, bits := range map[string]int{"10.244.0.0/16": 15, "10.0.0.0/8": 25, "fd00::/40": 64, "10.1.0.0/24": 33} {
		if err := (Range{netip.MustParsePrefix(cluster), bits}).Validate(); err == nil {
			t.Errorf("%s into /%d passed", cluster, bits)
		}
	}
	if err := (Config{}).Validate(); err == nil || !strings.Contains(err.Error(), "--cluster-cidr") {
		t.Errorf("error without a range: %v", err)
	}
}

func TestPodCIDRs(t *testing.T) {
	node := &corev1.Node{Spec: corev1.NodeSpec{PodCIDR: "10.0.0.0/24", PodCIDRs: []string{"10.0.0.0/24", "fd00::/64", "nonsense"}}}
	if got := podCIDRs(node); len(got) != 3 {
		t.Errorf("%v", got)
	}
}
