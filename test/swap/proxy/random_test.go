package proxy

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
)

// exposed is a Service with its slices.
type exposed struct {
	service *corev1.Service
	slices  []*discoveryv1.EndpointSlice
	ingress []corev1.LoadBalancerIngress
}

// randomService has every feature with some chance.
func randomService(r *rand.Rand, round, i int) exposed {
	chance := func(percent int) bool { return r.IntN(100) < percent }
	name := fmt.Sprintf("r%d-s%d", round, i)
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{}}}
	s.Spec.ClusterIP = fmt.Sprintf("10.96.%d.%d", 100+round, 10+i)
	protocols := []corev1.Protocol{corev1.ProtocolTCP}
	if chance(25) {
		protocols = []corev1.Protocol{corev1.ProtocolUDP}
	} else if chance(25) {
		protocols = append(protocols, corev1.ProtocolUDP)
	}
	for _, protocol := range protocols {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "p" + strings.ToLower(string(protocol)), Port: 80, Protocol: protocol})
	}
	switch {
	case chance(30):
		s.Spec.Type = corev1.ServiceTypeNodePort
	case chance(45):
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
	}
	e := exposed{service: s}
	cluster := s.Spec.Type == ""
	if chance(20) {
		s.Spec.ExternalIPs = []string{fmt.Sprintf("10.77.%d.%d", round, 10+i)}
		cluster = false
	}
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer {
		ingress := corev1.LoadBalancerIngress{IP: fmt.Sprintf("10.88.%d.%d", round, 10+i)}
		if chance(20) {
			proxy := corev1.LoadBalancerIPModeProxy
			ingress.IPMode = &proxy
		}
		e.ingress = []corev1.LoadBalancerIngress{ingress}
		ranges := []string{"172.30.9.0/24", "10.244.0.0/16", "10.244.0.0/24", "172.30.9.9/32", "0.0.0.0/0", "192.0.2.0/24"}
		for chance(50) && len(s.Spec.LoadBalancerSourceRanges) < 3 {
			if next := ranges[r.IntN(len(ranges))]; !slices.Contains(s.Spec.LoadBalancerSourceRanges, next) {
				s.Spec.LoadBalancerSourceRanges = append(s.Spec.LoadBalancerSourceRanges, next)
			}
		}
	}
	if !cluster && chance(45) {
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	}
	if chance(20) {
		local := corev1.ServiceInternalTrafficPolicyLocal
		s.Spec.InternalTrafficPolicy = &local
	}
	if chance(20) {
		seconds := int32(10000)
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
	}
	switch {
	case chance(5):
		s.Labels["service.kubernetes.io/service-proxy-name"] = "somebody"
	case s.Spec.Type == "" && chance(15):
		s.Spec.ClusterIP = corev1.ClusterIPNone // whatever else it says, no proxy serves it
	}
	hints := []string{"", "", "", "zone", "node"}[r.IntN(5)]
	moods := []int{r.IntN(9), r.IntN(9), r.IntN(9), r.IntN(9)}
	for n := range 1 + r.IntN(2) {
		e.slices = append(e.slices, randomSlice(r, s, n, hints, moods))
	}
	return e
}

// pods are where endpoints may be.
var pods = []struct{ ip, node string }{{"10.244.0.5", "node-0"}, {"10.244.0.6", "node-0"}, {"10.244.1.5", "node-1"}, {"10.244.1.6", "node-1"}}

func randomSlice(r *rand.Rand, s *corev1.Service, n int, hints string, moods []int) *discoveryv1.EndpointSlice {
	chance := func(percent int) bool { return r.IntN(100) < percent }
	slice := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4}
	slice.Namespace, slice.Name = s.Namespace, fmt.Sprintf("%s-%d", s.Name, n)
	slice.Labels = map[string]string{discoveryv1.LabelServiceName: s.Name}
	for label, value := range s.Labels {
		slice.Labels[label] = value
	}
	target := int32(ports[r.IntN(2)])
	for _, port := range s.Spec.Ports {
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &port.Name, Port: &target, Protocol: &port.Protocol})
	}
	if chance(15) {
		return slice
	}
	busy := 20 + r.IntN(50)
	for i, pod := range pods {
		if !chance(busy) {
			continue
		}
		yes, no := true, false
		e := discoveryv1.Endpoint{Addresses: []string{pod.ip}, NodeName: &pod.node, Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes, Terminating: &no}}
		switch moods[i] { // the same in all slices: which would count is not said
		case 0:
			e.Conditions = discoveryv1.EndpointConditions{Ready: &no, Serving: &no, Terminating: &no}
		case 1, 2:
			e.Conditions = discoveryv1.EndpointConditions{Ready: &no, Serving: &yes, Terminating: &yes}
		case 3:
			e.Conditions = discoveryv1.EndpointConditions{} // nothing is known
		case 4:
			e.Conditions = discoveryv1.EndpointConditions{Ready: &no, Serving: &no, Terminating: &yes}
		}
		switch {
		case hints == "zone" && chance(95):
			e.Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: []string{"a", "b"}[r.IntN(2)]}}}
		case hints == "node" && chance(95):
			e.Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: "a"}}, ForNodes: []discoveryv1.ForNode{{Name: pod.node}}}
		}
		slice.Endpoints = append(slice.Endpoints, e)
	}
	return slice
}

// create writes it; the API server gives node ports.
func (e *exposed) create(a *api) {
	a.t.Helper()
	ctx := context.Background()
	s, err := client.For(a.client, client.Services).Create(ctx, e.service)
	if err != nil {
		a.t.Fatalf("%s: %v", e.service.Name, err)
	}
	if e.ingress != nil {
		s.Status.LoadBalancer.Ingress = e.ingress
		if s, err = client.For(a.client, client.Services).UpdateStatus(ctx, s); err != nil {
			a.t.Fatalf("%s: %v", s.Name, err)
		}
	}
	e.service = s
	for _, slice := range e.slices {
		if _, err := client.For(a.client, client.EndpointSlices).Create(ctx, slice); err != nil {
			a.t.Fatalf("%s: %v", slice.Name, err)
		}
	}
}

func (e *exposed) remove(a *api) {
	ctx := context.Background()
	if err := client.For(a.client, client.Services).Delete(ctx, e.service.Namespace, e.service.Name, metav1.DeleteOptions{}); err != nil {
		a.t.Fatal(err)
	}
	for _, slice := range e.slices {
		if err := client.For(a.client, client.EndpointSlices).Delete(ctx, slice.Namespace, slice.Name, metav1.DeleteOptions{}); err != nil {
			a.t.Fatal(err)
		}
	}
}

// addresses are all ways in, as "tcp 10.96.0.1:80".
func (e *exposed) addresses() (list []string) {
	for _, port := range e.service.Spec.Ports {
		protocol := strings.ToLower(string(port.Protocol))
		add := func(ip string, port int32) { list = append(list, fmt.Sprintf("%s %s:%d", protocol, ip, port)) }
		if e.service.Spec.ClusterIP != corev1.ClusterIPNone {
			add(e.service.Spec.ClusterIP, port.Port)
		}
		for _, ip := range e.service.Spec.ExternalIPs {
			add(ip, port.Port)
		}
		for _, ingress := range e.ingress {
			add(ingress.IP, port.Port)
		}
		if port.NodePort != 0 {
			add("172.30.9.1", port.NodePort)
			add("10.244.0.1", port.NodePort)
		}
	}
	return list
}
