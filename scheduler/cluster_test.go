package scheduler

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
	"tinykube/internal/testenv"
	"tinykube/scheduler/config"
)

// The tests of this file run the whole scheduler against a real API server.

// cluster is an API server with nothing else in it.
type cluster struct {
	t     testing.TB
	cfg   *client.Config
	nodes *client.Resource[*corev1.Node]
	pods  *client.Resource[*corev1.Pod]
}

func newCluster(t testing.TB) *cluster {
	cfg := testenv.Start(t)
	api, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	// Admission wants it; a controller would make it.
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "default"}}
	if _, err := client.For(api, client.ServiceAccounts).Create(context.Background(), account); err != nil {
		t.Fatal(err)
	}
	return &cluster{t, cfg, client.For(api, client.Nodes), client.For(api, client.Pods)}
}

// schedule runs a scheduler until the returned function is called.
func (c *cluster) schedule(election client.ElectionConfig) (stop func()) {
	cfg := *c.cfg
	cfg.Transport = asScheduler(c.t, c.cfg)
	api, err := client.New(&cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	s, err := New(Config{Component: config.Default(), Election: election}, api, slog.New(slog.DiscardHandler))
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.Run(ctx); err != nil {
			c.t.Errorf("Run: %v", err)
		}
	})
	stop = func() { cancel(); running.Wait() }
	c.t.Cleanup(stop)
	return stop
}

// asScheduler reaches the API server as system:kube-scheduler, so that these
// tests also prove that its rights suffice.
func asScheduler(t testing.TB, cfg *client.Config) http.RoundTripper {
	t.Helper()
	certificate, err := tls.X509KeyPair(cfg.CertData, cfg.KeyData)
	if err != nil {
		t.Fatal(err)
	}
	authorities := x509.NewCertPool()
	authorities.AppendCertsFromPEM(cfg.CAData)
	transport := &http.Transport{ForceAttemptHTTP2: true,
		TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{certificate}, RootCAs: authorities, ServerName: cfg.ServerName}}
	t.Cleanup(transport.CloseIdleConnections)
	return impersonator{transport}
}

type impersonator struct{ http.RoundTripper }

func (i impersonator) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Impersonate-User", "system:kube-scheduler")
	return i.RoundTripper.RoundTrip(r)
}

func (c *cluster) addNode(name, cpu string) {
	c.t.Helper()
	node := testNode(name, cpu, func(n *corev1.Node) { n.Labels = map[string]string{corev1.LabelHostname: name} })
	created, err := c.nodes.Create(context.Background(), node)
	if err != nil {
		c.t.Fatal(err)
	}
	// Admission taints nodes that nobody has seen ready yet; a node lifecycle
	// controller would take the taint away.
	created.Spec.Taints = nil
	if created, err = c.nodes.Update(context.Background(), created); err != nil {
		c.t.Fatal(err)
	}
	created.Status = node.Status
	if _, err := c.nodes.UpdateStatus(context.Background(), created); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) addPod(name string, change ...func(*corev1.Pod)) {
	c.t.Helper()
	pod := testPod(name, change...)
	pod.UID, pod.ResourceVersion, pod.Spec.Containers[0].Image = "", "", "app:1"
	if _, err := c.pods.Create(context.Background(), pod); err != nil {
		c.t.Fatal(err)
	}
}

// until polls a pod until the condition holds.
func (c *cluster) until(name, what string, holds func(*corev1.Pod) bool) *corev1.Pod {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for {
		pod, err := c.pods.Get(ctx, "default", name)
		if err == nil && holds(pod) {
			return pod
		}
		if ctx.Err() != nil {
			c.t.Fatalf("pod %s: not %s: %+v %v", name, what, pod, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func bound(pod *corev1.Pod) bool { return pod.Spec.NodeName != "" }

func sentence(pod *corev1.Pod) string {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable {
			return c.Message
		}
	}
	return ""
}

func TestAllPodsArePlacedAndNoneTooMany(t *testing.T) {
	c := newCluster(t)
	for i := range 5 {
		c.addNode(fmt.Sprint("n", i), "4")
	}
	for i := range 10 {
		c.addPod(fmt.Sprint("early-", i))
	}
	c.schedule(client.ElectionConfig{})
	for i := range 10 {
		c.addPod(fmt.Sprint("late-", i))
	}
	perNode := map[string]int{}
	for i := range 10 {
		perNode[c.until(fmt.Sprint("early-", i), "bound", bound).Spec.NodeName]++
		perNode[c.until(fmt.Sprint("late-", i), "bound", bound).Spec.NodeName]++
	}
	for node, pods := range perNode {
		if pods != 4 {
			t.Errorf("%s has %d pods of 1 CPU on 4 CPUs", node, pods)
		}
	}

	// One more does not fit, says so, and is woken by a new node.
	c.addPod("extra")
	pod := c.until("extra", "unschedulable", func(p *corev1.Pod) bool { return sentence(p) != "" })
	if got, want := sentence(pod), "0/5 nodes are available: 5 Insufficient cpu. no new claims to deallocate, preemption: 0/5 nodes are available: 5 No preemption victims found for incoming pod."; got != want {
		t.Errorf("sentence %q, want %q", got, want)
	}
	c.addNode("new", "4")
	if pod = c.until("extra", "bound", bound); pod.Spec.NodeName != "new" {
		t.Errorf("bound to %s", pod.Spec.NodeName)
	}
	// A pod that waits for room gets it when another goes.
	c.addPod("wide", func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = testNode("", "4").Status.Allocatable.DeepCopy()
		delete(p.Spec.Containers[0].Resources.Requests, corev1.ResourcePods)
		delete(p.Spec.Containers[0].Resources.Requests, corev1.ResourceMemory)
	})
	c.until("wide", "unschedulable", func(p *corev1.Pod) bool { return sentence(p) != "" })
	if err := c.pods.Delete(t.Context(), "default", "extra", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
		t.Fatal(err)
	}
	c.until("wide", "bound", bound)

	c.expectEvents("extra", "FailedScheduling: 0/5 nodes are available: 5 Insufficient cpu.", "Scheduled: Successfully assigned default/extra to new")
}

// expectEvents waits for events about a pod.
func (c *cluster) expectEvents(pod string, want ...string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	api, _ := client.New(c.cfg)
	var got []string
	for ctx.Err() == nil {
		events, err := client.For(api, client.Events).List(ctx, "default", metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod})
		if err != nil {
			c.t.Fatal(err)
		}
		got = nil
		for _, e := range events.Items {
			got = append(got, e.Reason+": "+e.Message)
		}
		missing := 0
		for _, w := range want {
			if !strings.Contains(strings.Join(got, "\n"), w) {
				missing++
			}
		}
		if missing == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	c.t.Errorf("events of %s: %q, want %q", pod, got, want)
}

func TestGatedPodIsPlacedWhenItsGateGoes(t *testing.T) {
	c := newCluster(t)
	c.addNode("n", "4")
	c.schedule(client.ElectionConfig{})
	c.addPod("gated", func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/g"}} })
	c.addPod("free")
	c.until("free", "bound", bound)
	pod := c.until("gated", "gated", func(p *corev1.Pod) bool {
		for _, cond := range p.Status.Conditions {
			if cond.Type == corev1.PodScheduled && cond.Reason == corev1.PodReasonSchedulingGated {
				return true
			}
		}
		return false
	})
	pod.Spec.SchedulingGates = nil
	if _, err := c.pods.Update(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	c.until("gated", "bound", bound)
}

func TestAnotherReplicaTakesOver(t *testing.T) {
	c := newCluster(t)
	c.addNode("n", "100")
	election := client.ElectionConfig{Namespace: "kube-system", Name: "kube-scheduler", Identity: "a"}
	stop := c.schedule(election)
	c.addPod("one")
	c.until("one", "bound", bound)
	election.Identity = "b"
	c.schedule(election)
	stop() // gives the lease back
	c.addPod("two")
	c.until("two", "bound", bound)
}

// BenchmarkCluster schedules pods that exist already, on 1,000 nodes, with a
// real API server and etcd on the same cores. Run it with a fixed count:
//
//	go test ./scheduler -run - -bench Cluster -benchtime 5000x
func BenchmarkCluster(b *testing.B) {
	c := newCluster(b)
	for i := range 1000 {
		c.addNode(fmt.Sprintf("n%04d", i), "64")
	}
	var next atomic.Int64
	var makers sync.WaitGroup
	for range 16 {
		makers.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				c.addPod(fmt.Sprint("p", i), func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests = nil })
			}
		})
	}
	makers.Wait()
	var boundPods atomic.Int64
	done := make(chan struct{})
	api, err := client.New(c.cfg)
	if err != nil {
		b.Fatal(err)
	}
	watcher := client.NewInformer(client.For(api, client.Pods), client.InformerOptions[*corev1.Pod]{Logger: slog.New(slog.DiscardHandler)})
	watcher.OnChange(func(old, new *corev1.Pod) {
		if new != nil && bound(new) && (old == nil || !bound(old)) && boundPods.Add(1) == int64(b.N) {
			close(done)
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() { _ = watcher.Run(ctx) })
	defer func() { cancel(); watching.Wait() }()
	<-watcher.Synced()
	b.ResetTimer()
	c.schedule(client.ElectionConfig{})
	<-done
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pods/s")
}
