package podgc

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestPlan(t *testing.T) {
	t0 := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	pod := func(name, node string, phase corev1.PodPhase, deleting bool, age int) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(t0.Add(-time.Duration(age) * time.Minute))}}
		p.Spec.NodeName, p.Status.Phase = node, phase
		if deleting {
			now := metav1.NewTime(t0)
			p.DeletionTimestamp = &now
		}
		return p
	}
	off := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "off"}, Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: corev1.TaintNodeOutOfService}}}}
	nodes := map[string]*corev1.Node{"here": {}, "off": off}
	pods := []*corev1.Pod{
		pod("runs", "here", corev1.PodRunning, false, 1),
		pod("terminating", "here", corev1.PodRunning, true, 1),
		pod("orphan", "gone", corev1.PodRunning, false, 1),
		pod("maybe-orphan", "missing-for-a-moment", corev1.PodRunning, false, 1),
		pod("never-placed", "", corev1.PodPending, true, 1),
		pod("pending", "", corev1.PodPending, false, 1),
		pod("stuck", "off", corev1.PodRunning, true, 1),
		pod("still-there", "off", corev1.PodRunning, false, 1),
		pod("done-1", "here", corev1.PodSucceeded, false, 3),
		pod("done-2", "here", corev1.PodFailed, false, 2),
		pod("done-3", "here", corev1.PodSucceeded, false, 1),
		pod("evicted", "here", corev1.PodFailed, false, 0),
	}
	pods[len(pods)-1].Status.Reason = "Evicted"
	for threshold, want := range map[int]string{
		0: "[never-placed orphan! stuck]",
		4: "[never-placed orphan! stuck]",
		3: "[evicted never-placed orphan! stuck]",
		2: "[done-1 evicted never-placed orphan! stuck]",
		1: "[done-1 done-2 evicted never-placed orphan! stuck]",
	} {
		var got []string
		for _, r := range makePlan(pods, nodes, map[string]bool{"gone": true}, threshold) {
			name := r.pod.Name
			if r.message != "" {
				name += "!"
			}
			got = append(got, name)
		}
		slices.Sort(got)
		if fmt.Sprint(got) != want {
			t.Errorf("threshold %d: %v, want %s", threshold, got, want)
		}
	}
}
