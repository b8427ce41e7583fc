package endpointslice

import (
	"cmp"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	endpointsManagedBy = "endpoints.kubernetes.io/managed-by"
	endpointsOurs      = "endpoint-controller"
	// maxAddresses is where the old form is cut off, which is why there is a
	// new one.
	maxAddresses = 1000
)

// makeEndpoints writes the groups in the old form: one object per Service, a
// subset per list of ports, ready addresses apart from the others. It has no
// way to say that a pod is terminating, so such pods are left out, unless the
// Service publishes what is not ready. Its family is the Service's first.
func makeEndpoints(service *corev1.Service, pods []*corev1.Pod) *corev1.Endpoints {
	if !service.Spec.PublishNotReadyAddresses {
		pods = slices.DeleteFunc(slices.Clone(pods), func(pod *corev1.Pod) bool { return pod.DeletionTimestamp != nil })
	}
	first := addressTypes(service)[0]
	groups := makeGroups(service, pods, func(string) string { return "" })
	e := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{
		Namespace: service.Namespace, Name: service.Name, Labels: map[string]string{},
	}}
	maps.Copy(e.Labels, service.Labels)
	e.Labels[endpointsManagedBy] = endpointsOurs
	if service.Spec.ClusterIP == corev1.ClusterIPNone {
		e.Labels[corev1.IsHeadlessService] = ""
	} else {
		delete(e.Labels, corev1.IsHeadlessService)
	}
	room := maxAddresses
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		if g := groups[key]; g.addressType == first && room > 0 {
			e.Subsets = append(e.Subsets, makeSubset(g, &room))
		}
	}
	if room == 0 {
		e.Annotations = map[string]string{corev1.EndpointsOverCapacity: "truncated"}
	}
	return e
}

func makeSubset(g *group, room *int) corev1.EndpointSubset {
	var s corev1.EndpointSubset
	for _, p := range g.ports {
		s.Ports = append(s.Ports, corev1.EndpointPort{Name: *p.Name, Port: *p.Port, Protocol: *p.Protocol, AppProtocol: p.AppProtocol})
	}
	slices.SortFunc(s.Ports, func(a, b corev1.EndpointPort) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Port, b.Port))
	})
	for _, e := range g.endpoints {
		if *room == 0 {
			break
		}
		*room--
		address := corev1.EndpointAddress{IP: e.Addresses[0], NodeName: e.NodeName, TargetRef: e.TargetRef}
		if e.Hostname != nil {
			address.Hostname = *e.Hostname
		}
		if *e.Conditions.Ready {
			s.Addresses = append(s.Addresses, address)
		} else {
			s.NotReadyAddresses = append(s.NotReadyAddresses, address)
		}
	}
	return s
}
