package servicelb

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"

	"tinykube/client"
	"tinykube/controllers/harness"
)

type controller struct {
	*harness.Scope
	services *harness.Store[*corev1.Service]
}

// Register adds the controller to a manager.
func Register(m *harness.Manager) {
	s := m.Scope(harness.Identity{Name: "service-lb-controller", Account: "service-controller", Source: "service-controller"})
	c := &controller{Scope: s, services: harness.StoreOf(s, client.Services)}
	loop := harness.NewLoop(s, 1, c.reconcile)
	harness.Watch(loop, c.services, func(old, new *corev1.Service) []string {
		if new == nil || !pending(new) || old != nil && pending(old) {
			return nil // said already
		}
		return []string{client.Key(new)}
	})
}

func (c *controller) reconcile(_ context.Context, key string) (time.Duration, error) {
	if service, ok := c.services.Get(client.SplitKey(key)); ok && pending(service) {
		c.Events.Event(service, corev1.EventTypeWarning, "SyncLoadBalancerFailed",
			"Error syncing load balancer: this cluster has no load balancers, so EXTERNAL-IP stays <pending>; use the Service's node ports, or install a controller and name it in spec.loadBalancerClass")
	}
	return 0, nil
}

// pending says whether a Service waits for us, and nobody else.
func pending(service *corev1.Service) bool {
	return service.Spec.Type == corev1.ServiceTypeLoadBalancer && service.Spec.LoadBalancerClass == nil &&
		service.DeletionTimestamp == nil && len(service.Status.LoadBalancer.Ingress) == 0
}
