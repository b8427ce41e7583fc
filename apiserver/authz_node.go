package apiserver

import (
	"context"
	"fmt"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"

	"tinykube/apiserver/storage"
)

// A kubelet may read what its own pods use, and nothing else: who breaks into
// one node gets the secrets of that node's pods, not the cluster's.
//
//	node ◀── pod ◀─┬─ secret, configmap, serviceaccount, resourceclaim
//	               └─ claim ◀── volume ◀── secret
//	node ◀── volumeattachment, resourceslice
//
// The arrows are walked from the node's pods, of which there are few, when a
// node asks. What is kept is only which pods a node has.
//
// Upstream: kubernetes@v1.36 plugin/pkg/auth/authorizer/node. It keeps the whole
// graph, so that one question is one look-up at 5,000 nodes.

// nodeRules are what the node authorizer gives every node alike.
var nodeRules = sync.OnceValue(func() []rbacv1.PolicyRule { return rulesOf("system:node") })

// allowsNode decides about a kubelet. For the resources that it does not know,
// rules say what every node may.
func (a *authorizer) allowsNode(ctx context.Context, u *user, t target) decision {
	node, ok := nodeName(u)
	switch {
	case !ok:
		return decision{}
	case node == "":
		return decision{reason: fmt.Sprintf("unknown node for user %q", u.name)}
	}
	if t.isResource {
		if d, known := a.nodeResource(ctx, node, t); known {
			return d
		}
	}
	return decision{allowed: slices.ContainsFunc(nodeRules(), func(rule rbacv1.PolicyRule) bool { return ruleAllows(&rule, t) })}
}

// nodeResource decides about the resources of which nodes may see a part;
// known is false for all others.
func (a *authorizer) nodeResource(ctx context.Context, node string, t target) (d decision, known bool) {
	var reason string
	switch t.group + "/" + t.resource {
	case "/secrets", "/configmaps":
		reason = readOne(t)
	case "/persistentvolumeclaims":
		if reason = getOne(t); t.subresource == "status" {
			reason = anyOf(t, "can only get/update/patch this type", "update", "patch")
		}
	case "/persistentvolumes", "resource.k8s.io/resourceclaims", "storage.k8s.io/volumeattachments":
		reason = getOne(t)
	case "/serviceaccounts":
		reason = tokenOf(t)
	case "/pods":
		return a.nodePod(ctx, node, t), true
	case "/nodes":
		return nodeItself(node, t), true
	case "coordination.k8s.io/leases":
		return nodeLease(node, t), true
	case "storage.k8s.io/csinodes":
		return nodeCSI(node, t), true
	case "resource.k8s.io/resourceslices":
		return a.nodeSlice(ctx, node, t), true
	default:
		return decision{}, false
	}
	if reason != "" {
		return decision{reason: reason}, true
	}
	return a.related(ctx, node, t), true
}

// readOne, getOne and tokenOf say what is wrong with a question before it is
// even about an object of this node.
func readOne(t target) string {
	switch {
	case !slices.Contains([]string{"get", "list", "watch"}, t.verb):
		return "can only read resources of this type"
	case t.subresource != "":
		return "cannot read subresource"
	case t.namespace == "":
		return "can only read namespaced object of this type"
	}
	return ""
}

func getOne(t target) string {
	if t.verb != "get" {
		return "can only get individual resources of this type"
	}
	if t.subresource != "" {
		return "cannot get subresource"
	}
	return ""
}

func tokenOf(t target) string {
	switch {
	case t.verb == "get" && t.subresource == "":
		return readOne(t)
	case t.verb != "create" || t.name == "":
		return "can only create tokens for individual service accounts"
	case t.subresource != "token":
		return "can only create token subresource of serviceaccount"
	}
	return ""
}

func anyOf(t target, otherwise string, verbs ...string) string {
	if slices.Contains(verbs, t.verb) {
		return ""
	}
	return otherwise
}

// nodePod decides about pods: a node follows its own, reports about them, and
// makes and removes mirrors; of whose pod that is, admission makes sure.
func (a *authorizer) nodePod(ctx context.Context, node string, t target) decision {
	switch t.subresource + "/" + t.verb {
	case "/get":
		return a.related(ctx, node, t)
	case "/list", "/watch":
		if t.selects("spec.nodeName", node) {
			return decision{allowed: true}
		}
		if t.name != "" {
			return a.related(ctx, node, t)
		}
		return decision{reason: "can only list/watch pods with spec.nodeName field selector"}
	case "/create", "/delete", "status/update", "status/patch", "eviction/create":
		return decision{allowed: true}
	}
	return decision{}
}

// nodeItself decides about Node objects. Reading goes by name, so that a
// kubelet can look for its Node before there is one.
func nodeItself(node string, t target) decision {
	switch t.subresource + "/" + t.verb {
	case "/create", "/update", "/patch", "status/update", "status/patch":
		return decision{allowed: true} // of itself: admission makes sure
	case "/get", "/list", "/watch":
		switch t.name {
		case node:
			return decision{allowed: true}
		case "":
			return decision{reason: fmt.Sprintf("node '%s' cannot read all nodes, only its own Node object", node)}
		}
		return decision{reason: fmt.Sprintf("node '%s' cannot read '%s', only its own Node object", node, t.name)}
	}
	return decision{}
}

var ownVerbs = []string{"get", "create", "update", "patch", "delete"}

func nodeLease(node string, t target) decision {
	switch {
	case !slices.Contains(ownVerbs, t.verb):
		return decision{reason: "can only get, create, update, patch, or delete a node lease"}
	case t.namespace != corev1.NamespaceNodeLease:
		return decision{reason: fmt.Sprintf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease)}
	case t.verb != "create" && t.name != node:
		return decision{reason: "can only access node lease with the same name as the requesting node"}
	}
	return decision{allowed: true}
}

func nodeCSI(node string, t target) decision {
	switch {
	case !slices.Contains(ownVerbs, t.verb):
		return decision{reason: "can only get, create, update, patch, or delete a CSINode"}
	case t.subresource != "":
		return decision{reason: "cannot authorize CSINode subresources"}
	case t.verb != "create" && t.name != node:
		return decision{reason: "can only access CSINode with the same name as the requesting node"}
	}
	return decision{allowed: true}
}

func (a *authorizer) nodeSlice(ctx context.Context, node string, t target) decision {
	switch {
	case t.subresource != "":
		return decision{reason: "cannot authorize ResourceSlice subresources"}
	case t.verb == "create":
		return decision{allowed: true}
	case slices.Contains(ownVerbs, t.verb):
		return a.related(ctx, node, t)
	case t.selects(resourcev1.ResourceSliceSelectorNodeName, node):
		return decision{allowed: true}
	}
	return decision{reason: "can only list/watch/deletecollection resourceslices with nodeName field selector"}
}

// related says whether one object has to do with the node. A kubelet may have
// seen its pod at another API server whose cache is ahead of ours, so before
// the answer is no, ours catches up.
func (a *authorizer) related(ctx context.Context, node string, t target) decision {
	if t.name == "" {
		return decision{reason: "No Object name found"}
	}
	if a.usedBy(ctx, node, t) {
		return decision{allowed: true}
	}
	if a.server.store.Table(a.server.podsRow()).CatchUp(ctx) == nil && a.usedBy(ctx, node, t) {
		return decision{allowed: true}
	}
	return decision{reason: fmt.Sprintf("no relationship found between node '%s' and this object", node)}
}

// usedBy walks from the node's pods to the object.
func (a *authorizer) usedBy(ctx context.Context, node string, t target) bool {
	s := a.server
	switch t.resource {
	case "volumeattachments":
		attachment, ok := cached[*storagev1.VolumeAttachment](s, storagev1.GroupName, t.resource, t.name)
		return ok && attachment.Spec.NodeName == node
	case "resourceslices":
		slice, ok := cached[*resourcev1.ResourceSlice](s, resourcev1.GroupName, t.resource, t.name)
		return ok && slice.Spec.NodeName != nil && *slice.Spec.NodeName == node
	}
	for _, pod := range a.pods.of(ctx, node) {
		if t.resource == "pods" {
			if pod.Namespace == t.namespace && pod.Name == t.name {
				return true
			}
			continue
		}
		// A node that may make mirror pods must not get at objects by it.
		if _, mirror := pod.Annotations[mirrorPodKey]; !mirror && s.podUses(pod, t) {
			return true
		}
	}
	return false
}

// podUses reports whether a pod leads to the object.
func (s *Server) podUses(pod *corev1.Pod, t target) bool {
	for _, ref := range podReferences(pod) {
		if ref.resource == t.resource && ref.name == t.name && pod.Namespace == t.namespace {
			return true
		}
		if ref.resource != "persistentvolumeclaims" || t.resource != "persistentvolumes" && t.resource != "secrets" {
			continue
		}
		volume := s.volumeOf(pod.Namespace, ref.name)
		if volume == nil {
			continue
		}
		if t.resource == "persistentvolumes" && volume.Name == t.name ||
			t.resource == "secrets" && slices.Contains(volumeSecrets(volume), [2]string{t.namespace, t.name}) {
			return true
		}
	}
	return false
}

// volumeOf is the volume that a claim is bound to, if the volume says so too.
func (s *Server) volumeOf(namespace, name string) *corev1.PersistentVolume {
	claim, ok := cached[*corev1.PersistentVolumeClaim](s, "", "persistentvolumeclaims", storage.Key(namespace, name))
	if !ok || claim.Spec.VolumeName == "" {
		return nil
	}
	volume, ok := cached[*corev1.PersistentVolume](s, "", "persistentvolumes", claim.Spec.VolumeName)
	if !ok || volume.Spec.ClaimRef == nil || volume.Spec.ClaimRef.Namespace != namespace || volume.Spec.ClaimRef.Name != name {
		return nil
	}
	return volume
}
