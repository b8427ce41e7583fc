package apiserver

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"tinykube/api/validation"
)

// admitNodeRestriction keeps a kubelet to its own node and the pods on it, so
// that who breaks into one node has not broken into all. The Node authorizer
// decides by names; this decides by what is in the objects.
//
// Upstream: kubernetes@v1.36 plugin/pkg/admission/noderestriction/admission.go
func admitNodeRestriction(a *admission) error {
	node, ok := nodeName(a.user)
	if !ok {
		return nil
	}
	if node == "" {
		return a.refuse(fmt.Errorf("could not determine node from user %q", a.user.name))
	}
	switch a.row.Group + "/" + a.row.Plural {
	case "/pods":
		return a.restrictPod(node)
	case "/nodes":
		return a.restrictNode(node)
	case "/persistentvolumeclaims":
		return a.restrictClaim(node)
	case "coordination.k8s.io/leases":
		if a.namespace != corev1.NamespaceNodeLease {
			return a.refuse(fmt.Errorf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease))
		}
		return a.restrictName(node, "can only access node lease with the same name as the requesting node")
	case "storage.k8s.io/csinodes":
		return a.restrictName(node, "can only access CSINode with the same name as the requesting node")
	case "resource.k8s.io/resourceslices":
		return a.restrictSlice(node)
	case "certificates.k8s.io/certificatesigningrequests":
		return a.restrictRequest(node)
	}
	return nil
}

func (a *admission) restrictName(node, text string) error {
	if a.subject().GetName() != node {
		return a.refuse(errors.New(text))
	}
	return nil
}

// restrictPod allows a node its own mirror pods, and the status, eviction and
// deletion of pods bound to it.
func (a *admission) restrictPod(node string) error {
	pod, _ := a.obj.(*corev1.Pod)
	old, _ := a.old.(*corev1.Pod)
	switch {
	case a.subresource == "" && old == nil:
		return a.restrictMirror(node, pod)
	case a.subresource == "" && pod == nil:
		if old.Spec.NodeName != node {
			return a.refuse(fmt.Errorf("node %q can only delete pods with spec.nodeName set to itself", node))
		}
	case a.subresource == "eviction":
		if old.Spec.NodeName != node {
			return a.refuse(fmt.Errorf("node %s can only evict pods with spec.nodeName set to itself", node))
		}
	case a.subresource == "status":
		return a.restrictPodStatus(node, pod, old)
	case a.subresource == "":
		return a.refuse(fmt.Errorf("unexpected operation %q, node %q can only create and delete mirror pods", "UPDATE", node))
	default:
		return a.refuse(fmt.Errorf("unexpected pod subresource %q, only 'status' and 'eviction' are allowed", a.subresource))
	}
	return nil
}

func (a *admission) restrictPodStatus(node string, pod, old *corev1.Pod) error {
	switch {
	case old.Spec.NodeName != node:
		return a.refuse(fmt.Errorf("node %q can only update pod status for pods with spec.nodeName set to itself", node))
	case !maps.Equal(old.Labels, pod.Labels):
		return a.refuse(fmt.Errorf("node %q cannot update labels through pod status", node))
	case !equality.Semantic.DeepEqual(old.Status.ResourceClaimStatuses, pod.Status.ResourceClaimStatuses):
		return a.refuse(fmt.Errorf("node %q cannot update resource claim statues", node))
	case !equality.Semantic.DeepEqual(old.Status.ExtendedResourceClaimStatus, pod.Status.ExtendedResourceClaimStatus):
		return a.refuse(fmt.Errorf("node %q cannot update extended resource claim status", node))
	}
	return nil
}

// restrictMirror allows a node to make mirrors of its static pods, which belong
// to its Node and lead to nothing else in the API.
func (a *admission) restrictMirror(node string, pod *corev1.Pod) error {
	if _, mirror := pod.Annotations[mirrorPodKey]; !mirror {
		return a.refuse(fmt.Errorf("pod does not have %q annotation, node %q can only create mirror pods", mirrorPodKey, node))
	}
	if pod.Spec.NodeName != node {
		return a.refuse(fmt.Errorf("node %q can only create pods with spec.nodeName set to itself", node))
	}
	if len(pod.OwnerReferences) > 1 {
		return a.refuse(fmt.Errorf("node %q can only create pods with a single owner reference set to itself", node))
	}
	if len(pod.OwnerReferences) == 0 {
		return a.refuse(fmt.Errorf("node %q can only create pods with an owner reference set to itself", node))
	}
	switch owner := &pod.OwnerReferences[0]; {
	case owner.APIVersion != "v1" || owner.Kind != "Node" || owner.Name != node:
		return a.refuse(fmt.Errorf("node %q can only create pods with an owner reference set to itself", node))
	case owner.Controller == nil || !*owner.Controller:
		return a.refuse(fmt.Errorf("node %q can only create pods with a controller owner reference set to itself", node))
	case owner.BlockOwnerDeletion != nil && *owner.BlockOwnerDeletion:
		return a.refuse(fmt.Errorf("node %q must not set blockOwnerDeletion on an owner reference", node))
	default:
		own, err := fresh[*corev1.Node](a.Context(), a.server, "", "nodes", node)
		if err != nil {
			return err
		}
		if own.UID != owner.UID {
			return a.refuse(fmt.Errorf("node %s UID mismatch: expected %s got %s", node, owner.UID, own.UID))
		}
	}
	if what := apiReference(pod); what != "" {
		return a.refuse(fmt.Errorf("node %q can not create pods that reference %s", node, what))
	}
	return nil
}

// restrictNode lets a node write its own Node, except for what would draw
// other pods to it or let it escape.
func (a *admission) restrictNode(node string) error {
	if name := a.subject().GetName(); name != node {
		return a.refuse(fmt.Errorf("node %q is not allowed to modify node %q", node, name))
	}
	now, _ := a.obj.(*corev1.Node)
	was, update := a.old.(*corev1.Node)
	if now == nil {
		return nil
	}
	if !update {
		if now.Spec.ConfigSource != nil {
			return a.refuse(fmt.Errorf("node %q is not allowed to create pods with a non-nil configSource", node))
		}
		if bad := forbiddenLabels(now.Labels, nil); len(bad) > 0 {
			return a.refuse(fmt.Errorf("node %q is not allowed to set the following labels: %s", node, strings.Join(bad, ", ")))
		}
		return nil
	}
	if now.Spec.ConfigSource != nil && !equality.Semantic.DeepEqual(now.Spec.ConfigSource, was.Spec.ConfigSource) {
		return a.refuse(fmt.Errorf("node %q is not allowed to update configSource to a new non-nil configSource", node))
	}
	if !equality.Semantic.DeepEqual(now.Spec.Taints, was.Spec.Taints) {
		return a.refuse(fmt.Errorf("node %q is not allowed to modify taints", node))
	}
	if !equality.Semantic.DeepEqual(now.OwnerReferences, was.OwnerReferences) {
		return a.refuse(fmt.Errorf("node %q is not allowed to modify ownerReferences", node))
	}
	if bad := forbiddenLabels(now.Labels, was.Labels); len(bad) > 0 {
		return a.refuse(fmt.Errorf("is not allowed to modify labels: %s", strings.Join(bad, ", ")))
	}
	return nil
}

// kubeletLabels are the labels of Kubernetes' own that a node may give itself;
// those below kubelet.kubernetes.io and node.kubernetes.io are free as well.
var kubeletLabels = []string{
	corev1.LabelHostname, corev1.LabelTopologyZone, corev1.LabelTopologyRegion,
	corev1.LabelFailureDomainBetaZone, corev1.LabelFailureDomainBetaRegion,
	corev1.LabelInstanceType, corev1.LabelInstanceTypeStable, corev1.LabelOSStable, corev1.LabelArchStable,
	"beta.kubernetes.io/os", "beta.kubernetes.io/arch",
}

// forbiddenLabels are the labels that differ and that a node may not change: by
// them it would choose its pods.
func forbiddenLabels(now, was map[string]string) []string {
	var bad []string
	for _, labels := range []map[string]string{now, was} {
		for key := range labels {
			a, inNow := now[key]
			b, inWas := was[key]
			if (a != b || inNow != inWas) && !mayLabel(key) && !slices.Contains(bad, key) {
				bad = append(bad, key)
			}
		}
	}
	slices.Sort(bad)
	return bad
}

func mayLabel(key string) bool {
	domain, _, ok := strings.Cut(key, "/")
	if !ok {
		return true
	}
	within := func(suffix string) bool { return domain == suffix || strings.HasSuffix(domain, "."+suffix) }
	switch {
	case within(corev1.LabelNamespaceNodeRestriction):
		return false
	case !within("kubernetes.io") && !within("k8s.io"):
		return true
	}
	return slices.Contains(kubeletLabels, key) || within(corev1.LabelNamespaceSuffixKubelet) || within(corev1.LabelNamespaceSuffixNode)
}

// restrictClaim lets a node report how far it is with an expansion.
func (a *admission) restrictClaim(node string) error {
	now, ok := a.obj.(*corev1.PersistentVolumeClaim)
	if a.subresource != "status" || !ok {
		return a.refuse(errors.New("may only update PVC status"))
	}
	bare := func(claim *corev1.PersistentVolumeClaim) *corev1.PersistentVolumeClaim {
		claim = claim.DeepCopy()
		claim.ResourceVersion, claim.ManagedFields = "", nil
		claim.Status.Capacity, claim.Status.Conditions = nil, nil
		claim.Status.AllocatedResources, claim.Status.AllocatedResourceStatuses = nil, nil
		return claim
	}
	if !equality.Semantic.DeepEqual(bare(now), bare(a.old.(*corev1.PersistentVolumeClaim))) {
		return a.refuse(fmt.Errorf("node %q is not allowed to update fields other than status.quantity and status.conditions", node))
	}
	return nil
}

func (a *admission) restrictSlice(node string) error {
	verb, slice := "create", a.obj
	if a.obj == nil {
		verb, slice = "delete", a.old
	} else if a.old != nil {
		return nil // the authorizer has looked at the old one
	}
	if name := slice.(*resourcev1.ResourceSlice).Spec.NodeName; name == nil || *name != node {
		return a.refuse(fmt.Errorf("can only %s ResourceSlice with the same NodeName as the requesting node", verb))
	}
	return nil
}

// restrictRequest lets a node ask for certificates of its own name only.
func (a *admission) restrictRequest(node string) error {
	request, ok := a.obj.(*certificatesv1.CertificateSigningRequest)
	if !ok || a.old != nil || request.Spec.SignerName != certificatesv1.KubeletServingSignerName &&
		request.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName {
		return nil
	}
	asked, err := validation.ParseCertificateRequest(request.Spec.Request)
	if err != nil {
		return a.refuse(fmt.Errorf("unable to parse csr: %w", err))
	}
	if asked.Subject.CommonName != nodeUserPrefix+node {
		return a.refuse(fmt.Errorf("can only create a node CSR with CN=%s", nodeUserPrefix+node))
	}
	return nil
}

// restrictToken lets a node ask for tokens of its pods, for the audiences that
// those want. It is asked by createToken.
func (a *admission) restrictToken(asked *authenticationv1.TokenRequest) error {
	node, ok := nodeName(a.user)
	if !ok || !a.server.plugins.enabled(offByDefault) {
		return nil
	}
	ref := asked.Spec.BoundObjectRef
	if ref == nil || ref.APIVersion != "v1" || ref.Kind != "Pod" || ref.Name == "" {
		return a.refuse(errors.New("node requested token not bound to a pod"))
	}
	if ref.UID == "" {
		return a.refuse(errors.New("node requested token with a pod binding without a uid"))
	}
	pod, ok := current[*corev1.Pod](a.Context(), a.server, "", "pods", a.namespace+"/"+ref.Name)
	switch {
	case !ok:
		return apierrors.NewNotFound(corev1.Resource("pods"), ref.Name)
	case pod.UID != ref.UID:
		return a.refuse(fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
	case pod.Spec.NodeName != node:
		return a.refuse(errors.New("node requested token bound to a pod scheduled on a different node"))
	case len(asked.Spec.Audiences) > 1:
		return a.refuse(errors.New("node may only request 0 or 1 audiences"))
	}
	audience := strings.Join(asked.Spec.Audiences, "")
	if a.server.wantsAudience(pod, audience) || a.server.authz.allows(a.Context(), a.user, target{
		isResource: true, verb: "request-serviceaccounts-token-audience", version: "v1", namespace: a.namespace, resource: audience, name: a.name,
	}) {
		return nil
	}
	return a.refuse(fmt.Errorf("audience %q not found in pod spec volume, %s is not authorized to request tokens for this audience", audience, a.user.name))
}
