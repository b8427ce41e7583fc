package kubelet

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"tinykube/api/claims"
	"tinykube/client"
)

// A claim is a name for storage that somebody else has found: the pod names the
// claim, the claim names the volume that it is bound to, and the volume says
// where the data lies. Both must agree that they belong together, or a claim of
// the same name that was deleted and made again would open the old one's data.

// setUpClaim makes the volume behind a claim ready.
//
// Simplified: volumes that are a folder of this node (hostPath, local), and
// those of CSI drivers; others say so.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/volumemanager/populator getPVCExtractPV, getPVSpec.
func (v *volumes) setUpClaim(ctx context.Context, pod *corev1.Pod, source *corev1.Volume) (mountedVolume, error) {
	name, own := claims.Of(pod, source)
	readOnly := source.PersistentVolumeClaim != nil && source.PersistentVolumeClaim.ReadOnly
	find := func() (w csiVolume, err error) {
		claim, volume, err := v.objects.claimed(ctx, pod.Namespace, name)
		if err == nil && own {
			err = claims.Own(pod, claim)
		}
		if err != nil {
			return w, told{fmt.Errorf("Unable to attach or mount volumes: unmounted volumes=[%[1]s], unattached volumes=[], failed to process volumes=[%[1]s]: error processing PVC %s/%s: %w",
				source.Name, pod.Namespace, name, err)}
		}
		w.persistent = volume
		if err := usedAs(pod, source.Name, claims.Mode(volume.Spec.VolumeMode)); err != nil {
			return w, told{fmt.Errorf("Unable to attach or mount volumes: unmounted volumes=[%[1]s], unattached volumes=[], failed to process volumes=[%[1]s]: %w", source.Name, err)}
		}
		if volume.Spec.CSI != nil {
			w = claimedCSI(pod, source.Name, v.csi.nodeName, claim, volume, readOnly)
		}
		return w, nil
	}
	if v.csi.ready(pod, source.Name) != nil {
		return v.csi.ensure(ctx, pod, source.Name, readOnly, find)
	}
	w, err := find()
	if err != nil {
		return mountedVolume{}, err
	}
	switch volume := w.persistent; {
	case volume.Spec.CSI != nil:
		return v.csi.ensure(ctx, pod, source.Name, readOnly, func() (csiVolume, error) { return w, nil })
	case volume.Spec.HostPath != nil:
		return mountedVolume{path: volume.Spec.HostPath.Path, readOnly: readOnly}, setUpHostPath(volume.Spec.HostPath)
	case volume.Spec.Local != nil:
		directory := corev1.HostPathDirectory
		return mountedVolume{path: volume.Spec.Local.Path, readOnly: readOnly},
			setUpHostPath(&corev1.HostPathVolumeSource{Path: volume.Spec.Local.Path, Type: &directory})
	}
	return mountedVolume{}, fmt.Errorf("persistent volume %s is of a kind that is not supported yet", w.persistent.Name)
}

// usedAs says whether containers use a volume as what it is: a device or a file
// system.
func usedAs(pod *corev1.Pod, name string, mode corev1.PersistentVolumeMode) error {
	for _, c := range allContainers(pod) {
		mounted := slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == name })
		device := slices.ContainsFunc(c.VolumeDevices, func(d corev1.VolumeDevice) bool { return d.Name == name })
		switch {
		case mounted && mode == corev1.PersistentVolumeBlock:
			return fmt.Errorf("volume %s has volumeMode %s, but is specified in volumeMounts", name, mode)
		case device && mode == corev1.PersistentVolumeFilesystem:
			return fmt.Errorf("volume %s has volumeMode %s, but is specified in volumeDevices", name, mode)
		}
	}
	return nil
}

// claimed reads the volume that a claim is bound to.
func (a apiObjects) claimed(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, *corev1.PersistentVolume, error) {
	claim, err := get(ctx, a, client.PersistentVolumeClaims, namespace, name)
	switch {
	case errors.Is(err, errNoServer):
		return nil, nil, err
	case err != nil:
		return nil, nil, fmt.Errorf("failed to fetch PVC from API server: %w", err)
	case claim.DeletionTimestamp != nil:
		return nil, nil, errors.New("PVC is being deleted")
	case claim.Status.Phase != corev1.ClaimBound:
		return nil, nil, errors.New("PVC is not bound")
	case claim.Spec.VolumeName == "":
		return nil, nil, errors.New("PVC has empty pvc.Spec.VolumeName")
	}
	volume, err := get(ctx, a, client.PersistentVolumes, "", claim.Spec.VolumeName)
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("failed to fetch PV %s from API server: %w", claim.Spec.VolumeName, err)
	case volume.Spec.ClaimRef == nil:
		return nil, nil, fmt.Errorf("found PV object %s but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim", volume.Name)
	case volume.Spec.ClaimRef.UID != claim.UID:
		return nil, nil, fmt.Errorf("found PV object %s but its pv.Spec.ClaimRef.UID %s does not point to claim.UID %s", volume.Name, volume.Spec.ClaimRef.UID, claim.UID)
	}
	return claim, volume, nil
}
