package flannel

import (
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"tinykube/internal/nstest"
	"tinykube/test/clusters"
)

// path is two pods and what is between them.
type path struct {
	name     string
	from, to *nstest.NS
	address  string
	network  *network // whose flannelds are asked for their memory

	rates   []float64 // Gbit/s of one TCP connection, one of each round
	latency []float64 // µs there and back, one byte
}

// BenchmarkWire measures what a tunnel costs: a bare veth, a vxlan made by hand
// of the same parts, one that our flanneld made and, with $FLANNELD, one of the
// real flanneld's. All are measured in turn, several times.
func BenchmarkWire(b *testing.B) {
	paths := []*path{bareVeth(b), byHand(b), byFlanneld(b, "ours", false), byFlanneld(b, "ours", true)}
	if os.Getenv("FLANNELD") != "" {
		paths = append(paths, byFlanneld(b, "theirs", false), byFlanneld(b, "theirs", true))
	}
	const rounds = 21
	for range rounds {
		for _, p := range paths {
			p.measure(b)
		}
	}
	fmt.Printf("%-36s %8s %12s %10s %12s %10s\n", "", "Gbit/s", "÷ by hand", "µs", "÷ by hand", "MiB peak")
	for _, p := range paths {
		memory := ""
		if p.network != nil {
			memory = fmt.Sprintf("%.0f", p.network.memory())
		}
		fmt.Printf("%-36s %8.1f %12.2f %10.1f %12.2f %10s\n", p.name, median(p.rates), median(ratios(p.rates, paths[1].rates)),
			median(p.latency), median(ratios(p.latency, paths[1].latency)), memory)
	}
}

func median(list []float64) float64 { return slices.Sorted(slices.Values(list))[len(list)/2] }

// ratios compares round by round: what else the machine does changes slowly.
func ratios(a, b []float64) (list []float64) {
	for i := range a {
		list = append(list, a[i]/b[i])
	}
	return list
}

func bareVeth(b *testing.B) *path {
	p := &path{name: "bare veth", from: nstest.New(b, "a"), to: nstest.New(b, "b"), address: "10.9.0.2"}
	nstest.Veth(b, p.from, "eth0", p.to, "eth0")
	p.from.Address("eth0", "10.9.0.1/24")
	p.to.Address("eth0", "10.9.0.2/24")
	return p
}

// byHand is what flanneld would do, as a person types it.
func byHand(b *testing.B) *path {
	n := newNetwork(b, vxlan)
	for i, node := range n.nodes {
		other := 1 - i
		for _, line := range []string{
			fmt.Sprintf("ip link add flannel.1 type vxlan id 1 local 172.30.9.%d dev eth0 dstport 8472 nolearning", i+1),
			fmt.Sprintf("ip link set flannel.1 address 02:00:00:00:00:0%d mtu 1450 up", i),
			fmt.Sprintf("ip addr add 10.244.%d.0/32 dev flannel.1", i),
			fmt.Sprintf("ip neigh add 10.244.%d.0 lladdr 02:00:00:00:00:0%d dev flannel.1 nud permanent", other, other),
			fmt.Sprintf("bridge fdb add 02:00:00:00:00:0%d dev flannel.1 dst 172.30.9.%d self permanent", other, other+1),
			fmt.Sprintf("ip route add 10.244.%d.0/24 via 10.244.%d.0 dev flannel.1 onlink", other, other),
		} {
			node.Run(line)
		}
		// Where the subnets are, as flanneld would write it down.
		if err := os.WriteFile(n.runs[i]+"/subnet.env", fmt.Appendf(nil, "FLANNEL_SUBNET=10.244.%d.1/24\n", i), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	return n.path("vxlan by hand")
}

// byFlanneld is with or without the rules for the way out of the network, whose
// price every packet pays: that connections are tracked.
func byFlanneld(b *testing.B, whose string, rules bool) *path {
	n := newNetwork(b, vxlan)
	n.store(fmt.Sprintf(netConf, vxlan))
	if whose == "ours" { // not the all-in-one, whose memory is another matter
		n.programs["ours"] = []string{clusters.Own(b, "flanneld")}
	}
	n.flags = func(int) []string {
		return []string{"--etcd-endpoints=http://172.30.9.9:2379", fmt.Sprint("--ip-masq=", rules), fmt.Sprint("--iptables-forward-rules=", rules)}
	}
	n.start(0, whose)
	n.start(1, whose)
	p := n.path("vxlan by flanneld, " + whose + map[bool]string{true: ", its rules"}[rules])
	p.network = n
	return p
}

func (n *network) path(name string) *path {
	n.addPods()
	for i, pod := range n.pods {
		pod.Run("ip link set eth0 mtu 1450") // as the CNI plugin does
		n.nodes[i].Run("ip link set pod mtu 1450")
	}
	n.connected(name)
	return &path{name: name, from: n.pods[0], to: n.pods[1], address: n.subnet(1) + ".7"}
}

// memory is what the flannelds had at most, as the kernel tells at their end.
func (n *network) memory() (mib float64) {
	for machine, cmd := range n.running {
		n.stop(machine)
		if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
			mib = max(mib, float64(usage.Maxrss)/1024)
		}
	}
	return mib
}

// measure opens a connection, asks and answers by single bytes, and then pours.
func (p *path) measure(b *testing.B) {
	const asked, poured = 1000, 512 << 20
	var listener net.Listener
	p.to.Must(func() (err error) {
		listener, err = net.Listen("tcp", p.address+":5001")
		return err
	})
	defer listener.Close()
	done := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			done <- err
			return
		}
		defer conn.Close()
		for range asked {
			if _, err := io.CopyN(conn, conn, 1); err != nil {
				done <- err
				return
			}
		}
		buffer := make([]byte, 1<<20)
		for n, rest := 0, poured; rest > 0 && err == nil; rest -= n {
			n, err = conn.Read(buffer)
		}
		done <- err
	}()
	var conn net.Conn
	p.from.Must(func() (err error) {
		conn, err = net.DialTimeout("tcp", p.address+":5001", 10*time.Second)
		return err
	})
	defer conn.Close()
	one, begun := make([]byte, 1), time.Now()
	for range asked {
		if _, err := conn.Write(one); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(conn, one); err != nil {
			b.Fatal(err)
		}
	}
	p.latency = append(p.latency, float64(time.Since(begun).Microseconds())/asked)
	block := make([]byte, 1<<20)
	begun = time.Now()
	for range poured / len(block) {
		if _, err := conn.Write(block); err != nil {
			b.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	p.rates = append(p.rates, poured*8/time.Since(begun).Seconds()/1e9)
}
