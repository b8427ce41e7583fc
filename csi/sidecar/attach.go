package sidecar

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/api/claims"
	"tinykube/client"
)

// attacher carries out VolumeAttachments.
//
// Upstream: kubernetes-csi/external-attacher
func (s *Sidecar) attacher() *loop {
	l := s.loop(Attacher, s.attachOrDetach)
	s.attachments.OnChange(func(_, a *storagev1.VolumeAttachment) {
		if a != nil && a.Spec.Attacher == s.driver.name {
			l.queue.Add(a.Name)
		}
	})
	// A volume keeps its finalizer as long as it is attached somewhere.
	s.volumes.OnChange(func(_, v *corev1.PersistentVolume) {
		if v != nil && v.DeletionTimestamp != nil && slices.Contains(v.Finalizers, s.attachFinalizer()) {
			l.queue.Add("/" + v.Name)
		}
	})
	return l
}

// attachFinalizer is what keeps an attachment, and its volume, until the driver
// has let go.
func (s *Sidecar) attachFinalizer() string {
	return "external-attacher/" + strings.ReplaceAll(s.driver.name, ".", "-")
}

func (s *Sidecar) attachOrDetach(ctx context.Context, key string) error {
	if volume, is := strings.CutPrefix(key, "/"); is {
		return s.releaseVolume(ctx, volume)
	}
	a, ok := s.attachments.Get(key)
	if !ok {
		return nil
	}
	a = a.DeepCopy() // keep changes it
	if !s.driver.can[csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME] {
		if a.DeletionTimestamp != nil || a.Status.Attached {
			return nil
		}
		return s.attached(ctx, a, true, nil, nil) // there is nothing to do
	}
	if a.DeletionTimestamp != nil {
		return s.detach(ctx, a)
	}
	if a.Status.Attached {
		return nil
	}
	answer, err := s.attach(ctx, a)
	if err != nil {
		_ = s.attached(ctx, a, false, nil, err)
		return err
	}
	return s.attached(ctx, a, true, answer.PublishContext, nil)
}

func (s *Sidecar) attach(ctx context.Context, a *storagev1.VolumeAttachment) (*csi.ControllerPublishVolumeResponse, error) {
	volume, source, err := s.volumeOf(a)
	if err != nil {
		return nil, err
	}
	node, err := s.nodeID(a.Spec.NodeName)
	if err != nil {
		return nil, err
	}
	if err := s.keep(ctx, a); err != nil {
		return nil, err
	}
	if len(volume.AccessModes) == 0 {
		return nil, fmt.Errorf("volume of %s has no access mode", a.Name)
	}
	use, err := capability(widest(volume.AccessModes), claims.Mode(volume.VolumeMode) == corev1.PersistentVolumeBlock, source.FSType, volume.MountOptions, s.driver.single())
	if err != nil {
		return nil, err
	}
	secrets, err := s.secret(ctx, source.ControllerPublishSecretRef)
	if err != nil {
		return nil, err
	}
	return s.driver.controller.ControllerPublishVolume(ctx, &csi.ControllerPublishVolumeRequest{
		VolumeId: source.VolumeHandle, NodeId: node, VolumeCapability: use, Readonly: source.ReadOnly, Secrets: secrets, VolumeContext: source.VolumeAttributes,
	})
}

// widest is the mode that allows the most: what a driver is told that will be done.
func widest(modes []corev1.PersistentVolumeAccessMode) corev1.PersistentVolumeAccessMode {
	for _, mode := range []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany, corev1.ReadOnlyMany, corev1.ReadWriteOnce} {
		if slices.Contains(modes, mode) {
			return mode
		}
	}
	return modes[0]
}

func (s *Sidecar) detach(ctx context.Context, a *storagev1.VolumeAttachment) error {
	if !slices.Contains(a.Finalizers, s.attachFinalizer()) {
		return nil
	}
	_, source, err := s.volumeOf(a)
	if err != nil {
		return err
	}
	node, err := s.nodeID(a.Spec.NodeName)
	if err != nil {
		return err
	}
	secrets, err := s.secret(ctx, source.ControllerPublishSecretRef)
	if err != nil {
		return err
	}
	request := &csi.ControllerUnpublishVolumeRequest{VolumeId: source.VolumeHandle, NodeId: node, Secrets: secrets}
	if _, err := s.driver.controller.ControllerUnpublishVolume(ctx, request); err != nil {
		changed := a.DeepCopy()
		changed.Status.DetachError = failure(err)
		_, _ = patch(ctx, s, client.VolumeAttachments, a, changed, "status")
		return fmt.Errorf("detach: %w", err)
	}
	_, err = setFinalizer(ctx, s, client.VolumeAttachments, a, s.attachFinalizer(), false)
	return ignoreNotFound(err)
}

// volumeOf is what an attachment attaches.
func (s *Sidecar) volumeOf(a *storagev1.VolumeAttachment) (*corev1.PersistentVolumeSpec, *corev1.CSIPersistentVolumeSource, error) {
	spec := a.Spec.Source.InlineVolumeSpec
	if name := a.Spec.Source.PersistentVolumeName; name != nil {
		volume, ok := s.volumes.Get(*name)
		if !ok {
			return nil, nil, fmt.Errorf("persistentvolume %q not found", *name)
		}
		spec = &volume.Spec
	}
	if spec == nil || spec.CSI == nil {
		return nil, nil, fmt.Errorf("attachment %s names no volume of a CSI driver", a.Name)
	}
	return spec, spec.CSI, nil
}

// nodeID is what the driver calls a node.
func (s *Sidecar) nodeID(name string) (string, error) {
	if node, ok := s.csiNodes.Get(name); ok {
		for _, d := range node.Spec.Drivers {
			if d.Name == s.driver.name {
				return d.NodeID, nil
			}
		}
	}
	return "", fmt.Errorf("CSINode %s does not contain driver %s", name, s.driver.name)
}

// keep puts the finalizer on volume and attachment, before the first call.
func (s *Sidecar) keep(ctx context.Context, a *storagev1.VolumeAttachment) error {
	if name := a.Spec.Source.PersistentVolumeName; name != nil {
		if volume, ok := s.volumes.Get(*name); ok && !slices.Contains(volume.Finalizers, s.attachFinalizer()) {
			if volume.DeletionTimestamp != nil {
				return fmt.Errorf("PersistentVolume %q is marked for deletion", *name)
			}
			if _, err := setFinalizer(ctx, s, client.PersistentVolumes, volume, s.attachFinalizer(), true); err != nil {
				return fmt.Errorf("finalizer of volume %s: %w", *name, err)
			}
		}
	}
	updated, err := setFinalizer(ctx, s, client.VolumeAttachments, a, s.attachFinalizer(), true)
	if err != nil {
		return fmt.Errorf("finalizer of %s: %w", a.Name, err)
	}
	a.ResourceVersion, a.Finalizers = updated.ResourceVersion, updated.Finalizers
	return nil
}

// attached writes how an attachment went.
func (s *Sidecar) attached(ctx context.Context, a *storagev1.VolumeAttachment, ok bool, metadata map[string]string, failed error) error {
	changed := a.DeepCopy()
	changed.Status.Attached, changed.Status.AttachmentMetadata, changed.Status.AttachError = ok, metadata, failure(failed)
	_, err := patch(ctx, s, client.VolumeAttachments, a, changed, "status")
	return err
}

func failure(err error) *storagev1.VolumeError {
	if err == nil {
		return nil
	}
	return &storagev1.VolumeError{Message: err.Error(), Time: metav1.Now()}
}

// releaseVolume takes the finalizer off a volume that is being deleted, once
// nothing attaches it any more.
func (s *Sidecar) releaseVolume(ctx context.Context, name string) error {
	volume, ok := s.volumes.Get(name)
	if !ok || volume.DeletionTimestamp == nil || !slices.Contains(volume.Finalizers, s.attachFinalizer()) {
		return nil
	}
	if node := s.attachedTo(name); node != "" {
		return fmt.Errorf("volume %s is still attached to node %s", name, node)
	}
	_, err := setFinalizer(ctx, s, client.PersistentVolumes, volume, s.attachFinalizer(), false)
	return ignoreNotFound(err)
}

// attachedTo is a node that a volume is attached to; "" if there is none.
func (s *Sidecar) attachedTo(volume string) string {
	for _, a := range s.attachments.List() {
		if name := a.Spec.Source.PersistentVolumeName; name != nil && *name == volume {
			return a.Spec.NodeName
		}
	}
	return ""
}
