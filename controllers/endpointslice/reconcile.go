package endpointslice

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"tinykube/client"
	"tinykube/controllers/harness"
)

const workers = 5

// Config is upstream's --max-endpoints-per-slice.
type Config struct{ MaxPerSlice int }

type controller struct {
	*harness.Scope
	cfg      Config
	services *harness.Store[*corev1.Service]
	pods     *harness.Store[*corev1.Pod]
	nodes    *harness.Store[*corev1.Node]
	slices   *harness.Store[*discoveryv1.EndpointSlice]
}

// Register adds the EndpointSlice controller to a manager.
func Register(m *harness.Manager, cfg Config) {
	s := m.Scope(harness.Identity{Name: "endpointslice-controller", Account: "endpointslice-controller", Source: "endpoint-slice-controller"})
	c := &controller{
		Scope: s, cfg: cfg,
		services: harness.StoreOf(s, client.Services),
		pods:     harness.StoreOf(s, client.Pods),
		nodes:    harness.StoreOf(s, client.Nodes),
		slices:   harness.StoreOf(s, client.EndpointSlices),
	}
	loop := harness.NewLoop(s, workers, c.reconcile)
	harness.WatchSelf(loop, c.services)
	harness.Watch(loop, c.pods, func(old, new *corev1.Pod) []string { return servicesOf(c.services, old, new) })
	harness.WatchOwned(loop, c.slices, "Service", nil)
	harness.Watch(loop, c.nodes, func(old, new *corev1.Node) []string {
		if old == nil || new == nil || zone(old) == zone(new) {
			return nil
		}
		var keys []string
		for _, service := range c.services.List() {
			keys = append(keys, client.Key(service))
		}
		return keys
	})
}

// servicesOf are the Services that a change of a pod concerns.
func servicesOf(services *harness.Store[*corev1.Service], old, new *corev1.Pod) []string {
	if old != nil && new != nil && old != new && sameEndpoint(old, new) {
		return nil
	}
	pod := new
	if pod == nil {
		pod = old
	}
	var keys []string
	for _, service := range services.ByIndex(harness.ByNamespace, pod.Namespace) {
		if len(service.Spec.Selector) == 0 {
			continue
		}
		selector := labels.Set(service.Spec.Selector).AsSelectorPreValidated()
		if new != nil && selector.Matches(labels.Set(new.Labels)) || old != nil && selector.Matches(labels.Set(old.Labels)) {
			keys = append(keys, client.Key(service))
		}
	}
	return keys
}

// sameEndpoint says whether two versions of a pod make the same endpoint.
func sameEndpoint(a, b *corev1.Pod) bool {
	return a.UID == b.UID && harness.IsReady(a) == harness.IsReady(b) && harness.IsFinished(a) == harness.IsFinished(b) &&
		(a.DeletionTimestamp == nil) == (b.DeletionTimestamp == nil) && a.Spec.NodeName == b.Spec.NodeName &&
		equality.Semantic.DeepEqual(a.Status.PodIPs, b.Status.PodIPs) && equality.Semantic.DeepEqual(a.Labels, b.Labels)
}

// selectedPods are the pods of a Service; ok is false for one whose endpoints
// are not ours to make.
func selectedPods(service *corev1.Service, pods *harness.Store[*corev1.Pod]) (selected []*corev1.Pod, ok bool) {
	if service.Spec.Type == corev1.ServiceTypeExternalName || len(service.Spec.Selector) == 0 || service.DeletionTimestamp != nil {
		return nil, false
	}
	selector := labels.Set(service.Spec.Selector).AsSelectorPreValidated()
	for _, pod := range pods.ByIndex(harness.ByNamespace, service.Namespace) {
		if selector.Matches(labels.Set(pod.Labels)) {
			selected = append(selected, pod)
		}
	}
	return selected, true
}

func (c *controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	service, ok := c.services.Get(client.SplitKey(key))
	if !ok {
		return 0, nil // its slices are garbage collection's
	}
	pods, ok := selectedPods(service, c.pods)
	if !ok {
		return 0, nil
	}
	var existing []*discoveryv1.EndpointSlice
	for _, slice := range c.slices.ByIndex(harness.ByController, string(service.UID)) {
		if slice.Labels[discoveryv1.LabelManagedBy] == managedBy && slice.DeletionTimestamp == nil {
			existing = append(existing, slice)
		}
	}
	p := makePlan(service, makeGroups(service, pods, c.zoneOf), existing, c.cfg.MaxPerSlice)
	if err := c.apply(ctx, p, triggerTime(service, pods)); err != nil {
		return 0, fmt.Errorf("endpoint slices of %s: %w", key, err)
	}
	return 0, nil
}

// apply creates and updates before it removes, so that no endpoint is missing
// in between.
func (c *controller) apply(ctx context.Context, p plan, trigger string) error {
	var errs []error
	for _, slice := range p.create {
		metav1.SetMetaDataAnnotation(&slice.ObjectMeta, corev1.EndpointsLastChangeTriggerTime, trigger)
		_, err := c.slices.Create(ctx, slice)
		errs = append(errs, err)
	}
	for _, slice := range p.update {
		metav1.SetMetaDataAnnotation(&slice.ObjectMeta, corev1.EndpointsLastChangeTriggerTime, trigger)
		_, err := c.slices.Update(ctx, slice)
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, slice := range p.remove {
		errs = append(errs, c.slices.Delete(ctx, slice, metav1.DeleteOptions{}))
	}
	return errors.Join(errs...)
}

func (c *controller) zoneOf(name string) string {
	node, ok := c.nodes.Get("", name)
	if !ok {
		return ""
	}
	return zone(node)
}

func zone(node *corev1.Node) string { return node.Labels[corev1.LabelTopologyZone] }

// legacy keeps the Endpoints objects, for clients that still read them.
type legacy struct {
	*harness.Scope
	services  *harness.Store[*corev1.Service]
	pods      *harness.Store[*corev1.Pod]
	endpoints *harness.Store[*corev1.Endpoints]
}

// RegisterEndpoints adds the controller of the old form to a manager.
func RegisterEndpoints(m *harness.Manager) {
	s := m.Scope(harness.Identity{Name: "endpoints-controller", Account: "endpoint-controller", Source: "endpoint-controller"})
	c := &legacy{
		Scope:     s,
		services:  harness.StoreOf(s, client.Services),
		pods:      harness.StoreOf(s, client.Pods),
		endpoints: harness.StoreOf(s, client.Endpoints),
	}
	loop := harness.NewLoop(s, workers, c.reconcile)
	harness.WatchSelf(loop, c.services)
	harness.WatchSelf(loop, c.endpoints)
	harness.Watch(loop, c.pods, func(old, new *corev1.Pod) []string { return servicesOf(c.services, old, new) })
}

func (c *legacy) reconcile(ctx context.Context, key string) (time.Duration, error) {
	namespace, name := client.SplitKey(key)
	have, exists := c.endpoints.Get(namespace, name)
	service, ok := c.services.Get(namespace, name)
	if !ok {
		if exists && have.Labels[endpointsManagedBy] == endpointsOurs && have.DeletionTimestamp == nil {
			return 0, c.endpoints.Delete(ctx, have, metav1.DeleteOptions{})
		}
		return 0, nil
	}
	pods, ok := selectedPods(service, c.pods)
	if !ok {
		return 0, nil
	}
	want := makeEndpoints(service, pods)
	if !exists {
		metav1.SetMetaDataAnnotation(&want.ObjectMeta, corev1.EndpointsLastChangeTriggerTime, triggerTime(service, pods))
		_, err := c.endpoints.Create(ctx, want)
		if apierrors.IsAlreadyExists(err) {
			return time.Second, nil // someone else's, on its way into the cache
		}
		return 0, err
	}
	if equality.Semantic.DeepEqual(have.Subsets, want.Subsets) && equality.Semantic.DeepEqual(have.Labels, want.Labels) {
		return 0, nil
	}
	updated := have.DeepCopy()
	updated.Subsets, updated.Labels = want.Subsets, want.Labels
	delete(updated.Annotations, corev1.EndpointsOverCapacity)
	for key, value := range want.Annotations {
		metav1.SetMetaDataAnnotation(&updated.ObjectMeta, key, value)
	}
	metav1.SetMetaDataAnnotation(&updated.ObjectMeta, corev1.EndpointsLastChangeTriggerTime, triggerTime(service, pods))
	_, err := c.endpoints.Update(ctx, updated)
	return 0, err
}
