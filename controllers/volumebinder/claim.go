package volumebinder

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"tinykube/api/claims"
)

// world is what a claim is decided on.
type world struct {
	volumes []*corev1.PersistentVolume
	classes []*storagev1.StorageClass
	// waiting are the names of pods that use the claim and have no node yet.
	waiting []string
}

func (w world) volume(name string) *corev1.PersistentVolume {
	for _, v := range w.volumes {
		if v.Name == name {
			return v
		}
	}
	return nil
}

func (w world) class(name string) *storagev1.StorageClass {
	for _, c := range w.classes {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// claimPlan is what is to be done for a claim: bind it, give it a class, ask a
// provisioner, or only say where it stands.
type claimPlan struct {
	bind        *corev1.PersistentVolume
	class       string
	provisioner string
	phase       corev1.PersistentVolumeClaimPhase // if it is not bound
	event       *note
}

// note is an event about claim or volume.
type note struct{ kind, reason, text string }

func normal(reason, text string) *note  { return &note{corev1.EventTypeNormal, reason, text} }
func warning(reason, text string) *note { return &note{corev1.EventTypeWarning, reason, text} }

// planClaim decides a claim.
//
// Upstream: kubernetes pkg/controller/volume/persistentvolume syncClaim
func planClaim(claim *corev1.PersistentVolumeClaim, w world) claimPlan {
	if _, bound := claim.Annotations[claims.BindCompleted]; bound {
		return planBound(claim, w)
	}
	if claim.Spec.VolumeName != "" {
		return planNamed(claim, w)
	}
	class := w.class(claims.Class(claim))
	waits := claims.WaitsForPod(class)
	if volume := choose(claim, w.volumes, waits); volume != nil {
		return claimPlan{bind: volume}
	}
	if _, old := claim.Annotations[corev1.BetaStorageClassAnnotation]; claim.Spec.StorageClassName == nil && !old {
		if class := defaultClass(w.classes); class != nil {
			return claimPlan{class: class.Name}
		}
	}
	pending := claimPlan{phase: corev1.ClaimPending}
	name := claims.Class(claim)
	switch {
	case waits && claim.Annotations[claims.SelectedNode] == "":
		pending.event = waitsFor(w.waiting)
	case name == "":
		pending.event = normal("FailedBinding", "no persistent volumes available for this claim and no storage class is set")
	case class == nil:
		pending.event = warning("ProvisioningFailed", fmt.Sprintf("storageclass.storage.k8s.io %q not found", name))
	case strings.HasPrefix(class.Provisioner, "kubernetes.io/"):
		pending.event = warning("ProvisioningFailed", "no volume plugin matched name: "+class.Provisioner)
	default:
		pending.provisioner = class.Provisioner
		pending.event = normal("ExternalProvisioning", fmt.Sprintf("Waiting for a volume to be created either by the external provisioner '%s' or manually "+
			"by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered.", class.Provisioner))
	}
	return pending
}

func waitsFor(pods []string) *note {
	switch len(pods) {
	case 0:
		return normal("WaitForFirstConsumer", "waiting for first consumer to be created before binding")
	case 1:
		return normal("WaitForPodScheduled", fmt.Sprintf("waiting for pod %s to be scheduled", pods[0]))
	}
	return normal("WaitForPodScheduled", fmt.Sprintf("waiting for pods %s to be scheduled", strings.Join(pods, ",")))
}

// planNamed: the user, or the scheduler, has chosen the volume.
func planNamed(claim *corev1.PersistentVolumeClaim, w world) claimPlan {
	pending := claimPlan{phase: corev1.ClaimPending}
	volume := w.volume(claim.Spec.VolumeName)
	switch {
	case volume == nil: // it may come
	case volume.Spec.ClaimRef == nil:
		why := unfit(volume, claim)
		if why == "" {
			return claimPlan{bind: volume}
		}
		pending.event = warning("VolumeMismatch", fmt.Sprintf("Cannot bind to requested volume %q: %s", volume.Name, why))
	case claims.Promised(volume, claim):
		return claimPlan{bind: volume}
	default:
		pending.event = warning("FailedBinding", fmt.Sprintf("volume %q already bound to a different claim.", volume.Name))
	}
	return pending
}

// planBound looks whether what was bound still is. Lost is for good: the data
// may be anywhere, and another volume would not have it.
func planBound(claim *corev1.PersistentVolumeClaim, w world) claimPlan {
	lost := func(reason, text string) claimPlan {
		plan := claimPlan{phase: corev1.ClaimLost}
		if claim.Status.Phase != corev1.ClaimLost {
			plan.event = warning(reason, text)
		}
		return plan
	}
	if claim.Spec.VolumeName == "" {
		return lost("ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
	}
	volume := w.volume(claim.Spec.VolumeName)
	switch {
	case volume == nil:
		return lost("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
	case volume.Spec.ClaimRef == nil, volume.Spec.ClaimRef.UID == claim.UID:
		return claimPlan{bind: volume}
	}
	return lost("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
}
