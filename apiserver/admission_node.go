package apiserver

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
)

// admitTaintNodes keeps pods off a node until it has once said that it is
// ready.
func admitTaintNodes(a *admission) error {
	if !a.creates("nodes") {
		return nil
	}
	node := a.obj.(*corev1.Node)
	taint := corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}
	if !slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.MatchTaint(&taint) }) {
		node.Spec.Taints = append(node.Spec.Taints, taint)
	}
	return nil
}

// admitNodeRestriction keeps a kubelet to its own node and the pods on it, so
// that who breaks into one node has not broken into all.
//
// Simplified: labels that a node may not give itself are not checked.
// Upstream: kubernetes@v1.36 plugin/pkg/admission/noderestriction/admission.go
func admitNodeRestriction(a *admission) error {
	node, ok := strings.CutPrefix(a.user.name, nodeUserPrefix)
	if !ok || !a.user.in(groupNodes) {
		return nil
	}
	switch a.row.Group + "/" + a.row.Plural {
	case "/nodes":
		if subject := a.subject().GetName(); subject != node {
			return a.refuse(fmt.Errorf("node %q is not allowed to modify node %q", node, subject))
		}
	case "/pods":
		return a.restrictPod(node)
	case "coordination.k8s.io/leases":
		if a.namespace == corev1.NamespaceNodeLease && a.subject().GetName() != node {
			return a.refuse(fmt.Errorf("can only access node lease with the same name as the requesting node"))
		}
	case "storage.k8s.io/csinodes":
		if a.subject().GetName() != node {
			return a.refuse(fmt.Errorf("can only access CSINode with the same name as the requesting node"))
		}
	}
	return nil
}

// subject is what a write is about: its new state if it has one.
func (a *admission) subject() interface{ GetName() string } {
	if a.obj != nil {
		return a.obj
	}
	return a.old
}

// restrictPod allows a node its own mirror pods, and the status and deletion
// of pods bound to it.
func (a *admission) restrictPod(node string) error {
	if a.old != nil {
		pod, ok := a.old.(*corev1.Pod)
		if ok && pod.Spec.NodeName != node {
			return a.refuse(fmt.Errorf("node %q can only modify pods with spec.nodeName set to itself", node))
		}
		return nil
	}
	pod, ok := a.obj.(*corev1.Pod)
	if !ok {
		return nil
	}
	if _, mirror := pod.Annotations[mirrorPodKey]; !mirror {
		return a.refuse(fmt.Errorf("pod does not have %q annotation, node %q can only create mirror pods", mirrorPodKey, node))
	}
	if pod.Spec.NodeName != node {
		return a.refuse(fmt.Errorf("node %q can only create pods with spec.nodeName set to itself", node))
	}
	if len(pod.OwnerReferences) != 1 || pod.OwnerReferences[0].Kind != "Node" || pod.OwnerReferences[0].Name != node {
		return a.refuse(fmt.Errorf("pod must have an owner reference set to node %q and no other", node))
	}
	owner, ok := current[*corev1.Node](a.Context(), a.server, "", "nodes", node)
	if !ok || owner.UID != pod.OwnerReferences[0].UID {
		return a.refuse(fmt.Errorf("the owner reference's UID is not that of node %q", node))
	}
	for _, volume := range pod.Spec.Volumes {
		if volume.Secret != nil || volume.ConfigMap != nil || volume.PersistentVolumeClaim != nil || volume.Projected != nil {
			return a.refuse(fmt.Errorf("node %q can not create pods that reference API objects", node))
		}
	}
	return nil
}

// defaultClassKey marks the class of claims that name none.
const defaultClassKey = "storageclass.kubernetes.io/is-default-class"

// admitDefaultStorageClass gives a claim the default class; of several, the
// newest.
func admitDefaultStorageClass(a *admission) error {
	if !a.creates("persistentvolumeclaims") {
		return nil
	}
	claim := a.obj.(*corev1.PersistentVolumeClaim)
	if _, old := claim.Annotations[corev1.BetaStorageClassAnnotation]; old || claim.Spec.StorageClassName != nil {
		return nil
	}
	var chosen *storagev1.StorageClass
	for _, class := range allCached[*storagev1.StorageClass](a.server, storagev1.GroupName, "storageclasses", "") {
		if class.Annotations[defaultClassKey] == "true" &&
			(chosen == nil || chosen.CreationTimestamp.Before(&class.CreationTimestamp)) {
			chosen = class
		}
	}
	if chosen != nil {
		claim.Spec.StorageClassName = &chosen.Name
	}
	return nil
}
