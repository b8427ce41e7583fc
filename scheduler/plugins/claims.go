package plugins

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"tinykube/api/claims"
	"tinykube/scheduler/framework"
)

// refersTo says whether the pod uses a claim.
func refersTo(pod *corev1.Pod, claim *corev1.PersistentVolumeClaim) bool {
	return pod.Namespace == claim.Namespace && slices.Contains(claims.Names(pod), claim.Name)
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
