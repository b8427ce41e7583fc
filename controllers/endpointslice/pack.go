package endpointslice

import (
	"cmp"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
	"tinykube/controllers/harness"
)

// managedBy marks the slices that are ours.
const managedBy = "endpointslice-controller.k8s.io"

// plan is what has to happen to a Service's slices.
type plan struct {
	create, update, remove []*discoveryv1.EndpointSlice
}

// makePlan distributes the desired endpoints over slices of at most maxPerSlice.
//
//  1. In each slice that exists, drop what is no longer desired, refresh what is.
//  2. Put what is new into slices that are written anyway, then into others
//     with room, then into new ones.
//  3. Remove slices that became empty, but keep one per family, so that "no
//     endpoints" can be told from "not computed yet".
//
// Upstream: kubernetes/endpointslice reconciler.go reconcileByPortMapping
func makePlan(service *corev1.Service, groups map[string]*group, existing []*discoveryv1.EndpointSlice, maxPerSlice int) plan {
	existing = slices.Clone(existing)
	slices.SortFunc(existing, func(a, b *discoveryv1.EndpointSlice) int { return cmp.Compare(a.Name, b.Name) })
	var p plan
	left := map[discoveryv1.AddressType]int{}
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		g := groups[key]
		kept := p.fill(service, g, slicesOf(existing, key), maxPerSlice)
		left[g.addressType] += kept
	}
	for _, slice := range existing {
		if groups[groupKey(slice.AddressType, slice.Ports)] == nil {
			p.remove = append(p.remove, slice)
		}
	}
	for _, t := range addressTypes(service) {
		if left[t] == 0 {
			p.keepOneEmpty(service, t)
		}
	}
	return p
}

// fill plans one group and returns how many slices it will have.
func (p *plan) fill(service *corev1.Service, g *group, existing []*discoveryv1.EndpointSlice, maxPerSlice int) int {
	missing := map[string]discoveryv1.Endpoint{}
	for _, e := range g.endpoints {
		missing[endpointKey(e)] = e
	}
	var work []*discoveryv1.EndpointSlice
	written := map[*discoveryv1.EndpointSlice]bool{}
	for _, slice := range existing {
		next := slice.DeepCopy()
		next.Endpoints = nil
		for _, e := range slice.Endpoints {
			if desired, ok := missing[endpointKey(e)]; ok && len(next.Endpoints) < maxPerSlice {
				next.Endpoints = append(next.Endpoints, desired)
				delete(missing, endpointKey(e))
			}
		}
		label(service, next)
		work, written[next] = append(work, next), !equality.Semantic.DeepEqual(next, slice)
	}
	added := slices.DeleteFunc(slices.Clone(g.endpoints), func(e discoveryv1.Endpoint) bool { _, ok := missing[endpointKey(e)]; return !ok })

	// Slices that are written anyway come first, then the fuller ones.
	order := slices.Clone(work)
	slices.SortStableFunc(order, func(a, b *discoveryv1.EndpointSlice) int {
		if written[a] != written[b] {
			if written[a] {
				return -1
			}
			return 1
		}
		return cmp.Compare(len(b.Endpoints), len(a.Endpoints))
	})
	for _, slice := range order {
		n := min(len(added), maxPerSlice-len(slice.Endpoints))
		if n > 0 {
			slice.Endpoints, added, written[slice] = append(slice.Endpoints, added[:n]...), added[n:], true
		}
	}
	count := 0
	for _, slice := range work {
		switch {
		case len(slice.Endpoints) == 0:
			p.remove = append(p.remove, slice)
			continue
		case written[slice]:
			p.update = append(p.update, slice)
		}
		count++
	}
	for len(added) > 0 {
		n := min(len(added), maxPerSlice)
		p.create = append(p.create, newSlice(service, g, added[:n]))
		added = added[n:]
		count++
	}
	return count
}

// keepOneEmpty turns one removal of a family into an update, or creates an
// empty slice.
func (p *plan) keepOneEmpty(service *corev1.Service, t discoveryv1.AddressType) {
	for i, slice := range p.remove {
		if slice.AddressType != t {
			continue
		}
		p.remove = slices.Delete(p.remove, i, i+1)
		next := slice.DeepCopy()
		next.Endpoints, next.Ports = []discoveryv1.Endpoint{}, []discoveryv1.EndpointPort{}
		label(service, next)
		if !equality.Semantic.DeepEqual(next, slice) {
			p.update = append(p.update, next)
		}
		return
	}
	p.create = append(p.create, newSlice(service, &group{addressType: t, ports: []discoveryv1.EndpointPort{}}, []discoveryv1.Endpoint{}))
}

func slicesOf(existing []*discoveryv1.EndpointSlice, key string) []*discoveryv1.EndpointSlice {
	var of []*discoveryv1.EndpointSlice
	for _, slice := range existing {
		if groupKey(slice.AddressType, slice.Ports) == key {
			of = append(of, slice)
		}
	}
	return of
}

func newSlice(service *corev1.Service, g *group, endpoints []discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: service.Namespace, Name: harness.NewName(service.Name + "-"), GenerateName: service.Name + "-",
			OwnerReferences: []metav1.OwnerReference{harness.ControllerRef(service, client.Services.GVK())},
		},
		AddressType: g.addressType, Ports: g.ports, Endpoints: slices.Clone(endpoints),
	}
	label(service, slice)
	return slice
}

// label gives a slice the Service's labels and our own.
func label(service *corev1.Service, slice *discoveryv1.EndpointSlice) {
	labels := map[string]string{}
	maps.Copy(labels, service.Labels)
	delete(labels, corev1.IsHeadlessService)
	if service.Spec.ClusterIP == corev1.ClusterIPNone {
		labels[corev1.IsHeadlessService] = ""
	}
	labels[discoveryv1.LabelServiceName] = service.Name
	labels[discoveryv1.LabelManagedBy] = managedBy
	slice.Labels = labels
}

// triggerTime is when the newest change happened that the endpoints follow
// from. It is written on every slice that is written, and tells how far behind
// proxies are.
func triggerTime(service *corev1.Service, pods []*corev1.Pod) string {
	newest := service.CreationTimestamp.Time
	for _, pod := range pods {
		if ready := harness.PodCondition(pod, corev1.PodReady); ready != nil && ready.LastTransitionTime.After(newest) {
			newest = ready.LastTransitionTime.Time
		}
	}
	return newest.UTC().Format(time.RFC3339Nano)
}
