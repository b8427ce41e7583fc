package harness

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"tinykube/client"
)

// DaemonSets and StatefulSets keep every pod template that they have had as a
// ControllerRevision, named by the template's hash. A pod's label says which
// one it was made of; kubectl rollout undo sends a revision's data back.

// ErrCollision says that the name we want is another revision's: the owner
// counts it in status.collisionCount, and the next hash is another one.
var ErrCollision = errors.New("hash collision")

// defaultHistoryLimit is how many unused revisions stay.
const defaultHistoryLimit = 10

// History describes an owner whose templates are kept.
type History struct {
	Owner      client.Object
	Selector   labels.Selector
	Template   *corev1.PodTemplateSpec
	HashLabel  string // of a revision
	Collisions *int32
	Limit      *int32
	// InUse says whether a pod is made of a revision, or will be.
	InUse func(*appsv1.ControllerRevision) bool
}

// historyPlan is what has to happen to the revisions.
type historyPlan struct {
	current *appsv1.ControllerRevision // of the template as it is now
	create  bool                       // current does not exist yet
	update  bool                       // current is an old one that became current again
	remove  []*appsv1.ControllerRevision
}

// plan finds the revision of the owner's template, or makes it, and gives it
// the highest number. Revisions that nothing uses are dropped, oldest first,
// when there are more than the limit.
//
// Upstream: kubernetes/kubernetes pkg/controller/history, pkg/controller/daemon/update.go constructHistory
func (h History) plan(owned []*appsv1.ControllerRevision) historyPlan {
	owned = slices.Clone(owned)
	slices.SortFunc(owned, func(a, b *appsv1.ControllerRevision) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), cmp.Compare(a.Name, b.Name))
	})
	var p historyPlan
	var old []*appsv1.ControllerRevision
	next, data := int64(1), templatePatch(h.Template)
	for _, revision := range owned {
		if sameData(revision.Data.Raw, data) {
			if p.current != nil {
				old = append(old, p.current) // twice the same: the older goes first
			}
			p.current = revision
		} else {
			old = append(old, revision)
		}
	}
	for _, revision := range old {
		next = max(next, revision.Revision+1)
	}
	switch {
	case p.current == nil:
		p.current, p.create = h.newRevision(data, next), true
	case p.current.Revision < next:
		p.current, p.update = p.current.DeepCopy(), true
		p.current.Revision = next
	}
	p.remove = h.beyondLimit(old)
	return p
}

func (h History) beyondLimit(old []*appsv1.ControllerRevision) []*appsv1.ControllerRevision {
	dead := slices.DeleteFunc(slices.Clone(old), h.InUse)
	limit := defaultHistoryLimit
	if h.Limit != nil {
		limit = int(*h.Limit)
	}
	return dead[:max(0, min(len(dead), len(old)-limit))]
}

func (h History) newRevision(data []byte, number int64) *appsv1.ControllerRevision {
	hash := Hash(json.RawMessage(data), h.Collisions)
	labels := map[string]string{h.HashLabel: hash}
	maps.Copy(labels, h.Template.Labels)
	return &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: h.Owner.GetNamespace(), Name: h.Owner.GetName() + "-" + hash, Labels: labels, Annotations: h.Owner.GetAnnotations(),
			OwnerReferences: []metav1.OwnerReference{ControllerRef(h.Owner, h.Owner.GetObjectKind().GroupVersionKind())},
		},
		Data: runtime.RawExtension{Raw: data}, Revision: number,
	}
}

// KeepHistory brings an owner's ControllerRevisions up to date. It returns the
// one of the owner's template, and all that there are.
func KeepHistory[O client.Object](ctx context.Context, revisions *Store[*appsv1.ControllerRevision], owners *Store[O], owner O, h History) (current *appsv1.ControllerRevision, all []*appsv1.ControllerRevision, err error) {
	h.Owner = owner
	owned, err := Settle(ctx, revisions, owners, owner, Claim(owner, h.Selector, Candidates(revisions, owner)))
	if err != nil {
		return nil, nil, err
	}
	p := h.plan(owned)
	if owner.GetDeletionTimestamp() != nil {
		return p.current, owned, nil
	}
	switch {
	case p.create:
		err = createRevision(ctx, revisions, owner, p.current)
		owned = append(owned[:len(owned):len(owned)], p.current)
	case p.update:
		_, err = revisions.Update(ctx, p.current)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("revision %s: %w", p.current.Name, err)
	}
	for _, revision := range p.remove {
		if err := revisions.Delete(ctx, revision, metav1.DeleteOptions{}); err != nil {
			return nil, nil, fmt.Errorf("delete old revision %s: %w", revision.Name, err)
		}
	}
	return p.current, owned, nil
}

func createRevision(ctx context.Context, revisions *Store[*appsv1.ControllerRevision], owner metav1.Object, revision *appsv1.ControllerRevision) error {
	_, err := revisions.Create(ctx, revision)
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	there, liveErr := revisions.Live(ctx, revision.Namespace, revision.Name)
	if liveErr != nil {
		return liveErr
	}
	if metav1.IsControlledBy(there, owner) && sameData(there.Data.Raw, revision.Data.Raw) {
		return errors.New("exists but is not in the cache yet")
	}
	return ErrCollision
}

// templatePatch is a revision's data: a strategic merge patch that brings the
// template back.
func templatePatch(template *corev1.PodTemplateSpec) []byte {
	raw, err := json.Marshal(template)
	if err != nil {
		panic(fmt.Sprintf("encode template: %v", err)) // API types always encode
	}
	fields := map[string]any{}
	if err := json.Unmarshal(raw, &fields); err != nil {
		panic(fmt.Sprintf("decode template: %v", err))
	}
	fields["$patch"] = "replace"
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"template": fields}})
	if err != nil {
		panic(fmt.Sprintf("encode patch: %v", err))
	}
	return patch
}

// TemplateOf is the template that a revision keeps. Since the patch replaces
// the whole of it, nothing has to be merged.
func TemplateOf(raw []byte) (*corev1.PodTemplateSpec, error) {
	var patch struct {
		Spec struct{ Template corev1.PodTemplateSpec }
	}
	err := json.Unmarshal(raw, &patch)
	return &patch.Spec.Template, err
}

// sameData compares two patches by the templates in them, so that neither the
// order of keys nor a field that a newer version writes out matters.
func sameData(a, b []byte) bool {
	x, errX := TemplateOf(a)
	y, errY := TemplateOf(b)
	return errX == nil && errY == nil && equality.Semantic.DeepEqual(x, y)
}
