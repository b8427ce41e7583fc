package swap

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
	"tinykube/internal/testenv"
	"tinykube/test/clusters"
)

// full gives the counts of upstream's scheduler_perf to its workloads, which
// take the real scheduler hours on a small machine.
var full = flag.Bool("full", false, "scheduler_perf's own counts in BenchmarkSchedulers")

var only = flag.String("only", "", "of BenchmarkSchedulers, the workloads that have this in their name")

// workload is what both schedulers are given, one after the other.
type workload struct {
	name  string
	nodes int
	// pods are measured; before are there already, bound.
	pods, before int
	// running: pods are created while the scheduler runs. Otherwise they are
	// there when it starts.
	running bool
	make    func(pod *corev1.Pod)
	// old makes those that are there before; nil means make.
	old func(pod *corev1.Pod)
	// churn is done again and again, every so often, while the clock runs.
	churn func(b *testing.B, api *client.Client, i int)
	every time.Duration
}

// workloads are ours, and those of scheduler_perf by name. The nodes must not
// become fewer.
//
// Upstream: kubernetes test/integration/scheduler_perf
func workloads() []workload {
	list := []workload{
		{name: "5,000 pods that wait already", nodes: 1000, pods: 5000},
		{name: "2,000 pods while they are created", nodes: 1000, pods: 2000, running: true},
		{name: "SchedulingBasic", nodes: 1000, pods: 1000, before: 200},
		{name: "SchedulingNodeAffinity", nodes: 1000, pods: 1000, make: zoned},
		{name: "TopologySpreading", nodes: 1000, pods: 1000, before: 500, make: spread, old: plain},
		{name: "SchedulingPodAntiAffinity", nodes: 1000, pods: 500, before: 200, make: apart},
		{name: "SchedulingPodAffinity", nodes: 1000, pods: 500, before: 500, make: together},
		{name: "SchedulingWithMixedChurn", nodes: 1000, pods: 1000, churn: mixed, every: time.Second},
		{name: "PreemptionAsync", nodes: 1000, pods: 500, before: 4000, old: low, churn: high, every: 200 * time.Millisecond},
		{name: "5,000 pods that wait already", nodes: 5000, pods: 5000},
	}
	if *full {
		counts := map[string][2]int{"SchedulingBasic": {1000, 10000}, "SchedulingNodeAffinity": {5000, 10000}, "TopologySpreading": {5000, 5000},
			"SchedulingPodAntiAffinity": {1000, 2000}, "SchedulingPodAffinity": {5000, 5000}, "SchedulingWithMixedChurn": {0, 10000}, "PreemptionAsync": {20000, 5000}}
		for i := range list {
			if c, ok := counts[list[i].name]; ok {
				list[i].nodes, list[i].before, list[i].pods = 5000, c[0], c[1]
			}
		}
		slices.SortStableFunc(list, func(a, b workload) int { return a.nodes - b.nodes })
	}
	return slices.DeleteFunc(list, func(w workload) bool { return !strings.Contains(w.name, *only) })
}

func plain(*corev1.Pod) {}

func zoned(pod *corev1.Pod) {
	pod.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{
			{Key: corev1.LabelTopologyZone, Operator: corev1.NodeSelectorOpIn, Values: []string{"zone1", "zone2"}}}}}}}}
}

func spread(pod *corev1.Pod) {
	pod.Labels = map[string]string{"color": "blue"}
	pod.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 5, TopologyKey: corev1.LabelTopologyZone,
		WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: &metav1.LabelSelector{MatchLabels: pod.Labels}}}
}

func apart(pod *corev1.Pod) {
	pod.Labels = map[string]string{"color": "green"}
	pod.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{
		{TopologyKey: corev1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: pod.Labels}}}}}
}

func together(pod *corev1.Pod) {
	pod.Labels = map[string]string{"color": "red"}
	pod.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{
		{TopologyKey: corev1.LabelTopologyZone, LabelSelector: &metav1.LabelSelector{MatchLabels: pod.Labels}}}}}
}

// low leaves a node of 4 cores no room for high.
func low(pod *corev1.Pod) {
	pod.Spec.TerminationGracePeriodSeconds = new(int64)
	pod.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("900m")
}

func high(b *testing.B, api *client.Client, i int) {
	pod := plainPod(fmt.Sprint("high-", i))
	pod.Spec.PriorityClassName = "high"
	pod.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("3")
	if _, err := client.For(api, client.Pods).Create(context.Background(), pod); err != nil {
		b.Error(err)
	}
}

// mixed brings a node without room, a pod that fits nowhere and a Service, in
// the place of those that it brought before.
func mixed(b *testing.B, api *client.Client, _ int) {
	ctx, name := context.Background(), "churn"
	pods, nodes, services := client.For(api, client.Pods), client.For(api, client.Nodes), client.For(api, client.Services)
	for _, err := range []error{nodes.Delete(ctx, "", name, metav1.DeleteOptions{}), services.Delete(ctx, "default", name, metav1.DeleteOptions{}),
		pods.Delete(ctx, "default", name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)})} {
		if err != nil && !apierrors.IsNotFound(err) {
			b.Error(err)
		}
	}
	pod := plainPod(name)
	pod.Spec.PriorityClassName = "high"
	pod.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("9")
	_, err1 := nodes.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
	_, err2 := pods.Create(ctx, pod)
	_, err3 := services.Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "foo"}, Ports: []corev1.ServicePort{{Port: 8080}}}})
	if err := errors.Join(err1, err2, err3); err != nil {
		b.Error(err)
	}
}

// result is what one scheduler made of a workload.
type result struct {
	rate      float64       // pods bound per second
	cpu       time.Duration // of the scheduler, per pod
	p99       time.Duration // from create to bind
	mebibytes float64       // peak
}

// BenchmarkSchedulers gives the same pods to ours and to the real scheduler,
// if KUBE_SCHEDULER names one, each as a process of its own, in turns on the
// same API server: what counts is the ratio.
//
//	KUBE_SCHEDULER=path go test -C test ./swap -run - -bench Schedulers -benchtime 1x
func BenchmarkSchedulers(b *testing.B) {
	contestants := []string{clusters.Own(b, "kube-scheduler")}
	if os.Getenv("KUBE_SCHEDULER") != "" {
		contestants = append(contestants, clusters.Program(b, "KUBE_SCHEDULER"))
	}
	config := b.TempDir() + "/config.yaml"
	server := testenv.Start(b)
	// Without limits on its requests, which would be all we measure.
	write(b, config, "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"+
		"leaderElection: {leaderElect: false}\nclientConnection: {qps: 10000, burst: 10000, kubeconfig: "+kubeconfig(b, server)+"}\n")
	api, err := client.New(server)
	if err != nil {
		b.Fatal(err)
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "default"}}
	if _, err := client.For(api, client.ServiceAccounts).Create(b.Context(), account); err != nil {
		b.Fatal(err)
	}
	class := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "high"}, Value: 10}
	if _, err := client.For(api, client.PriorityClasses).Create(b.Context(), class); err != nil {
		b.Fatal(err)
	}
	fmt.Printf("\n%-36s %6s  %-28s %-28s  %s\n", "", "", "ours", "upstream", "ours ÷ upstream")
	fmt.Printf("%-36s %6s  %-28s %-28s  %s\n", "workload", "nodes", "pods/s  ms CPU  p99 s   MiB", "pods/s  ms CPU  p99 s   MiB", "pods/s  CPU   MiB")
	nodes := 0
	for n, w := range workloads() {
		each(b, w.nodes-nodes, func(i int) error { return plainNode(api, nodes+i) })
		nodes = w.nodes
		var results []result
		for i, path := range contestants {
			results = append(results, race(b, api, w, fmt.Sprintf("w%d-%d-", n, i), path, config))
		}
		fmt.Println(w.line(results))
	}
	b.ReportMetric(0, "ns/op") // the table says it all
}

func (w workload) line(results []result) string {
	text := fmt.Sprintf("%-36s %6d ", w.name, w.nodes)
	for _, r := range results {
		text += fmt.Sprintf(" %6.0f %7.2f %6.2f %5.0f  ", r.rate, r.cpu.Seconds()*1000, r.p99.Seconds(), r.mebibytes)
	}
	if len(results) == 2 {
		ours, real := results[0], results[1]
		text += fmt.Sprintf("  %6.2f %5.2f %5.2f", ours.rate/real.rate, ours.cpu.Seconds()/real.cpu.Seconds(), ours.mebibytes/real.mebibytes)
	}
	return text
}

// race measures one scheduler. What it counts as CPU is all the process used,
// its start included.
func race(b *testing.B, api *client.Client, w workload, prefix, path, config string) (r result) {
	pods := client.For(api, client.Pods)
	var mu sync.Mutex // guards created
	created := map[string]time.Time{}
	old := w.old
	if old == nil {
		old = w.make
	}
	add := func(i int) error {
		pod := plainPod(prefix + strconv.Itoa(i))
		shape := w.make
		if i >= w.pods { // there before
			pod.Spec.NodeName = nodeName(i % w.nodes)
			shape = old
		}
		if shape != nil {
			shape(pod)
		}
		mu.Lock()
		created[pod.Name] = time.Now()
		mu.Unlock()
		_, err := pods.Create(context.Background(), pod)
		return err
	}
	each(b, w.before, func(i int) error { return add(w.pods + i) })
	if !w.running {
		each(b, w.pods, add)
	}
	var waits []time.Duration
	done := make(chan struct{})
	begin := time.Now()
	informer := client.NewInformer(pods.Protobuf(), client.InformerOptions[*corev1.Pod]{Logger: slog.New(slog.DiscardHandler)})
	informer.OnChange(func(old, new *corev1.Pod) {
		if old == nil || new == nil || old.Spec.NodeName != "" || new.Spec.NodeName == "" || !strings.HasPrefix(new.Name, prefix) {
			return
		}
		mu.Lock()
		since := created[new.Name]
		if since.Before(begin) {
			since = begin // it waited for a scheduler to start
		}
		mu.Unlock()
		if waits = append(waits, time.Since(since)); len(waits) == w.pods {
			close(done)
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() { _ = informer.Run(ctx) })
	<-informer.Synced()

	cmd := exec.Command(path, "--config="+config, "--secure-port=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	mu.Lock()
	begin = time.Now()
	mu.Unlock()
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	if w.churn != nil {
		watching.Go(func() {
			tick := time.NewTicker(w.every)
			defer tick.Stop()
			for i := 0; ctx.Err() == nil; i++ {
				w.churn(b, api, i)
				select {
				case <-ctx.Done():
				case <-done:
					return
				case <-tick.C:
				}
			}
		})
	}
	if w.running {
		each(b, w.pods, add)
	}
	select {
	case <-done:
		r.rate = float64(w.pods) / time.Since(begin).Seconds()
		slices.Sort(waits)
		r.p99 = waits[len(waits)*99/100]
	case <-time.After(10 * time.Minute):
		b.Errorf("%s: not all pods were bound", w.name)
	}
	told(b, api)
	r.mebibytes = peakMemory(b, cmd.Process.Pid)
	_ = cmd.Process.Signal(syscall.SIGTERM)
	_ = cmd.Wait()
	cancel()
	watching.Wait()
	r.cpu = (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()) / time.Duration(w.pods)
	_ = client.For(api, client.Nodes).Delete(context.Background(), "", "churn", metav1.DeleteOptions{})
	// The next one finds the nodes as empty as this one did.
	if err := pods.DeleteCollection(context.Background(), "default", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}, metav1.ListOptions{}); err != nil {
		b.Fatal(err)
	}
	return r
}

// told waits until nobody writes events any more: they may come later than what
// they tell of, but who wrote them has to answer for their cost.
func told(b *testing.B, api *client.Client) {
	b.Helper()
	for n, before := int64(0), int64(-1); n != before; time.Sleep(2 * time.Second) {
		list, err := client.For(api, client.Events).List(b.Context(), "default", metav1.ListOptions{Limit: 1})
		if err != nil {
			b.Fatal(err)
		}
		before, n = n, 0
		if list.RemainingItemCount != nil {
			n = *list.RemainingItemCount
		}
	}
}

// peakMemory reads VmHWM. The usage that wait returns would not do: it begins
// with the size of the process that forked.
func peakMemory(b *testing.B, pid int) (mebibytes float64) {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	var kibibytes float64
	if _, err := fmt.Sscanf(after, "%f kB", &kibibytes); err != nil {
		b.Fatal(err)
	}
	return kibibytes / 1024
}

// each calls do for 0..n-1 from 16 goroutines.
func each(b *testing.B, n int, do func(i int) error) {
	b.Helper()
	var next atomic.Int64
	var workers sync.WaitGroup
	for range 16 {
		workers.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				if err := do(int(i)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	workers.Wait()
}

func nodeName(i int) string { return fmt.Sprintf("n%05d", i) }

func plainNode(api *client.Client, i int) error {
	nodes := client.For(api, client.Nodes)
	node, err := nodes.Create(context.Background(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName(i), Labels: map[string]string{
		corev1.LabelHostname: nodeName(i), corev1.LabelTopologyZone: fmt.Sprint("zone", 1+i%3)}}})
	if err != nil {
		return err
	}
	node.Spec.Taints = nil
	if node, err = nodes.Update(context.Background(), node); err != nil {
		return err
	}
	node.Status.Allocatable = corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("32Gi"), corev1.ResourcePods: resource.MustParse("110")}
	node.Status.Capacity = node.Status.Allocatable
	_, err = nodes.UpdateStatus(context.Background(), node)
	return err
}

func plainPod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "app:1", Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("500Mi")}}}}},
	}
}
