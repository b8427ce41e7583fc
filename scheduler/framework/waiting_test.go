package framework

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestWaitingPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := NewWaitingPods()
		add := func() *WaitingPod {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u"}}
			return all.Add(NewPodInfo(pod), "n", map[string]time.Duration{"a": time.Minute, "b": time.Hour})
		}
		start := time.Now()
		if s := all.Await(t.Context(), add()); s.Message() != "rejected due to timeout after waiting 1m0s at plugin a" || s.Plugin != "a" || time.Since(start) != time.Minute {
			t.Errorf("%v after %v", s, time.Since(start))
		}
		p := add()
		go func() {
			time.Sleep(time.Second)
			p.Allow("a")
			time.Sleep(10 * time.Minute) // its own patience no longer counts
			all.Get("u").Allow("b")
		}()
		if s := all.Await(t.Context(), p); s != nil {
			t.Error(s)
		}
		if all.Get("u") != nil || p.Reject("c", "too late") {
			t.Error("still there")
		}
		p = add()
		p.Allow("a")
		if !p.Reject("b", "no") {
			t.Error("not in time")
		}
		p.Allow("b")
		if s := all.Await(t.Context(), p); s.Code != Unschedulable || s.Message() != "no" {
			t.Error(s)
		}
	})
}
