package apiserver

import (
	"errors"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
)

// admitClaimResize lets a claim grow only if it is bound and its class says
// that its volumes can.
func admitClaimResize(a *admission) error {
	claim, ok := a.obj.(*corev1.PersistentVolumeClaim)
	old, update := a.old.(*corev1.PersistentVolumeClaim)
	if !ok || !update || a.subresource != "" {
		return nil
	}
	if claim.Spec.Resources.Requests.Storage().Cmp(*old.Spec.Resources.Requests.Storage()) <= 0 {
		return nil
	}
	if old.Status.Phase != corev1.ClaimBound {
		return a.refuse(errors.New("Only bound persistent volume claims can be expanded"))
	}
	name := classOf(claim)
	class, ok := cached[*storagev1.StorageClass](a.server, storagev1.GroupName, "storageclasses", name)
	if name == "" || name != classOf(old) || !ok || class.AllowVolumeExpansion == nil || !*class.AllowVolumeExpansion {
		return a.refuse(errors.New("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"))
	}
	return nil
}

// classOf is a claim's class, which was an annotation before it was a field.
func classOf(claim *corev1.PersistentVolumeClaim) string {
	if name, ok := claim.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return name
	}
	if claim.Spec.StorageClassName != nil {
		return *claim.Spec.StorageClassName
	}
	return ""
}
