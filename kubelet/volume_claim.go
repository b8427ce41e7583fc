package kubelet

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"tinykube/client"
)

// A claim is a name for storage that somebody else has found: the pod names the
// claim, the claim names the volume that it is bound to, and the volume says
// where the data lies. Both must agree that they belong together, or a claim of
// the same name that was deleted and made again would open the old one's data.

// setUpClaim makes the volume behind a claim ready.
//
// Simplified: only volumes that are a folder of this node (hostPath, local);
// others say so. They come with CSI.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/volumemanager/populator getPVCExtractPV, getPVSpec.
func (v *volumes) setUpClaim(ctx context.Context, namespace string, source *corev1.PersistentVolumeClaimVolumeSource) (path string, err error) {
	volume, err := v.objects.claimed(ctx, namespace, source.ClaimName)
	if err != nil {
		return "", fmt.Errorf("error processing PVC %s/%s: %w", namespace, source.ClaimName, err)
	}
	switch {
	case volume.Spec.HostPath != nil:
		return volume.Spec.HostPath.Path, setUpHostPath(volume.Spec.HostPath)
	case volume.Spec.Local != nil:
		directory := corev1.HostPathDirectory
		return volume.Spec.Local.Path, setUpHostPath(&corev1.HostPathVolumeSource{Path: volume.Spec.Local.Path, Type: &directory})
	}
	return "", fmt.Errorf("persistent volume %s is of a kind that is not supported yet", volume.Name)
}

// claimed reads the volume that a claim is bound to.
func (a apiObjects) claimed(ctx context.Context, namespace, name string) (*corev1.PersistentVolume, error) {
	if a.client == nil {
		return nil, errNoServer
	}
	claim, err := client.For(a.client, client.PersistentVolumeClaims).Get(ctx, namespace, name)
	switch {
	case err != nil:
		return nil, fmt.Errorf("failed to fetch PVC from API server: %w", err)
	case claim.DeletionTimestamp != nil:
		return nil, errors.New("PVC is being deleted")
	case claim.Status.Phase != corev1.ClaimBound:
		return nil, errors.New("PVC is not bound")
	case claim.Spec.VolumeName == "":
		return nil, errors.New("PVC has empty pvc.Spec.VolumeName")
	}
	volume, err := client.For(a.client, client.PersistentVolumes).Get(ctx, "", claim.Spec.VolumeName)
	switch {
	case err != nil:
		return nil, fmt.Errorf("failed to fetch PV %s from API server: %w", claim.Spec.VolumeName, err)
	case volume.Spec.ClaimRef == nil:
		return nil, fmt.Errorf("found PV object %s but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim", volume.Name)
	case volume.Spec.ClaimRef.UID != claim.UID:
		return nil, fmt.Errorf("found PV object %s but its pv.Spec.ClaimRef.UID %s does not point to claim.UID %s", volume.Name, volume.Spec.ClaimRef.UID, claim.UID)
	}
	return volume, nil
}
