package proxy

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Whatever order events come in, doubled, lost or for objects that were never
// there: a tracker with a memory answers what one without answers, and the rules
// written piece by piece are those written at once.
func TestTrackerForgetsNothing(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	services, endpointSlices := map[string]*corev1.Service{}, map[string]*discoveryv1.EndpointSlice{}
	var tracker Tracker
	backends := map[string]*ledger{modeNFTables: {}, modeIPVS: {}}
	options := Options{MasqueradeBit: 14, Local: testPods}
	for step := range 200 {
		for range 1 + random.IntN(4) {
			i := random.IntN(8)
			name := fmt.Sprintf("s%d", i)
			switch random.IntN(5) {
			case 0:
				delete(services, name)
			case 1:
				delete(endpointSlices, name)
			case 2:
				// A cluster IP may be another Service's for a while.
				services[name] = makeService(name, fmt.Sprintf("10.96.0.%d", 1+random.IntN(8)), nodePort(30000+int32(random.IntN(4))))
			default:
				endpointSlices[name] = makeSlice(fmt.Sprintf("s%d", random.IntN(8)), corev1.ProtocolTCP, 8080,
					fmt.Sprintf("10.244.0.%d@node-%d", 1+random.IntN(4), random.IntN(2)), fmt.Sprintf("10.244.1.%d@node-1", 1+random.IntN(4)))
				endpointSlices[name].Name = name
			}
		}
		var serviceList []*corev1.Service // in no order, as a cache gives them
		for _, s := range services {
			serviceList = append(serviceList, s)
		}
		var sliceList []*discoveryv1.EndpointSlice
		for _, s := range endpointSlices {
			sliceList = append(sliceList, s)
		}
		node := Node{Name: "node-0", Zone: fmt.Sprint(step / 50)}
		got, want := tracker.State(node, serviceList, sliceList), NewState(node, serviceList, sliceList)
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("step %d: %v, anew %v", step, got.Ports, want.Ports)
		}
		again := tracker.State(node, serviceList, append(slices.Clone(sliceList), sliceList...))
		if !slices.Equal(again.Ports, got.Ports) {
			t.Fatalf("step %d: the same objects, doubled, made other ports", step)
		}
		for mode, l := range backends {
			elements := func(p *ServicePort) [][]element {
				if mode == modeIPVS {
					return ipvsElements(IPv4, options, p)
				}
				return nftElements(IPv4, options, p)
			}
			fresh := &ledger{}
			l.update(got, nil, false, elements)
			fresh.update(want, nil, false, elements)
			if !reflect.DeepEqual(l.held, fresh.held) {
				t.Fatalf("step %d, mode %s: %v, anew %v", step, mode, l.held, fresh.held)
			}
		}
	}
}
