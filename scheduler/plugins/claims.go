package plugins

import (
	"cmp"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/api/placement"
	"tinykube/scheduler/framework"
)

// Annotations by which the scheduler, the volume controller and provisioners
// understand each other.
const (
	selectedNode      = "volume.kubernetes.io/selected-node"
	bindCompleted     = "pv.kubernetes.io/bind-completed"
	boundByController = "pv.kubernetes.io/bound-by-controller"
)

// claimOf returns the name of the claim behind a volume of the pod; "" if there
// is none. A generic ephemeral volume has one that is made for the pod.
func claimOf(pod *corev1.Pod, v *corev1.Volume) (name string, ephemeral bool) {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName, false
	case v.Ephemeral != nil:
		return pod.Name + "-" + v.Name, true
	}
	return "", false
}

// refersTo says whether the pod uses a claim.
func refersTo(pod *corev1.Pod, claim *corev1.PersistentVolumeClaim) bool {
	for i := range pod.Spec.Volumes {
		if name, _ := claimOf(pod, &pod.Spec.Volumes[i]); name == claim.Name && pod.Namespace == claim.Namespace {
			return true
		}
	}
	return false
}

// usesClaims says whether the pod has any.
func usesClaims(pod *corev1.Pod) bool {
	for i := range pod.Spec.Volumes {
		if name, _ := claimOf(pod, &pod.Spec.Volumes[i]); name != "" {
			return true
		}
	}
	return false
}

// ownClaim says that the claim of an ephemeral volume was made for this pod.
func ownClaim(pod *corev1.Pod, claim *corev1.PersistentVolumeClaim) error {
	if metav1.IsControlledBy(claim, pod) {
		return nil
	}
	return fmt.Errorf("PVC %s/%s was not created for pod %s/%s (pod is not owner)", claim.Namespace, claim.Name, pod.Namespace, pod.Name)
}

// classOf is the claim's storage class, which older ones have in an annotation.
func classOf(claim *corev1.PersistentVolumeClaim) string {
	if class, ok := claim.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return class
	}
	if claim.Spec.StorageClassName != nil {
		return *claim.Spec.StorageClassName
	}
	return ""
}

// waitsForPod says whether claims of the class are bound only when the
// scheduler knows the node.
func waitsForPod(class *storagev1.StorageClass) bool {
	return class != nil && class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
}

// fullyBound: the volume controller has finished with the claim.
func fullyBound(claim *corev1.PersistentVolumeClaim) bool {
	_, completed := claim.Annotations[bindCompleted]
	return claim.Spec.VolumeName != "" && completed
}

// reachable says whether a node satisfies the volume's node affinity.
func reachable(volume *corev1.PersistentVolume, node *corev1.Node) bool {
	affinity := volume.Spec.NodeAffinity
	if affinity == nil || affinity.Required == nil {
		return true
	}
	// Borrow the pod's parser: the demand has the same form.
	return placement.ForPod(&corev1.Pod{Spec: corev1.PodSpec{Affinity: &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: affinity.Required}}}}).Match(node)
}

// notFound is a verdict on a pod that names what does not exist, as upstream's
// caches put it: in the singular.
func notFound(group, kind, name string) *framework.Status {
	err := apierrors.NewNotFound(corev1.Resource(kind), name)
	if group != "" {
		err = apierrors.NewNotFound(storagev1.Resource(kind), name)
	}
	return framework.NewStatus(framework.UnschedulableAndUnresolvable, err.Error())
}

// bySize puts the smaller claim first.
func bySize(a, b *corev1.PersistentVolumeClaim) int {
	return cmp.Compare(a.Spec.Resources.Requests.Storage().Value(), b.Spec.Resources.Requests.Storage().Value())
}
