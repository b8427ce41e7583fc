package endpointslice

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"tinykube/controllers/harness"
)

// group is what can share slices: addresses of one family with one list of
// ports.
type group struct {
	addressType discoveryv1.AddressType
	ports       []discoveryv1.EndpointPort
	endpoints   []discoveryv1.Endpoint // sorted by address
}

// groupKey identifies a group.
func groupKey(t discoveryv1.AddressType, ports []discoveryv1.EndpointPort) string {
	ports = slices.Clone(ports)
	slices.SortFunc(ports, func(a, b discoveryv1.EndpointPort) int { return strings.Compare(portKey(a), portKey(b)) })
	var b strings.Builder
	b.WriteString(string(t))
	for _, p := range ports {
		b.WriteString(" " + portKey(p))
	}
	return b.String()
}

func portKey(p discoveryv1.EndpointPort) string {
	raw, err := json.Marshal(p)
	if err != nil {
		panic(fmt.Sprintf("encode port: %v", err)) // API types always encode
	}
	return string(raw)
}

// makeGroups computes all of a Service's endpoints. zoneOf gives a node's zone,
// or "".
func makeGroups(service *corev1.Service, pods []*corev1.Pod, zoneOf func(node string) string) map[string]*group {
	groups := map[string]*group{}
	for _, t := range addressTypes(service) {
		for _, pod := range pods {
			addresses := addressesOf(pod, t)
			if len(addresses) == 0 || harness.IsFinished(pod) {
				continue
			}
			ports := resolvePorts(service, pod)
			if len(ports) == 0 && len(service.Spec.Ports) > 0 {
				continue // it has none of the named ports
			}
			key := groupKey(t, ports)
			if groups[key] == nil {
				groups[key] = &group{addressType: t, ports: ports}
			}
			groups[key].endpoints = append(groups[key].endpoints, makeEndpoint(service, pod, addresses, zoneOf))
		}
	}
	for _, g := range groups {
		slices.SortFunc(g.endpoints, func(a, b discoveryv1.Endpoint) int { return strings.Compare(endpointKey(a), endpointKey(b)) })
	}
	return groups
}

// makeEndpoint describes one pod.
//
//	             ready    serving   terminating
//	ready pod    true     true      false
//	draining     false    true      true       ready means: send it new traffic
//	not ready    false    false     false
//
// A Service with publishNotReadyAddresses calls everything ready.
func makeEndpoint(service *corev1.Service, pod *corev1.Pod, addresses []string, zoneOf func(string) string) discoveryv1.Endpoint {
	serving, terminating := harness.IsReady(pod), pod.DeletionTimestamp != nil
	ready := service.Spec.PublishNotReadyAddresses || serving && !terminating
	e := discoveryv1.Endpoint{
		Addresses:  addresses,
		Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating},
		TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
	}
	if pod.Spec.NodeName != "" {
		e.NodeName = &pod.Spec.NodeName
		if zone := zoneOf(pod.Spec.NodeName); zone != "" {
			e.Zone = &zone
		}
	}
	if pod.Spec.Hostname != "" && pod.Spec.Subdomain == service.Name {
		e.Hostname = &pod.Spec.Hostname // <hostname>.<service> in DNS
	}
	return e
}

// endpointKey is what makes two endpoints the same one in two versions.
func endpointKey(e discoveryv1.Endpoint) string {
	key := strings.Join(e.Addresses, ",")
	if e.TargetRef != nil {
		key += " " + string(e.TargetRef.UID)
	}
	return key
}

// addressTypes are the families a Service wants.
func addressTypes(service *corev1.Service) []discoveryv1.AddressType {
	var types []discoveryv1.AddressType
	for _, family := range service.Spec.IPFamilies {
		types = append(types, discoveryv1.AddressType(family))
	}
	if len(types) > 0 {
		return types
	}
	if addr, err := netip.ParseAddr(service.Spec.ClusterIP); err == nil && addr.Is6() {
		return []discoveryv1.AddressType{discoveryv1.AddressTypeIPv6}
	}
	return []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4}
}

func addressesOf(pod *corev1.Pod, t discoveryv1.AddressType) []string {
	ips := pod.Status.PodIPs
	if len(ips) == 0 && pod.Status.PodIP != "" {
		ips = []corev1.PodIP{{IP: pod.Status.PodIP}}
	}
	for _, ip := range ips {
		addr, err := netip.ParseAddr(ip.IP)
		if err == nil && addr.Is6() == (t == discoveryv1.AddressTypeIPv6) {
			return []string{ip.IP}
		}
	}
	return nil
}

// resolvePorts gives the numbers that a Service's ports have in a pod. A name
// that the pod does not know is left out.
func resolvePorts(service *corev1.Service, pod *corev1.Pod) []discoveryv1.EndpointPort {
	var ports []discoveryv1.EndpointPort
	for i := range service.Spec.Ports {
		p := &service.Spec.Ports[i]
		number, ok := targetPort(p, pod)
		if !ok {
			continue
		}
		ports = append(ports, discoveryv1.EndpointPort{Name: &p.Name, Port: &number, Protocol: &p.Protocol, AppProtocol: p.AppProtocol})
	}
	return ports
}

func targetPort(p *corev1.ServicePort, pod *corev1.Pod) (int32, bool) {
	if p.TargetPort.Type == intstr.Int {
		if p.TargetPort.IntVal == 0 {
			return p.Port, true
		}
		return p.TargetPort.IntVal, true
	}
	containers := slices.Clone(pod.Spec.Containers)
	for _, c := range pod.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			containers = append(containers, c) // a sidecar
		}
	}
	for _, c := range containers {
		for _, port := range c.Ports {
			if port.Name == p.TargetPort.StrVal && port.Protocol == p.Protocol {
				return port.ContainerPort, true
			}
		}
	}
	return 0, false
}
