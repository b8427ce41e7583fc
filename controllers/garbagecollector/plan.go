package garbagecollector

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ownerState is what is known of an owner.
type ownerState int

const (
	solid   ownerState = iota // it exists
	gone                      // it certainly does not
	waiting                   // it exists, and waits in foreground deletion for its dependents
)

// action is what to do with an object whose owners have been judged.
type action struct {
	// unlink are owner references to take off, since other owners keep the
	// object alive.
	unlink []metav1.OwnerReference
	// delete says to delete the object, and how that spreads.
	delete      bool
	propagation metav1.DeletionPropagation
}

// judge decides about an object by its owners: one that exists and is not
// going away keeps it. states belongs to owners by position.
//
// Upstream: kubernetes/kubernetes pkg/controller/garbagecollector attemptToDeleteItem
func judge(owners []metav1.OwnerReference, states []ownerState, finalizers []string, hasDependents bool) action {
	if len(owners) == 0 {
		return action{}
	}
	var leaving []metav1.OwnerReference
	keep, wait := false, false
	for i, state := range states {
		switch state {
		case solid:
			keep = true
			continue
		case waiting:
			wait = true
		}
		leaving = append(leaving, owners[i])
	}
	switch {
	case keep:
		return action{unlink: leaving}
	case wait && hasDependents:
		// The owner waits for us, so it must also wait for ours.
		return action{delete: true, propagation: metav1.DeletePropagationForeground}
	case slices.Contains(finalizers, metav1.FinalizerOrphanDependents):
		return action{delete: true, propagation: metav1.DeletePropagationOrphan}
	case slices.Contains(finalizers, metav1.FinalizerDeleteDependents):
		return action{delete: true, propagation: metav1.DeletePropagationForeground}
	default:
		return action{delete: true, propagation: metav1.DeletePropagationBackground}
	}
}

// blocks says whether a dependent keeps an owner in foreground deletion.
func blocks(dependent *node, owner *node) bool {
	return slices.ContainsFunc(dependent.owners, func(ref metav1.OwnerReference) bool {
		return ref.UID == owner.uid && ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion
	})
}

// without removes references from owners.
func without(owners, remove []metav1.OwnerReference) []metav1.OwnerReference {
	return slices.DeleteFunc(slices.Clone(owners), func(ref metav1.OwnerReference) bool {
		return slices.ContainsFunc(remove, func(r metav1.OwnerReference) bool { return r.UID == ref.UID })
	})
}
