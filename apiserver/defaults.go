package apiserver

import (
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/apiserver/resources"
)

// What every cluster has from its first second: four namespaces, two priority
// classes, and the roles of the parts that make up a control plane.

// defaultObjects are created at start if they are missing, and left alone if
// they are not: who changed them had a reason. Roles and bindings are mended
// (reconcileRBAC).
func defaultObjects() []resources.Object {
	var out []resources.Object
	for _, name := range []string{"kube-system", "kube-public", "kube-node-lease", "default"} {
		out = append(out, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{corev1.LabelMetadataName: name},
		}})
	}
	never := corev1.PreemptLowerPriority
	for name, value := range systemPriorities {
		out = append(out, &schedulingv1.PriorityClass{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value, PreemptionPolicy: &never,
			Description: systemPriorityTexts[name],
		})
	}
	out = append(out, defaultFlows()...)
	return append(out, defaultRBAC()...)
}

// The priorities that admission knows without looking.
var systemPriorities = map[string]int32{
	"system-cluster-critical": 2000000000,
	"system-node-critical":    2000001000,
}

var systemPriorityTexts = map[string]string{
	"system-cluster-critical": "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
	"system-node-critical":    "Used for system critical pods that must not be moved from their current node.",
}
