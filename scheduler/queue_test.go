package scheduler

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"tinykube/scheduler/config"
	"tinykube/scheduler/framework"
)

func testPod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), ResourceVersion: "1"},
		Spec: corev1.PodSpec{SchedulerName: config.DefaultSchedulerName, Containers: []corev1.Container{{
			Name: "c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}}}}},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func withPriority(n int32) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.Priority = &n } }

func testNode(name, cpu string, change ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse("32Gi"), corev1.ResourcePods: resource.MustParse("110")}}}
	for _, f := range change {
		f(n)
	}
	return n
}

// defaultProfile is the profile of pods that ask for none.
func defaultProfile(t testing.TB) *framework.Profile {
	t.Helper()
	profiles, err := config.Profiles(config.Default(), framework.Handle{})
	if err != nil {
		t.Fatal(err)
	}
	return profiles[0]
}

// inQueue runs a test against a running queue in virtual time.
func inQueue(t *testing.T, test func(q *Queue)) {
	profile := defaultProfile(t)
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue(QueueConfig{Less: profile.QueueSort.Less, Profile: func(*corev1.Pod) *framework.Profile { return profile }})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- q.Run(ctx) }()
		test(q)
		cancel()
		<-done
	})
}

// popped is the next pod's name, or "" when none may be taken once all is quiet.
func popped(q *Queue) string {
	synctest.Wait()
	q.mu.Lock()
	none := q.active.Len()+q.backoff.Len() == 0
	q.mu.Unlock()
	if none {
		return ""
	}
	pod, _ := q.Pop()
	return pod.Name
}

// fail lets an attempt fail, as NodeResourcesFit or another plugin does.
func fail(q *Queue, pod *corev1.Pod, plugins ...string) {
	rejectors := map[string]bool{}
	for _, p := range plugins {
		rejectors[p] = true
	}
	q.Requeue(pod, rejectors)
}

func expectPop(t *testing.T, q *Queue, want string) {
	t.Helper()
	if got := popped(q); got != want {
		t.Fatalf("popped %q, want %q", got, want)
	}
}

var freed = framework.Event{Action: framework.AssignedDelete, OldPod: testPod("gone")}

func TestQueueOrder(t *testing.T) {
	inQueue(t, func(q *Queue) {
		q.Add(testPod("first"))
		time.Sleep(time.Millisecond)
		q.Add(testPod("second"))
		q.Add(testPod("important", withPriority(1000)))
		q.Add(testPod("unimportant", withPriority(-1)))
		q.Add(testPod("deleted"))
		q.Delete("deleted")
		for _, want := range []string{"important", "first", "second", "unimportant", ""} {
			expectPop(t, q, want)
		}
	})
}

func TestQueueBackoffGrowsFromOneToTenSeconds(t *testing.T) {
	inQueue(t, func(q *Queue) {
		pod := testPod("p")
		q.Add(pod)
		expectPop(t, q, "p")
		for i, want := range []time.Duration{1, 2, 4, 8, 10, 10} {
			fail(q, pod) // an error: no plugin said no
			start := time.Now()
			got, _ := q.Pop()
			if waited := time.Since(start); waited != want*time.Second {
				t.Errorf("failure %d: waited %s, want %ds", i+1, waited, want)
			}
			if got.Attempts != i+2 {
				t.Errorf("failure %d: attempt %d", i+1, got.Attempts)
			}
		}
	})
}

func TestUnschedulablePodWaitsForAnEventThatHelps(t *testing.T) {
	inQueue(t, func(q *Queue) {
		pod := testPod("p")
		q.Add(pod)
		expectPop(t, q, "p")
		fail(q, pod, "NodeResourcesFit")
		time.Sleep(time.Minute)
		expectPop(t, q, "")
		// Not a reason to hope: a label, a node that is too small.
		q.Happened(framework.Event{Action: framework.NodeLabels, OldNode: testNode("n", "8"), NewNode: testNode("n", "8")})
		q.Happened(framework.Event{Action: framework.NodeAdd, NewNode: testNode("small", "500m")})
		expectPop(t, q, "")
		q.Happened(framework.Event{Action: framework.NodeAdd, NewNode: testNode("big", "8")})
		expectPop(t, q, "p") // the backoff is long over
	})
}

func TestBackoffIsForTheSakeOfOthers(t *testing.T) {
	inQueue(t, func(q *Queue) {
		pods := []*corev1.Pod{testPod("p"), testPod("important", withPriority(1000)), testPod("broken")}
		for _, pod := range pods {
			q.Add(pod)
			expectPop(t, q, pod.Name)
		}
		fail(q, pods[0], "NodeResourcesFit")
		fail(q, pods[1], "NodeResourcesFit")
		fail(q, pods[2]) // by an error: nothing makes this one earlier
		q.Happened(freed)
		q.Add(testPod("other"))
		for _, want := range []string{"other", "important", "p", ""} {
			expectPop(t, q, want)
		}
		time.Sleep(time.Second)
		expectPop(t, q, "broken")
	})
}

func TestEventDuringTheAttemptIsNotMissed(t *testing.T) {
	inQueue(t, func(q *Queue) {
		pod := testPod("p")
		q.Add(pod)
		expectPop(t, q, "p")
		q.Happened(freed) // after the snapshot was taken, for all we know
		fail(q, pod, "NodeResourcesFit")
		time.Sleep(time.Second)
		expectPop(t, q, "p")
		// An event before the attempt is no reason to repeat it.
		fail(q, pod, "NodeResourcesFit")
		time.Sleep(time.Minute)
		expectPop(t, q, "")
	})
}

func TestTooManyEventsDuringTheAttemptCountAsHelp(t *testing.T) {
	inQueue(t, func(q *Queue) {
		pod := testPod("p")
		q.Add(pod)
		expectPop(t, q, "p")
		for range maxMissed + 1 {
			q.Happened(framework.Event{Action: framework.NodeLabels, OldNode: testNode("n", "1"), NewNode: testNode("n", "1")})
		}
		fail(q, pod, "NodeResourcesFit")
		time.Sleep(time.Second)
		expectPop(t, q, "p")
	})
}

func TestNothingWaitsForever(t *testing.T) {
	inQueue(t, func(q *Queue) {
		pod := testPod("p")
		q.Add(pod)
		expectPop(t, q, "p")
		fail(q, pod, "NodeAffinity")
		time.Sleep(unschedulableFor - time.Second)
		expectPop(t, q, "")
		time.Sleep(flushEvery + time.Second)
		expectPop(t, q, "p")
	})
}

func TestGatedPodEntersWhenItsGatesAreGone(t *testing.T) {
	inQueue(t, func(q *Queue) {
		gated := testPod("p", func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}} })
		q.Add(gated)
		expectPop(t, q, "")
		if _, _, _, n := q.Pending(); n != 1 {
			t.Errorf("%d gated pods, want 1", n)
		}
		q.Happened(freed)
		expectPop(t, q, "")
		q.Update(gated, testPod("p"))
		expectPop(t, q, "p")
	})
}

func TestOwnChangeWakesOnlyThatPod(t *testing.T) {
	inQueue(t, func(q *Queue) {
		for _, name := range []string{"a", "b"} {
			pod := testPod(name)
			q.Add(pod)
			expectPop(t, q, name)
			fail(q, pod, "TaintToleration")
		}
		time.Sleep(time.Minute)
		tolerant := testPod("a", func(p *corev1.Pod) {
			p.ResourceVersion = "2"
			p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
		})
		q.Update(testPod("a"), tolerant)
		expectPop(t, q, "a")
		expectPop(t, q, "")
	})
}

func TestDeletedInFlightIsDroppedAtTheEnd(t *testing.T) {
	inQueue(t, func(q *Queue) {
		q.Add(testPod("p"))
		expectPop(t, q, "p")
		q.Delete("p") // the attempt finds out by itself and says Done
		q.Done("p")
		time.Sleep(time.Hour)
		expectPop(t, q, "")
	})
}

func TestQueueOfManyStaysOrdered(t *testing.T) {
	inQueue(t, func(q *Queue) {
		for i := range 500 {
			q.Add(testPod(fmt.Sprint(i), withPriority(int32(i*7919%500))))
		}
		last := int32(500)
		for range 500 {
			pod, _ := q.Pop()
			if *pod.Spec.Priority > last {
				t.Fatalf("priority %d after %d", *pod.Spec.Priority, last)
			}
			last = *pod.Spec.Priority
		}
	})
}
