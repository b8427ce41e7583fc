package resources

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
)

const (
	volumeColumns          = "Name|Capacity|Access Modes|Reclaim Policy|Status|Claim|StorageClass|VolumeAttributesClass|Reason|Age|+VolumeMode"
	claimColumns           = "Name|Status|Volume|Capacity|Access Modes|StorageClass|VolumeAttributesClass|Age|+VolumeMode"
	storageClassColumns    = "Name|Provisioner|ReclaimPolicy|VolumeBindingMode|AllowVolumeExpansion|Age"
	attachmentColumns      = "Name|Attacher|PV|Node|Attached:boolean|Age"
	csiNodeColumns         = "Name|Drivers:integer|Age"
	csiDriverColumns       = "Name|AttachRequired:boolean|PodInfoOnMount:boolean|StorageCapacity:boolean|TokenRequests|RequiresRepublish:boolean|Modes|Age"
	attributesClassColumns = "Name|DriverName|Age"
)

// betaClassAnnotation named the class before there was a field for it.
const betaClassAnnotation = "volume.beta.kubernetes.io/storage-class"

func volumeCells(v *corev1.PersistentVolume, now time.Time) []any {
	claim := ""
	if ref := v.Spec.ClaimRef; ref != nil {
		claim = ref.Namespace + "/" + ref.Name
	}
	phase := string(v.Status.Phase)
	if v.DeletionTimestamp != nil {
		phase = "Terminating"
	}
	size := v.Spec.Capacity[corev1.ResourceStorage]
	return []any{
		v.Name, size.String(), accessModes(v.Spec.AccessModes), string(v.Spec.PersistentVolumeReclaimPolicy), phase, claim,
		or(v.Annotations[betaClassAnnotation], v.Spec.StorageClassName), deref(v.Spec.VolumeAttributesClassName, unset),
		v.Status.Reason, age(v, now), string(deref(v.Spec.VolumeMode, unset)),
	}
}

func claimCells(c *corev1.PersistentVolumeClaim, now time.Time) []any {
	phase := string(c.Status.Phase)
	if c.DeletionTimestamp != nil {
		phase = "Terminating"
	}
	capacity, modes := "", ""
	if c.Spec.VolumeName != "" { // bound: what it got, not what it asked for
		size := c.Status.Capacity[corev1.ResourceStorage]
		capacity, modes = size.String(), accessModes(c.Status.AccessModes)
	}
	return []any{
		c.Name, phase, c.Spec.VolumeName, capacity, modes,
		or(c.Annotations[betaClassAnnotation], deref(c.Spec.StorageClassName, "")),
		deref(c.Spec.VolumeAttributesClassName, unset), age(c, now), string(deref(c.Spec.VolumeMode, unset)),
	}
}

func accessModes(modes []corev1.PersistentVolumeAccessMode) string {
	var list []string
	for _, m := range []struct {
		mode  corev1.PersistentVolumeAccessMode
		short string
	}{
		{corev1.ReadWriteOnce, "RWO"}, {corev1.ReadOnlyMany, "ROX"},
		{corev1.ReadWriteMany, "RWX"}, {corev1.ReadWriteOncePod, "RWOP"},
	} {
		if slices.Contains(modes, m.mode) {
			list = append(list, m.short)
		}
	}
	return strings.Join(list, ",")
}

func storageClassCells(c *storagev1.StorageClass, now time.Time) []any {
	name := c.Name
	if c.Annotations["storageclass.kubernetes.io/is-default-class"] == "true" ||
		c.Annotations["storageclass.beta.kubernetes.io/is-default-class"] == "true" {
		name += " (default)"
	}
	return []any{
		name, c.Provisioner, string(deref(c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)),
		string(deref(c.VolumeBindingMode, storagev1.VolumeBindingImmediate)), deref(c.AllowVolumeExpansion, false), age(c, now),
	}
}

func attachmentCells(a *storagev1.VolumeAttachment, now time.Time) []any {
	return []any{
		a.Name, a.Spec.Attacher, deref(a.Spec.Source.PersistentVolumeName, ""), a.Spec.NodeName, a.Status.Attached, age(a, now),
	}
}

func csiNodeCells(n *storagev1.CSINode, now time.Time) []any {
	return []any{n.Name, len(n.Spec.Drivers), age(n, now)}
}

func csiDriverCells(d *storagev1.CSIDriver, now time.Time) []any {
	tokens := unset
	if d.Spec.TokenRequests != nil {
		var audiences []string
		for _, t := range d.Spec.TokenRequests {
			audiences = append(audiences, t.Audience)
		}
		tokens = strings.Join(audiences, ",")
	}
	var modes []string
	for _, m := range d.Spec.VolumeLifecycleModes {
		modes = append(modes, string(m))
	}
	return []any{
		d.Name, deref(d.Spec.AttachRequired, true), deref(d.Spec.PodInfoOnMount, false), deref(d.Spec.StorageCapacity, false),
		tokens, deref(d.Spec.RequiresRepublish, false), or(strings.Join(modes, ","), none), age(d, now),
	}
}

func attributesClassCells(c *storagev1.VolumeAttributesClass, now time.Time) []any {
	return []any{c.Name, c.DriverName, age(c, now)}
}
