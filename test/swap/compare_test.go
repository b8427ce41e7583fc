package swap

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"golang.org/x/sync/errgroup"

	"tinykube/client"
	"tinykube/internal/randomcluster"
	"tinykube/internal/testenv"
	"tinykube/scheduler/config"
	"tinykube/scheduler/framework"
	"tinykube/scheduler/simulate"
	"tinykube/test/clusters"
)

var (
	howMany   = flag.Int("clusters", 50, "how many random clusters to decide about")
	firstSeed = flag.Uint64("first", 1, "seed of the first of them")
	record    = flag.String("record", "", "file for what the real scheduler decided")
	verbosity = flag.String("their-v", "0", "verbosity of the real scheduler")
)

// tooMany differences end the comparison.
const tooMany = 20

// TestCompareScheduler lets the real kube-scheduler decide about random
// clusters, one after another, on our API server. What it decided must be what
// ours would: a node among those with the highest score, the same sentence,
// the same victims.
func TestCompareScheduler(t *testing.T) {
	c := newComparison(t)
	differences := 0
	uses := map[string]int{}
	recorded := map[uint64][]simulate.Outcome{}
	kinds := map[string]int{}
	began := time.Now()
	for seed := *firstSeed; seed < *firstSeed+uint64(*howMany) && differences < tooMany; seed++ {
		cluster := randomcluster.New(seed)
		judge := c.judge(cluster)
		c.create(cluster)
		for i, pod := range cluster.Waiting {
			outcome := c.outcome(pod, fmt.Sprintf("%d of cluster %d", i, seed))
			recorded[seed] = append(recorded[seed], outcome)
			kinds[kindOf(outcome)]++
			if err := judge.Decide(randomcluster.Complete(pod), outcome); err != nil {
				differences++
				t.Errorf("cluster %d, %d nodes: %v", seed, len(cluster.Nodes), err)
				break
			}
		}
		for use, n := range judge.Uses {
			uses[use] += n
		}
		c.remove()
	}
	t.Logf("%d clusters in %s: %v\n%d differences", len(recorded), time.Since(began).Round(time.Second), kinds, differences)
	for _, use := range slices.Sorted(maps.Keys(uses)) {
		t.Logf("%7d times %s", uses[use], use)
	}
	if *record != "" && differences == 0 {
		writeRecord(t, *record, recorded)
	}
}

func kindOf(o simulate.Outcome) string {
	switch {
	case o.Nominated != "":
		return "preempted others"
	case o.Node != "":
		return "placed"
	}
	return "unschedulable"
}

// comparison is our API server with the real scheduler at it.
type comparison struct {
	t        *testing.T
	api      *client.Client
	pods     *client.Resource[*corev1.Pod]
	nodes    *client.Resource[*corev1.Node]
	profiles func(*simulate.World) []*framework.Profile

	mu      sync.Mutex // guards what follows
	seen    map[string]*seen
	changed chan struct{}
}

// seen is what the watch showed of a pod: the first of each.
type seen struct{ node, sentence, nominated string }

func newComparison(t *testing.T) *comparison {
	path := clusters.Program(t, "KUBE_SCHEDULER")
	server := testenv.Start(t)
	// As fast as the server is; the real one's default is 50 requests a second.
	api, err := client.New(server)
	if err != nil {
		t.Fatal(err)
	}
	component, err := config.Load([]byte(randomcluster.Config))
	if err != nil {
		t.Fatal(err)
	}
	c := &comparison{t: t, api: api, pods: client.For(api, client.Pods), nodes: client.For(api, client.Nodes), seen: map[string]*seen{}, changed: make(chan struct{})}
	c.profiles = func(world *simulate.World) []*framework.Profile {
		profiles, err := config.Profiles(component, framework.Handle{Objects: world})
		if err != nil {
			t.Fatal(err)
		}
		return profiles
	}
	c.createWorld()
	c.follow()
	file := filepath.Join(t.TempDir(), "scheduler.yaml")
	write(t, file, randomcluster.Config+fmt.Sprintf("leaderElection: {leaderElect: false}\nclientConnection: {kubeconfig: %q, qps: 5000, burst: 5000}\n", kubeconfig(t, server)))
	start(t, path, "--config="+file, "--secure-port=0", "-v="+*verbosity)
	return c
}

// create makes an object and, if it has one, its status.
func create[T client.Object](c *comparison, kind client.Kind[T], object T, withStatus func(created T) bool) {
	c.t.Helper()
	created, err := client.For(c.api, kind).Create(c.t.Context(), object)
	if err == nil && withStatus != nil && withStatus(created) {
		_, err = client.For(c.api, kind).UpdateStatus(c.t.Context(), created)
	}
	if err != nil {
		c.t.Fatalf("%s %s: %v", kind.Kind, object.GetName(), err)
	}
}

func (c *comparison) createWorld() {
	for _, object := range randomcluster.World() {
		switch o := object.(type) {
		case *corev1.Namespace:
			create(c, client.Namespaces, o, nil)
		case *corev1.Service:
			create(c, client.Services, o, nil)
		case *appsv1.ReplicaSet:
			create(c, client.ReplicaSets, o, nil)
		case *policyv1.PodDisruptionBudget:
			create(c, client.PodDisruptionBudgets, o.DeepCopy(), func(created *policyv1.PodDisruptionBudget) bool {
				created.Status = o.Status
				return true
			})
		case *schedulingv1.PriorityClass:
			create(c, client.PriorityClasses, o, nil)
		case *storagev1.StorageClass:
			create(c, client.StorageClasses, o, nil)
		case *corev1.PersistentVolume:
			create(c, client.PersistentVolumes, o, nil)
		case *corev1.PersistentVolumeClaim:
			create(c, client.PersistentVolumeClaims, o, nil)
		default:
			c.t.Fatalf("%T", o)
		}
	}
	for _, namespace := range []string{randomcluster.Home, randomcluster.Other} {
		create(c, client.ServiceAccounts, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "default"}}, nil)
	}
}

// follow keeps seen up to date.
func (c *comparison) follow() {
	informer := client.NewInformer(c.pods, client.InformerOptions[*corev1.Pod]{Logger: slog.New(slog.DiscardHandler)})
	informer.OnChange(func(old, new *corev1.Pod) {
		c.mu.Lock()
		defer c.mu.Unlock()
		defer func() { close(c.changed); c.changed = make(chan struct{}) }()
		if new == nil {
			delete(c.seen, client.Key(old))
			return
		}
		s := c.seen[client.Key(new)]
		if s == nil {
			s = &seen{}
			c.seen[client.Key(new)] = s
		}
		first := func(known *string, value string) {
			if *known == "" {
				*known = value
			}
		}
		first(&s.node, new.Spec.NodeName)
		first(&s.sentence, sentenceOf(new))
		first(&s.nominated, new.Status.NominatedNodeName)
	})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = informer.Run(ctx) })
	c.t.Cleanup(func() { cancel(); running.Wait() })
	<-informer.Synced()
}

// judge is ours, knowing the same cluster.
func (c *comparison) judge(cluster *randomcluster.Cluster) *simulate.Judge {
	world := &simulate.World{}
	if err := world.AddAll(cluster.Objects()); err != nil {
		c.t.Fatal(err)
	}
	return simulate.NewJudge(c.profiles(world), world)
}

// create makes the cluster, its last node last.
func (c *comparison) create(cluster *randomcluster.Cluster) {
	c.t.Helper()
	node := func(n *corev1.Node) error {
		created, err := c.nodes.Create(c.t.Context(), n)
		if err == nil {
			// Admission taints new nodes as not ready; nobody here takes that away.
			created.Spec.Taints = n.Spec.Taints
			_, err = c.nodes.Update(c.t.Context(), created)
		}
		return err
	}
	last := len(cluster.Nodes) - 1
	inParallel(c.t, cluster.Nodes[:last], node)
	inParallel(c.t, cluster.Nodes[last:], node)
	inParallel(c.t, cluster.Running, func(pod *corev1.Pod) error {
		created, err := c.pods.Create(c.t.Context(), pod)
		if err == nil {
			created.Status.StartTime, created.Status.Phase = pod.Status.StartTime, pod.Status.Phase
			_, err = c.pods.UpdateStatus(c.t.Context(), created)
		}
		return err
	})
}

func inParallel[T any](t *testing.T, list []T, do func(T) error) {
	t.Helper()
	var group errgroup.Group
	group.SetLimit(8)
	for _, item := range list {
		group.Go(func() error { return do(item) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}

// outcome creates a pod and waits for what becomes of it. One that cannot be
// placed is deleted, so that it is not tried again.
func (c *comparison) outcome(pod *corev1.Pod, what string) simulate.Outcome {
	c.t.Helper()
	before := c.names()
	create(c, client.Pods, pod, nil)
	if pod.Name == "probe" {
		// It is for the scheduler to see the nodes first; it fits then.
		return simulate.Outcome{Node: c.until(client.Key(pod), what, func(s *seen) bool { return s.node != "" }).node}
	}
	s := c.until(client.Key(pod), what, func(s *seen) bool { return s.node != "" || s.sentence != "" })
	if s.sentence != "" && s.nominated != "" {
		later, placed := c.wait(client.Key(pod), returnPatience, func(s *seen) bool { return s.node != "" })
		if s = later; !placed {
			// Its victims are gone, and nothing woke it: with the real one, this
			// happens now and then. The victims can be compared all the same.
			c.t.Logf("%s: not placed within %s, though others went: %+v", what, returnPatience, s)
			defer func() { _ = c.pods.Delete(c.t.Context(), pod.Namespace, pod.Name, metav1.DeleteOptions{}) }()
		}
	} else if s.sentence != "" {
		if err := c.pods.Delete(c.t.Context(), pod.Namespace, pod.Name, metav1.DeleteOptions{}); err != nil {
			c.t.Fatal(err)
		}
		return simulate.Outcome{Sentence: s.sentence}
	}
	o := simulate.Outcome{Node: s.node, Sentence: s.sentence, Nominated: s.nominated}
	after := c.names()
	for name := range before {
		if !after[name] {
			o.Victims = append(o.Victims, name)
		}
	}
	slices.Sort(o.Victims)
	return o
}

// names are those of all pods. No two in a cluster have the same.
func (c *comparison) names() map[string]bool {
	c.t.Helper()
	list, err := c.pods.List(c.t.Context(), "", metav1.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	names := map[string]bool{}
	for _, pod := range list.Items {
		names[pod.Name] = true
	}
	return names
}

// returnPatience is for a pod to come back when its room has been made.
const returnPatience = 20 * time.Second

func (c *comparison) until(key, what string, holds func(*seen) bool) seen {
	c.t.Helper()
	s, decided := c.wait(key, patience, holds)
	if !decided {
		c.t.Fatalf("no decision about pod %s within %s: %+v", what, patience, s)
	}
	return s
}

func (c *comparison) wait(key string, patience time.Duration, holds func(*seen) bool) (last seen, held bool) {
	deadline := time.After(patience)
	for {
		c.mu.Lock()
		changed, s := c.changed, c.seen[key]
		if s != nil {
			last, held = *s, holds(s)
		}
		c.mu.Unlock()
		if held {
			return last, true
		}
		select {
		case <-changed:
		case <-deadline:
			return last, false
		}
	}
}

// remove ends the cluster.
func (c *comparison) remove() {
	c.t.Helper()
	for _, namespace := range []string{randomcluster.Home, randomcluster.Other} {
		if err := c.pods.DeleteCollection(c.t.Context(), namespace, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}, metav1.ListOptions{}); err != nil {
			c.t.Fatal(err)
		}
	}
	if err := c.nodes.DeleteCollection(c.t.Context(), "", metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

func writeRecord(t *testing.T, path string, outcomes map[uint64][]simulate.Outcome) {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	zipped, _ := gzip.NewWriterLevel(file, gzip.BestCompression)
	for _, write := range []func() error{func() error { return json.NewEncoder(zipped).Encode(outcomes) }, zipped.Close, file.Close} {
		if err := write(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("recorded in %s", path)
}
