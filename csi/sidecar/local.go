package sidecar

import (
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"tinykube/api/claims"
	"tinykube/client"
)

// Where volumes are a node's own disks, each node has a driver and a provisioner
// of its own, and no leader is elected: each looks after its node.
//
//	claim with a selected node     that node's provisioner makes the volume
//	claim that may be anywhere     the first that has room writes its node into it, and is that one
//	volume to be deleted           the provisioner of the node that reaches it
//
// Upstream: external-provisioner --node-deployment, checkNode and becomeOwner; it
// waits for a while before it takes a claim, so that hundreds do not at once.

// mine says whether this provisioner is to make the claim's volume. A claim that
// it takes comes again, as its own.
func (s *Sidecar) mine(ctx context.Context, claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) (bool, error) {
	if node := claim.Annotations[claims.SelectedNode]; s.cfg.Node == "" || node != "" || !s.cfg.NodeTakes {
		return s.cfg.Node == node || s.cfg.Node == "", nil
	}
	segments, err := s.segments(s.cfg.Node)
	if err != nil || !allowed(class.AllowedTopologies, segments) {
		return false, err
	}
	if s.driver.can[csi.ControllerServiceCapability_RPC_GET_CAPACITY] {
		size := claim.Spec.Resources.Requests[corev1.ResourceStorage]
		room, err := s.room(ctx, class, segments)
		if err == nil && largest(room) < size.Value() { // somebody else may have, or we later
			err = fmt.Errorf("node %s has room for a volume of %d bytes at most, and claim %q wants %d", s.cfg.Node, largest(room), client.Key(claim), size.Value())
			s.events.Event(claim, corev1.EventTypeWarning, "ProvisioningFailed", "%v", err)
		}
		if err != nil {
			return false, err
		}
	}
	taken := claim.DeepCopy()
	taken.Annotations[claims.SelectedNode] = s.cfg.Node
	_, err = wrote(ctx, client.PersistentVolumeClaims)(client.For(s.api, client.PersistentVolumeClaims).Update(ctx, taken))
	if apierrors.IsConflict(err) { // somebody was faster
		err = nil
	}
	return false, err
}

// here says whether a volume is this provisioner's to delete.
func (s *Sidecar) here(volume *corev1.PersistentVolume) bool {
	if s.cfg.Node == "" {
		return true
	}
	node, ok := s.nodes.Get(s.cfg.Node)
	return ok && claims.Reachable(volume, node)
}

// room is what the driver says that there is for volumes of a class at a place.
func (s *Sidecar) room(ctx context.Context, class *storagev1.StorageClass, segments map[string]string) (*csi.GetCapacityResponse, error) {
	room, err := s.driver.controller.GetCapacity(ctx, &csi.GetCapacityRequest{Parameters: driverParameters(class.Parameters), AccessibleTopology: &csi.Topology{Segments: segments}})
	if err != nil {
		return nil, fmt.Errorf("capacity of class %s at %v: %w", class.Name, segments, err)
	}
	return room, nil
}

// largest is how large one volume can be.
func largest(room *csi.GetCapacityResponse) int64 {
	if room.MaximumVolumeSize != nil {
		return room.MaximumVolumeSize.Value
	}
	return room.AvailableCapacity
}
