package proxy

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/internal/nstest"
)

// BenchmarkProxies is what Services cost with a whole kube-proxy, ours and, if it
// is given, the real one: from its start until the last Service answers; from an
// endpoint's change in the API until a client meets the other endpoint; memory and
// CPU; and through the last of all Services connect(), and a first UDP packet and
// its answer, each beside the same to the pod itself.
//
// Simplified: 10,000 Services only with nftables: iptables through nf_tables takes
// the tool alone most of a minute.
func BenchmarkProxies(b *testing.B) {
	for range b.N {
		fmt.Println("mode       services  kube-proxy  ready s  change ms  RSS MiB  CPU s  connect µs  beside a pod's own  UDP µs  beside")
		for _, c := range []struct {
			mode     string
			services int
		}{{"iptables", 1_000}, {"nftables", 1_000}, {"nftables", 10_000}} {
			a := newAPI(b)
			last := a.fill(c.services)
			for _, name := range []string{"ours", "theirs"} {
				if program := programs(b)[name]; program != nil {
					newMachine(a, name).measure(a, program, c.mode, c.services, last)
				}
			}
		}
	}
}

// fill makes so many Services of two endpoints, and the last one, of one.
func (a *api) fill(n int) exposed {
	var writers sync.WaitGroup
	work := make(chan int)
	for range 16 {
		writers.Go(func() {
			for i := range work {
				s := plain(fmt.Sprintf("s%d", i), fmt.Sprintf("10.%d.%d.%d", 97+i/62500, i/250%250, 1+i%250),
					fmt.Sprintf("10.245.%d.%d", i/250%250, 1+i%250), fmt.Sprintf("10.246.%d.%d", i/250%250, 1+i%250))
				s.create(a)
			}
		})
	}
	for i := range n - 1 {
		work <- i
	}
	close(work)
	writers.Wait()
	last := plain("z-last", "10.96.200.200", "10.244.0.5")
	name, port, protocol := "udp", int32(ports[0]), corev1.ProtocolUDP
	last.service.Spec.Ports[0].Name, last.slices[0].Ports[0].Name = "tcp", new("tcp")
	last.service.Spec.Ports = append(last.service.Spec.Ports, corev1.ServicePort{Name: name, Port: 80, Protocol: protocol})
	last.slices[0].Ports = append(last.slices[0].Ports, discoveryv1.EndpointPort{Name: &name, Port: &port, Protocol: &protocol})
	last.create(a)
	return last
}

func plain(name, clusterIP string, endpoints ...string) exposed {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	s.Spec = corev1.ServiceSpec{ClusterIP: clusterIP, Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}}
	port, protocol := int32(ports[0]), corev1.ProtocolTCP
	slice := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: &port, Protocol: &protocol}}}
	slice.Namespace, slice.Name, slice.Labels = "default", name, map[string]string{discoveryv1.LabelServiceName: name}
	for _, ip := range endpoints {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{ip}})
	}
	return exposed{service: s, slices: []*discoveryv1.EndpointSlice{slice}}
}

// measure prints one row.
func (m *machine) measure(a *api, program []string, mode string, services int, last exposed) {
	address := last.service.Spec.ClusterIP + ":80"
	answers := func(endpoint string) bool {
		return strings.HasPrefix(tryFor(100*time.Millisecond, m.node, "tcp", address), endpoint+":")
	}
	wait := func(endpoint string) time.Duration {
		start := time.Now()
		for !answers(endpoint) {
			if time.Since(start) > 5*time.Minute {
				m.t.Fatalf("%s never answered by %s\n%s", address, endpoint, m.process.Output())
			}
		}
		return time.Since(start)
	}
	a.edit(last, "10.244.0.5")
	start := time.Now()
	m.start(a, program, mode, "")
	wait("10.244.0.5")
	ready := time.Since(start)
	var changes []time.Duration
	for i := range 8 {
		to := []string{"10.244.0.6", "10.244.0.5"}[i%2]
		a.edit(last, to)
		changes = append(changes, wait(to))
	}
	slices.Sort(changes)
	own := fmt.Sprintf("10.244.0.5:%d", ports[0])
	through, direct := m.medianOf(connects, address), m.medianOf(connects, own)
	udp, directUDP := m.medianOf(firstPacket, address), m.medianOf(firstPacket, own)
	rss, cpu := usage(m.process)
	micros := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
	fmt.Printf("%-10s %8d  %-10s %8.2f %10.1f %8.0f %6.2f %11.1f %19.2f %7.1f %7.2f\n", mode, services, m.name, ready.Seconds(),
		micros(changes[len(changes)/2])/1000, rss, cpu, micros(through), float64(through)/float64(direct), micros(udp), float64(udp)/float64(directUDP))
	_ = m.process.Cmd.Process.Signal(unix.SIGTERM)
}

// medianOf asks an address many times, from the node. Whoever still changes rules
// may refuse for a moment what it served before: that is told, and asked again.
func (m *machine) medianOf(ask func(unix.Sockaddr) (time.Duration, error), address string) time.Duration {
	to := netip.MustParseAddrPort(address)
	var times []time.Duration
	refused, since := 0, time.Now()
	m.node.Must(func() error {
		for len(times) < 1_000 {
			took, err := ask(&unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()})
			if err != nil {
				if refused++; time.Since(since) > time.Minute {
					return fmt.Errorf("%s: %d times %w", address, refused, err)
				}
				continue
			}
			times = append(times, took)
		}
		return nil
	})
	if refused > 0 {
		fmt.Printf("# %s refused %d connections to %s within %s of its last change\n", m.name, refused, address, time.Since(since).Round(time.Millisecond))
	}
	slices.Sort(times)
	return times[len(times)/2]
}

// connects is the time of one connect().
func connects(to unix.Sockaddr) (time.Duration, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	start := time.Now()
	err = unix.Connect(fd, to)
	took := time.Since(start)
	for n := 1; n > 0; { // until the other side has closed: no queue grows
		n, _ = unix.Read(fd, make([]byte, 100))
	}
	return took, err
}

// firstPacket is the time of a new flow's first packet and its answer.
func firstPacket(to unix.Sockaddr) (time.Duration, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	start := time.Now()
	if err := unix.Sendto(fd, []byte("?"), 0, to); err != nil {
		return 0, err
	}
	_, err = unix.Read(fd, make([]byte, 100))
	return time.Since(start), err
}

// usage is the resident memory in MiB, and the CPU in seconds of the process and
// of the tools that it has run.
func usage(p *nstest.Process) (rss, cpu float64) {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Cmd.Process.Pid))
	if _, rest, found := strings.Cut(string(status), "VmRSS:"); found {
		_, _ = fmt.Sscan(rest, &rss)
	}
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Cmd.Process.Pid))
	_, rest, _ := strings.Cut(string(stat), ") ")
	for i, field := range strings.Fields(rest) {
		var ticks float64
		if _, err := fmt.Sscan(field, &ticks); err == nil && i >= 11 && i <= 14 { // utime stime cutime cstime
			cpu += ticks / 100
		}
	}
	return rss / 1024, cpu
}
