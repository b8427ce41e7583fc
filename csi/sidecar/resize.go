package sidecar

import (
	"context"
	"fmt"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/api/claims"
	"tinykube/client"
)

// resizer makes volumes larger when their claims ask for more.
//
//	spec.requests > status.capacity ──▶ ControllerExpandVolume ──▶ volume.spec.capacity
//	                                                                  │ a file system has to grow as well?
//	                          no: status.capacity, done  ◀────────────┴──▶ yes: the kubelet's turn
//
// Simplified: a size that the driver refused is asked for again until the claim
// asks for another; upstream writes down in status.allocatedResources how far it
// had come, so that the quota of a smaller second wish is right.
//
// Upstream: kubernetes-csi/external-resizer
func (s *Sidecar) resizer() *loop {
	l := s.loop(Resizer, s.resize)
	s.claims.OnChange(func(_, claim *corev1.PersistentVolumeClaim) {
		if claim != nil && claims.Bound(claim) && grown(claim) {
			l.queue.Add(client.Key(claim))
		}
	})
	return l
}

// grown: the claim asks for more than it has, and has not been told to wait for
// its node.
func grown(claim *corev1.PersistentVolumeClaim) bool {
	asked, has := claim.Spec.Resources.Requests[corev1.ResourceStorage], claim.Status.Capacity[corev1.ResourceStorage]
	return claim.Status.Phase == corev1.ClaimBound && asked.Cmp(has) > 0
}

func (s *Sidecar) resize(ctx context.Context, key string) error {
	claim, ok := s.claims.Get(key)
	if !ok || !claims.Bound(claim) || !grown(claim) {
		return nil
	}
	volume, ok := s.volumes.Get(claim.Spec.VolumeName)
	if !ok || volume.Spec.CSI == nil || volume.Spec.CSI.Driver != s.driver.name || !claims.Promised(volume, claim) {
		return nil
	}
	asked := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	if claims.Large(volume, claim) { // the driver has done its part
		if pending(claim) {
			return nil
		}
		return s.grownTo(ctx, claim, *volume.Spec.Capacity.Storage(), s.nodeHasToGrow(volume))
	}
	if err := s.condition(ctx, claim, corev1.PersistentVolumeClaimResizing, ""); err != nil {
		return err
	}
	s.events.Event(claim, corev1.EventTypeNormal, "Resizing", "External resizer is resizing volume %s", volume.Name)
	size, node, err := s.expand(ctx, volume, asked)
	if err != nil {
		s.events.Event(claim, corev1.EventTypeWarning, "VolumeResizeFailed", "resize volume %q by resizer %q failed: %v", volume.Name, s.driver.name, err)
		return err
	}
	changed := volume.DeepCopy()
	changed.Spec.Capacity[corev1.ResourceStorage] = size
	if _, err := patch(ctx, s, client.PersistentVolumes, volume, changed); err != nil {
		return fmt.Errorf("capacity of volume %s: %w", volume.Name, err)
	}
	return s.grownTo(ctx, claim, size, node)
}

// expand asks the driver, if it is one that has to be asked.
func (s *Sidecar) expand(ctx context.Context, volume *corev1.PersistentVolume, asked resource.Quantity) (size resource.Quantity, node bool, err error) {
	if !s.driver.can[csi.ControllerServiceCapability_RPC_EXPAND_VOLUME] {
		return asked, true, nil
	}
	source := volume.Spec.CSI
	secrets, err := s.secret(ctx, source.ControllerExpandSecretRef)
	if err != nil {
		return asked, false, err
	}
	use, err := capability(widest(volume.Spec.AccessModes), claims.Mode(volume.Spec.VolumeMode) == corev1.PersistentVolumeBlock, source.FSType, volume.Spec.MountOptions, s.driver.single())
	if err != nil {
		return asked, false, err
	}
	answer, err := s.driver.controller.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{VolumeId: source.VolumeHandle,
		CapacityRange: &csi.CapacityRange{RequiredBytes: asked.Value()}, VolumeCapability: use, Secrets: secrets})
	if err != nil {
		return asked, false, err
	}
	return *resource.NewQuantity(answer.CapacityBytes, resource.BinarySI), answer.NodeExpansionRequired, nil
}

// nodeHasToGrow is what to believe if the driver's answer was lost: a node that
// is asked in vain does no harm.
func (s *Sidecar) nodeHasToGrow(volume *corev1.PersistentVolume) bool {
	return claims.Mode(volume.Spec.VolumeMode) == corev1.PersistentVolumeFilesystem
}

// grownTo says that the volume is larger, to the kubelet if its turn has come.
func (s *Sidecar) grownTo(ctx context.Context, claim *corev1.PersistentVolumeClaim, size resource.Quantity, node bool) error {
	if node {
		err := s.condition(ctx, claim, corev1.PersistentVolumeClaimFileSystemResizePending, "Waiting for user to (re-)start a pod to finish file system resize of volume on node.")
		if err == nil {
			s.events.Event(claim, corev1.EventTypeNormal, "FileSystemResizeRequired", "Require file system resize of volume on node")
		}
		return err
	}
	latest, err := client.For(s.api, client.PersistentVolumeClaims).Get(ctx, claim.Namespace, claim.Name)
	if err != nil {
		return ignoreNotFound(err)
	}
	changed := latest.DeepCopy()
	changed.Status.Capacity[corev1.ResourceStorage] = size
	changed.Status.Conditions = slices.DeleteFunc(changed.Status.Conditions, func(c corev1.PersistentVolumeClaimCondition) bool { return ours(c.Type) })
	if _, err := patch(ctx, s, client.PersistentVolumeClaims, latest, changed, "status"); err != nil {
		return fmt.Errorf("capacity of claim %s: %w", client.Key(claim), err)
	}
	s.events.Event(claim, corev1.EventTypeNormal, "VolumeResizeSuccessful", "Resize volume succeeded")
	return nil
}

func ours(t corev1.PersistentVolumeClaimConditionType) bool {
	return t == corev1.PersistentVolumeClaimResizing || t == corev1.PersistentVolumeClaimFileSystemResizePending
}

func pending(claim *corev1.PersistentVolumeClaim) bool {
	return slices.ContainsFunc(claim.Status.Conditions, func(c corev1.PersistentVolumeClaimCondition) bool {
		return c.Type == corev1.PersistentVolumeClaimFileSystemResizePending && c.Status == corev1.ConditionTrue
	})
}

// condition puts one of our conditions in the place of the other.
func (s *Sidecar) condition(ctx context.Context, claim *corev1.PersistentVolumeClaim, t corev1.PersistentVolumeClaimConditionType, message string) error {
	latest, err := client.For(s.api, client.PersistentVolumeClaims).Get(ctx, claim.Namespace, claim.Name)
	if err != nil {
		return ignoreNotFound(err)
	}
	if slices.ContainsFunc(latest.Status.Conditions, func(c corev1.PersistentVolumeClaimCondition) bool {
		return c.Type == t && c.Status == corev1.ConditionTrue
	}) {
		return nil
	}
	changed := latest.DeepCopy()
	changed.Status.Conditions = slices.DeleteFunc(changed.Status.Conditions, func(c corev1.PersistentVolumeClaimCondition) bool { return ours(c.Type) })
	changed.Status.Conditions = append(changed.Status.Conditions, corev1.PersistentVolumeClaimCondition{Type: t, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now(), Message: message})
	if _, err := patch(ctx, s, client.PersistentVolumeClaims, latest, changed, "status"); err != nil {
		return fmt.Errorf("condition of claim %s: %w", client.Key(claim), err)
	}
	return nil
}
