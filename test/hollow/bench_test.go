package hollow

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/apiserver"
	"tinykube/client"
	"tinykube/test/clusters"
)

// BenchmarkHollow is a thousand hollow nodes in one process: how long until
// all are ready, what they need then, and how much memory at most.
func BenchmarkHollow(b *testing.B) {
	const nodes = 1000
	for range b.N {
		c := clusters.New(b)
		c.ControllerManager("")
		start := time.Now()
		process := c.Hollow(nodes)
		c.Ready(nodes)
		took := time.Since(start)
		before, _ := process.Usage()
		const rest = 20 * time.Second
		time.Sleep(rest)
		after, peak := process.Usage()
		b.Logf("%d hollow nodes are ready after %.1f s, need %.2f cores when idle and at most %.0f MiB", nodes, took.Seconds(), (after-before).Seconds()/rest.Seconds(), peak)
		if peak > 1024 {
			b.Errorf("%.0f MiB, more than 1,024", peak)
		}
	}
}

// BenchmarkControllers gives the same work to our controller manager and, if
// $KUBE_CONTROLLER_MANAGER names one, to the real one, each as a process beside
// an API server, a scheduler and hollow nodes of the same sort.
func BenchmarkControllers(b *testing.B) {
	programs := map[string]string{"ours": clusters.Own(b, "kube-controller-manager")}
	if os.Getenv("KUBE_CONTROLLER_MANAGER") != "" {
		programs["real"] = clusters.Program(b, "KUBE_CONTROLLER_MANAGER")
	}
	clusters.Patience = 10 * time.Minute
	for range b.N {
		for _, name := range slices.Sorted(maps.Keys(programs)) {
			work(b, name, programs[name])
		}
	}
}

const (
	policy = `{"apiVersion":"audit.k8s.io/v1","kind":"Policy","omitStages":["RequestReceived"],"rules":[
{"level":"None","resources":[{"resources":["events"]},{"group":"events.k8s.io"},{"group":"coordination.k8s.io"},{"group":"authorization.k8s.io"},{"group":"authentication.k8s.io"}]},
{"level":"Metadata","verbs":["create","update","patch","delete","deletecollection"]}]}`
	oneLarge, manySmall, objects = 1000, 500, 5000
)

// bench is one program at work.
type bench struct {
	*clusters.Cluster
	b       *testing.B
	name    string
	log     string // of all writes
	manager *clusters.Process
	made    time.Time // the last pod
}

func work(b *testing.B, name, path string) {
	dir := b.TempDir()
	s := &bench{b: b, name: name, log: filepath.Join(dir, "audit.log")}
	if err := os.WriteFile(filepath.Join(dir, "policy"), []byte(policy), 0o600); err != nil {
		b.Fatal(err)
	}
	s.Cluster = clusters.New(b, func(cfg *apiserver.Config) {
		cfg.Audit = apiserver.AuditConfig{PolicyFile: filepath.Join(dir, "policy"), LogPath: s.log}
	})
	const nodes = 50
	// Nothing but the API server may be the limit, and nobody else wants to lead.
	unbound := []string{"--kube-api-qps=10000", "--kube-api-burst=10000", "--leader-elect=false"}
	scheduler, hollow := s.Scheduler(unbound...), s.Hollow(nodes)
	s.manager = s.ControllerManager(path, unbound...)
	s.Ready(nodes)
	b.Logf("%s: %.0f MiB with %d nodes", s.name, s.manager.Resident(), nodes)
	for _, task := range []struct {
		what string
		n    int
		do   func(ctx context.Context) error
		done func(ctx context.Context) (bool, error)
	}{
		{"a Deployment of 1,000 replicas", oneLarge, func(ctx context.Context) error { return s.deploy(ctx, "large", oneLarge) }, s.available(oneLarge)},
		{"500 Deployments at once", manySmall, func(ctx context.Context) error {
			return parallel(manySmall, func(i int) error { return s.deploy(ctx, fmt.Sprint("small-", i), 1) })
		}, s.available(oneLarge + manySmall)},
		{"a namespace of 5,000 ConfigMaps deleted", objects, func(ctx context.Context) error {
			return client.For(s.Client, client.Namespaces).Delete(ctx, "", "full", metav1.DeleteOptions{})
		}, s.gone("full")},
	} {
		if task.n == objects {
			s.fill("full")
		}
		cpu, _ := s.manager.Usage()
		writes, start := s.writes(), time.Now()
		if err := task.do(b.Context()); err != nil {
			b.Fatal(err)
		}
		clusters.Eventually(b, task.what, task.done)
		took := time.Since(start)
		after, peak := s.manager.Usage()
		total, diff := 0, s.writes()
		for what, n := range writes {
			diff[what] -= n
		}
		maps.DeleteFunc(diff, func(_ string, n int) bool { return n == 0 })
		for _, n := range diff {
			total += n
		}
		made := ""
		if s.made.After(start) {
			made = fmt.Sprintf(" (its pods made after %.2f s)", s.made.Sub(start).Seconds())
		}
		b.Logf("%s: %-40s %6.1f s%s, %6.2f ms of CPU and %.2f writes each, peak %4.0f MiB; %v", s.name, task.what, took.Seconds(), made,
			(after-cpu).Seconds()*1000/float64(task.n), float64(total)/float64(task.n), peak, diff)
	}
	for _, p := range []*clusters.Process{s.manager, scheduler, hollow} {
		p.Stop()
	}
}

func (s *bench) deploy(ctx context.Context, name string, replicas int32) error {
	labels := map[string]string{"app": name}
	_, err := client.For(s.Client, client.Deployments).Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "x:1"}}}}},
	})
	return err
}

func (s *bench) available(want int) func(ctx context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) {
		list, err := client.For(s.Client, client.Deployments).List(ctx, "default", all)
		if err != nil {
			return false, err
		}
		n := 0
		for _, d := range list.Items {
			n += int(d.Status.AvailableReplicas)
		}
		return n == want, fmt.Errorf("%d of %d are available", n, want)
	}
}

func (s *bench) gone(namespace string) func(ctx context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) {
		list, err := client.For(s.Client, client.Namespaces).List(ctx, "", metav1.ListOptions{FieldSelector: "metadata.name=" + namespace})
		return err == nil && len(list.Items) == 0, err
	}
}

func (s *bench) fill(namespace string) {
	s.MustKubectl("create", "namespace", namespace)
	err := parallel(objects, func(i int) error {
		_, err := client.For(s.Client, client.ConfigMaps).Create(s.b.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprint("c-", i)}})
		return err
	})
	if err != nil {
		s.b.Fatal(err)
	}
}

// parallel calls f for 0…n-1, sixteen at a time.
func parallel(n int, f func(i int) error) (failed error) {
	var mu sync.Mutex // guards failed
	var group sync.WaitGroup
	for worker := range 16 {
		group.Go(func() {
			for i := worker; i < n; i += 16 {
				if err := f(i); err != nil {
					mu.Lock()
					failed = err
					mu.Unlock()
				}
			}
		})
	}
	group.Wait()
	return failed
}

// writes counts the controller manager's writes so far, by verb and resource,
// and notes when it last made a pod.
func (s *bench) writes() map[string]int {
	file, err := os.Open(s.log)
	if err != nil {
		s.b.Fatal(err)
	}
	defer file.Close()
	counts := map[string]int{}
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var event struct {
			Verb, UserAgent string
			ObjectRef       struct{ Resource, Subresource string }
			StageTimestamp  metav1.MicroTime
		}
		if json.Unmarshal(lines.Bytes(), &event) != nil || !strings.HasPrefix(event.UserAgent, "kube-controller-manager") || event.ObjectRef.Subresource == "token" {
			continue
		}
		what := strings.TrimSuffix(event.Verb+" "+event.ObjectRef.Resource+"/"+event.ObjectRef.Subresource, "/")
		if counts[what]++; what == "create pods" {
			s.made = event.StageTimestamp.Time
		}
	}
	return counts
}
