package kubelet

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
)

// A static pod exists whether or not the API server knows. So that kubectl can
// see it, the kubelet keeps a mirror pod: an ordinary API object of the same
// name that nothing acts upon. Who deletes the mirror deletes the picture, and
// the kubelet paints it again; to end the pod, remove its file.

// mirrorPlan is what must happen for the mirrors to show the static pods.
type mirrorPlan struct {
	create []*corev1.Pod // static pods without a picture
	remove []*corev1.Pod // pictures of nothing, or of an earlier version
}

// planMirrors compares the static pods with the mirrors that exist. An outdated
// mirror is removed first; its successor is made when it is gone.
//
// LAB 14 mirrors: a mirror is right if there is a static pod of its name, if it
// shows that pod's hash, and if nobody is deleting it. A name can be taken once.
func planMirrors(static, mirrors []*corev1.Pod) mirrorPlan {
	var plan mirrorPlan
	existing := map[string]bool{}
	wanted := map[string]*corev1.Pod{}
	for _, p := range static {
		wanted[client.Key(p)] = p
	}
	for _, m := range mirrors {
		existing[client.Key(m)] = true
		pod := wanted[client.Key(m)]
		if pod == nil || m.Annotations[annotationConfigMirror] != pod.Annotations[annotationConfigHash] || m.DeletionTimestamp != nil {
			plan.remove = append(plan.remove, m)
		}
	}
	for _, p := range static {
		if !existing[client.Key(p)] {
			plan.create = append(plan.create, p)
		}
	}
	return plan
}

// mirrorOf is the object to create for a static pod. Its owner is the node: so
// it goes when the node goes, and so admission knows that it is ours.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/pod/mirror_client.go CreateMirrorPod.
func mirrorOf(pod *corev1.Pod, node *corev1.Node) *corev1.Pod {
	mirror := pod.DeepCopy()
	mirror.UID, mirror.ResourceVersion = "", ""
	mirror.Annotations[annotationConfigMirror] = pod.Annotations[annotationConfigHash]
	yes := true
	mirror.OwnerReferences = []metav1.OwnerReference{{
		APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID, Controller: &yes}}
	return mirror
}

// syncMirrors carries the plan out. Errors are for the caller to retry: the
// pods themselves never wait for this.
func (k *Kubelet) syncMirrors(ctx context.Context) error {
	if k.podInformer == nil || !k.podInformer.HasSynced() {
		return nil
	}
	static, read := k.static.list()
	if !read {
		return nil
	}
	var mirrors []*corev1.Pod
	for _, p := range k.podInformer.List() {
		if isMirror(p) {
			mirrors = append(mirrors, p)
		}
	}
	plan := planMirrors(static, mirrors)
	pods := client.For(k.client, client.Pods)
	var failures error
	for _, m := range plan.remove {
		if err := deleteNow(ctx, pods, m); err != nil {
			failures = errors.Join(failures, fmt.Errorf("delete mirror %s: %w", client.Key(m), err))
		}
	}
	if len(plan.create) == 0 {
		return failures
	}
	node := k.registeredNode()
	if node == nil {
		return errors.Join(failures, errors.New("mirror pods wait for the node to be registered"))
	}
	for _, p := range plan.create {
		if _, err := pods.Create(ctx, mirrorOf(p, node)); err != nil && !apierrors.IsAlreadyExists(err) {
			failures = errors.Join(failures, fmt.Errorf("create mirror %s: %w", client.Key(p), err))
		}
	}
	return failures
}
