// Package claims holds what scheduler, controllers and kubelet must answer
// alike of pods, PersistentVolumeClaims and PersistentVolumes.
//
//	pod ──volumes──▶ claim ──volumeName──▶ volume
//	                   ▲                     │
//	                   └──────claimRef───────┘
//
// Claim and volume point at each other, and both arrows must be there: each is
// written by one request, and anybody may die between the two.
package claims

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"tinykube/api/placement"
)

// Annotations by which scheduler, volume controller and provisioners understand
// each other.
const (
	// SelectedNode is the node for which a claim's volume is to be made.
	SelectedNode = "volume.kubernetes.io/selected-node"
	// BindCompleted, on a claim: both arrows have been written.
	BindCompleted = "pv.kubernetes.io/bind-completed"
	// BoundByController: the arrow was not drawn by the user, so it may be
	// taken away again.
	BoundByController = "pv.kubernetes.io/bound-by-controller"
	// ProvisionedBy, on a volume: the driver that made it, which also deletes it.
	ProvisionedBy = "pv.kubernetes.io/provisioned-by"
	// Provisioner, on a claim: the driver that shall make its volume.
	Provisioner     = "volume.kubernetes.io/storage-provisioner"
	BetaProvisioner = "volume.beta.kubernetes.io/storage-provisioner"
	// DefaultClass, on a StorageClass.
	DefaultClass     = "storageclass.kubernetes.io/is-default-class"
	BetaDefaultClass = "storageclass.beta.kubernetes.io/is-default-class"
)

// NoProvisioner marks classes whose volumes are made by hand.
const NoProvisioner = "kubernetes.io/no-provisioner"

// Of returns the name of the claim behind a volume of the pod; "" if there is
// none. A generic ephemeral volume has one that is made for the pod.
func Of(pod *corev1.Pod, v *corev1.Volume) (name string, ephemeral bool) {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName, false
	case v.Ephemeral != nil:
		return pod.Name + "-" + v.Name, true
	}
	return "", false
}

// Names are those of all claims behind the pod's volumes.
func Names(pod *corev1.Pod) (names []string) {
	for i := range pod.Spec.Volumes {
		if name, _ := Of(pod, &pod.Spec.Volumes[i]); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// Own says that the claim of an ephemeral volume was made for this pod.
func Own(pod *corev1.Pod, claim *corev1.PersistentVolumeClaim) error {
	if metav1.IsControlledBy(claim, pod) {
		return nil
	}
	return fmt.Errorf("PVC %s/%s was not created for pod %s/%s (pod is not owner)", claim.Namespace, claim.Name, pod.Namespace, pod.Name)
}

// Class is the claim's storage class, which older ones have in an annotation.
func Class(claim *corev1.PersistentVolumeClaim) string {
	if class, ok := claim.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return class
	}
	if claim.Spec.StorageClassName != nil {
		return *claim.Spec.StorageClassName
	}
	return ""
}

// VolumeClass is the volume's, likewise.
func VolumeClass(volume *corev1.PersistentVolume) string {
	if class, ok := volume.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return class
	}
	return volume.Spec.StorageClassName
}

// WaitsForPod says whether claims of the class are bound only when the
// scheduler knows the node.
func WaitsForPod(class *storagev1.StorageClass) bool {
	return class != nil && class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
}

// Bound: the volume controller has finished with the claim.
func Bound(claim *corev1.PersistentVolumeClaim) bool {
	_, completed := claim.Annotations[BindCompleted]
	return claim.Spec.VolumeName != "" && completed
}

// Promised says whether a volume names this claim; without a UID, somebody has
// reserved it for any claim of that name.
func Promised(volume *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) bool {
	ref := volume.Spec.ClaimRef
	return ref != nil && ref.Namespace == claim.Namespace && ref.Name == claim.Name && (ref.UID == "" || ref.UID == claim.UID)
}

// Reachable says whether a node satisfies the volume's node affinity.
func Reachable(volume *corev1.PersistentVolume, node *corev1.Node) bool {
	affinity := volume.Spec.NodeAffinity
	if affinity == nil || affinity.Required == nil {
		return true
	}
	// Borrow the pod's parser: the demand has the same form.
	return placement.ForPod(&corev1.Pod{Spec: corev1.PodSpec{Affinity: &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: affinity.Required}}}}).Match(node)
}

// Large says whether a volume has room for the claim.
func Large(volume *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) bool {
	size := volume.Spec.Capacity[corev1.ResourceStorage]
	return size.Cmp(claim.Spec.Resources.Requests[corev1.ResourceStorage]) >= 0
}

// Mode is what a volume or claim without a volumeMode has: a file system.
func Mode(m *corev1.PersistentVolumeMode) corev1.PersistentVolumeMode {
	if m == nil {
		return corev1.PersistentVolumeFilesystem
	}
	return *m
}

// SameAttributes compares the classes of what can be changed of a volume.
func SameAttributes(volume *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) bool {
	name := func(class *string) string {
		if class == nil {
			return ""
		}
		return *class
	}
	return name(claim.Spec.VolumeAttributesClassName) == name(volume.Spec.VolumeAttributesClassName)
}

// Modes says whether a volume has all access modes that the claim wants.
func Modes(volume *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) bool {
	return !slices.ContainsFunc(claim.Spec.AccessModes, func(m corev1.PersistentVolumeAccessMode) bool {
		return !slices.Contains(volume.Spec.AccessModes, m)
	})
}

// Selected says whether a volume has the labels that the claim wants. A
// selector that cannot be read selects nothing.
func Selected(volume *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) bool {
	if claim.Spec.Selector == nil {
		return true
	}
	selector, err := metav1.LabelSelectorAsSelector(claim.Spec.Selector)
	return err == nil && selector.Matches(labels.Set(volume.Labels))
}
