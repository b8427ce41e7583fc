package flannel

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func lease(node, subnet, ip string) Lease {
	l := Lease{Node: node, Subnet: netip.MustParsePrefix(subnet), PublicIP: netip.MustParseAddr(ip), Backend: vxlanBackend}
	l.VTEP = MACOf(l.PublicIP)
	return l
}

func conf(t *testing.T, backend string) *NetConf {
	t.Helper()
	c, err := parseNetConf([]byte(`{"Network":"10.244.0.0/16","Backend":` + backend + `}`))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func lines(ops []Op) string {
	var text strings.Builder
	for _, op := range ops {
		fmt.Fprintln(&text, op)
	}
	return text.String()
}

var wire = []netip.Prefix{netip.MustParsePrefix("172.30.9.1/24")}

// The plan as commands, in the order in which they must run.
func TestPlan(t *testing.T) {
	mine := lease("node-0", "10.244.0.0/24", "172.30.9.1")
	near, far := lease("node-1", "10.244.1.0/24", "172.30.9.2"), lease("node-2", "10.244.2.0/24", "192.0.2.2")
	hostGW := func(leases ...Lease) []Lease {
		leases = slices.Clone(leases)
		for i := range leases {
			leases[i].Backend = hostGWBackend
		}
		return leases
	}
	for _, c := range []struct {
		name, backend string
		leases        []Lease
		want          string
		problems      int
	}{
		{"vxlan", `{"Type":"vxlan"}`, []Lease{far, mine, near}, `
ip neigh replace 10.244.1.0 lladdr 0e:f1:ac:1e:09:02 dev flannel.1 nud permanent
ip neigh replace 10.244.2.0 lladdr 0e:f1:c0:00:02:02 dev flannel.1 nud permanent
bridge fdb replace 0e:f1:ac:1e:09:02 dev flannel.1 dst 172.30.9.2 self permanent
bridge fdb replace 0e:f1:c0:00:02:02 dev flannel.1 dst 192.0.2.2 self permanent
ip route replace 10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink
ip route replace 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink
`, 0},
		{"direct routing", `{"Type":"vxlan","DirectRouting":true}`, []Lease{near, far}, `
ip neigh replace 10.244.2.0 lladdr 0e:f1:c0:00:02:02 dev flannel.1 nud permanent
bridge fdb replace 0e:f1:c0:00:02:02 dev flannel.1 dst 192.0.2.2 self permanent
ip route replace 10.244.1.0/24 via 172.30.9.2
ip route replace 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink
`, 0},
		{"host-gw", `{"Type":"host-gw"}`, hostGW(near, far), "\nip route replace 10.244.1.0/24 via 172.30.9.2\n", 1},
		{"other backend", `{"Type":"vxlan"}`, hostGW(near), "\n", 1},
		{"outside of the network", `{"Type":"vxlan"}`, []Lease{lease("node-1", "10.1.0.0/24", "172.30.9.2"), lease("node-2", "10.0.0.0/8", "172.30.9.3")}, "\n", 2},
		{"our own subnet", `{"Type":"vxlan"}`, []Lease{lease("node-1", "10.244.0.0/25", "172.30.9.2")}, "\n", 1},
		{"somebody has edited", `{"Type":"vxlan"}`, []Lease{lease("node-2", "10.244.2.0/24", "0.0.0.0"),
			lease("node-3", "10.244.3.0/24", "127.0.0.1"), lease("node-4", "10.244.4.0/24", "224.0.0.1"), {Node: "node-5", Backend: vxlanBackend, Subnet: netip.MustParsePrefix("10.244.5.0/24"),
				PublicIP: netip.MustParseAddr("fd00::5"), VTEP: MAC{2}}, {Node: "node-6", Backend: vxlanBackend, Subnet: netip.MustParsePrefix("10.244.6.0/24"),
				PublicIP: netip.MustParseAddr("172.30.9.6"), VTEP: MAC{1, 0, 0x5e}}}, "\n", 5},
		{"one subnet, two nodes", `{"Type":"vxlan"}`, []Lease{lease("node-9", "10.244.1.0/24", "172.30.9.9"), near}, `
ip neigh replace 10.244.1.0 lladdr 0e:f1:ac:1e:09:02 dev flannel.1 nud permanent
bridge fdb replace 0e:f1:ac:1e:09:02 dev flannel.1 dst 172.30.9.2 self permanent
ip route replace 10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink
`, 1},
	} {
		plan, problems := makePlan(conf(t, c.backend), mine, c.leases, wire)
		if got := "\n" + lines(diff("flannel.1", newPlan(), plan)); got != c.want {
			t.Errorf("%s:%s\nwant:%s", c.name, got, c.want)
		}
		if len(problems) != c.problems {
			t.Errorf("%s: problems %q", c.name, problems)
		}
	}
}

// Removing goes route, FDB, ARP; a node that moves is replaced without a gap.
func TestDiff(t *testing.T) {
	c, mine := conf(t, `{"Type":"vxlan"}`), lease("node-0", "10.244.0.0/24", "172.30.9.1")
	have, _ := makePlan(c, mine, []Lease{lease("node-1", "10.244.1.0/24", "172.30.9.2"), lease("node-2", "10.244.2.0/24", "172.30.9.3")}, wire)
	moved := lease("node-1", "10.244.1.0/24", "172.30.9.2")
	moved.PublicIP = netip.MustParseAddr("172.30.9.77")
	want, _ := makePlan(c, mine, []Lease{moved}, wire)
	const expected = `ip route del 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink
bridge fdb del 0e:f1:ac:1e:09:03 dev flannel.1 self
ip neigh del 10.244.2.0 dev flannel.1
bridge fdb replace 0e:f1:ac:1e:09:02 dev flannel.1 dst 172.30.9.77 self permanent
`
	if got := lines(diff("flannel.1", have, want)); got != expected {
		t.Errorf("got\n%s", got)
	}
	if got := diff("flannel.1", want, want); len(got) != 0 {
		t.Errorf("nothing should change: %v", got)
	}
}

func TestNetConf(t *testing.T) {
	c, err := parseNetConf([]byte(`{"Network":"10.244.0.0/16","EnableNFTables":false,"Backend":{"Type":"vxlan"}}`))
	if err != nil || c.Backend.VNI != 1 || c.Backend.Port != 8472 || c.Network.String() != "10.244.0.0/16" {
		t.Errorf("%+v, %v", c, err)
	}
	for text, want := range map[string]string{
		`{}`: "Network",
		`{"Network":"fd00::/48","Backend":{"Type":"vxlan"}}`:                           "Network",
		`{"Network":"10.244.0.0/16"}`:                                                  "Backend.Type",
		`{"Network":"10.244.0.0/16","Backend":{"Type":"wireguard"}}`:                   "Backend.Type",
		`{"Network":"10.244.0.0/16","EnableIPv6":true,"Backend":{"Type":"vxlan"}}`:     "EnableIPv6",
		`{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan","VNI":99999999}}`:        "VNI",
		`{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan","Port":-1}}`:             "Port",
		`{"Network":"10.244.0.0/16","EnableNFTables":true,"Backend":{"Type":"vxlan"}}`: "EnableNFTables",
		`{"Network":17}`: "Network",
		`[`:              "unexpected",
	} {
		if _, err := parseNetConf([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want it to name %s", text, err, want)
		}
	}
}

// Annotations of upstream's flanneld are understood.
func TestLeaseOfNode(t *testing.T) {
	s := &KubeSource{Prefix: DefaultAnnotationPrefix}
	annotations := func(pairs ...string) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1", Annotations: map[string]string{}}}
		n.Spec.PodCIDR = "10.244.1.0/24"
		for i := 0; i < len(pairs); i += 2 {
			n.Annotations[DefaultAnnotationPrefix+"/"+pairs[i]] = pairs[i+1]
		}
		return n
	}
	got, ok, err := s.leaseOf(annotations("kube-subnet-manager", "true", "backend-type", "vxlan", "public-ip", "172.30.9.2",
		"backend-data", `{"VNI":1,"VtepMAC":"0e:f1:ac:1e:09:02"}`))
	if err != nil || !ok || got != lease("node-1", "10.244.1.0/24", "172.30.9.2") {
		t.Errorf("%+v %v %v", got, ok, err)
	}
	if got.BackendData(1) != `{"VNI":1,"VtepMAC":"0e:f1:ac:1e:09:02"}` {
		t.Errorf("backend data %s", got.BackendData(1))
	}
	if _, ok, err := s.leaseOf(&corev1.Node{}); ok || err != nil {
		t.Errorf("a node without annotations: %v %v", ok, err)
	}
	for _, bad := range []*corev1.Node{
		annotations("kube-subnet-manager", "true", "backend-type", "vxlan", "public-ip", "x"),
		annotations("kube-subnet-manager", "true", "backend-type", "vxlan", "public-ip", "172.30.9.2", "backend-data", "{"),
		annotations("kube-subnet-manager", "true", "backend-type", "vxlan", "public-ip", "172.30.9.2", "backend-data", `{"VtepMAC":"nonsense"}`),
	} {
		if _, ok, err := s.leaseOf(bad); ok || err == nil {
			t.Errorf("%v was accepted", bad.Annotations)
		}
	}
}

func FuzzNodes(f *testing.F) {
	f.Add("node-0 10.244.0.0/24 172.30.9.1\n# comment\nnode-1 10.244.1.0/24 172.30.9.2")
	f.Add(`{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}`)
	f.Fuzz(func(t *testing.T, text string) {
		leases, err := ParseNodes(text)
		for i := range leases {
			leases[i].Backend = vxlanBackend
		}
		if err == nil {
			c := &NetConf{Network: netip.MustParsePrefix("10.244.0.0/16"), Backend: Backend{Type: vxlanBackend}}
			plan, _ := makePlan(c, lease("me", "10.244.0.0/24", "172.30.9.1"), leases, wire)
			if len(diff("flannel.1", plan, plan)) != 0 || len(plan.ARP) != len(plan.Routes) {
				t.Fatalf("plan %v", plan)
			}
		}
		if c, err := ParseEtcdNetConf([]byte(text)); err == nil {
			for subnet := range c.Subnets() {
				if !c.Fits(subnet) || !c.Network.Contains(subnet.Addr()) {
					t.Fatalf("%s of %+v", subnet, c)
				}
				break
			}
		}
	})
}

// Whatever stands in annotations, a plan is made of the rest.
func FuzzAnnotations(f *testing.F) {
	f.Add("10.244.1.0/24", "172.30.9.2", "vxlan", `{"VNI":1,"VtepMAC":"0e:f1:ac:1e:09:02"}`)
	f.Add("fd00::/64", "fd00::1", "host-gw", "null")
	f.Fuzz(func(t *testing.T, cidr, ip, backend, data string) {
		s := &KubeSource{Prefix: DefaultAnnotationPrefix}
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1", Annotations: map[string]string{s.annotation("kube-subnet-manager"): "true",
			s.annotation("public-ip"): ip, s.annotation("backend-type"): backend, s.annotation("backend-data"): data}}}
		n.Spec.PodCIDR = cidr
		_, _ = s.early(n)
		l, ok, err := s.leaseOf(n)
		if !ok || err != nil {
			return
		}
		for _, kind := range []string{vxlanBackend, hostGWBackend} {
			c := &NetConf{Network: netip.MustParsePrefix("10.244.0.0/16"), Backend: Backend{Type: kind}}
			good := lease("node-2", "10.244.2.0/24", "172.30.9.3")
			good.Backend = kind
			if plan, _ := makePlan(c, lease("me", "10.244.0.0/24", "172.30.9.1"), []Lease{good, l}, wire); len(plan.Routes) == 0 {
				t.Fatalf("%+v kept %+v out", l, good)
			}
		}
	})
}
