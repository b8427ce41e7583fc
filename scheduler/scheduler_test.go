package scheduler

import (
	"fmt"
	"log/slog"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"tinykube/client"
	"tinykube/scheduler/config"
)

// offline makes a scheduler whose API server does not exist. Tests feed its
// handlers and look at its decisions.
func offline(t testing.TB) *Scheduler {
	t.Helper()
	api, err := client.New(&client.Config{Host: "https://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Component: config.Default()}, api, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// decide takes the next pod through its cycle and confirms the decision, as
// binding and watch would. It returns the node, or "" and the sentence.
func decide(s *Scheduler) (node, sentence string) {
	pod, _ := s.queue.Pop()
	a := newAttempt(s, pod)
	node, diagnosis, err := s.choose(a)
	if err != nil {
		return "", err.Error()
	}
	if diagnosis != nil {
		s.queue.Requeue(pod.Pod, diagnosis.Rejectors)
		return "", diagnosis.Error()
	}
	s.cache.Assume(pod.PodInfo, node)
	s.queue.Done(pod.UID)
	bound := pod.DeepCopy()
	bound.Spec.NodeName = node
	s.podChanged(pod.Pod, bound)
	return node, ""
}

func TestDecisionsNeverOvercommit(t *testing.T) {
	s := offline(t)
	for i := range 5 {
		s.nodeChanged(nil, testNode(fmt.Sprint("n", i), "4"))
	}
	for i := range 21 {
		s.podChanged(nil, testPod(fmt.Sprint("p", i)))
	}
	perNode := map[string]int{}
	for range 20 {
		node, sentence := decide(s)
		if node == "" {
			t.Fatal(sentence)
		}
		perNode[node]++
	}
	for node, pods := range perNode {
		if pods != 4 {
			t.Errorf("%s has %d pods of 1 CPU on 4 CPUs", node, pods)
		}
	}
	if node, sentence := decide(s); node != "" || sentence != "0/5 nodes are available: 5 Insufficient cpu. no new claims to deallocate, preemption: 0/5 nodes are available: 5 No preemption victims found for incoming pod." {
		t.Errorf("the pod too many: %q %q", node, sentence)
	}
}

func TestPodEvents(t *testing.T) {
	waiting := testPod("p")
	bound := testPod("p", onNode("a"))
	done := testPod("p", onNode("a"), func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })
	foreign := testPod("p", func(p *corev1.Pod) { p.Spec.SchedulerName = "other" })
	tests := []struct {
		name   string
		events [][2]*corev1.Pod
		queued int
		used   int64
	}{
		{"waits", [][2]*corev1.Pod{{nil, waiting}}, 1, 0},
		{"waits, told twice", [][2]*corev1.Pod{{nil, waiting}, {waiting, waiting}}, 1, 0},
		{"bound by somebody else", [][2]*corev1.Pod{{nil, waiting}, {waiting, bound}}, 0, 1000},
		{"bound when first seen", [][2]*corev1.Pod{{nil, bound}}, 0, 1000},
		{"finished", [][2]*corev1.Pod{{nil, bound}, {bound, done}}, 0, 0},
		{"finished when first seen", [][2]*corev1.Pod{{nil, done}}, 0, 0},
		{"deleted while it waits", [][2]*corev1.Pod{{nil, waiting}, {waiting, nil}}, 0, 0},
		{"deleted on its node", [][2]*corev1.Pod{{nil, bound}, {bound, nil}}, 0, 0},
		{"another scheduler's", [][2]*corev1.Pod{{nil, foreign}}, 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := offline(t)
			s.nodeChanged(nil, testNode("a", "4"))
			for _, e := range tt.events {
				s.podChanged(e[0], e[1])
			}
			if active, _, _, _ := s.queue.Pending(); active != tt.queued {
				t.Errorf("%d pods queued, want %d", active, tt.queued)
			}
			if got := used(s.cache, "a"); got != tt.used {
				t.Errorf("%d used, want %d", got, tt.used)
			}
		})
	}
}

func TestOwnDecisionIsNotQueuedAgain(t *testing.T) {
	s := offline(t)
	s.nodeChanged(nil, testNode("a", "4"))
	pod := testPod("p")
	s.podChanged(nil, pod)
	queued, _ := s.queue.Pop()
	s.cache.Assume(queued.PodInfo, "a")
	s.queue.Done(pod.UID)
	s.podChanged(pod, testPod("p")) // an older version, late
	if active, _, _, _ := s.queue.Pending(); active != 0 {
		t.Error("an assumed pod was queued")
	}
	s.podChanged(pod, nil)
	if got := used(s.cache, "a"); got != 0 {
		t.Errorf("a pod deleted while binding still uses %d", got)
	}
}

func TestSearchEndsEarlyAndGoesOn(t *testing.T) {
	s := offline(t)
	for i := range 1000 {
		s.nodeChanged(nil, testNode(fmt.Sprintf("n%03d", i), "4"))
	}
	seen := map[string]bool{}
	for i := range 3 {
		s.podChanged(nil, testPod(fmt.Sprint("p", i)))
		pod, _ := s.queue.Pop()
		_, feasible, _, err := s.filter(newAttempt(s, pod))
		if err != nil || len(feasible) != 420 { // 50 − 1000/125 = 42 %
			t.Fatalf("%d feasible nodes, %v", len(feasible), err)
		}
		for _, n := range feasible {
			seen[n.Node.Name] = true
		}
	}
	if len(seen) != 1000 {
		t.Errorf("three searches saw %d of 1000 nodes", len(seen))
	}
}

func TestEnoughNodes(t *testing.T) {
	for _, tt := range []struct {
		percentage  int32
		nodes, want int
	}{{0, 50, 50}, {0, 100, 100}, {0, 1000, 420}, {0, 5000, 500}, {0, 6000, 300}, {100, 5000, 5000}, {10, 500, 100}} {
		if got := enoughNodes(tt.percentage, tt.nodes); got != tt.want {
			t.Errorf("%d%% of %d: %d, want %d", tt.percentage, tt.nodes, got, tt.want)
		}
	}
}

func TestTiesArePickedEvenly(t *testing.T) {
	count := make([]int, 4)
	for range 3000 {
		count[pickHighest([]int64{7, 3, 7, 7})]++
	}
	if count[1] != 0 || slices.Min([]int{count[0], count[2], count[3]}) < 800 {
		t.Errorf("picked %v of scores 7 3 7 7", count)
	}
}

// BenchmarkDecide is the loop without the API server: queue, snapshot, filter,
// score, assume, and the watch's confirmation.
func BenchmarkDecide(b *testing.B) {
	for _, nodes := range []int{1000, 5000} {
		b.Run(fmt.Sprint("nodes=", nodes), func(b *testing.B) {
			s := offline(b)
			for i := range nodes {
				s.nodeChanged(nil, testNode(fmt.Sprintf("n%04d", i), "1000000"))
			}
			small := resource.MustParse("100m")
			pods := make([]*corev1.Pod, b.N)
			for i := range pods {
				pods[i] = testPod(fmt.Sprint("p", i), func(p *corev1.Pod) {
					p.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = small
				})
			}
			b.ReportAllocs()
			b.ResetTimer()
			for _, pod := range pods {
				s.podChanged(nil, pod)
				if node, sentence := decide(s); node == "" {
					b.Fatal(sentence)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pods/s")
		})
	}
}
