package kubelet

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/utils/ptr"

	"tinykube/api/claims"
)

const (
	lifecyclePersistent = string(storagev1.VolumeLifecyclePersistent)
	lifecycleEphemeral  = string(storagev1.VolumeLifecycleEphemeral)
)

// csiVolume is a volume as one pod wants it: the claim's, or its own.
type csiVolume struct {
	csiRecord
	pod        *corev1.Pod
	claim      *corev1.PersistentVolumeClaim // nil: a volume of the pod's own
	persistent *corev1.PersistentVolume

	readOnly               bool
	fsType                 string
	accessMode             corev1.PersistentVolumeAccessMode
	mountOptions           []string
	attributes             map[string]string
	stageFrom, publishFrom *corev1.SecretReference
	expandFrom             *corev1.SecretReference
}

// claimedCSI is the volume that a pod has by a claim.
//
// Upstream: kubernetes@v1.36 pkg/volume/csi csi_mounter.go SetUpAt.
func claimedCSI(pod *corev1.Pod, name, node string, claim *corev1.PersistentVolumeClaim, volume *corev1.PersistentVolume, readOnly bool) csiVolume {
	source := volume.Spec.CSI
	out := csiVolume{
		csiRecord: csiRecord{Driver: source.Driver, Handle: source.VolumeHandle, SpecName: volume.Name, Node: node,
			Lifecycle: lifecyclePersistent, PodVolume: name, uid: pod.UID,
			block: claims.Mode(volume.Spec.VolumeMode) == corev1.PersistentVolumeBlock},
		pod: pod, claim: claim, persistent: volume, readOnly: readOnly, fsType: source.FSType, mountOptions: volume.Spec.MountOptions,
		attributes: source.VolumeAttributes, stageFrom: source.NodeStageSecretRef, publishFrom: source.NodePublishSecretRef,
		expandFrom: source.NodeExpandSecretRef, accessMode: corev1.ReadWriteOnce,
	}
	if len(volume.Spec.AccessModes) > 0 { // upstream, too, looks at the first one only
		out.accessMode = volume.Spec.AccessModes[0]
	}
	out.Attachment = attachmentName(out.Handle, out.Driver, node)
	return out
}

// inlineCSI is a volume that lives and dies with its pod.
func inlineCSI(pod *corev1.Pod, name, node string, source *corev1.CSIVolumeSource) csiVolume {
	sum := sha256.Sum256([]byte(string(pod.UID) + name))
	out := csiVolume{
		csiRecord: csiRecord{Driver: source.Driver, Handle: "csi-" + hex.EncodeToString(sum[:]), SpecName: name, Node: node,
			Lifecycle: lifecycleEphemeral, PodVolume: name, uid: pod.UID},
		pod: pod, readOnly: isTrue(source.ReadOnly), fsType: ptr.Deref(source.FSType, ""),
		attributes: source.VolumeAttributes, accessMode: corev1.ReadWriteOnce,
	}
	if source.NodePublishSecretRef != nil {
		out.publishFrom = &corev1.SecretReference{Namespace: pod.Namespace, Name: source.NodePublishSecretRef.Name}
	}
	out.Attachment = attachmentName(out.Handle, out.Driver, node)
	return out
}

// attachmentName is what controllers call the VolumeAttachment of a volume.
//
// Upstream: kubernetes@v1.36 pkg/volume/csi getAttachmentName.
func attachmentName(handle, driver, node string) string {
	sum := sha256.Sum256([]byte(handle + driver + node))
	return "csi-" + hex.EncodeToString(sum[:])
}

// capability is how the volume is to be shown.
func (w *csiVolume) capability(driver *csiClient) *csi.VolumeCapability {
	out := &csi.VolumeCapability{AccessMode: &csi.VolumeCapability_AccessMode{
		Mode: accessMode(w.accessMode, driver.has(csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER))}}
	if w.block {
		out.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
		return out
	}
	mount := &csi.VolumeCapability_MountVolume{FsType: w.fsType, MountFlags: w.mountOptions}
	if group := fsGroup(w.pod); group != nil && driver.has(csi.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP) {
		mount.VolumeMountGroup = fmt.Sprint(*group)
	}
	out.AccessType = &csi.VolumeCapability_Mount{Mount: mount}
	return out
}

// accessMode translates a mode. Only a driver that says so knows the two finer
// ones; for others a single writer and several on one node are the same.
func accessMode(mode corev1.PersistentVolumeAccessMode, finer bool) csi.VolumeCapability_AccessMode_Mode {
	switch {
	case mode == corev1.ReadOnlyMany:
		return csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
	case mode == corev1.ReadWriteMany:
		return csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
	case mode == corev1.ReadWriteOncePod && finer:
		return csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
	case mode == corev1.ReadWriteOnce && finer:
		return csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER
	case mode == corev1.ReadWriteOnce, mode == corev1.ReadWriteOncePod:
		return csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
	}
	return csi.VolumeCapability_AccessMode_UNKNOWN
}

// podInfo is what a driver is told of the pod, if its CSIDriver asks for it.
func (w *csiVolume) podInfo() map[string]string {
	return map[string]string{
		"csi.storage.k8s.io/pod.name":            w.pod.Name,
		"csi.storage.k8s.io/pod.namespace":       w.pod.Namespace,
		"csi.storage.k8s.io/pod.uid":             string(w.pod.UID),
		"csi.storage.k8s.io/serviceAccount.name": w.pod.Spec.ServiceAccountName,
		"csi.storage.k8s.io/ephemeral":           fmt.Sprint(w.ephemeral()),
	}
}

// allowed says whether a driver's volumes may be used like this one. Without a
// CSIDriver only volumes of claims may.
func (w *csiVolume) allowed(driver *storagev1.CSIDriver) error {
	mode := storagev1.VolumeLifecycleMode(w.Lifecycle)
	switch {
	case driver == nil && w.ephemeral():
		return fmt.Errorf("volume mode %q not supported by driver %s (no CSIDriver object)", mode, w.Driver)
	case driver == nil, len(driver.Spec.VolumeLifecycleModes) == 0 && !w.ephemeral(),
		slices.Contains(driver.Spec.VolumeLifecycleModes, mode):
		return nil
	}
	return fmt.Errorf("volume mode %q not supported by driver %s (only supports %q)", mode, w.Driver, driver.Spec.VolumeLifecycleModes)
}

// attaches: nobody may mount the volume before it is attached to the node.
// Without a CSIDriver all have to be.
func (w *csiVolume) attaches(driver *storagev1.CSIDriver) bool {
	return !w.ephemeral() && (driver == nil || ptr.Deref(driver.Spec.AttachRequired, true))
}

// ownsFiles says whether the files become the pod's group's. A volume that
// somebody else writes at the same time, or that has no file system of its own,
// is left alone unless its driver says otherwise.
func (w *csiVolume) ownsFiles(driver *storagev1.CSIDriver) bool {
	if fsGroup(w.pod) == nil || w.readOnly || w.block {
		return false
	}
	policy := storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy
	if driver != nil && driver.Spec.FSGroupPolicy != nil && *driver.Spec.FSGroupPolicy != "" {
		policy = *driver.Spec.FSGroupPolicy
	}
	switch policy {
	case storagev1.FileFSGroupPolicy:
		return true
	case storagev1.NoneFSGroupPolicy:
		return false
	}
	if w.fsType == "" || w.persistent == nil {
		return w.fsType != ""
	}
	modes := w.persistent.Spec.AccessModes
	return slices.Contains(modes, corev1.ReadWriteOnce) || slices.Contains(modes, corev1.ReadWriteOncePod)
}
