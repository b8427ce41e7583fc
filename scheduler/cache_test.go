package scheduler

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"tinykube/scheduler/framework"
)

func onNode(name string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.NodeName = name }
}

// used is the CPU that the cache counts on a node.
func used(c *Cache, node string) int64 {
	info := c.Snapshot().ByName[node]
	if info == nil {
		return -1
	}
	return info.Requested.MilliCPU
}

func TestAssumedPodsCount(t *testing.T) {
	assumed := func(c *Cache) { c.Assume(framework.NewPodInfo(testPod("p")), "a") }
	tests := []struct {
		name string
		do   func(c *Cache)
		a, b int64
	}{
		{"nothing", func(*Cache) {}, 0, 0},
		{"assumed", assumed, 1000, 0},
		{"assumed, forgotten", func(c *Cache) { assumed(c); c.Forget("p") }, 0, 0},
		{"assumed, confirmed", func(c *Cache) { assumed(c); c.AddPod(testPod("p", onNode("a"))) }, 1000, 0},
		{"confirmed pods cannot be forgotten", func(c *Cache) { assumed(c); c.AddPod(testPod("p", onNode("a"))); c.Forget("p") }, 1000, 0},
		{"the watch says another node", func(c *Cache) { assumed(c); c.AddPod(testPod("p", onNode("b"))) }, 0, 1000},
		{"deleted before it was confirmed", func(c *Cache) { assumed(c); c.RemovePod("p") }, 0, 0},
		{"bound, expired", func(c *Cache) { assumed(c); c.Bound("p"); c.Expire(time.Now().Add(assumedFor + time.Second)) }, 0, 0},
		{"bound, not expired", func(c *Cache) { assumed(c); c.Bound("p"); c.Expire(time.Now().Add(assumedFor / 2)) }, 1000, 0},
		{"still binding never expires", func(c *Cache) { assumed(c); c.Expire(time.Now().Add(24 * time.Hour)) }, 1000, 0},
		{"a node gone and back keeps its pods", func(c *Cache) {
			c.AddPod(testPod("p", onNode("a")))
			c.RemoveNode("a")
			c.SetNode(testNode("a", "4"))
		}, 1000, 0},
		{"a node gone", func(c *Cache) { c.AddPod(testPod("p", onNode("a"))); c.RemoveNode("a") }, -1, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := NewCache()
			c.SetNode(testNode("a", "4"))
			c.SetNode(testNode("b", "4"))
			c.Snapshot()
			tt.do(c)
			if a, b := used(c, "a"), used(c, "b"); a != tt.a || b != tt.b {
				t.Errorf("used a=%d b=%d, want a=%d b=%d", a, b, tt.a, tt.b)
			}
		})
	}
}

func TestPodsMayArriveBeforeTheirNode(t *testing.T) {
	c := NewCache()
	c.AddPod(testPod("p", onNode("a")))
	if n := len(c.Snapshot().Nodes); n != 0 {
		t.Fatalf("%d nodes in the snapshot, want none", n)
	}
	c.SetNode(testNode("a", "4"))
	if got := used(c, "a"); got != 1000 {
		t.Errorf("used %d, want 1000", got)
	}
}

// After any sequence of events the incremental snapshot equals one made anew.
func TestSnapshotIsIncrementalAndRight(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	c := NewCache()
	for step := range 3000 {
		node, pod := fmt.Sprint("n", random.IntN(8)), fmt.Sprint("p", random.IntN(40))
		switch random.IntN(6) {
		case 0:
			c.SetNode(testNode(node, "4"))
		case 1:
			if random.IntN(4) == 0 {
				c.RemoveNode(node)
			}
		case 2:
			c.AddPod(testPod(pod, onNode(node)))
		case 3:
			if !c.Assumed(testPod(pod).UID) {
				c.Assume(framework.NewPodInfo(testPod(pod)), node)
			}
		case 4:
			c.Forget(testPod(pod).UID)
		case 5:
			c.RemovePod(testPod(pod).UID)
		}
		if random.IntN(3) != 0 {
			continue
		}
		snapshot := c.Snapshot()
		pods := map[string]int64{}
		for _, p := range c.pods {
			pods[p.node] += p.pod.Requests.MilliCPU
		}
		count := 0
		for name, info := range c.nodes {
			if info.Node == nil {
				continue
			}
			count++
			if got := snapshot.ByName[name]; got == nil || got.Requested.MilliCPU != pods[name] || int64(len(got.Pods))*1000 != pods[name] {
				t.Fatalf("step %d: node %s: %+v, want %d", step, name, got, pods[name])
			}
		}
		if len(snapshot.Nodes) != count || len(snapshot.ByName) != count {
			t.Fatalf("step %d: %d nodes listed, %d by name, want %d", step, len(snapshot.Nodes), len(snapshot.ByName), count)
		}
		for _, info := range snapshot.Nodes {
			if snapshot.ByName[info.Node.Name] != info {
				t.Fatalf("step %d: the list and the map disagree about %s", step, info.Node.Name)
			}
		}
	}
}
