package defaults

import (
	"reflect"

	corev1 "k8s.io/api/core/v1"
)

// volumeRules are volumes, claims and the many sources they can have.
func volumeRules(into rules) {
	rule(into, func(v *corev1.Volume) {
		// A volume that says nothing is an empty directory.
		if reflect.ValueOf(v.VolumeSource).IsZero() {
			v.EmptyDir = &corev1.EmptyDirVolumeSource{}
		}
	})
	rule(into, func(s *corev1.SecretVolumeSource) { point(&s.DefaultMode, corev1.SecretVolumeSourceDefaultMode) })
	rule(into, func(s *corev1.ConfigMapVolumeSource) { point(&s.DefaultMode, corev1.ConfigMapVolumeSourceDefaultMode) })
	rule(into, func(s *corev1.DownwardAPIVolumeSource) {
		point(&s.DefaultMode, corev1.DownwardAPIVolumeSourceDefaultMode)
	})
	rule(into, func(s *corev1.ProjectedVolumeSource) { point(&s.DefaultMode, corev1.ProjectedVolumeSourceDefaultMode) })
	rule(into, func(s *corev1.ServiceAccountTokenProjection) { point(&s.ExpirationSeconds, 60*60) })
	rule(into, func(s *corev1.HostPathVolumeSource) { point(&s.Type, corev1.HostPathUnset) })
	rule(into, func(s *corev1.ImageVolumeSource) { set(&s.PullPolicy, pullPolicy(s.Reference)) })

	rule(into, func(pv *corev1.PersistentVolume) {
		set(&pv.Status.Phase, corev1.VolumePending)
		set(&pv.Spec.PersistentVolumeReclaimPolicy, corev1.PersistentVolumeReclaimRetain)
		point(&pv.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	})
	rule(into, func(pvc *corev1.PersistentVolumeClaim) { set(&pvc.Status.Phase, corev1.ClaimPending) })
	rule(into, func(s *corev1.PersistentVolumeClaimSpec) { point(&s.VolumeMode, corev1.PersistentVolumeFilesystem) })

	// Sources that only drivers of the past understand; they are still served.
	rule(into, func(s *corev1.ISCSIVolumeSource) { set(&s.ISCSIInterface, "default") })
	rule(into, func(s *corev1.ISCSIPersistentVolumeSource) { set(&s.ISCSIInterface, "default") })
	rule(into, func(s *corev1.RBDVolumeSource) { ceph(&s.RBDPool, &s.RadosUser, &s.Keyring) })
	rule(into, func(s *corev1.RBDPersistentVolumeSource) { ceph(&s.RBDPool, &s.RadosUser, &s.Keyring) })
	rule(into, func(s *corev1.ScaleIOVolumeSource) { set(&s.StorageMode, "ThinProvisioned"); set(&s.FSType, "xfs") })
	rule(into, func(s *corev1.ScaleIOPersistentVolumeSource) {
		set(&s.StorageMode, "ThinProvisioned")
		set(&s.FSType, "xfs")
	})
	rule(into, func(s *corev1.AzureDiskVolumeSource) {
		point(&s.CachingMode, corev1.AzureDataDiskCachingReadWrite)
		point(&s.FSType, "ext4")
		point(&s.ReadOnly, false)
		point(&s.Kind, corev1.AzureSharedBlobDisk)
	})
}

func ceph(pool, user, keyring *string) {
	set(pool, "rbd")
	set(user, "admin")
	set(keyring, "/etc/ceph/keyring")
}
