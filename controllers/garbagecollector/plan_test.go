package garbagecollector

import (
	"fmt"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"tinykube/controllers/harness"
)

func refs(uids ...string) []metav1.OwnerReference {
	var list []metav1.OwnerReference
	for _, uid := range uids {
		list = append(list, metav1.OwnerReference{UID: types.UID(uid)})
	}
	return list
}

func TestJudge(t *testing.T) {
	const (
		foreground = metav1.DeletePropagationForeground
		background = metav1.DeletePropagationBackground
		orphan     = metav1.DeletePropagationOrphan
	)
	for _, test := range []struct {
		name       string
		states     []ownerState
		finalizers []string
		dependents bool
		want       action
	}{
		{"no owners", nil, nil, true, action{}},
		{"the owner lives", []ownerState{solid}, nil, true, action{}},
		{"one of two lives: the other's name goes", []ownerState{gone, solid}, nil, true, action{unlink: refs("0")}},
		{"one lives, one waits: do not make it wait", []ownerState{waiting, solid}, nil, true, action{unlink: refs("0")}},
		{"all gone", []ownerState{gone, gone}, nil, true, action{delete: true, propagation: background}},
		{"the owner waits, and we own others", []ownerState{waiting}, nil, true, action{delete: true, propagation: foreground}},
		{"the owner waits, and we own nothing", []ownerState{waiting}, nil, false, action{delete: true, propagation: background}},
		{"to be orphaned", []ownerState{gone}, []string{metav1.FinalizerOrphanDependents}, true, action{delete: true, propagation: orphan}},
		{"in the foreground", []ownerState{gone}, []string{metav1.FinalizerDeleteDependents}, true, action{delete: true, propagation: foreground}},
	} {
		var owners []metav1.OwnerReference
		for i := range test.states {
			owners = append(owners, refs(fmt.Sprint(i))...)
		}
		got := judge(owners, test.states, test.finalizers, test.dependents)
		if fmt.Sprint(got) != fmt.Sprint(test.want) {
			t.Errorf("%s: %+v, want %+v", test.name, got, test.want)
		}
	}
}

func TestGraph(t *testing.T) {
	g := newGraph()
	put := func(uid string, deleting bool, owners ...string) []types.UID {
		return g.put(&node{uid: types.UID(uid), deleting: deleting, owners: refs(owners...)})
	}
	check := func(what string, got []types.UID, want ...types.UID) {
		t.Helper()
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: look at %v, want %v", what, got, want)
		}
	}
	check("a dependent before its owner", put("pod", false, "rs"), "pod")
	check("an owner without owners", put("rs", false))
	check("another dependent", put("pod2", false, "rs"), "pod2")
	check("an owner that starts to wait", put("rs", true), "rs")
	check("a dependent of a waiting owner goes", g.drop("pod2"), "rs")
	check("a dependent lets go of a waiting owner", put("pod", false, "other"), "pod", "rs")
	put("pod", false, "rs")
	check("the owner goes", g.drop("rs"), "pod")
	check("what nobody knows", g.drop("rs"), "pod")
	if len(g.dependentsOf("rs")) != 1 || g.get("rs") != nil {
		t.Error("the dependent must be remembered under the owner that is gone")
	}
	g.drop("pod")
	if len(g.nodes) != 0 || len(g.dependents) != 0 {
		t.Errorf("left: %v %v", g.nodes, g.dependents)
	}
}

func TestFits(t *testing.T) {
	rs := harness.Resource{Group: "apps", Version: "v1", Kind: "ReplicaSet", Namespaced: true}
	owner := &node{resource: rs, namespace: "a", name: "web", uid: "u"}
	good := metav1.OwnerReference{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web", UID: "u"}
	other := good
	other.Name = "not-web"
	older := good
	older.APIVersion = "apps/v1beta1"
	foreign := good
	foreign.APIVersion = "example.com/v1"
	for i, test := range []struct {
		dependent *node
		ref       metav1.OwnerReference
		want      bool
	}{
		{&node{namespace: "a"}, good, true},
		{&node{namespace: "a"}, older, true},
		{&node{namespace: "b"}, good, false}, // a UID of another namespace is not a claim
		{&node{namespace: "a"}, other, false},
		{&node{namespace: "a"}, foreign, false},
		{&node{}, good, false},
	} {
		if got := fits(owner, test.dependent, test.ref); got != test.want {
			t.Errorf("%d: %v", i, got)
		}
	}
}
