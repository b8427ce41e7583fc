// Package ephemeralvolume makes the claims of generic ephemeral volumes: storage
// that a pod describes in itself, and which ends with it. The claim belongs to
// the pod, so the garbage collector does the rest.
package ephemeralvolume

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/api/claims"
	"tinykube/client"
	"tinykube/controllers/harness"
)

type controller struct {
	*harness.Scope
	pods   *harness.Store[*corev1.Pod]
	claims *harness.Store[*corev1.PersistentVolumeClaim]
}

// Register adds the controller to a manager.
//
// Upstream: kubernetes pkg/controller/volume/ephemeral
func Register(m *harness.Manager) {
	s := m.Scope(harness.Identity{Name: "ephemeral-volume-controller", Account: "ephemeral-volume-controller", Source: "ephemeral_volume"})
	c := &controller{Scope: s, pods: harness.StoreOf(s, client.Pods), claims: harness.StoreOf(s, client.PersistentVolumeClaims)}
	loop := harness.NewLoop(s, 1, c.reconcile)
	harness.WatchSelf(loop, c.pods)
	harness.WatchOwned(loop, c.claims, "Pod", nil)
}

func (c *controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	pod, ok := c.pods.Get(client.SplitKey(key))
	if !ok || pod.DeletionTimestamp != nil {
		return 0, nil
	}
	for i := range pod.Spec.Volumes {
		if err := c.ensure(ctx, pod, &pod.Spec.Volumes[i]); err != nil {
			c.Events.Event(pod, corev1.EventTypeWarning, "FailedBinding", "ephemeral volume %s: %v", pod.Spec.Volumes[i].Name, err)
			return 0, fmt.Errorf("pod %s, ephemeral volume %s: %w", key, pod.Spec.Volumes[i].Name, err)
		}
	}
	return 0, nil
}

func (c *controller) ensure(ctx context.Context, pod *corev1.Pod, volume *corev1.Volume) error {
	name, ephemeral := claims.Of(pod, volume)
	if !ephemeral {
		return nil
	}
	if claim, ok := c.claims.Get(pod.Namespace, name); ok {
		return claims.Own(pod, claim)
	}
	template := volume.Ephemeral.VolumeClaimTemplate.DeepCopy()
	_, err := c.claims.Create(ctx, &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: name, Labels: template.Labels, Annotations: template.Annotations,
			OwnerReferences: []metav1.OwnerReference{harness.ControllerRef(pod, c.pods.Kind().GVK())}},
		Spec: template.Spec,
	})
	if err != nil {
		return fmt.Errorf("create PVC %s: %w", name, err)
	}
	return nil
}
