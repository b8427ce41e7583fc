// Package volumeexpander says of a claim that asks for more than it has who will
// see to that: the resizer beside the volume's driver. It enlarges nothing.
package volumeexpander

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"tinykube/api/claims"
	"tinykube/client"
	"tinykube/controllers/harness"
)

type controller struct {
	*harness.Scope
	claims  *harness.Store[*corev1.PersistentVolumeClaim]
	volumes *harness.Store[*corev1.PersistentVolume]
}

// Register adds the controller to a manager.
//
// Simplified: upstream's itself enlarges the volumes of drivers that are part of
// it, of which hardly any are left.
//
// Upstream: kubernetes pkg/controller/volume/expand
func Register(m *harness.Manager) {
	s := m.Scope(harness.Identity{Name: "persistentvolume-expander-controller", Account: "expand-controller", Source: "volume_expand"})
	c := &controller{Scope: s, claims: harness.StoreOf(s, client.PersistentVolumeClaims), volumes: harness.StoreOf(s, client.PersistentVolumes)}
	harness.Watch(harness.NewLoop(s, 1, c.reconcile), c.claims, func(old, new *corev1.PersistentVolumeClaim) []string {
		// Said once for each wish, not at each step on the way to it.
		if new == nil || !wishes(new) || old != nil && wishes(old) && old.Spec.Resources.Requests.Storage().Cmp(*new.Spec.Resources.Requests.Storage()) == 0 {
			return nil
		}
		return []string{client.Key(new)}
	})
}

// wishes: the claim has a volume, and wants it larger.
func wishes(claim *corev1.PersistentVolumeClaim) bool {
	return claim.Status.Phase == corev1.ClaimBound && claim.Spec.Resources.Requests.Storage().Cmp(*claim.Status.Capacity.Storage()) > 0
}

func (c *controller) reconcile(_ context.Context, key string) (time.Duration, error) {
	claim, ok := c.claims.Get(client.SplitKey(key))
	if !ok || !wishes(claim) {
		return 0, nil
	}
	if volume, ok := c.volumes.Get("", claim.Spec.VolumeName); !ok || !claims.Promised(volume, claim) {
		return 0, fmt.Errorf("volume %q is not bound to claim %s, which asks for more", claim.Spec.VolumeName, key)
	}
	c.Events.Event(claim, corev1.EventTypeNormal, "ExternalExpanding", "waiting for an external controller to expand this PVC")
	return 0, nil
}
