package cri

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/gorilla/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"tinykube/internal/cgroup"
	"tinykube/internal/image"
	"tinykube/internal/nstest"
)

// TestRuntime runs real containers: containerd, its shim and runc of the
// payload, the kernel's namespaces and control groups.
func TestRuntime(t *testing.T) {
	m := newMachine(t)
	t.Run("Pod", m.testPod)
	t.Run("Exits", m.testExits)
	t.Run("Exec", m.testExec)
	t.Run("Streams", m.testStreams)
	t.Run("ServerIsKilled", m.testServerIsKilled)
	t.Run("DaemonIsKilled", m.testDaemonIsKilled)
	t.Run("ShimIsBusy", m.testShimIsBusy)
	t.Run("ShimIsKilled", m.testShimIsKilled)
	t.Run("KilledHalfWay", m.testKilledHalfWay)
	t.Run("Network", m.testNetwork)
	t.Run("Images", m.testImages)
	t.Run("Mirror", m.testMirror)
	t.Run("PullGivenUp", m.testPullGivenUp)
	t.Run("Inspect", m.testInspect)
	t.Run("StreamedLists", m.testStreamedLists)
	t.Run("ImageVolume", m.testImageVolume)
	t.Run("HostileImage", m.testHostileImage)
	t.Run("HostileLayers", m.testHostileLayers)
	t.Run("UserNamespace", m.testUserNamespace)
	t.Run("EndlessLine", m.testEndlessLine)
	t.Run("Idempotence", m.testIdempotence)
	t.Run("NothingIsLeft", m.testNothingIsLeft)
}

const loop = "i=0; while sleep 0.05; do i=$((i+1)); echo line $i; done"

func (m *machine) testPod(t *testing.T) {
	pod, config := m.runPod(t, "pod")
	r, err := m.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: pod})
	if err != nil {
		t.Fatal(err)
	}
	ip := r.GetStatus().GetNetwork().GetIp()
	if !strings.HasPrefix(ip, "10.244.9.") || r.GetStatus().GetState() != runtimeapi.PodSandboxState_SANDBOX_READY {
		t.Fatalf("pod status: %v", r.GetStatus())
	}
	a := m.runShell(t, pod, config, "a", loop)
	b := m.runShell(t, pod, config, "b", "echo shared > /dev/shm/file; "+loop, func(c *runtimeapi.ContainerConfig) {
		c.Linux.SecurityContext.RunAsUser = &runtimeapi.Int64Value{Value: 1000}
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpuShares: 512}
	})
	for script, want := range map[string]string{
		"cat /etc/resolv.conf | grep search": "search cluster.local",
		"hostname":                           "pod",
		"cat /dev/shm/file":                  "shared",
		"ip addr show eth0 | grep -c " + ip:  "1",
		"echo x > /proc/sys/kernel/hostname": "",
	} {
		got, code := m.sh(t, a, script)
		if want != "" && got != want || want == "" && code == 0 {
			t.Errorf("%s: %q (%d), want %q", script, got, code, want)
		}
	}
	if got, _ := m.sh(t, b, "id -u"); got != "1000" {
		t.Errorf("user is %s", got)
	}
	nstest.Eventually(t, "statistics", func() bool {
		stats, err := m.ContainerStats(t.Context(), &runtimeapi.ContainerStatsRequest{ContainerId: b})
		return err == nil && stats.GetStats().GetMemory().GetWorkingSetBytes().GetValue() > 0 && stats.GetStats().GetCpu().GetUsageCoreNanoSeconds().GetValue() > 0
	})
	if _, err := m.UpdateContainerResources(t.Context(), &runtimeapi.UpdateContainerResourcesRequest{ContainerId: b,
		Linux: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 32 << 20}}); err != nil {
		t.Error(err)
	}
	if got, _ := m.sh(t, b, "cat /sys/fs/cgroup/memory.max || cat /sys/fs/cgroup/memory/memory.limit_in_bytes"); !strings.Contains(got, fmt.Sprint(32<<20)) {
		t.Errorf("the kernel's limit after the update: %s", got)
	}
	if limits := m.status(t, b).GetResources().GetLinux(); limits.GetMemoryLimitInBytes() != 32<<20 || limits.GetCpuShares() != 512 {
		t.Errorf("limits after the update: %v", limits)
	}
	// The same name again must not become a second pod.
	if _, err := m.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: config}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("the same pod again: %v", err)
	}
	m.removePod(t, pod)
}

func (m *machine) removePod(t *testing.T, pod string) {
	t.Helper()
	if _, err := m.StopPodSandbox(t.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Error(err)
	}
	if _, err := m.RemovePodSandbox(t.Context(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod}); err != nil {
		t.Error(err)
	}
}

func (m *machine) testExits(t *testing.T) {
	pod, config := m.runPod(t, "exits")
	for name, c := range map[string]struct {
		script string
		code   int32
		reason string
	}{"fine": {"echo done; exit 0", 0, "Completed"}, "bad": {"exit 3", 3, "Error"}, "oom": {"x=x; while true; do x=$x$x; done", 137, "OOMKilled"}} {
		id := m.runShell(t, pod, config, name, c.script, func(c *runtimeapi.ContainerConfig) {
			c.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 32 << 20}
		})
		got := m.awaitState(t, id, runtimeapi.ContainerState_CONTAINER_EXITED)
		if name == "oom" && got.GetReason() == c.reason {
			continue // which process the kernel picks decides about the code
		}
		if got.GetExitCode() != c.code || got.GetReason() != c.reason || got.GetFinishedAt() < got.GetStartedAt() {
			t.Errorf("%s: %v", name, got)
		}
	}
	// A container that ignores its stop signal is killed when its grace is over.
	// SIGCHLD stands for a signal that has no effect.
	stubborn := m.runShell(t, pod, config, "stubborn", loop, func(c *runtimeapi.ContainerConfig) { c.StopSignal = runtimeapi.Signal_SIGCHLD })
	began := time.Now()
	if _, err := m.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: stubborn, Timeout: 1}); err != nil {
		t.Fatal(err)
	}
	if got := m.status(t, stubborn); got.GetExitCode() != 137 || time.Since(began) < time.Second {
		t.Errorf("killed container after %s: %v", time.Since(began), got)
	}
	// A program that does not exist is an exited container, not a running one.
	created, err := m.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: pod, SandboxConfig: config, Config: &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "ghost"}, Image: &runtimeapi.ImageSpec{Image: image.Tools}, Command: []string{"/no/such/program"}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: created.GetContainerId()}); err == nil {
		t.Error("a missing program was started")
	}
	if got := m.status(t, created.GetContainerId()); got.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED || got.GetReason() != "StartError" || got.GetExitCode() != 128 {
		t.Errorf("missing program: %v", got)
	}
	m.removePod(t, pod)
}

func (m *machine) testExec(t *testing.T) {
	pod, config := m.runPod(t, "exec")
	id := m.runShell(t, pod, config, "a", loop)
	if out, code := m.sh(t, id, "echo out; echo err >&2; exit 7"); out != "out\nerr" || code != 7 {
		t.Errorf("exec: %q, %d", out, code)
	}
	_, err := m.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"sleep", "4321"}, Timeout: 1})
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("exec past its time: %v", err)
	}
	if _, err := m.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"no-such-program"}}); err == nil {
		t.Error("a missing program was run")
	}
	r, err := m.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"dd", "if=/dev/zero", "bs=1048576", "count=20"}})
	if err == nil && len(r.GetStdout()) != maxExecOutput {
		t.Errorf("kept %d bytes of 20 MiB, want %d", len(r.GetStdout()), maxExecOutput)
	} else if err != nil && status.Code(err) != codes.ResourceExhausted { // our client's own limit
		t.Error(err)
	}
	// Whoever gives up leaves no process, not even one that was about to start.
	for wait := time.Millisecond; wait < time.Second; wait *= 2 {
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		if _, err := m.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"sleep", "4321"}}); err == nil {
			t.Errorf("slept for more than an hour in %s", wait)
		}
		cancel()
	}
	nstest.Eventually(t, "nobody sleeps", func() bool {
		out, _ := m.sh(t, id, "cat /proc/[0-9]*/cmdline")
		return !strings.Contains(out, "4321")
	})
	m.removePod(t, pod)
}

// testStreams speaks the WebSocket protocol to the URLs, as the kubelet does.
func (m *machine) testStreams(t *testing.T) {
	pod, config := m.runPod(t, "streams")
	server := m.runShell(t, pod, config, "server", "while true; do echo pong | nc -l -p 7000 >/dev/null 2>&1; done")
	exec, err := m.RuntimeServiceClient.Exec(t.Context(), &runtimeapi.ExecRequest{ContainerId: server, Cmd: []string{"sh", "-c", "read line; echo $line; exit 5"}, Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		t.Fatal(err)
	}
	out := converse(t, exec.GetUrl(), "hello\n")
	if out[1] != "hello\n" || !strings.Contains(out[3], `"ExitCode"`) || !strings.Contains(out[3], `"5"`) {
		t.Errorf("exec: %v", out)
	}
	echo := m.runShell(t, pod, config, "echo", "read line; echo got $line; sleep 0.2", func(c *runtimeapi.ContainerConfig) { c.Stdin, c.StdinOnce = true, true })
	attach, err := m.RuntimeServiceClient.Attach(t.Context(), &runtimeapi.AttachRequest{ContainerId: echo, Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		t.Fatal(err)
	}
	if out := converse(t, attach.GetUrl(), "a line\n"); out[1] != "got a line\n" {
		t.Errorf("attach: %v", out)
	}
	m.awaitState(t, echo, runtimeapi.ContainerState_CONTAINER_EXITED)
	// A URL is good for one use.
	if _, _, err := websocket.DefaultDialer.DialContext(t.Context(), "ws"+strings.TrimPrefix(exec.GetUrl(), "http"), nil); err == nil {
		t.Error("a URL was used twice")
	}
	m.removePod(t, pod)
}

// converse sends input on channel 0 and collects the others until the end.
func converse(t *testing.T, url, input string) map[int]string {
	t.Helper()
	dialer := websocket.Dialer{Subprotocols: []string{"v4.channel.k8s.io"}}
	conn, _, err := dialer.DialContext(t.Context(), "ws"+strings.TrimPrefix(url, "http"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.WriteMessage(websocket.BinaryMessage, append([]byte{0}, input...)); err != nil {
		t.Fatal(err)
	}
	out := map[int]string{}
	conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	for {
		_, message, err := conn.ReadMessage()
		if err != nil {
			return out
		}
		if len(message) > 1 {
			out[int(message[0])] += string(message[1:])
		}
	}
}

// testServerIsKilled: containers run on, their output waits, what ends
// meanwhile is known afterwards.
func (m *machine) testNetwork(t *testing.T) {
	condition := func(kind string) *runtimeapi.RuntimeCondition {
		r, err := m.RuntimeServiceClient.Status(t.Context(), &runtimeapi.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(r.GetStatus().GetConditions(), func(c *runtimeapi.RuntimeCondition) bool { return c.GetType() == kind })
		return r.GetStatus().GetConditions()[i]
	}
	if c := condition(runtimeapi.NetworkReady); !c.GetStatus() {
		t.Errorf("%v", c)
	}
	file := filepath.Join(m.cfg.CNIConfDir, "10-test.conflist")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if c := condition(runtimeapi.NetworkReady); c.GetStatus() || c.GetReason() != "NetworkPluginNotReady" || !strings.Contains(c.GetMessage(), "cni plugin not initialized") {
		t.Errorf("without configuration: %v", c)
	}
	if c := condition(runtimeapi.RuntimeReady); !c.GetStatus() {
		t.Errorf("%v", c)
	}
	// No network, no pod, and nothing left of it.
	if _, err := m.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: m.podConfig("lonely")}); err == nil || !strings.Contains(err.Error(), "cni plugin not initialized") {
		t.Errorf("a pod without a network: %v", err)
	}
	// But a pod on the host's network needs none: static pods start first.
	config := m.podConfig("host")
	config.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
	r, err := m.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	id := m.runShell(t, r.GetPodSandboxId(), config, "a", loop)
	if out, _ := m.sh(t, id, "ip link show cni0 | grep -c cni0"); out != "1" {
		t.Errorf("does not see the host's bridge: %q", out)
	}
	m.removePod(t, r.GetPodSandboxId())
	m.writeNetwork(bridgeConfig)
}

// testInspect: a person who looks at a pod sees whether its network is whole.
func (m *machine) testInspect(t *testing.T) {
	pod, _ := m.runPod(t, "inspect")
	check := func() string {
		r, err := m.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: pod, Verbose: true})
		if err != nil {
			t.Fatal(err)
		}
		var info struct {
			CNICheck    string          `json:"cniCheck"`
			CNIResult   json.RawMessage `json:"cniResult"`
			RuntimeSpec struct{ Linux *struct{} }
		}
		if err := json.Unmarshal([]byte(r.GetInfo()["info"]), &info); err != nil || info.RuntimeSpec.Linux == nil || !bytes.Contains(info.CNIResult, []byte("10.244.9.")) {
			t.Errorf("info: %v, %v", r.GetInfo(), err)
		}
		return info.CNICheck
	}
	if got := check(); got != "ok" {
		t.Errorf("a pod as it was made: %s", got)
	}
	if out, err := exec.Command("nsenter", "--net=/run/netns/"+netnsPrefix+pod, "ip", "link", "del", podInterface).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got := check(); got == "ok" || got == "" {
		t.Errorf("a pod that has lost its interface: %q", got)
	}
	m.removePod(t, pod)
}

// testStreamedLists: what the lists say, in pieces.
func (m *machine) testStreamedLists(t *testing.T) {
	pod, config := m.runPod(t, "lists")
	m.runShell(t, pod, config, "a", loop)
	ctx := t.Context()
	pods, err1 := m.StreamPodSandboxes(ctx, &runtimeapi.StreamPodSandboxesRequest{Filter: &runtimeapi.PodSandboxFilter{Id: pod}})
	containers, err2 := m.StreamContainers(ctx, &runtimeapi.StreamContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: pod}})
	stats, err3 := m.StreamContainerStats(ctx, &runtimeapi.StreamContainerStatsRequest{})
	podStats, err4 := m.StreamPodSandboxStats(ctx, &runtimeapi.StreamPodSandboxStatsRequest{})
	metrics, err5 := m.StreamPodSandboxMetrics(ctx, &runtimeapi.StreamPodSandboxMetricsRequest{})
	images, err6 := m.images.StreamImages(ctx, &runtimeapi.StreamImagesRequest{Filter: &runtimeapi.ImageFilter{Image: &runtimeapi.ImageSpec{Image: image.Tools}}})
	none, err7 := m.StreamContainers(ctx, &runtimeapi.StreamContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: "none"}})
	if err := errors.Join(err1, err2, err3, err4, err5, err6, err7); err != nil {
		t.Fatal(err)
	}
	for what, n := range map[string]int{
		"pods":        count(t, pods, func(r *runtimeapi.StreamPodSandboxesResponse) int { return len(r.GetPodSandboxes()) }),
		"containers":  count(t, containers, func(r *runtimeapi.StreamContainersResponse) int { return len(r.GetContainers()) }),
		"stats":       count(t, stats, func(r *runtimeapi.StreamContainerStatsResponse) int { return len(r.GetContainerStats()) }),
		"pods' stats": count(t, podStats, func(r *runtimeapi.StreamPodSandboxStatsResponse) int { return len(r.GetPodSandboxStats()) }),
		"metrics":     count(t, metrics, func(r *runtimeapi.StreamPodSandboxMetricsResponse) int { return len(r.GetPodSandboxMetrics()) }),
		"images":      count(t, images, func(r *runtimeapi.StreamImagesResponse) int { return len(r.GetImages()) }),
		"another pod": 1 + count(t, none, func(r *runtimeapi.StreamContainersResponse) int { return len(r.GetContainers()) }),
	} {
		if n != 1 {
			t.Errorf("%s: %d", what, n)
		}
	}
	m.removePod(t, pod)
}

// count reads a stream to its end.
func count[R any](t *testing.T, stream grpc.ServerStreamingClient[R], items func(*R) int) (n int) {
	t.Helper()
	for {
		response, err := stream.Recv()
		if err == io.EOF {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
		n += items(response)
	}
}

func TestInBatches(t *testing.T) {
	var sizes []int
	send := func(some []int) error { sizes = append(sizes, len(some)); return nil }
	if err := inBatches(make([]int, 2*streamBatch+1), nil, send); err != nil || !slices.Equal(sizes, []int{streamBatch, streamBatch, 1}) {
		t.Errorf("%v, %v", sizes, err)
	}
	if err := inBatches([]int{1}, errdefs.ErrUnavailable, send); status.Code(err) != codes.Unavailable || len(sizes) != 3 {
		t.Errorf("a list that failed: %v, %v", err, sizes)
	}
}

func (m *machine) testIdempotence(t *testing.T) {
	pod, config := m.runPod(t, "twice")
	id := m.runShell(t, pod, config, "a", loop)
	for range 2 {
		_, err1 := m.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: id})
		_, err2 := m.StopPodSandbox(t.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: pod})
		if err1 != nil || err2 != nil {
			t.Error(err1, err2)
		}
	}
	for range 2 {
		_, err1 := m.RemoveContainer(t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: id})
		_, err2 := m.RemovePodSandbox(t.Context(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod})
		if err1 != nil || err2 != nil {
			t.Error(err1, err2)
		}
	}
	if _, err := m.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id}); status.Code(err) != codes.NotFound {
		t.Errorf("status of what is gone: %v", err)
	}
	if _, err := m.CheckpointContainer(t.Context(), &runtimeapi.CheckpointContainerRequest{ContainerId: id}); status.Code(err) != codes.Unimplemented {
		t.Errorf("checkpoint: %v", err)
	}
}

// testNothingIsLeft looks everywhere a pod leaves traces.
func (m *machine) testNothingIsLeft(t *testing.T) {
	var left bytes.Buffer
	for _, dir := range []string{m.cfg.NetNSDir, m.cfg.Root + "/sandboxes", m.cfg.Root + "/containers", m.cfg.Root + "/cni/results",
		m.cfg.State + "/sandboxes", m.cfg.State + "/containers"} {
		entries, _ := os.ReadDir(dir)
		for _, entry := range entries {
			fmt.Fprintln(&left, "file", filepath.Join(dir, entry.Name()))
		}
	}
	addresses, _ := filepath.Glob("/var/lib/cni/networks/test/10.*")
	groups, _ := filepath.Glob(cgroup.Mount + "/memory" + m.cgroup + "/*/memory.stat")
	states, _ := filepath.Glob("/run/containerd/runc/" + namespace + "/*")
	for _, name := range slices.Concat(addresses, groups, states) {
		fmt.Fprintln(&left, "file", name)
	}
	mounts, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	defer mounts.Close()
	data, _ := io.ReadAll(mounts)
	for line := range strings.Lines(string(data)) {
		if strings.Contains(line, "/run/cri/") || strings.Contains(line, "/run/netns/") || strings.Contains(line, "runtime.v2.task") {
			fmt.Fprint(&left, "mount ", line)
		}
	}
	records, err := m.client.ContainerService().List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{Client: m.client}
	tasks, err := d.listTasks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(&left, strings.Repeat("record\n", len(records)), strings.Repeat("task\n", len(tasks)))
	sandboxes, err := m.client.SandboxStore().List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(&left, strings.Repeat("sandbox\n", len(sandboxes)))
	leases, err := m.client.LeasesService().List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(&left, strings.Repeat("lease\n", len(leases)))
	if err := m.client.SnapshotService("overlayfs").Walk(t.Context(), func(_ context.Context, info snapshots.Info) error {
		if info.Kind != snapshots.KindCommitted {
			fmt.Fprintln(&left, "snapshot", info.Name)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if left.Len() > 0 {
		t.Errorf("left behind:\n%s", &left)
	}
}
