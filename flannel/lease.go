package flannel

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sort"
	"strings"
	"time"
)

// MAC is a link-layer address that can be a map key.
type MAC [6]byte

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// IsZero says that there is none.
func (m MAC) IsZero() bool { return m == MAC{} }

// ParseMAC reads aa:bb:cc:dd:ee:ff.
func ParseMAC(s string) (m MAC, err error) {
	hw, err := net.ParseMAC(s)
	if err == nil && len(hw) != len(m) {
		err = fmt.Errorf("%s is no Ethernet address", s)
	}
	copy(m[:], hw)
	return m, err
}

// Lease is what the others must know about one node.
type Lease struct {
	Node     string
	Subnet   netip.Prefix // its pods
	PublicIP netip.Addr   // where it is
	Backend  string
	VTEP     MAC // vxlan: its flannel.1
}

// Source is where leases come from and where ours is told.
type Source interface {
	// Mine answers what is known about this node before it has told anything:
	// its subnet, maybe an address, maybe the MAC of an earlier life. It waits
	// until there is a subnet. self is what the machine knows by itself.
	Mine(ctx context.Context, self Lease) (Lease, error)
	// Publish tells the others.
	Publish(ctx context.Context, mine Lease) error
	// Watch calls changed with all leases, at first and after each change, until
	// ctx ends.
	Watch(ctx context.Context, changed func([]Lease)) error
}

// backendData is the annotation's form, upstream's.
type backendData struct {
	VNI     int    `json:"VNI"`
	VtepMAC string `json:"VtepMAC"`
}

// BackendData is what the backend tells the others, as JSON.
func (l Lease) BackendData(vni int) string {
	if l.Backend != vxlanBackend {
		return "null"
	}
	text, _ := json.Marshal(backendData{vni, l.VTEP.String()})
	return string(text)
}

// FileSource reads nodes from a plain file, for standing alone: a line per node,
//
//	node-0 10.244.0.0/24 172.30.9.1
//
// MACs are computed from the public IPs, so nobody has to tell anybody.
type FileSource struct {
	Path    string
	Node    string
	Backend string // everybody's, since they all read the same file
}

// ParseNodes reads the file's text; # begins a comment.
func ParseNodes(text string) (leases []Lease, err error) {
	scanner := bufio.NewScanner(strings.NewReader(text))
	for n := 1; scanner.Scan(); n++ {
		line, _, _ := strings.Cut(scanner.Text(), "#")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if len(fields) != 3 {
			return nil, fmt.Errorf("line %d: want NAME SUBNET PUBLIC-IP", n)
		}
		l := Lease{Node: fields[0]}
		if l.Subnet, err = netip.ParsePrefix(fields[1]); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if l.PublicIP, err = netip.ParseAddr(fields[2]); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if !l.Subnet.Addr().Is4() || !l.PublicIP.Is4() {
			return nil, fmt.Errorf("line %d: IPv4 only", n)
		}
		l.VTEP = MACOf(l.PublicIP)
		leases = append(leases, l)
	}
	return leases, scanner.Err()
}

// MACOf is a locally administered MAC that follows from an address.
func MACOf(ip netip.Addr) MAC {
	v4 := ip.As4()
	return MAC{0x0e, 0xf1, v4[0], v4[1], v4[2], v4[3]}
}

func (s FileSource) read() ([]Lease, error) {
	text, err := os.ReadFile(s.Path)
	if err != nil {
		return nil, fmt.Errorf("nodes: %w", err)
	}
	leases, err := ParseNodes(string(text))
	for i := range leases {
		leases[i].Backend = s.Backend
	}
	return leases, err
}

// Mine finds our line.
func (s FileSource) Mine(context.Context, Lease) (Lease, error) {
	leases, err := s.read()
	if err != nil {
		return Lease{}, err
	}
	for _, l := range leases {
		if l.Node == s.Node {
			return l, nil
		}
	}
	return Lease{}, fmt.Errorf("%s has no line for %s", s.Path, s.Node)
}

// Publish has nobody to tell.
func (s FileSource) Publish(context.Context, Lease) error { return nil }

// Watch reads the file every second. A file that cannot be read changes nothing:
// somebody is editing it.
func (s FileSource) Watch(ctx context.Context, changed func([]Lease)) error {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		if leases, err := s.read(); err == nil {
			changed(leases)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// byNode sorts leases, so that plans do not depend on the order of events.
func byNode(leases []Lease) []Lease {
	sort.Slice(leases, func(i, j int) bool { return leases[i].Node < leases[j].Node })
	return leases
}
