package statefulset

import (
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
	"tinykube/controllers/harness"
)

func claimName(set *appsv1.StatefulSet, template string, ordinal int) string {
	return fmt.Sprintf("%s-%s-%d", template, set.Name, ordinal)
}

// claimsOf makes an ordinal's claims from the templates. They carry the
// selector's labels, so that "everything with app=web" finds them too.
func claimsOf(set *appsv1.StatefulSet, ordinal int) []*corev1.PersistentVolumeClaim {
	var claims []*corev1.PersistentVolumeClaim
	for i := range set.Spec.VolumeClaimTemplates {
		claim := set.Spec.VolumeClaimTemplates[i].DeepCopy()
		claim.Name, claim.Namespace = claimName(set, claim.Name, ordinal), set.Namespace
		if claim.Labels == nil {
			claim.Labels = map[string]string{}
		}
		maps.Copy(claim.Labels, set.Spec.Selector.MatchLabels)
		claim.Status = corev1.PersistentVolumeClaimStatus{}
		claims = append(claims, claim)
	}
	return claims
}

// claimsLeaving says whether a claim that an ordinal needs is on its way out,
// by an earlier scale-down or an earlier set of the same name: a pod made now
// would be given a disk that is about to vanish.
func (s snapshot) claimsLeaving(ordinal int) bool {
	name := podName(s.set, ordinal)
	for _, template := range s.set.Spec.VolumeClaimTemplates {
		claim := s.claims[claimName(s.set, template.Name, ordinal)]
		if claim == nil {
			continue
		}
		// A claim whose owner is the pod that is gone is about to be collected.
		stale := slices.ContainsFunc(claim.OwnerReferences, func(r metav1.OwnerReference) bool {
			return r.Kind == "Pod" && r.Name == name || r.Kind == "StatefulSet" && r.Name == s.set.Name && r.UID != s.set.UID
		})
		if claim.DeletionTimestamp != nil || stale {
			return true
		}
	}
	return false
}

// claimsToTell are a pod's claims whose owner references do not say what
// persistentVolumeClaimRetentionPolicy says, with references that do.
//
//	whenDeleted Delete   the set owns the claim: it goes with the set
//	whenScaled  Delete   while the pod is beyond the last ordinal it owns the
//	                     claim: it goes with the pod
//
// Upstream: kubernetes/kubernetes pkg/controller/statefulset isClaimOwnerUpToDate
func (s snapshot) claimsToTell(pod *corev1.Pod) []*corev1.PersistentVolumeClaim {
	ordinal, _ := ordinalOf(s.set, pod)
	condemned := ordinal < first(s.set) || ordinal >= first(s.set)+int(*s.set.Spec.Replicas)
	var changed []*corev1.PersistentVolumeClaim
	for _, template := range s.set.Spec.VolumeClaimTemplates {
		claim := s.claims[claimName(s.set, template.Name, ordinal)]
		if claim == nil {
			continue
		}
		if refs, ok := s.ownersOf(claim, pod, condemned); ok && !equality.Semantic.DeepEqual(refs, claim.OwnerReferences) {
			claim = claim.DeepCopy()
			claim.OwnerReferences = refs
			changed = append(changed, claim)
		}
	}
	return changed
}

// ownersOf computes a claim's references; ok is false for a claim that is not
// ours to decide about.
func (s snapshot) ownersOf(claim *corev1.PersistentVolumeClaim, pod *corev1.Pod, condemned bool) (refs []metav1.OwnerReference, ok bool) {
	const remove = appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	var policy appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy
	if s.set.Spec.PersistentVolumeClaimRetentionPolicy != nil {
		policy = *s.set.Spec.PersistentVolumeClaimRetentionPolicy
	}
	for _, ref := range claim.OwnerReferences {
		named := ref.Kind == "StatefulSet" && ref.Name == s.set.Name || ref.Kind == "Pod" && ref.Name == pod.Name
		switch {
		case ref.UID == s.set.UID || ref.UID == pod.UID: // written anew below
		case named:
			return nil, false // of one that is gone: garbage collection's
		case ref.Controller != nil && *ref.Controller:
			return nil, false // someone else's
		default:
			refs = append(refs, ref)
		}
	}
	switch {
	case policy.WhenScaled == remove && condemned:
		refs = append(refs, harness.ControllerRef(pod, client.Pods.GVK()))
	case policy.WhenDeleted == remove:
		refs = append(refs, harness.ControllerRef(s.set, client.StatefulSets.GVK()))
	}
	return refs, true
}
