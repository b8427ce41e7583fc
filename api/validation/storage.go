package validation

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// PersistentVolumeClaim checks a claim.
func PersistentVolumeClaim(c *corev1.PersistentVolumeClaim) field.ErrorList {
	r := &report{}
	checkClaimSpec(r, field.NewPath("spec"), &c.Spec)
	return r.errs
}

func checkClaimSpec(r *report, at *field.Path, s *corev1.PersistentVolumeClaimSpec) {
	if len(s.AccessModes) == 0 {
		r.add(field.Required(at.Child("accessModes"), "at least 1 access mode is required"))
	}
	checkAccessModes(r, at.Child("accessModes"), s.AccessModes)
	r.selector(at.Child("selector"), s.Selector)
	size := at.Child("resources").Key(string(corev1.ResourceStorage))
	switch q, asked := s.Resources.Requests[corev1.ResourceStorage]; {
	case !asked:
		r.add(field.Required(size, ""))
	case q.Sign() <= 0:
		r.invalid(size, q.String(), "must be greater than zero")
	}
	if name := deref(s.StorageClassName); name != "" {
		r.subdomain(at.Child("storageClassName"), name)
	}
	if name := deref(s.VolumeAttributesClassName); name != "" {
		r.subdomain(at.Child("volumeAttributesClassName"), name)
	}
	checkVolumeMode(r, at.Child("volumeMode"), s.VolumeMode)
	if d := s.DataSource; d != nil {
		r.required(at.Child("dataSource", "name"), d.Name)
		r.required(at.Child("dataSource", "kind"), d.Kind)
		if deref(d.APIGroup) == "" && d.Kind != "PersistentVolumeClaim" {
			r.invalid(at.Child("dataSource"), d.Kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup")
		}
	}
}

func checkAccessModes(r *report, at *field.Path, modes []corev1.PersistentVolumeAccessMode) {
	for _, m := range modes {
		ifSet(r, at, m, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod)
	}
	others := slices.ContainsFunc(modes, func(m corev1.PersistentVolumeAccessMode) bool {
		return m == corev1.ReadOnlyMany || m == corev1.ReadWriteMany || m == corev1.ReadWriteOnce
	})
	if others && slices.Contains(modes, corev1.ReadWriteOncePod) {
		r.add(field.Forbidden(at, "may not use ReadWriteOncePod with other access modes"))
	}
}

func checkVolumeMode(r *report, at *field.Path, mode *corev1.PersistentVolumeMode) {
	if mode != nil {
		ifSet(r, at, *mode, corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)
	}
}

// PersistentVolumeClaimUpdate checks a change of a claim: it may be bound, and
// when it is bound it may grow.
func PersistentVolumeClaimUpdate(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	r := &report{errs: PersistentVolumeClaim(c)}
	at := field.NewPath("spec")
	now, before := c.Spec.DeepCopy(), old.Spec.DeepCopy()
	if before.VolumeName == "" {
		before.VolumeName = now.VolumeName
	}
	if before.StorageClassName == nil { // the default class may be given later
		before.StorageClassName = now.StorageClassName
	}
	oldSize := before.Resources.Requests[corev1.ResourceStorage]
	newSize := now.Resources.Requests[corev1.ResourceStorage]
	if c.Status.Phase == corev1.ClaimBound {
		if now.Resources.Requests != nil {
			now.Resources.Requests[corev1.ResourceStorage] = oldSize
		}
		now.VolumeAttributesClassName = before.VolumeAttributesClassName
	}
	if !equality.Semantic.DeepEqual(now, before) {
		r.add(field.Forbidden(at, fmt.Sprintf("spec is immutable after creation except resources.requests and "+
			"volumeAttributesClassName for bound claims\n%v", diff.Diff(*before, *now))))
	}
	capacity := old.Status.Capacity[corev1.ResourceStorage]
	if newSize.Cmp(oldSize) < 0 && newSize.Cmp(capacity) <= 0 {
		r.add(field.Forbidden(at.Child("resources", "requests", "storage"), "field can not be less than status.capacity"))
	}
	r.unchanged(field.NewPath("volumeMode"), c.Spec.VolumeMode, old.Spec.VolumeMode)
	return r.errs
}

// PersistentVolume checks a volume.
//
// Simplified: sources of drivers that no longer exist are not looked into.
func PersistentVolume(v *corev1.PersistentVolume) field.ErrorList {
	r := &report{}
	at, s := field.NewPath("spec"), &v.Spec
	if len(s.AccessModes) == 0 {
		r.add(field.Required(at.Child("accessModes"), ""))
	}
	checkAccessModes(r, at.Child("accessModes"), s.AccessModes)
	if len(s.Capacity) == 0 {
		r.add(field.Required(at.Child("capacity"), ""))
	}
	if _, has := s.Capacity[corev1.ResourceStorage]; !has || len(s.Capacity) > 1 {
		r.add(field.NotSupported(at.Child("capacity"), s.Capacity, []corev1.ResourceName{corev1.ResourceStorage}))
	}
	for _, name := range sortedNames(s.Capacity) {
		if q := s.Capacity[name]; q.Sign() <= 0 {
			r.invalid(at.Child("capacity").Key(string(name)), q.String(), "must be greater than zero")
		}
	}
	ifSet(r, at.Child("persistentVolumeReclaimPolicy"), s.PersistentVolumeReclaimPolicy,
		corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRecycle, corev1.PersistentVolumeReclaimRetain)
	switch sources := setFields(&s.PersistentVolumeSource); len(sources) {
	case 0:
		r.add(field.Required(at, "must specify a volume type"))
	case 1:
	default:
		r.add(field.Forbidden(at.Child(sources[1]), "may not specify more than 1 volume type"))
	}
	if h := s.HostPath; h != nil {
		if r.required(at.Child("hostPath", "path"), h.Path) {
			r.noBacksteps(at.Child("hostPath", "path"), h.Path)
		}
		if h.Path == "/" && s.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
			r.add(field.Forbidden(at.Child("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'"))
		}
	}
	if s.Local != nil && s.HostPath == nil {
		r.required(at.Child("local", "path"), s.Local.Path)
		if s.NodeAffinity == nil {
			r.add(field.Required(at.Child("nodeAffinity"), "Local volume requires node affinity"))
		}
	}
	if s.NFS != nil {
		r.required(at.Child("nfs", "server"), s.NFS.Server)
		r.required(at.Child("nfs", "path"), s.NFS.Path)
	}
	if s.CSI != nil {
		r.required(at.Child("csi", "driver"), s.CSI.Driver)
		r.required(at.Child("csi", "volumeHandle"), s.CSI.VolumeHandle)
	}
	if s.StorageClassName != "" {
		r.subdomain(at.Child("storageClassName"), s.StorageClassName)
	}
	checkVolumeMode(r, at.Child("volumeMode"), s.VolumeMode)
	if a := s.NodeAffinity; a != nil {
		if a.Required == nil {
			r.add(field.Required(at.Child("nodeAffinity", "required"), "must specify required node constraints"))
		} else {
			checkNodeSelector(r, at.Child("nodeAffinity", "required"), a.Required)
		}
	}
	return r.errs
}

// PersistentVolumeUpdate checks a change of a volume: what it is stays.
func PersistentVolumeUpdate(v, old *corev1.PersistentVolume) field.ErrorList {
	r := &report{errs: PersistentVolume(v)}
	now, before := v.Spec.PersistentVolumeSource.DeepCopy(), old.Spec.PersistentVolumeSource
	if now.CSI != nil && before.CSI != nil && before.CSI.ControllerExpandSecretRef == nil {
		now.CSI.ControllerExpandSecretRef = nil // may be given later
	}
	if !equality.Semantic.DeepEqual(*now, before) {
		r.add(field.Forbidden(field.NewPath("spec", "persistentvolumesource"),
			fmt.Sprintf("spec.persistentvolumesource is immutable after creation\n%v", diff.Diff(before, *now))))
	}
	r.unchanged(field.NewPath("volumeMode"), v.Spec.VolumeMode, old.Spec.VolumeMode)
	return r.errs
}

// StorageClass checks a storage class.
func StorageClass(c *storagev1.StorageClass) field.ErrorList {
	r := &report{}
	checkProvisioner(r, field.NewPath("provisioner"), c.Provisioner)
	checkParameters(r, field.NewPath("parameters"), c.Parameters)
	if c.ReclaimPolicy != nil {
		ifSet(r, field.NewPath("reclaimPolicy"), *c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain)
	}
	if c.VolumeBindingMode != nil {
		oneOf(r, field.NewPath("volumeBindingMode"), *c.VolumeBindingMode,
			storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer)
	}
	checkTopologies(r, field.NewPath("allowedTopologies"), c.AllowedTopologies)
	return r.errs
}

// StorageClassUpdate: a class keeps what volumes were made by.
func StorageClassUpdate(c, old *storagev1.StorageClass) field.ErrorList {
	r := &report{}
	r.unchanged(field.NewPath("parameters"), c.Parameters, old.Parameters)
	r.unchanged(field.NewPath("provisioner"), c.Provisioner, old.Provisioner)
	r.unchanged(field.NewPath("reclaimPolicy"), c.ReclaimPolicy, old.ReclaimPolicy)
	r.unchanged(field.NewPath("volumeBindingMode"), c.VolumeBindingMode, old.VolumeBindingMode)
	return r.errs
}

// VolumeAttachment checks an attachment.
func VolumeAttachment(a *storagev1.VolumeAttachment) field.ErrorList {
	r := &report{}
	at, s := field.NewPath("spec"), &a.Spec
	r.driverName(at.Child("attacher"), s.Attacher)
	const message = "must specify exactly one of inlineVolumeSpec and persistentVolumeName"
	switch inline, name := s.Source.InlineVolumeSpec, s.Source.PersistentVolumeName; {
	case inline == nil && name == nil:
		r.add(field.Required(at.Child("source"), message))
	case inline != nil && name != nil:
		r.add(field.Forbidden(at.Child("source"), message))
	case name != nil && *name == "":
		r.add(field.Required(at.Child("source", "persistentVolumeName"), "must specify non empty persistentVolumeName"))
	}
	r.subdomain(at.Child("nodeName"), s.NodeName)
	if name := s.Source.PersistentVolumeName; name != nil {
		r.subdomain(field.NewPath("spec.source.persistentVolumeName"), *name)
	}
	return r.errs
}

// VolumeAttachmentUpdate: only the status of an attachment changes.
func VolumeAttachmentUpdate(a, old *storagev1.VolumeAttachment) field.ErrorList {
	r := &report{errs: VolumeAttachment(a)}
	r.unchanged(field.NewPath("spec"), a.Spec, old.Spec)
	return r.errs
}
