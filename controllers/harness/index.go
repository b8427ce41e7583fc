package harness

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
)

// Indexes that stores have. One informer serves all controllers, so what they
// look things up by is agreed here.
const (
	ByNamespace = "namespace"
	// ByController finds what a controller owns, by the owner's UID. Objects
	// without a controller are found under Orphans(namespace).
	ByController = "controller"
	// ByNode finds pods by spec.nodeName ("" for unscheduled ones).
	ByNode = "node"
)

// Orphans is the ByController value of a namespace's objects without a
// controller, which are what may be adopted.
func Orphans(namespace string) string { return "orphans/" + namespace }

func indexersFor[T client.Object]() map[string]func(T) []string {
	indexers := map[string]func(T) []string{
		ByNamespace: func(obj T) []string { return []string{obj.GetNamespace()} },
		ByController: func(obj T) []string {
			if owner := metav1.GetControllerOfNoCopy(obj); owner != nil {
				return []string{string(owner.UID)}
			}
			return []string{Orphans(obj.GetNamespace())}
		},
	}
	var none T
	if _, isPod := any(none).(*corev1.Pod); isPod {
		indexers[ByNode] = func(obj T) []string { return []string{any(obj).(*corev1.Pod).Spec.NodeName} }
	}
	return indexers
}
