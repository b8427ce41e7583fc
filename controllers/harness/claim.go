package harness

import (
	"context"
	"encoding/json"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"tinykube/client"
)

// Claims sorts objects by what an owner with a selector has to do with them.
type Claims[T client.Object] struct {
	Owned   []T // controlled by the owner, and selected
	Adopt   []T // selected, controlled by nobody
	Release []T // controlled by the owner, no longer selected
}

// Claim decides ownership: a controller owns what names it as its controller
// and fits its selector, so that two controllers whose selectors overlap never
// fight over one object. An owner that is being deleted adopts and releases
// nothing; what it has is the garbage collector's.
//
// Upstream: kubernetes/kubernetes pkg/controller/controller_ref_manager.go ClaimObject
func Claim[T client.Object](owner metav1.Object, selector labels.Selector, candidates []T) Claims[T] {
	var c Claims[T]
	deleting := owner.GetDeletionTimestamp() != nil
	for _, obj := range candidates {
		selected := selector.Matches(labels.Set(obj.GetLabels()))
		controller := metav1.GetControllerOfNoCopy(obj)
		switch {
		case controller != nil && controller.UID != owner.GetUID():
		case controller != nil && (selected || deleting):
			c.Owned = append(c.Owned, obj)
		case controller != nil:
			c.Release = append(c.Release, obj)
		case selected && !deleting && obj.GetDeletionTimestamp() == nil && obj.GetNamespace() == owner.GetNamespace():
			c.Adopt = append(c.Adopt, obj)
		}
	}
	return c
}

// Selecting finds the keys of the owners whose selector fits an object of their
// namespace: who might adopt an orphan, and whom a change of what they only
// count concerns.
func Selecting[T, O client.Object](owners *Store[O], selectorOf func(O) *metav1.LabelSelector) func(T) []string {
	return func(obj T) []string {
		var keys []string
		for _, owner := range owners.ByIndex(ByNamespace, obj.GetNamespace()) {
			selector, err := metav1.LabelSelectorAsSelector(selectorOf(owner))
			if err == nil && selector.Matches(labels.Set(obj.GetLabels())) {
				keys = append(keys, client.Key(owner))
			}
		}
		return keys
	}
}

// Candidates returns what an owner may own: what it controls already, and its
// namespace's orphans.
func Candidates[T client.Object](store *Store[T], owner metav1.Object) []T {
	owned := store.ByIndex(ByController, string(owner.GetUID()))
	orphans := store.ByIndex(ByController, Orphans(owner.GetNamespace()))
	return append(owned[:len(owned):len(owned)], orphans...)
}

// Settle carries out Adopt and Release, and returns all that is owned then.
// Before it adopts anything it asks the server whether the owner still lives:
// a stale cache must not tie orphans to an owner that is going away.
func Settle[T, O client.Object](ctx context.Context, store *Store[T], owners *Store[O], owner O, c Claims[T]) ([]T, error) {
	owned := c.Owned
	for _, obj := range c.Release {
		if err := release(ctx, store, owner, obj); ignoreNotFound(err) != nil {
			return nil, fmt.Errorf("release %s: %w", client.Key(obj), err)
		}
	}
	if len(c.Adopt) == 0 {
		return owned, nil
	}
	live, err := owners.Live(ctx, owner.GetNamespace(), owner.GetName())
	if err != nil {
		return nil, fmt.Errorf("before adopting: %w", err)
	}
	if live.GetUID() != owner.GetUID() || live.GetDeletionTimestamp() != nil {
		return owned, nil
	}
	for _, obj := range c.Adopt {
		adopted, err := adopt(ctx, store, owners.Kind().GVK(), owner, obj)
		if ignoreNotFound(err) != nil {
			return nil, fmt.Errorf("adopt %s: %w", client.Key(obj), err)
		}
		if err == nil {
			owned = append(owned, adopted)
		}
	}
	return owned, nil
}

// ControllerRef is the owner reference that makes owner the controller.
func ControllerRef(owner metav1.Object, kind schema.GroupVersionKind) metav1.OwnerReference {
	return *metav1.NewControllerRef(owner, kind)
}

// adopt and release name the object's UID in the patch: the server refuses it
// with a conflict if another object has taken the name.
func adopt[T client.Object](ctx context.Context, store *Store[T], kind schema.GroupVersionKind, owner metav1.Object, obj T) (T, error) {
	return patchOwners(ctx, store, obj, ControllerRef(owner, kind))
}

func release[T client.Object](ctx context.Context, store *Store[T], owner metav1.Object, obj T) error {
	_, err := patchOwners(ctx, store, obj, map[string]any{"$patch": "delete", "uid": owner.GetUID()})
	return err
}

func patchOwners[T client.Object](ctx context.Context, store *Store[T], obj T, reference any) (T, error) {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid":             obj.GetUID(),
		"ownerReferences": []any{reference},
	}})
	if err != nil {
		var none T
		return none, err
	}
	return store.Patch(ctx, obj.GetNamespace(), obj.GetName(), types.StrategicMergePatchType, patch)
}

// ownerKey returns the key of obj's controller if it is of the given kind.
func ownerKey(obj metav1.Object, kind string) (string, bool) {
	ref := metav1.GetControllerOfNoCopy(obj)
	if ref == nil || ref.Kind != kind {
		return "", false
	}
	if obj.GetNamespace() == "" {
		return ref.Name, true
	}
	return obj.GetNamespace() + "/" + ref.Name, true
}
