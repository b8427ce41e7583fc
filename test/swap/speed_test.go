package swap

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
	"tinykube/internal/testenv"
)

var speedNodes = flag.Int("nodes", 1000, "nodes of BenchmarkSchedulers")

// BenchmarkSchedulers gives the same pods to the real scheduler and to ours,
// each as a process of its own, on the same API server: what counts is the
// ratio. The pods exist before the clock starts. Run it with a fixed count:
//
//	KUBE_SCHEDULER=path go test -C test ./swap -run - -bench Schedulers -benchtime 5000x
func BenchmarkSchedulers(b *testing.B) {
	ours := filepath.Join(b.TempDir(), "kube-scheduler")
	if out, err := exec.Command("go", "build", "-C", "../..", "-o", ours, "./cmd/kube-scheduler").CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	real := program(b, "KUBE_SCHEDULER")
	config := b.TempDir() + "/config.yaml"
	server := testenv.Start(b)
	path := kubeconfig(b, server)
	// Without limits on its requests, which would be all we measure.
	write(b, config, "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"+
		"leaderElection: {leaderElect: false}\nclientConnection: {qps: 10000, burst: 10000, kubeconfig: "+path+"}\n")
	api, err := client.New(server)
	if err != nil {
		b.Fatal(err)
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "default"}}
	if _, err := client.For(api, client.ServiceAccounts).Create(b.Context(), account); err != nil {
		b.Fatal(err)
	}
	each(b, *speedNodes, func(i int) error { return plainNode(api, fmt.Sprintf("n%05d", i)) })
	for _, one := range []struct{ name, path string }{{"real", real}, {"ours", ours}} {
		b.Run(one.name, func(b *testing.B) { race(b, api, one.name, one.path, config) })
	}
}

// race measures one scheduler over b.N pods.
func race(b *testing.B, api *client.Client, name, path, config string) {
	pods := client.For(api, client.Pods)
	prefix := fmt.Sprintf("%s-%d-", name, b.N)
	each(b, b.N, func(i int) error {
		_, err := pods.Create(context.Background(), plainPod(prefix+strconv.Itoa(i)))
		return err
	})
	var bound atomic.Int64
	done := make(chan struct{})
	informer := client.NewInformer(pods, client.InformerOptions[*corev1.Pod]{Logger: slog.New(slog.DiscardHandler)})
	informer.OnChange(func(old, new *corev1.Pod) {
		if new != nil && new.Spec.NodeName != "" && (old == nil || old.Spec.NodeName == "") && bound.Add(1) == int64(b.N) {
			close(done)
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() { _ = informer.Run(ctx) })
	<-informer.Synced()

	cmd := exec.Command(path, "--config="+config, "--secure-port=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	b.ResetTimer()
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	select {
	case <-done:
	case <-time.After(10 * time.Minute):
		b.Errorf("only %d of %d pods bound", bound.Load(), b.N)
	}
	b.StopTimer()
	peak := peakMemory(b, cmd.Process.Pid)
	_ = cmd.Process.Signal(syscall.SIGTERM)
	_ = cmd.Wait()
	cancel()
	watching.Wait()

	cpu := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pods/s")
	b.ReportMetric(float64(cpu.Microseconds())/float64(b.N), "µs-cpu/pod")
	b.ReportMetric(peak, "MiB-peak")
	events, err := client.For(api, client.Events).List(context.Background(), "default", metav1.ListOptions{FieldSelector: "reason=Scheduled"})
	if err != nil {
		b.Fatal(err)
	}
	told := 0
	for _, e := range events.Items {
		if strings.HasPrefix(e.InvolvedObject.Name, prefix) {
			told++
		}
	}
	// How many of the pods have their event by the time the last one is bound.
	b.ReportMetric(float64(told)/float64(b.N), "events/pod")
	// The next one finds the nodes as empty as this one did.
	each(b, b.N, func(i int) error {
		return pods.Delete(context.Background(), "default", prefix+strconv.Itoa(i), metav1.DeleteOptions{GracePeriodSeconds: new(int64)})
	})
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

func plainNode(api *client.Client, name string) error {
	nodes := client.For(api, client.Nodes)
	node, err := nodes.Create(context.Background(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
	if err != nil {
		return err
	}
	node.Spec.Taints = nil
	if node, err = nodes.Update(context.Background(), node); err != nil {
		return err
	}
	node.Status.Allocatable = corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("32"), corev1.ResourceMemory: resource.MustParse("64Gi"), corev1.ResourcePods: resource.MustParse("110")}
	node.Status.Capacity = node.Status.Allocatable
	_, err = nodes.UpdateStatus(context.Background(), node)
	return err
}

func plainPod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "app:1", Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("100Mi")}}}}},
	}
}
