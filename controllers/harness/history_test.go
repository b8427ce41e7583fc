package harness

import (
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestHistory(t *testing.T) {
	two := int32(2)
	h := History{
		Owner:    &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "agent", UID: "agent"}},
		Template: &corev1.PodTemplateSpec{}, HashLabel: "hash", Limit: &two,
		InUse: func(*appsv1.ControllerRevision) bool { return false },
	}
	var owned []*appsv1.ControllerRevision
	image := func(image string) {
		h.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: image}}
	}
	keep := func() historyPlan {
		p := h.plan(owned)
		if p.create {
			owned = append(owned, p.current)
		}
		if p.update {
			i := slices.IndexFunc(owned, func(r *appsv1.ControllerRevision) bool { return r.Name == p.current.Name })
			owned[i] = p.current
		}
		owned = slices.DeleteFunc(owned, func(r *appsv1.ControllerRevision) bool {
			return slices.ContainsFunc(p.remove, func(o *appsv1.ControllerRevision) bool { return o.Name == r.Name })
		})
		return p
	}
	image("v1")
	first := keep()
	if !first.create || first.current.Revision != 1 || first.current.Labels["hash"] == "" {
		t.Fatalf("first: %+v", first)
	}
	if again := keep(); again.create || again.update || again.current.Name != first.current.Name {
		t.Errorf("again: %+v", again)
	}
	image("v2")
	if p := keep(); !p.create || p.current.Revision != 2 {
		t.Errorf("second: %+v", p)
	}
	image("v1")
	if p := keep(); p.create || !p.update || p.current.Revision != 3 || p.current.Name != first.current.Name {
		t.Errorf("rollback: %+v", p)
	}
	for _, v := range []string{"v3", "v4", "v5"} {
		image(v)
		keep()
	}
	if len(owned) != 3 {
		t.Errorf("%d revisions are left, want the current and two", len(owned))
	}
	// kubectl rollout undo applies a revision's data as a patch.
	if data := string(first.current.Data.Raw); !strings.Contains(data, `"$patch":"replace"`) || !strings.Contains(data, `"image":"v1"`) {
		t.Errorf("data %s", data)
	}
}
