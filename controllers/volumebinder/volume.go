package volumebinder

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"tinykube/api/claims"
)

// volumePlan is what is to be done for a volume.
type volumePlan struct {
	phase corev1.PersistentVolumePhase // "" leaves it
	// unbind takes the arrow to the claim away, or its UID if the user drew it.
	unbind bool
	// look: the claim has to be looked at.
	look       bool
	event      *note // about the volume
	claimEvent *note
}

// planVolume decides a volume. claim is the one that it names, if that still
// exists under the same UID.
//
// Upstream: kubernetes pkg/controller/volume/persistentvolume syncVolume
func planVolume(volume *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) volumePlan {
	ref := volume.Spec.ClaimRef
	if ref == nil || ref.UID == "" {
		return volumePlan{phase: corev1.VolumeAvailable}
	}
	switch {
	case claim == nil:
		return reclaim(volume)
	case claim.Spec.VolumeName == volume.Name:
		return volumePlan{phase: corev1.VolumeBound}
	case claim.Spec.VolumeName == "":
		if claims.Mode(claim.Spec.VolumeMode) != claims.Mode(volume.Spec.VolumeMode) {
			return volumePlan{
				event:      warning("VolumeMismatch", fmt.Sprintf("Cannot bind PersistentVolume to requested PersistentVolumeClaim %q due to incompatible volumeMode.", claim.Name)),
				claimEvent: warning("VolumeMismatch", fmt.Sprintf("Cannot bind PersistentVolume %q to requested PersistentVolumeClaim due to incompatible volumeMode.", volume.Name)),
			}
		}
		return volumePlan{look: true}
	}
	// The claim has got another volume. One that was made for it is of no use to
	// anybody else.
	if _, made := volume.Annotations[claims.ProvisionedBy]; made && volume.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete {
		return reclaim(volume)
	}
	return volumePlan{unbind: true, phase: corev1.VolumeAvailable}
}

// reclaim is for a volume whose claim is gone: Released tells its driver to
// delete it, if the policy says so. What failed stays Failed, for somebody to
// see.
//
// Simplified: volumes that no driver has made are nobody's to delete or scrub;
// upstream has built-in deleters for some, and a pod that empties directories.
func reclaim(volume *corev1.PersistentVolume) volumePlan {
	failed := func(reason, text string) volumePlan {
		plan := volumePlan{phase: corev1.VolumeFailed}
		if volume.Status.Phase != corev1.VolumeFailed {
			plan.event = warning(reason, text)
		}
		return plan
	}
	plan := volumePlan{phase: corev1.VolumeReleased}
	if volume.Status.Phase == corev1.VolumeFailed {
		plan.phase = ""
	}
	switch volume.Spec.PersistentVolumeReclaimPolicy {
	case corev1.PersistentVolumeReclaimDelete:
		by := volume.Annotations[claims.ProvisionedBy]
		if volume.Spec.CSI == nil && (by == "" || strings.HasPrefix(by, "kubernetes.io/")) {
			return failed("VolumeFailedDelete", fmt.Sprintf("error getting deleter volume plugin for volume %q: no deletable volume plugin matched", volume.Name))
		}
	case corev1.PersistentVolumeReclaimRecycle:
		return failed("VolumeFailedRecycle", "No recycler plugin found for the volume!")
	}
	return plan
}
