package volumebinder

import (
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"tinykube/api/claims"
)

// choose finds the volume for a claim: the one that is reserved for it, else
// the smallest that fits. Of those that fit, one with few access modes comes
// first: what can do more is kept for who needs it. A claim that waits for a
// pod gets nothing but what was reserved: the rest is the scheduler's decision,
// who knows the node.
//
// Upstream: kubernetes component-helpers storage/volume FindMatchingVolume;
// pkg/controller/volume/persistentvolume/index.go findBestMatchForClaim.
//
// LAB 22 choose: go through the volumes. api/claims knows all questions that
// there are: Large, Modes, Mode, SameAttributes, Promised, VolumeClass and Class,
// Selected. What is promised to the claim ends the search; of the others only
// those that are Available and nobody's count, and better compares two. waits:
// only what is promised.
func choose(claim *corev1.PersistentVolumeClaim, volumes []*corev1.PersistentVolume, waits bool) (best *corev1.PersistentVolume) {
	for _, volume := range volumes {
		switch {
		case volume.DeletionTimestamp != nil, !claims.Large(volume, claim), !claims.Modes(volume, claim),
			claims.Mode(volume.Spec.VolumeMode) != claims.Mode(claim.Spec.VolumeMode), !claims.SameAttributes(volume, claim):
		case claims.Promised(volume, claim):
			return volume
		case volume.Spec.ClaimRef != nil, waits, volume.Status.Phase != corev1.VolumeAvailable,
			claims.VolumeClass(volume) != claims.Class(claim), !claims.Selected(volume, claim):
		case best == nil || better(volume, best):
			best = volume
		}
	}
	return best
}

// better puts fewer access modes first, then the smaller size, then the name,
// so that the choice does not depend on the order of a list.
func better(a, b *corev1.PersistentVolume) bool {
	if n, m := len(a.Spec.AccessModes), len(b.Spec.AccessModes); n != m {
		return n < m
	}
	if order := a.Spec.Capacity.Storage().Cmp(*b.Spec.Capacity.Storage()); order != 0 {
		return order < 0
	}
	return a.Name < b.Name
}

// unfit says why a volume that a claim asks for by name cannot be its own; ""
// if it can.
//
// Upstream: kubernetes pkg/controller/volume/persistentvolume checkVolumeSatisfyClaim
func unfit(volume *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) string {
	switch {
	case volume.DeletionTimestamp != nil:
		return "the volume is marked for deletion \"" + volume.Name + "\""
	case !claims.Large(volume, claim):
		return "requested PV is too small"
	case claims.VolumeClass(volume) != claims.Class(claim):
		return "storageClassName does not match"
	case !claims.SameAttributes(volume, claim):
		return "volumeAttributesClassName does not match"
	case claims.Mode(volume.Spec.VolumeMode) != claims.Mode(claim.Spec.VolumeMode):
		return "incompatible volumeMode"
	case !claims.Modes(volume, claim):
		return "incompatible accessMode"
	}
	return ""
}

// defaultClass is the newest of the classes that are marked as default.
//
// Upstream: kubernetes pkg/volume/util GetDefaultClass
func defaultClass(classes []*storagev1.StorageClass) (newest *storagev1.StorageClass) {
	for _, class := range classes {
		if class.Annotations[claims.DefaultClass] != "true" && class.Annotations[claims.BetaDefaultClass] != "true" {
			continue
		}
		if newest == nil || newest.CreationTimestamp.Before(&class.CreationTimestamp) ||
			newest.CreationTimestamp.Equal(&class.CreationTimestamp) && class.Name < newest.Name {
			newest = class
		}
	}
	return newest
}
