package proxy

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"tinykube/client"
	"tinykube/internal/nstest"
)

var (
	seed   = flag.Uint64("seed", 1, "of the random Services")
	rounds = flag.Int("rounds", 2, "sets of Services in each mode")
)

// servicesInRound is how many there are at a time.
const servicesInRound = 14

// TestRealKubeProxyAlike asks random Services through a real kube-proxy and
// through ours, from everywhere, and compares how connections end.
func TestRealKubeProxyAlike(t *testing.T) {
	needsTheirs(t)
	a := newAPI(t)
	for _, c := range []struct{ name, mode, more string }{
		{"iptables", "iptables", ""}, {"nftables", "nftables", ""},
		{"iptables, some node ports, pods by bridge", "iptables", "nodePortAddresses: [172.30.9.0/24]\ndetectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}\n"},
		{"nftables, all node ports, pods by interface", "nftables", "nodePortAddresses: [0.0.0.0/0]\ndetectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: cni}\n"},
		{"nftables, all node ports", "nftables", "nodePortAddresses: [0.0.0.0/0]\n"},
		{"iptables, everybody masqueraded", "iptables", "iptables: {minSyncPeriod: 10ms, masqueradeAll: true}\n"},
		{"nftables, everybody masqueraded", "nftables", "nftables: {minSyncPeriod: 10ms, masqueradeAll: true}\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			inner := &api{t: t, env: a.env, client: a.client}
			var machines []*machine
			for _, name := range []string{"ours", "theirs"} {
				m := newMachine(inner, name)
				m.start(inner, programs(t)[name], c.mode, c.more)
				machines = append(machines, m)
			}
			asked := 0
			for round := range *rounds {
				asked += compareRound(inner, machines, round)
			}
			t.Logf("%d questions, each asked of both", asked)
			compareMemories(inner, machines)
		})
	}
}

// marker is a Service that is made after all others, so that a proxy which serves
// it has heard of all.
func marker(round int) exposed {
	r := rand.New(rand.NewPCG(0, 0))
	e := randomService(r, round, 100)
	e.service.Labels = nil
	e.ingress, e.service.Spec = nil, corev1.ServiceSpec{ClusterIP: e.service.Spec.ClusterIP, Ports: []corev1.ServicePort{{Name: "ptcp", Port: 80, Protocol: "TCP"}}}
	name, port, protocol := "ptcp", int32(8080), corev1.ProtocolTCP
	e.slices = e.slices[:1]
	e.slices[0].Labels = map[string]string{discoveryv1.LabelServiceName: e.service.Name}
	e.slices[0].Ports = []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &protocol}}
	e.slices[0].Endpoints = []discoveryv1.Endpoint{{Addresses: []string{"10.244.1.5"}}}
	return e
}

func compareRound(a *api, machines []*machine, round int) (asked int) {
	r := rand.New(rand.NewPCG(*seed, uint64(round)))
	var all []exposed
	for i := range servicesInRound {
		all = append(all, randomService(r, round, i))
	}
	all = append(all, marker(round))
	for i := range all {
		all[i].create(a)
	}
	last := all[servicesInRound].addresses()[0]
	for _, m := range machines {
		nstest.Eventually(a.t, m.name+" to know all Services", func() bool {
			return strings.Contains(try(m.node, "tcp", strings.TrimPrefix(last, "tcp ")), "10.244.1.5:8080")
		})
	}
	var asking sync.WaitGroup
	for _, e := range all[:servicesInRound] {
		for _, target := range e.addresses() {
			for _, client := range slices.Sorted(maps.Keys(machines[0].clients)) {
				asked++
				if e.service.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
					asking.Go(func() { compare(a.t, machines, e, client, target) })
				}
			}
			if host, port, _ := net.SplitHostPort(strings.TrimPrefix(strings.TrimPrefix(target, "tcp "), "udp ")); host == "172.30.9.1" && e.service.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
				asked++
				asking.Go(func() { compare(a.t, machines, e, "node", target[:4]+"127.0.0.1:"+port) })
			}
		}
		if e.service.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
			// One way after the other: what a client meets by one of them it may meet
			// by the next.
			asking.Go(func() {
				for _, target := range e.addresses() {
					for _, client := range slices.Sorted(maps.Keys(machines[0].clients)) {
						compare(a.t, machines, e, client, target)
					}
				}
			})
		}
		if e.service.Spec.HealthCheckNodePort != 0 {
			asking.Go(func() { compareHealth(a.t, machines, e) })
		}
	}
	asking.Wait()
	for i := range all {
		all[i].remove(a)
	}
	return asked
}

// compare asks both until they have said the same, or often enough. What differs
// is asked anew: an answer that came too late on a busy machine looks like a packet
// that was dropped.
func compare(t testing.TB, machines []*machine, e exposed, client, target string) {
	var said [2]string
	for range 3 {
		if said = ask(machines, e, client, target); said[0] == said[1] {
			return
		}
	}
	t.Errorf("%s to %s (%s):\n  ours:   %s\n  theirs: %s", client, target, e.describe(), said[0], said[1])
}

func ask(machines []*machine, e exposed, client, target string) (said [2]string) {
	protocol, address, _ := strings.Cut(target, " ")
	ends := [2]map[string]bool{{}, {}}
	for tries := range 60 {
		for i, m := range machines {
			ends[i][try(m.clients[client], protocol, address)] = true
			said[i] = strings.Join(slices.Sorted(maps.Keys(ends[i])), ", ")
			if e.service.Spec.SessionAffinity == corev1.ServiceAffinityClientIP && len(ends[i]) == 1 && strings.Contains(said[i], " sees ") {
				said[i] = "always the same" // which one it is, is a lot
			}
		}
		if said[0] == said[1] && tries >= 2 {
			break
		}
		if tries > 4 && !strings.Contains(said[0]+said[1], "sees") || tries > 9 && ends[0]["dropped"] != ends[1]["dropped"] {
			break // which takes seconds each time
		}
	}
	return said
}

// compareMemories asks both what they remember: of a client, until its time is
// over; of a flow of UDP, until its endpoint is gone.
func compareMemories(a *api, machines []*machine) {
	sticky, flow := plain("sticky", "10.96.99.1", pods[0].ip, pods[2].ip), plain("flow", "10.96.99.2", pods[2].ip)
	sticky.service.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	sticky.service.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: new(int32(2))}}
	udp := corev1.ProtocolUDP
	flow.service.Spec.Ports[0].Protocol, flow.slices[0].Ports[0].Protocol = udp, &udp
	sticky.create(a)
	flow.create(a)
	defer sticky.remove(a)
	defer flow.remove(a)
	var flows []net.Conn
	for _, m := range machines {
		met := map[string]map[string]bool{}
		nstest.Eventually(a.t, m.name+" to forget a client and choose another endpoint", func() (another bool) {
			for name, client := range m.clients {
				if end, _, is := strings.Cut(try(client, "tcp", "10.96.99.1:80"), " sees "); is {
					if met[name] == nil {
						met[name] = map[string]bool{}
					}
					met[name][end] = true
				}
				another = another || len(met[name]) == 2
			}
			time.Sleep(2500 * time.Millisecond) // longer than it is to remember
			return another
		})
		m.clients["far pod"].Must(func() error {
			conn, err := net.Dial("udp", "10.96.99.2:80")
			flows = append(flows, conn)
			return err
		})
		defer flows[len(flows)-1].Close()
	}
	meets := func(ip string) {
		a.t.Helper()
		for i, m := range machines {
			nstest.Eventually(a.t, m.name+" to lead a flow to "+ip, func() bool {
				_ = flows[i].SetDeadline(time.Now().Add(patience))
				name, _, err := nstest.Exchange(flows[i])
				return err == nil && strings.HasPrefix(name, ip+":")
			})
		}
	}
	meets(pods[2].ip)
	for _, ips := range [][]string{{pods[3].ip}, {}, {pods[0].ip}} {
		a.edit(flow, ips...)
		if len(ips) > 0 {
			meets(ips[0])
		}
	}
}

// edit gives a Service other endpoints.
func (a *api) edit(e exposed, ips ...string) {
	a.t.Helper()
	kind := client.For(a.client, client.EndpointSlices)
	slice, err := kind.Get(context.Background(), "default", e.service.Name)
	if err != nil {
		a.t.Fatal(err)
	}
	slice.Endpoints = nil
	for _, ip := range ips {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{ip}})
	}
	if _, err := kind.Update(context.Background(), slice); err != nil {
		a.t.Fatal(err)
	}
}

// compareHealth asks the port that tells a load balancer of local endpoints.
func compareHealth(t testing.TB, machines []*machine, e exposed) {
	var said [2]string
	for i, m := range machines {
		address := fmt.Sprintf("172.30.9.1:%d", e.service.Spec.HealthCheckNodePort)
		nstest.Eventually(t, m.name+" to serve "+address, func() bool {
			said[i] = get(m.clients["outside"], address, "/")
			return said[i] != ""
		})
	}
	if said[0] != said[1] {
		t.Errorf("health of %s:\n  ours:\n%s\n  theirs:\n%s", e.describe(), said[0], said[1])
	}
}

// describe says what matters of a Service.
func (e exposed) describe() string {
	s := e.service.Spec
	text := fmt.Sprintf("%s: %s %s %v affinity=%s labels=%v", e.service.Name, s.Type, s.ExternalTrafficPolicy, s.LoadBalancerSourceRanges, s.SessionAffinity, e.service.Labels)
	if s.InternalTrafficPolicy != nil {
		text += " internal=" + string(*s.InternalTrafficPolicy)
	}
	for _, slice := range e.slices {
		for _, p := range slice.Endpoints {
			text += fmt.Sprintf("; %s:%d r=%s s=%s t=%s", p.Addresses[0], *slice.Ports[0].Port, word(p.Conditions.Ready), word(p.Conditions.Serving), word(p.Conditions.Terminating))
			if p.Hints != nil {
				text += fmt.Sprint(" hints=", p.Hints.ForZones, p.Hints.ForNodes)
			}
		}
	}
	return text
}

func word(b *bool) string {
	if b == nil {
		return "?"
	}
	return fmt.Sprint(*b)
}
