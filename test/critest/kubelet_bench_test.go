package critest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	kube "tinykube/client"
	"tinykube/internal/nstest"
	"tinykube/test/clusters"
)

const (
	single, atOnce, full = 30, 50, 110 // pods: one after the other, at once, a node with as many as it takes
	rest                 = 30 * time.Second
)

// nodeConfig is what each kubelet is told: upstream's defaults, but for what
// the test machine lacks and what the benchmark must not run into.
const nodeConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}}
cgroupDriver: cgroupfs
cgroupRoot: %s
containerRuntimeEndpoint: unix://%s
evictionHard: {memory.available: 100Mi}
failCgroupV1: false
failSwapOn: false
healthzPort: 0
imageGCHighThresholdPercent: 100
maxPods: 120
port: %d
resolvConf: ""
`

// kubeletUnderTest is a kubelet on a runtime, both being measured.
type kubeletUnderTest struct {
	name, node string
	runtime    runtimeUnderTest
	process    *clusters.Process
	api        api

	alone, bound times // of the runtime's calls without a kubelet, and of pods
}

// bench is the cluster of all kubelets and what its pods tell.
type nodeBench struct {
	*clusters.Cluster
	pods *kube.Resource[*corev1.Pod]

	mu      sync.Mutex           // guards what follows
	running map[string]time.Time // when the API server said so, by pod
	gone    map[string]time.Time
	changed chan struct{}
}

// BenchmarkKubelets takes pods from being bound to running and to their end on
// our kubelet and runtime and, if $KUBELET names one, on a real kubelet with
// containerd's own; beside them the runtimes alone, and runc and the plugin
// alone. Our API server serves both.
func BenchmarkKubelets(b *testing.B) {
	unpack(b)
	nodes := []*kubeletUnderTest{{name: "ours", node: "node-ours", runtime: ours}}
	programs := []string{clusters.Own(b, "kubelet")}
	if os.Getenv("KUBELET") != "" {
		programs = append(programs, clusters.Program(b, "KUBELET"))
		nodes = append(nodes, &kubeletUnderTest{name: "upstream", node: "node-upstream", runtime: theirs})
	}
	clusters.Patience = 3 * time.Minute
	must(b, exec.Command("ip", "addr", "add", "192.0.2.1/32", "dev", "lo").Run())
	// Before the kubelets: a program started here ends with the thread that
	// started it, and threads that were in another namespace do not live on.
	least := floor(b)
	s := newNodeBench(b)
	for i, n := range nodes {
		s.start(n, programs[i], 10250+i)
	}
	clusters.Eventually(b, "the nodes are ready", func(ctx context.Context) (bool, error) {
		list, err := kube.For(s.Client, kube.Nodes).List(ctx, "", metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		ready := 0
		for _, node := range list.Items {
			for _, c := range node.Status.Conditions {
				if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
					ready++
				}
			}
		}
		return ready == len(nodes), fmt.Errorf("%d", ready)
	})
	s.oneByOne(nodes, least)
	for _, n := range nodes {
		took := s.together(n, "at-once", atOnce)
		fmt.Printf("%-9s %d at once: all Running after %.2f s\n", n.name, atOnce, took.Seconds())
		s.clear(n)
		began := time.Now()
		s.together(n, "full", full)
		fmt.Printf("%-9s %d on an empty node: %.1f pods/s\n", n.name, full, full/time.Since(began).Seconds())
		s.idle(n)
		s.clear(n)
	}
}

func newNodeBench(b *testing.B) *nodeBench {
	s := &nodeBench{Cluster: clusters.New(b), running: map[string]time.Time{}, gone: map[string]time.Time{}, changed: make(chan struct{}, 1)}
	s.pods = kube.For(s.Client, kube.Pods)
	// What a controller manager would make, and every pod's token volume needs.
	_, err := kube.For(s.Client, kube.ServiceAccounts).Create(b.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "default"}})
	must(b, err)
	_, err = kube.For(s.Client, kube.ConfigMaps).Create(b.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kube-root-ca.crt"}, Data: map[string]string{"ca.crt": "-"}})
	must(b, err)
	informer := kube.NewInformer(s.pods, kube.InformerOptions[*corev1.Pod]{})
	informer.OnChange(func(old, now *corev1.Pod) {
		s.mu.Lock()
		switch {
		case now == nil:
			s.gone[old.Name] = time.Now()
		case now.Status.Phase == corev1.PodRunning && s.running[now.Name].IsZero():
			s.running[now.Name] = time.Now()
		}
		s.mu.Unlock()
		select {
		case s.changed <- struct{}{}:
		default:
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- informer.Run(ctx) }()
	b.Cleanup(func() { cancel(); <-done })
	return s
}

// start starts a runtime and a kubelet on it.
func (s *nodeBench) start(n *kubeletUnderTest, program string, port int) {
	b := s.T
	n.runtime.start(b)
	n.api = n.runtime.dial(b)
	for _, image := range []string{defaultImage, webServer} {
		must(b, failure(n.api.PullImage(b.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: image}})))
	}
	// The runtime alone, before there is a kubelet to wonder whose pods these are.
	lifecycle(b, n.api, &times{}, "warm")
	for i := range single / 2 {
		lifecycle(b, n.api, &n.alone, fmt.Sprint("alone", i))
	}
	root := fmt.Sprintf("/tinykube-bench-%s-%d", n.name, os.Getpid())
	groups := []string{"/sys/fs/cgroup"}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		groups, _ = filepath.Glob("/sys/fs/cgroup/*")
	}
	for _, group := range groups {
		if info, err := os.Lstat(group); err == nil && info.IsDir() {
			must(b, os.MkdirAll(group+root, 0o755))
		}
	}
	// Pods and their groups go before the directory in which they stand.
	b.Cleanup(func() { n.runtime.removePods(b); removeTree(root) })
	config := filepath.Join(b.TempDir(), "config.yaml")
	must(b, os.WriteFile(config, fmt.Appendf(nil, nodeConfig, root, n.runtime.socket, port), 0o600))
	n.process = s.Start(program, "--config="+config, "--kubeconfig="+s.Env.Kubeconfig, "--hostname-override="+n.node,
		"--root-dir=/var/lib/kubelet-"+n.name, "--cert-dir=/var/lib/kubelet-"+n.name+"/pki", "--node-ip=192.0.2.1")
}

// floor is what a pod of one container cannot do without.
func floor(b *testing.B) time.Duration {
	bundle := makeBundle(b)
	var alone times
	for i := range single {
		alone.take(b, "runc run", func() error { return runcRun(bundle, fmt.Sprint("bench", i)) })
		plugins(b, &alone, fmt.Sprint("bench", i))
	}
	least := 2*alone.at("runc run", 50) + alone.at("CNI ADD (bridge)", 50)
	fmt.Printf("%-9s two runc run and a CNI ADD: %.0f ms; runc run %s, CNI ADD %s   milliseconds: median, p95 of %d\n",
		"alone", ms(least), alone.figure("runc run"), alone.figure("CNI ADD (bridge)"), single)
	floorTogether(b, bundle)
	return least
}

// floorTogether is the same for many pods: as many at a time as is best here.
func floorTogether(b *testing.B, bundle string) {
	took, best := map[int]time.Duration{}, 1
	for _, width := range []int{1, 2, 4, 8} {
		namespaces := make([]*nstest.NS, atOnce)
		for i := range namespaces {
			namespaces[i] = nstest.New(b, fmt.Sprint("floor", width, "-", i))
		}
		var pods errgroup.Group
		pods.SetLimit(width)
		began := time.Now()
		for _, ns := range namespaces {
			pods.Go(func() error {
				return errors.Join(plugin("ADD", ns.Name, ns.Path), runcRun(bundle, ns.Name), runcRun(bundle, ns.Name))
			})
		}
		must(b, pods.Wait())
		took[width] = time.Since(began)
		for _, ns := range namespaces {
			must(b, plugin("DEL", ns.Name, ns.Path))
		}
		if took[width] < took[best] {
			best = width
		}
	}
	fmt.Printf("%-9s two runc run and a CNI ADD for %d pods: %.2f s, %d at a time\n", "alone", atOnce, took[best].Seconds(), best)
}

// oneByOne starts pods alone, turn and turn about.
func (s *nodeBench) oneByOne(nodes []*kubeletUnderTest, least time.Duration) {
	b := s.T
	for i := range single {
		for _, n := range nodes {
			name := fmt.Sprintf("%s-one-%d", n.name, i)
			began := time.Now()
			s.create(n, name, false)
			n.bound.add("Running", s.await(s.running, name).Sub(began))
			began = time.Now()
			must(b, s.pods.Delete(b.Context(), "default", name, metav1.DeleteOptions{}))
			n.bound.add("gone", s.await(s.gone, name).Sub(began))
		}
	}
	for _, n := range nodes {
		runtime := n.alone.at("RunPodSandbox", 50) + n.alone.at("CreateContainer", 50) + n.alone.at("StartContainer", 50)
		fmt.Printf("%-9s bound to Running: p50 %.0f ms, p99 %.0f ms; %.0f ms of it are the runtime's (sandbox, create, start); %.0f ms above two runc and a CNI ADD; deleted and gone: p50 %.0f ms\n",
			n.name, ms(n.bound.at("Running", 50)), ms(n.bound.at("Running", 99)), ms(runtime), ms(n.bound.at("Running", 50)-least), ms(n.bound.at("gone", 50)))
	}
}

// create makes a pod that is bound already: what a scheduler takes is not ours
// to measure here.
func (s *nodeBench) create(n *kubeletUnderTest, name string, probed bool) {
	s.T.Helper()
	container := corev1.Container{Name: "c", Image: defaultImage, Command: []string{"sh", "-c", "trap exit TERM; sleep 1000000 & wait"}}
	if probed {
		probe := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(80)}}}
		container = corev1.Container{Name: "c", Image: webServer, LivenessProbe: probe, ReadinessProbe: probe}
	}
	grace := int64(5)
	_, err := s.pods.Create(s.T.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"node": n.node}},
		Spec: corev1.PodSpec{NodeName: n.node, TerminationGracePeriodSeconds: &grace, Containers: []corev1.Container{container}}})
	must(s.T, err)
}

// await waits until something has happened to a pod, and answers when.
func (s *nodeBench) await(when map[string]time.Time, name string) time.Time {
	s.T.Helper()
	deadline := time.After(clusters.Patience)
	for {
		s.mu.Lock()
		at := when[name]
		s.mu.Unlock()
		if !at.IsZero() {
			return at
		}
		select {
		case <-s.changed:
		case <-deadline:
			pod, err := s.pods.Get(s.T.Context(), "default", name)
			s.T.Fatalf("%s: nothing within %s: %v\n%+v", name, clusters.Patience, err, pod)
		}
	}
}

// together makes pods at once and waits until the last of them runs.
func (s *nodeBench) together(n *kubeletUnderTest, name string, count int) time.Duration {
	s.T.Helper()
	began, last := time.Now(), time.Time{}
	var creating sync.WaitGroup
	for i := range count {
		creating.Go(func() { s.create(n, fmt.Sprintf("%s-%s-%d", n.name, name, i), count == full) })
	}
	creating.Wait()
	for i := range count {
		if at := s.await(s.running, fmt.Sprintf("%s-%s-%d", n.name, name, i)); at.After(last) {
			last = at
		}
	}
	return last.Sub(began)
}

// clear deletes the node's pods and waits until they are gone.
func (s *nodeBench) clear(n *kubeletUnderTest) {
	s.T.Helper()
	mine := metav1.ListOptions{LabelSelector: "node=" + n.node}
	list, err := s.pods.List(s.T.Context(), "default", mine)
	must(s.T, err)
	began := time.Now()
	for _, pod := range list.Items {
		must(s.T, s.pods.Delete(s.T.Context(), "default", pod.Name, metav1.DeleteOptions{}))
	}
	for _, pod := range list.Items {
		s.await(s.gone, pod.Name)
	}
	fmt.Printf("%-9s %d deleted at once: gone after %.2f s\n", n.name, len(list.Items), time.Since(began).Seconds())
}

// idle is what the node's programs need while all its pods run, are probed and
// nothing else happens, and what it costs to list them.
func (s *nodeBench) idle(n *kubeletUnderTest) {
	s.T.Helper()
	clusters.Eventually(s.T, "all are ready", func(ctx context.Context) (bool, error) {
		list, err := s.pods.List(ctx, "default", metav1.ListOptions{LabelSelector: "node=" + n.node})
		if err != nil {
			return false, err
		}
		ready := 0
		for _, pod := range list.Items {
			for _, c := range pod.Status.Conditions {
				if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
					ready++
				}
			}
		}
		return ready == full, fmt.Errorf("%d", ready)
	})
	type program struct {
		name string
		pid  int
	}
	programs := []program{{"kubelet", n.process.PIDs()[0]}, {"containerd", findProcess("/containerd-" + n.runtime.name + ".toml")}}
	if n.runtime.serve != nil {
		programs = append(programs, program{"cri", findProcess("--listen\x00unix://" + n.runtime.socket)})
	}
	before := map[string]time.Duration{}
	for _, p := range programs {
		before[p.name] = cpuOf(p.pid)
	}
	time.Sleep(rest) // what is measured is a time
	for _, p := range programs {
		after, m := cpuOf(p.pid), memoryOf(p.pid)
		fmt.Printf("%-9s %d idle pods with two probes each: %-10s %5.1f %% of a core, %4.0f MiB resident, of which %.0f its own and %.0f of files\n",
			n.name, full, p.name, 100*(after-before[p.name]).Seconds()/rest.Seconds(), m["Rss"], m["Private_Dirty"], m["Rss"]-m["Anonymous"])
	}
	var relist times
	for range 20 {
		relist.take(s.T, "relist", func() error {
			if _, err := n.api.ListPodSandbox(s.T.Context(), &cri.ListPodSandboxRequest{}); err != nil {
				return err
			}
			return failure(n.api.ListContainers(s.T.Context(), &cri.ListContainersRequest{}))
		})
	}
	fmt.Printf("%-9s one relist of %d pods: %s ms (median, p95)\n", n.name, full, relist.figure("relist"))
}

// findProcess finds the program whose command line has a text in it. There are
// no other tests' processes in this PID namespace.
func findProcess(text string) int {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		if line, _ := os.ReadFile(file); strings.Contains(string(line), text) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			return pid
		}
	}
	return 0
}

// cpuOf is the time that a process has used, in user and system mode.
func cpuOf(pid int) (cpu time.Duration) {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(stat), ") ")
	for _, ticks := range strings.Fields(rest)[11:13] {
		n, _ := strconv.Atoi(ticks)
		cpu += time.Duration(n) * 10 * time.Millisecond
	}
	return cpu
}

// memoryOf reads a process's memory, in MiB, by the kernel's names.
func memoryOf(pid int) map[string]float64 {
	out := map[string]float64{}
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) == 3 {
			kib, _ := strconv.Atoi(fields[1])
			out[strings.TrimSuffix(fields[0], ":")] = float64(kib) / 1024
		}
	}
	return out
}
