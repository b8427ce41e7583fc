package kubelet

import (
	"context"
	"fmt"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"tinykube/client"
)

// grown says that the volume has become larger, and its claim has not yet been
// told: the file system on it is to follow.
func (w *csiVolume) grown() bool {
	if w.claim == nil || w.readOnly {
		return false
	}
	has, told := w.persistent.Spec.Capacity[corev1.ResourceStorage], w.claim.Status.Capacity[corev1.ResourceStorage]
	return !told.IsZero() && has.Cmp(told) > 0
}

// expandIfGrown lets a driver make room on a volume that its controller has
// enlarged, and then tells the claim. The caller holds the volume.
//
// A kubelet may not watch claims, only read them, so a pod's volume grows when
// its pod is next looked at: within a minute or so, with upstream's as with ours.
//
// Upstream: kubernetes@v1.36 pkg/volume/csi expander.go, pkg/volume/util/operationexecutor operation_generator.go nodeExpandVolume.
func (v *csiVolumes) expandIfGrown(ctx context.Context, w csiVolume, client *csiClient) error {
	if !w.grown() {
		return nil
	}
	if client.has(csi.NodeServiceCapability_RPC_EXPAND_VOLUME) {
		secrets, err := v.secrets(ctx, w.expandFrom)
		if err != nil {
			return err
		}
		size := w.persistent.Spec.Capacity[corev1.ResourceStorage]
		request := &csi.NodeExpandVolumeRequest{VolumeId: w.Handle, VolumePath: w.target(v.rootDir), Secrets: secrets,
			CapacityRange: &csi.CapacityRange{RequiredBytes: size.Value()}, VolumeCapability: w.capability(client)}
		if client.has(csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME) {
			request.StagingTargetPath = w.staging(v.rootDir)
		}
		_, err = client.NodeExpandVolume(ctx, request)
		if status.Code(err) == codes.FailedPrecondition { // not while it is used: that is no reason to keep it from the pod
			v.log.Info("volume does not grow while it is used", "key", w.uniqueName(), "err", err)
			return nil
		} else if err != nil {
			return err
		}
		for _, about := range []corev1.ObjectReference{podReference(w.pod), {APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: w.claim.Namespace,
			Name: w.claim.Name, UID: w.claim.UID, ResourceVersion: w.claim.ResourceVersion}} {
			v.event(about, corev1.EventTypeNormal, "FileSystemResizeSuccessful", "MountVolume.NodeExpandVolume succeeded for volume %q %s", w.SpecName, w.Node)
		}
	}
	if err := v.api.resized(ctx, w.claim, w.persistent); err != nil {
		return fmt.Errorf("mark claim as resized: %w", err)
	}
	return nil
}

// resized writes into a claim's status that its volume is as large as promised.
func (a apiObjects) resized(ctx context.Context, claim *corev1.PersistentVolumeClaim, volume *corev1.PersistentVolume) error {
	after := claim.DeepCopy()
	after.Status.Capacity[corev1.ResourceStorage] = volume.Spec.Capacity[corev1.ResourceStorage]
	delete(after.Status.AllocatedResourceStatuses, corev1.ResourceStorage)
	after.Status.Conditions = slices.DeleteFunc(after.Status.Conditions, func(c corev1.PersistentVolumeClaimCondition) bool {
		return slices.Contains([]corev1.PersistentVolumeClaimConditionType{corev1.PersistentVolumeClaimFileSystemResizePending,
			corev1.PersistentVolumeClaimResizing, corev1.PersistentVolumeClaimNodeResizeError}, c.Type)
	})
	patch, err := twoWayPatch(corev1.PersistentVolumeClaim{Status: claim.Status}, corev1.PersistentVolumeClaim{Status: after.Status})
	if err != nil {
		return err
	}
	_, err = client.For(a.client, client.PersistentVolumeClaims).Patch(ctx, claim.Namespace, claim.Name, types.StrategicMergePatchType, patch, "status")
	return err
}
