package kubelet

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"tinykube/internal/fakecri"
)

// node is a standalone kubelet on a fake runtime, in virtual time.
type node struct {
	t       *testing.T
	runtime *fakecri.Runtime
	cfg     Config
	kubelet *Kubelet
	quiet   bool
	api     []*corev1.Pod
	stop    func() // ends the kubelet and waits for it
}

// newNode prepares a node; start starts its kubelet. Call it in a bubble.
func newNode(t *testing.T) *node {
	dir := t.TempDir()
	file := DefaultConfiguration()
	file.StaticPodPath = filepath.Join(dir, "manifests")
	file.PodLogsDir = filepath.Join(dir, "pods")
	off := false
	file.EvictionHard, file.ImageGCHighThresholdPercent = map[string]string{}, to[int32](100) // how full the machine is is no matter here
	file.EnableServer, file.CgroupsPerQOS, file.EnforceNodeAllocatable = &off, &off, nil
	cfg, err := NewConfig(file, "node-0", filepath.Join(dir, "kubelet"))
	if err != nil {
		t.Fatal(err)
	}
	cfg.WatchFiles, cfg.Server.HealthzPort, cfg.NodeIPs = false, 0, []string{"192.0.2.1"} // nothing real in a bubble
	if err := os.MkdirAll(file.StaticPodPath, 0o755); err != nil {
		t.Fatal(err)
	}
	return &node{t: t, runtime: fakecri.New(), cfg: cfg}
}

func (n *node) start() {
	n.t.Helper()
	conn := n.runtime.Conn()
	log := slog.New(slog.NewTextHandler(testWriter{n.t}, nil))
	if n.quiet {
		log = slog.New(slog.DiscardHandler)
	}
	k, err := New(n.cfg, Deps{Runtime: conn, Logger: log})
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	n.kubelet = k
	n.stop = func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Errorf("Run: %v", err)
		}
	}
	synctest.Wait()
}

var discard = slog.New(slog.DiscardHandler)

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", p[:len(p)-1])
	return len(p), nil
}

// manifest writes a static pod; after the next scan it is wanted.
func (n *node) manifest(name, spec string) {
	n.t.Helper()
	text := "apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + ", namespace: test}\nspec:\n" + spec
	if err := os.WriteFile(filepath.Join(n.cfg.StaticPodPath, name+".yaml"), []byte(text), 0o644); err != nil {
		n.t.Fatal(err)
	}
}

// apiPod adds a pod as the API server would: one that is not static.
func (n *node) apiPod(name, spec string) {
	n.t.Helper()
	text := "apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + ", namespace: test}\nspec:\n" + spec
	pod, err := parseStaticPod([]byte(text), sourceAPI, name, n.cfg.NodeName)
	if err != nil {
		n.t.Fatal(err)
	}
	n.api = append(n.api, pod)
	n.kubelet.static.remote.take(n.api)
}

func (n *node) removeManifest(name string) {
	n.t.Helper()
	if err := os.Remove(filepath.Join(n.cfg.StaticPodPath, name+".yaml")); err != nil {
		n.t.Fatal(err)
	}
}

// pod returns the status the kubelet would report, or fails.
func (n *node) pod(name string) (*worker, corev1.PodStatus) {
	n.t.Helper()
	for _, w := range n.kubelet.allWorkers() {
		if pod, _, _ := w.view(); pod.Name == name+"-node-0" {
			told := n.kubelet.statuses
			told.mu.Lock()
			defer told.mu.Unlock()
			return w, told.entries[w.uid].status
		}
	}
	n.t.Fatalf("no pod %s", name)
	return nil, corev1.PodStatus{}
}

func (n *node) container(pod, name string) corev1.ContainerStatus {
	n.t.Helper()
	_, status := n.pod(pod)
	for _, s := range append(status.InitContainerStatuses, status.ContainerStatuses...) {
		if s.Name == name {
			return s
		}
	}
	n.t.Fatalf("pod %s has no status of container %s: %+v", pod, name, status)
	return corev1.ContainerStatus{}
}

// running lists the names of the containers that run, sorted.
func (n *node) running() []string {
	var out []string
	for _, c := range n.runtime.Containers() {
		if c.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			out = append(out, c.Metadata.Name)
		}
	}
	slices.Sort(out)
	return out
}

func (n *node) expectRunning(want ...string) {
	n.t.Helper()
	if got := n.running(); !slices.Equal(got, want) {
		n.t.Errorf("running: %v, want %v", got, want)
	}
}

// A pod has ended when the last of its containers has, be it a sidecar that
// takes its time.
func TestEndsWithItsSidecar(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.runtime.Programs["once:1"] = programOnce
		n.runtime.Programs["stays:1"] = fakecri.Program{Stubborn: true}
		n.start()
		n.apiPod("job", "  restartPolicy: Never\n  initContainers: [{name: s, image: stays:1, restartPolicy: Always}]\n  containers: [{name: a, image: once:1}]\n")
		settle(10 * time.Second)
		n.expectRunning("s")
		if _, status := n.pod("job"); status.Phase != corev1.PodRunning {
			t.Errorf("while the sidecar runs: %s", status.Phase)
		}
		settle(30 * time.Second)
		n.expectRunning()
		if _, status := n.pod("job"); status.Phase != corev1.PodSucceeded {
			t.Errorf("when it has ended: %s", status.Phase)
		}
		n.stop()
	})
}

// programOnce is an init container's.
var programOnce = fakecri.Program{Runs: time.Second}

// settle lets virtual time pass and everything come to rest.
func settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

const oneContainer = "  containers: [{name: a, image: app:1}]\n"

func TestStaticPodLivesAndDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.manifest("web", oneContainer)
		n.start()
		settle(2 * time.Second)
		n.expectRunning("a")
		_, status := n.pod("web")
		if status.Phase != corev1.PodRunning || status.PodIP == "" || status.HostIP != "192.0.2.1" {
			t.Errorf("status: %+v", status)
		}
		for _, c := range status.Conditions {
			if c.Status != corev1.ConditionTrue {
				t.Errorf("condition %s is %s: %s", c.Type, c.Status, c.Message)
			}
		}
		n.removeManifest("web")
		settle(30 * time.Second)
		n.expectRunning()
		if len(n.runtime.Sandboxes())+len(n.runtime.Containers()) > 0 {
			t.Errorf("left in the runtime: %v %v", n.runtime.Sandboxes(), n.runtime.Containers())
		}
		for _, dir := range []string{filepath.Join(n.cfg.RootDir, "pods"), n.cfg.PodLogsDir} {
			if entries, _ := os.ReadDir(dir); len(entries) > 0 {
				t.Errorf("left in %s: %v", dir, entries)
			}
		}
		n.stop()
	})
}

func TestChangedManifestReplacesThePod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.runtime.Programs["app:1"] = fakecri.Program{Stubborn: true}
		n.manifest("web", "  terminationGracePeriodSeconds: 10\n"+oneContainer)
		n.start()
		settle(2 * time.Second)
		old, _ := n.pod("web")
		n.manifest("web", "  containers: [{name: a, image: app:2}]\n")
		settle(22 * time.Second) // noticed by the scan; the old one needs its grace
		n.expectRunning("a")
		if len(n.runtime.Containers()) != 1 {
			t.Errorf("the new pod did not wait for the old one's end: %v", n.runtime.Containers())
		}
		settle(15 * time.Second)
		next, _ := n.pod("web")
		if next.uid == old.uid {
			t.Error("the pod kept its UID")
		}
		n.expectRunning("a")
		n.stop()
	})
}

func TestRestartedKubeletStartsNothingTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.manifest("web", "  initContainers: [{name: i, image: once}]\n"+oneContainer)
		n.runtime.Programs["once"] = programOnce
		n.start()
		settle(5 * time.Second)
		for range 5 {
			n.stop()
			n.start()
			settle(3 * time.Second)
		}
		n.expectRunning("a")
		if got := len(n.runtime.Containers()); got != 2 {
			t.Errorf("%d containers, want the init container and the app", got)
		}
		if s := n.container("web", "a"); s.RestartCount != 0 || !s.Ready {
			t.Errorf("status after restarts: %+v", s)
		}
		n.stop()
	})
}

func TestPodRemovedWhileTheKubeletWasAwayIsEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.manifest("web", oneContainer)
		n.manifest("other", "  containers: [{name: b, image: app:1}]\n")
		n.start()
		settle(2 * time.Second)
		n.stop()
		n.removeManifest("web")
		n.start()
		settle(10 * time.Second)
		n.expectRunning("b")
		if got := len(n.runtime.Sandboxes()); got != 1 {
			t.Errorf("%d sandboxes are left, want 1", got)
		}
		n.stop()
	})
}

func TestCrashLoopBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.runtime.Programs["app:1"] = fakecri.Program{Runs: time.Second, ExitCode: 3}
		n.manifest("web", oneContainer)
		n.start()
		settle(5 * time.Second)
		s := n.container("web", "a")
		if s.State.Waiting == nil || s.State.Waiting.Reason != reasonCrashLoop || s.LastTerminationState.Terminated == nil {
			t.Fatalf("after two crashes: %+v", s)
		}
		w, status := n.pod("web")
		want := "back-off 10s restarting failed container=a pod=web-node-0_test(" + string(w.uid) + ")"
		if s.State.Waiting.Message != want {
			t.Errorf("message %q, want %q", s.State.Waiting.Message, want)
		}
		if status.Phase != corev1.PodRunning || s.LastTerminationState.Terminated.ExitCode != 3 {
			t.Errorf("status: %+v", status)
		}
		// Lives begin at 0, 1 (the first restart is free), 12, 33, 74, 155, 316.
		settle(5 * time.Minute)
		if got := n.container("web", "a").RestartCount; got < 5 || got > 6 {
			t.Errorf("%d restarts in five minutes, want 5 or 6", got)
		}
		n.stop()
	})
}

func TestInitContainersRunInOrderAndSidecarsStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.runtime.Programs["once"] = fakecri.Program{Runs: 3 * time.Second}
		n.manifest("web", "  initContainers:\n  - {name: i1, image: once}\n  - {name: side, image: app:1, restartPolicy: Always}\n  - {name: i2, image: once}\n"+oneContainer)
		n.start()
		n.expectRunning("i1")
		_, status := n.pod("web")
		if status.Phase != corev1.PodPending {
			t.Errorf("phase %s while initializing", status.Phase)
		}
		settle(4 * time.Second)
		n.expectRunning("i2", "side")
		settle(4 * time.Second)
		n.expectRunning("a", "side")
		n.stop()
	})
}

func TestLivenessProbeRestartsReadinessDoesNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		var alive, ready atomic.Bool
		alive.Store(true)
		n.runtime.Programs["app:1"] = fakecri.Program{Exec: func(_ string, command []string) (string, int32) {
			if command[0] == "live" && !alive.Load() || command[0] == "ready" && !ready.Load() {
				return "no", 1
			}
			return "", 0
		}}
		n.manifest("web", "  containers:\n  - name: a\n    image: app:1\n"+
			"    livenessProbe: {exec: {command: [live]}, periodSeconds: 1, failureThreshold: 3}\n"+
			"    readinessProbe: {exec: {command: [ready]}, periodSeconds: 1}\n")
		n.start()
		settle(5 * time.Second)
		if s := n.container("web", "a"); s.Ready || s.RestartCount != 0 {
			t.Errorf("not ready yet: %+v", s)
		}
		ready.Store(true)
		settle(3 * time.Second)
		if s := n.container("web", "a"); !s.Ready {
			t.Errorf("ready: %+v", s)
		}
		// A restart of the kubelet must not make it unready.
		n.stop()
		n.start()
		if s := n.container("web", "a"); s.RestartCount != 0 {
			t.Errorf("after a restart of the kubelet: %+v", s)
		}
		alive.Store(false)
		settle(3500 * time.Millisecond)
		alive.Store(true)
		settle(2 * time.Second)
		if s := n.container("web", "a"); s.RestartCount != 1 || s.State.Running == nil {
			t.Errorf("after a failed liveness probe: %+v", s)
		}
		n.stop()
	})
}

func TestDeadSandboxIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.manifest("web", oneContainer)
		n.start()
		settle(2 * time.Second)
		n.runtime.KillSandbox(n.runtime.Sandboxes()[0].Id)
		settle(5 * time.Second)
		n.expectRunning("a")
		if s := n.container("web", "a"); s.RestartCount != 1 {
			t.Errorf("restart count %d, want 1", s.RestartCount)
		}
		n.stop()
	})
}

func TestNetworkNotReadyHoldsBackAllButHostNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.runtime.SetNetworkError("cni plugin not initialized")
		n.manifest("web", oneContainer)
		n.manifest("host", "  hostNetwork: true\n  containers: [{name: b, image: app:1}]\n")
		n.start()
		settle(5 * time.Second)
		n.expectRunning("b")
		n.runtime.SetNetworkError("")
		settle(3 * time.Second)
		n.expectRunning("a", "b")
		n.stop()
	})
}

func TestMissingImage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.runtime.Missing["app:1"] = true
		n.manifest("web", oneContainer)
		n.start()
		settle(time.Second)
		if s := n.container("web", "a"); s.State.Waiting == nil || s.State.Waiting.Reason != reasonErrImagePull && s.State.Waiting.Reason != reasonImageBackOff {
			t.Errorf("status: %+v", s)
		}
		n.runtime.Load("app:1") // as an import would
		settle(30 * time.Second)
		n.expectRunning("a")
		n.stop()
	})
}
