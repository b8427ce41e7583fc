package controllers

import (
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
	"tinykube/controllers/endpointslice"
	"tinykube/controllers/harness"
	"tinykube/controllers/nodelifecycle"
)

// These tests run the real manager in virtual time against fakeapi: half an
// hour of cluster life takes a fraction of a second.

var quick = Config{
	Controllers: []string{"serviceaccount", "nodelifecycle", "taint-eviction-controller", "deployment", "replicaset",
		"daemonset", "endpointslice", "endpoint", "podgc"},
	NodeLifecycle: nodelifecycle.Config{
		MonitorPeriod: 5 * time.Second, GracePeriod: 50 * time.Second, StartupGracePeriod: time.Minute,
		EvictionRate: 0.1, SecondaryEvictionRate: 0.01, LargeClusterThreshold: 50, UnhealthyZoneThreshold: 0.55,
	},
	EndpointSlice: endpointslice.Config{MaxPerSlice: 100},
}

func logger() *slog.Logger {
	if os.Getenv("TINYKUBE_TEST_LOG") != "" {
		return slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	return slog.New(slog.NewTextHandler(io.Discard, nil))
}

// quiet waits until nothing is written for a while, then makes sure that it
// stays so: the fix point.
func (c *cluster) quiet() {
	c.t.Helper()
	const long = time.Minute
	for range 100 {
		time.Sleep(long)
		if writes := c.api.Writes(); len(writes) == 0 {
			return
		}
	}
	c.t.Fatal("never comes to rest")
}

// until waits for something, and says how long it took.
func (c *cluster) until(what string, limit time.Duration, ok func() bool) time.Duration {
	c.t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > limit {
			c.t.Fatalf("after %s not: %s", limit, what)
		}
		time.Sleep(c.tick / 2)
	}
	return time.Since(start)
}

func between(t *testing.T, what string, got, least, most time.Duration) {
	t.Helper()
	if got < least || got > most {
		t.Errorf("%s after %s, want %s to %s", what, got, least, most)
	}
}

// TestNodeDeath is the timeline that every operator has in mind.
func TestNodeDeath(t *testing.T) {
	for _, restart := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, quick, "node-0", "node-1", "node-2")
			defer c.stop()
			c.start()
			c.deploy("web", "v1", 6)
			c.quiet()
			on := func(name string, also func(*corev1.Pod) bool) (n int) {
				for _, pod := range c.pods() {
					if pod.Spec.NodeName == name && also(pod) {
						n++
					}
				}
				return n
			}
			leaving := func(pod *corev1.Pod) bool { return pod.DeletionTimestamp != nil }
			isReady := harness.IsReady
			there := on("node-2", func(*corev1.Pod) bool { return true })
			if there == 0 {
				t.Fatal("no pod on node-2")
			}

			c.dead["node-2"].Store(true)
			took := c.until("Ready=Unknown", 2*time.Minute, func() bool { return ready(c.node("node-2")) == corev1.ConditionUnknown })
			between(t, "Ready=Unknown", took, 40*time.Second, 60*time.Second) // the last beat was up to 10 s before
			c.until("pods not ready", 5*time.Second, func() bool { return on("node-2", isReady) == 0 })
			c.until("taints", 5*time.Second, func() bool { return len(c.node("node-2").Spec.Taints) == 2 })
			if restart {
				time.Sleep(100 * time.Second)
				c.stopManager()
				c.start()
				took = 100 * time.Second
			} else {
				took = 0
			}
			if on("node-2", leaving) != 0 {
				t.Error("evicted at once")
			}
			took += c.until("eviction", 10*time.Minute, func() bool { return on("node-2", leaving) == there })
			between(t, "eviction", took, 299*time.Second, 306*time.Second)
			c.until("replacements", 10*time.Second, func() bool { return on("node-0", isReady)+on("node-1", isReady) == 6 })

			c.dead["node-2"].Store(false)
			c.until("recovery", 20*time.Second, func() bool {
				return ready(c.node("node-2")) == corev1.ConditionTrue && len(c.node("node-2").Spec.Taints) == 0
			})
			c.until("evicted pods gone", 5*time.Second, func() bool { return len(c.pods()) == 6 })
			c.quiet()
		})
	}
}

// TestAllNodesSilent: it is we who are cut off, so nothing is evicted.
func TestAllNodesSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, quick, "node-0", "node-1", "node-2")
		defer c.stop()
		c.start()
		c.deploy("web", "v1", 6)
		c.quiet()
		for _, dead := range c.dead {
			dead.Store(true)
		}
		time.Sleep(time.Hour)
		for _, pod := range c.pods() {
			if pod.DeletionTimestamp != nil {
				t.Fatalf("pod %s was evicted", pod.Name)
			}
		}
		if got := ready(c.node("node-1")); got != corev1.ConditionUnknown {
			t.Errorf("Ready is %s", got)
		}
	})
}

// TestNodeDeleted: what ran on a node that no longer exists is given up, after
// a quarantine in which it might have come back.
func TestNodeDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, quick, "node-0", "node-1")
		defer c.stop()
		c.start()
		c.deploy("web", "v1", 4)
		c.quiet()
		c.dead["node-1"].Store(true)
		if err := client.For(c.client, client.Nodes).Delete(t.Context(), "", "node-1", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		took := c.until("pods of the node gone", 5*time.Minute, func() bool {
			return !slices.ContainsFunc(c.pods(), func(pod *corev1.Pod) bool { return pod.Spec.NodeName == "node-1" })
		})
		between(t, "removal", took, 39*time.Second, 61*time.Second)
		c.until("replacements", 10*time.Second, func() bool { return len(c.pods()) == 4 })
		c.quiet()
	})
}

func TestProgressDeadlineInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, quick, "node-0")
		defer c.stop()
		c.start()
		c.deploy("web", "broken", 2)
		took := c.until("ProgressDeadlineExceeded", time.Hour, func() bool {
			d := must(client.For(c.client, client.Deployments).Get(t.Context(), "default", "web"))
			return slices.ContainsFunc(d.Status.Conditions, func(c appsv1.DeploymentCondition) bool {
				return c.Reason == "ProgressDeadlineExceeded" && c.Status == corev1.ConditionFalse
			})
		})
		between(t, "ProgressDeadlineExceeded", took, 599*time.Second, 606*time.Second) // conditions have times in whole seconds
		c.quiet()
	})
}

// TestLaggingWatch: what a controller has just written is not yet in its
// cache, and must not be written again.
func TestLaggingWatch(t *testing.T) {
	for _, lag := range []time.Duration{0, 100 * time.Millisecond, 3 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, quick, "node-0", "node-1")
			defer c.stop()
			c.api.Lag = lag
			c.start()
			c.deploy("web", "v1", 10)
			c.quiet()
			c.api.Writes()
			d := must(client.For(c.client, client.Deployments).Get(t.Context(), "default", "web"))
			d.Spec.Template.Spec.Containers[0].Image = "v2"
			must(client.For(c.client, client.Deployments).Update(t.Context(), d))
			time.Sleep(5 * time.Minute)
			count := map[string]int{}
			for _, write := range c.api.Writes() {
				if fields := strings.Fields(write); fields[0] == "POST" && !strings.HasSuffix(write, "binding") {
					count[fields[0]+" "+fields[1]]++
				}
			}
			if count["POST pods"] != 10 || count["POST replicasets"] != 1 {
				t.Errorf("lag %s: %v, want 10 pods and 1 ReplicaSet", lag, count)
			}
			if n := len(c.pods()); n != 10 {
				t.Errorf("lag %s: %d pods", lag, n)
			}
			c.quiet()
		})
	}
}

// TestLostWatches cuts every watch again and again in the middle of a rollout,
// with history gone: what happened meanwhile is only in the next list.
func TestLostWatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, quick, "node-0", "node-1")
		defer c.stop()
		c.api.Lag = 2 * time.Second
		c.start()
		c.deploy("web", "v1", 10)
		created := map[string]bool{}
		for second := range 600 {
			if second%7 == 0 {
				c.api.Compact()
			}
			if second == 300 {
				d := must(client.For(c.client, client.Deployments).Get(t.Context(), "default", "web"))
				d.Spec.Template.Spec.Containers[0].Image = "v2"
				must(client.For(c.client, client.Deployments).Update(t.Context(), d))
			}
			pods := c.pods()
			for _, pod := range pods {
				created[pod.Name] = true
			}
			time.Sleep(time.Second)
		}
		if len(created) != 20 || len(c.pods()) != 10 {
			t.Errorf("%d pods made, %d left, want 20 and 10", len(created), len(c.pods()))
		}
		c.quiet()
	})
}

// TestLostAnswers: a third of all writes take effect without an answer, and
// another third never arrive.
func TestLostAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, quick, "node-0", "node-1")
		defer c.stop()
		c.api.Lag = time.Second
		c.start()
		c.deploy("web", "v1", 20)
		lost := &http.ProtocolError{ErrorString: "connection reset"}
		var n atomic.Int64
		created := map[string]bool{}
		c.api.Fault = func(method, path string) (before, after error) {
			if strings.Contains(path, "leases") {
				return nil, nil
			}
			switch n.Add(1) % 3 {
			case 0:
				return lost, nil
			case 1:
				return nil, lost
			}
			return nil, nil
		}
		most := 0
		for range 600 {
			pods := c.pods()
			most = max(most, len(pods))
			for _, pod := range pods {
				created[pod.Name] = true
			}
			time.Sleep(time.Second)
		}
		if most != 20 || len(created) != 20 {
			t.Errorf("%d pods at most, %d in all, want 20", most, len(created))
		}
	})
}

// TestKilledAfterAnyWrite stops the manager right after its n-th write, with
// the answer lost, for every n, starts another, and expects the same end with
// nothing doubled.
func TestKilledAfterAnyWrite(t *testing.T) {
	for n := int64(1); ; n++ {
		reached := false
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, quick, "node-0", "node-1", "node-2")
			defer c.stop()
			c.deploy("web", "v1", 4)
			must(client.For(c.client, client.DaemonSets).Create(t.Context(), agent("default")))
			must(client.For(c.client, client.Services).Create(t.Context(), &corev1.Service{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
				Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}},
			}))
			killed := make(chan struct{})
			var writes atomic.Int64
			c.api.Fault = func(method, path string) (before, after error) {
				ours := strings.Contains(path, "sets") || strings.Contains(path, "deployments") || strings.Contains(path, "endpoint") ||
					strings.Contains(path, "revisions") || method == http.MethodPost && strings.HasSuffix(path, "pods")
				if !ours {
					return nil, nil
				}
				switch i := writes.Add(1); {
				case i == n:
					close(killed)
					return nil, errors.New("killed")
				case i > n:
					return errors.New("killed"), nil // dead managers write nothing
				}
				return nil, nil
			}
			c.start()
			select {
			case <-killed:
				reached = true
			case <-time.After(5 * time.Minute):
			}
			c.stopManager()
			c.api.Fault = nil
			c.start()
			c.quiet()
			on := map[string]int{}
			for _, pod := range c.pods() {
				on[pod.Labels["app"]]++
				if pod.Labels["app"] == "agent" {
					on[pod.Spec.NodeName]++
				}
			}
			if want := map[string]int{"web": 4, "agent": 3, "node-0": 1, "node-1": 1, "node-2": 1}; !maps.Equal(on, want) {
				t.Errorf("killed after write %d: pods %v, want %v", n, on, want)
			}
			if revisions := must(client.For(c.client, client.ControllerRevisions).List(t.Context(), "", metav1.ListOptions{})); len(revisions.Items) != 1 {
				t.Errorf("killed after write %d: %d revisions", n, len(revisions.Items))
			}
			sets := must(client.For(c.client, client.ReplicaSets).List(t.Context(), "", metav1.ListOptions{}))
			slices := must(client.For(c.client, client.EndpointSlices).List(t.Context(), "", metav1.ListOptions{}))
			if len(sets.Items) != 1 || len(slices.Items) != 1 || len(slices.Items[0].Endpoints) != 4 {
				t.Errorf("killed after write %d: %d ReplicaSets, %d slices", n, len(sets.Items), len(slices.Items))
			}
			d := must(client.For(c.client, client.Deployments).Get(t.Context(), "default", "web"))
			if d.Status.AvailableReplicas != 4 || d.Annotations["deployment.kubernetes.io/revision"] != "1" {
				t.Errorf("killed after write %d: %+v", n, d.Status)
			}
		})
		if !reached {
			t.Logf("every one of %d writes was survived", n-1)
			return
		}
		if t.Failed() || n > 200 {
			t.FailNow()
		}
	}
}

// TestFewWrites bounds what a rollout costs.
func TestFewWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, quick, "node-0", "node-1")
		defer c.stop()
		c.start()
		c.deploy("web", "v1", 100)
		time.Sleep(5 * time.Minute)
		count := map[string]int{}
		for _, write := range c.api.Writes() {
			fields := strings.Fields(write)
			if fields[1] == "pods" && (fields[0] != "POST" || strings.HasSuffix(write, "binding")) {
				continue // the nodes' and the scheduler's
			}
			count[fields[0]+" "+fields[1]]++
		}
		t.Logf("100 replicas: %v", count)
		if count["POST pods"] != 100 || count["POST replicasets"] != 1 || count["PUT replicasets"] > 110 || count["PUT deployments"] > 110 {
			t.Errorf("writes: %v", count)
		}
		c.quiet()
	})
}
