package framework

import (
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Objects answers what a decision must know beyond nodes and pods. What it
// returns is shared and must not be changed; nil means that it is not known.
type Objects interface {
	NamespaceLabels(name string) map[string]string
	Services(namespace string) []*corev1.Service
	// Selector is that of the ReplicationController, ReplicaSet or StatefulSet
	// to which the reference points; nil for anything else.
	Selector(namespace string, owner *metav1.OwnerReference) *metav1.LabelSelector
	DisruptionBudgets() []*policyv1.PodDisruptionBudget
	Storage
}

// Storage answers about volumes.
type Storage interface {
	Claim(namespace, name string) *corev1.PersistentVolumeClaim
	Volume(name string) *corev1.PersistentVolume
	VolumesOfClass(class string) []*corev1.PersistentVolume
	StorageClass(name string) *storagev1.StorageClass
	CSINode(node string) *storagev1.CSINode
	CSIDriver(name string) *storagev1.CSIDriver
	StorageCapacities() []*storagev1.CSIStorageCapacity
	Attachments(node string) []*storagev1.VolumeAttachment
}

// Known returns the handle's objects, or an empty world if it has none.
func (h Handle) Known() Objects {
	if h.Objects == nil {
		return NoObjects{}
	}
	return h.Objects
}

// NoObjects stands in where there is nothing to ask. Embedded, it is the rest
// of an Objects that knows only some.
type NoObjects struct{}

// NamespaceLabels is for Objects.
func (NoObjects) NamespaceLabels(string) map[string]string { return nil }

// Services is for Objects.
func (NoObjects) Services(string) []*corev1.Service { return nil }

// Selector is for Objects.
func (NoObjects) Selector(string, *metav1.OwnerReference) *metav1.LabelSelector { return nil }

// DisruptionBudgets is for Objects.
func (NoObjects) DisruptionBudgets() []*policyv1.PodDisruptionBudget { return nil }

// Claim is for Storage.
func (NoObjects) Claim(string, string) *corev1.PersistentVolumeClaim { return nil }

// Volume is for Storage.
func (NoObjects) Volume(string) *corev1.PersistentVolume { return nil }

// VolumesOfClass is for Storage.
func (NoObjects) VolumesOfClass(string) []*corev1.PersistentVolume { return nil }

// StorageClass is for Storage.
func (NoObjects) StorageClass(string) *storagev1.StorageClass { return nil }

// CSINode is for Storage.
func (NoObjects) CSINode(string) *storagev1.CSINode { return nil }

// CSIDriver is for Storage.
func (NoObjects) CSIDriver(string) *storagev1.CSIDriver { return nil }

// StorageCapacities is for Storage.
func (NoObjects) StorageCapacities() []*storagev1.CSIStorageCapacity { return nil }

// Attachments is for Storage.
func (NoObjects) Attachments(string) []*storagev1.VolumeAttachment { return nil }
