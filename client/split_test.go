package client

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestSplitRoutes: each part sees its own, an object that moves leaves one part
// and appears in the other, and one that nobody asked for is nobody's.
func TestSplitRoutes(t *testing.T) {
	of := func(c *corev1.ConfigMap) string { return c.Labels["part"] }
	s := NewSplit(&Resource[*corev1.ConfigMap]{}, InformerOptions[*corev1.ConfigMap]{}, of)
	a, b := s.Part("a"), s.Part("b")
	if s.Part("a") != a {
		t.Error("a part is made twice")
	}
	told := map[string]int{}
	count := func(part string) func(old, new *corev1.ConfigMap) {
		return func(old, new *corev1.ConfigMap) {
			switch {
			case old == nil:
				told[part+" added"]++
			case new == nil:
				told[part+" deleted"]++
			default:
				told[part+" changed"]++
			}
		}
	}
	a.OnChange(count("a"))
	b.OnChange(count("b"))
	object := func(version, part string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "x", UID: "u", ResourceVersion: version, Labels: map[string]string{"part": part}}}
	}
	steps := []struct {
		part     string
		inA, inB bool
	}{{"", false, false}, {"a", true, false}, {"a", true, false}, {"b", false, true}, {"c", false, false}, {"a", true, false}}
	for i, step := range steps {
		s.whole.upsert(object(string(rune('1'+i)), step.part))
		_, inA := a.Get("d/x")
		_, inB := b.Get("d/x")
		if inA != step.inA || inB != step.inB {
			t.Errorf("step %d, now in part %q: a has it: %v, b has it: %v", i, step.part, inA, inB)
		}
	}
	s.whole.replace(nil, "9") // a relist that does not have it any more
	want := map[string]int{"a added": 2, "a changed": 1, "a deleted": 2, "b added": 1, "b deleted": 1}
	for what, n := range want {
		if told[what] != n {
			t.Errorf("told of %s %d times, want %d", what, told[what], n)
		}
	}
	if len(told) != len(want) {
		t.Errorf("told of %v", told)
	}
}

// TestSplitOnTheWire: all parts are synced when the whole is, and follow it.
func TestSplitOnTheWire(t *testing.T) {
	server := newFaultyServer(t)
	server.change("before", false)
	c, err := New(&Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	s := NewSplit(For(c, ConfigMaps), InformerOptions[*corev1.ConfigMap]{}, func(c *corev1.ConfigMap) string { return c.Name })
	before, after := s.Part("before"), s.Part("after")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	if !WaitSynced(t.Context(), before.Synced(), after.Synced()) || len(before.List()) != 1 || len(after.List()) != 0 {
		t.Errorf("at first: %v %v", before.List(), after.List())
	}
	server.cutWatches()
	server.change("before", true)
	server.change("after", false)
	server.compact()
	eventually(t, "the parts follow", func() bool { return len(before.List()) == 0 && len(after.List()) == 1 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
