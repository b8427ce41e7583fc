package tainteviction

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestPlan(t *testing.T) {
	t0 := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	seconds := func(n int64) *int64 { return &n }
	tolerate := func(key string, s *int64) corev1.Toleration {
		return corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: s}
	}
	taint := func(key string, at time.Duration) corev1.Taint {
		added := metav1.NewTime(t0.Add(at))
		return corev1.Taint{Key: key, Effect: corev1.TaintEffectNoExecute, TimeAdded: &added}
	}
	for _, test := range []struct {
		name        string
		created     time.Duration
		tolerations []corev1.Toleration
		taints      []corev1.Taint
		want        time.Duration // -1: never
	}{
		{"no taint", -time.Hour, nil, nil, -1},
		{"not tolerated", -time.Hour, nil, []corev1.Taint{taint("a", 0)}, 0},
		{"only NoExecute counts", -time.Hour, nil, []corev1.Taint{{Key: "a", Effect: corev1.TaintEffectNoSchedule}}, -1},
		{"for five minutes, from when it was added", -time.Hour, []corev1.Toleration{tolerate("a", seconds(300))}, []corev1.Taint{taint("a", -time.Minute)}, 4 * time.Minute},
		{"for ever", -time.Hour, []corev1.Toleration{tolerate("a", nil)}, []corev1.Taint{taint("a", 0)}, -1},
		{"the soonest of several", -time.Hour, []corev1.Toleration{tolerate("a", seconds(300)), tolerate("b", seconds(60))}, []corev1.Taint{taint("a", 0), taint("b", 0)}, time.Minute},
		{"one of two not tolerated", -time.Hour, []corev1.Toleration{tolerate("a", nil)}, []corev1.Taint{taint("a", 0), taint("b", 0)}, 0},
		{"the first toleration that fits counts", -time.Hour, []corev1.Toleration{tolerate("a", nil), tolerate("a", seconds(1))}, []corev1.Taint{taint("a", 0)}, -1},
		{"a pod younger than the taint", time.Minute, []corev1.Toleration{tolerate("a", seconds(60))}, []corev1.Taint{taint("a", 0)}, 2 * time.Minute},
		{"negative seconds are none", -time.Hour, []corev1.Toleration{tolerate("a", seconds(-5))}, []corev1.Taint{taint("a", 0)}, 0},
		{"a taint without a time counts from when we saw it", -time.Hour, []corev1.Toleration{tolerate("a", seconds(60))}, []corev1.Taint{{Key: "a", Effect: corev1.TaintEffectNoExecute}}, 90 * time.Second},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(t0.Add(test.created))}, Spec: corev1.PodSpec{Tolerations: test.tolerations}}
		leave, ok := makePlan(pod, test.taints, t0.Add(30*time.Second))
		if ok != (test.want >= 0) || ok && leave.Sub(t0) != test.want {
			t.Errorf("%s: leave at %s (%v), want %s", test.name, leave.Sub(t0), ok, test.want)
		}
	}
}
