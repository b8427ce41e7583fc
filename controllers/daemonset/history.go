package daemonset

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	corev1 "k8s.io/api/core/v1"

	"tinykube/client"
	"tinykube/controllers/harness"
)

// history is what has to happen to a DaemonSet's ControllerRevisions.
type history struct {
	current *appsv1.ControllerRevision // of the template as it is now
	create  bool                       // current does not exist yet
	update  bool                       // current is an old one that became current again
	remove  []*appsv1.ControllerRevision
}

// makeHistory finds the revision of the DaemonSet's template, or makes it, and
// gives it the highest number. Revisions that no pod is made of are dropped
// when there are more than revisionHistoryLimit.
//
// Upstream: kubernetes/kubernetes pkg/controller/daemon/update.go constructHistory
func makeHistory(ds *appsv1.DaemonSet, owned []*appsv1.ControllerRevision, pods []*corev1.Pod) history {
	owned = slices.Clone(owned)
	slices.SortFunc(owned, func(a, b *appsv1.ControllerRevision) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), cmp.Compare(a.Name, b.Name))
	})
	var h history
	var old []*appsv1.ControllerRevision
	next, data := int64(1), templatePatch(ds)
	for _, revision := range owned {
		if sameData(revision.Data.Raw, data) {
			if h.current != nil {
				old = append(old, h.current) // twice the same: the older goes first
			}
			h.current = revision
		} else {
			old = append(old, revision)
		}
	}
	for _, revision := range old {
		next = max(next, revision.Revision+1)
	}
	switch {
	case h.current == nil:
		h.current, h.create = newRevision(ds, data, next), true
	case h.current.Revision < next:
		h.current, h.update = h.current.DeepCopy(), true
		h.current.Revision = next
	}
	h.remove = beyondLimit(ds, old, pods)
	return h
}

func beyondLimit(ds *appsv1.DaemonSet, old []*appsv1.ControllerRevision, pods []*corev1.Pod) []*appsv1.ControllerRevision {
	inUse := map[string]bool{}
	for _, pod := range pods {
		inUse[pod.Labels[hashLabel]] = true
	}
	dead := slices.DeleteFunc(slices.Clone(old), func(revision *appsv1.ControllerRevision) bool { return inUse[revision.Labels[hashLabel]] })
	limit := 10
	if ds.Spec.RevisionHistoryLimit != nil {
		limit = int(*ds.Spec.RevisionHistoryLimit)
	}
	return dead[:max(0, min(len(dead), len(old)-limit))]
}

func newRevision(ds *appsv1.DaemonSet, data []byte, number int64) *appsv1.ControllerRevision {
	hash := harness.Hash(json.RawMessage(data), ds.Status.CollisionCount)
	labels := map[string]string{hashLabel: hash}
	for key, value := range ds.Spec.Template.Labels {
		labels[key] = value
	}
	return &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: ds.Namespace, Name: ds.Name + "-" + hash, Labels: labels, Annotations: ds.Annotations,
			OwnerReferences: []metav1.OwnerReference{harness.ControllerRef(ds, client.DaemonSets.GVK())},
		},
		Data: runtime.RawExtension{Raw: data}, Revision: number,
	}
}

// templatePatch is a revision's data: a strategic merge patch that brings the
// template back. kubectl rollout undo sends it as it is.
func templatePatch(ds *appsv1.DaemonSet) []byte {
	raw, err := json.Marshal(&ds.Spec.Template)
	if err != nil {
		panic(fmt.Sprintf("encode template: %v", err)) // API types always encode
	}
	template := map[string]any{}
	if err := json.Unmarshal(raw, &template); err != nil {
		panic(fmt.Sprintf("decode template: %v", err))
	}
	template["$patch"] = "replace"
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"template": template}})
	if err != nil {
		panic(fmt.Sprintf("encode patch: %v", err))
	}
	return patch
}

// sameData compares two patches by the templates in them, so that neither the
// order of keys nor a field that a newer version writes out matters.
func sameData(a, b []byte) bool {
	decode := func(raw []byte) (appsv1.DaemonSet, bool) {
		var ds appsv1.DaemonSet
		err := json.Unmarshal(raw, &ds)
		return ds, err == nil
	}
	x, okX := decode(a)
	y, okY := decode(b)
	return okX && okY && equality.Semantic.DeepEqual(x.Spec.Template, y.Spec.Template)
}
