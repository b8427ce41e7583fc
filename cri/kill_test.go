package cri

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"tinykube/internal/nstest"
)

func (m *machine) testServerIsKilled(t *testing.T) {
	pod, config := m.runPod(t, "restart")
	talker := m.runShell(t, pod, config, "talker", loop)
	mortal := m.runShell(t, pod, config, "mortal", "while [ ! -e /dev/shm/die ]; do sleep 0.05; done; exit 9")
	m.sh(t, talker, "touch /dev/shm/die")
	m.awaitState(t, mortal, runtimeapi.ContainerState_CONTAINER_EXITED)
	second := m.runShell(t, pod, config, "second", "sleep 1; exit 9")
	log := m.status(t, talker).GetLogPath()
	before := len(messages(t, log))

	kill9(m.server)
	nstest.Eventually(t, "the second container to end by itself", func() bool {
		task, err := m.task(second)
		return err == nil && task == containerStopped
	})
	m.startServer()

	if got := m.status(t, second); got.GetState() != runtimeapi.ContainerState_CONTAINER_EXITED || got.GetExitCode() != 9 {
		t.Errorf("ended while we were dead: %v", got)
	}
	if got := m.status(t, mortal); got.GetExitCode() != 9 {
		t.Errorf("ended before: %v", got)
	}
	if got := m.status(t, talker); got.GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING || got.GetUser().GetLinux() == nil {
		t.Errorf("should still run: %v", got)
	}
	nstest.Eventually(t, "more output", func() bool { return len(messages(t, log)) > before+30 })
	for i, message := range messages(t, log) {
		if message != "line "+strconv.Itoa(i+1) {
			t.Fatalf("line %d of the log is %q: output was lost", i+1, message)
		}
	}
	m.sh(t, talker, "true")
	m.removePod(t, pod)
}

const containerStopped = "STOPPED"

func (m *machine) task(id string) (string, error) {
	d := &daemon{Client: m.client}
	process, err := d.task(context.Background(), id)
	return process.GetStatus().String(), err
}

func (m *machine) testDaemonIsKilled(t *testing.T) {
	pod, config := m.runPod(t, "daemon")
	id := m.runShell(t, pod, config, "a", loop)
	mortal := m.runShell(t, pod, config, "mortal", "sleep 1; exit 4")
	kill9(m.daemon)
	time.Sleep(1500 * time.Millisecond) // the container ends with nobody to tell
	m.startDaemon()
	// A new containerd throws away tasks that have ended, often before it can
	// be asked how.
	if got := m.awaitState(t, mortal, runtimeapi.ContainerState_CONTAINER_EXITED); got.GetExitCode() != 4 && got.GetReason() != "Unknown" {
		t.Errorf("ended while containerd was dead: %v", got)
	}
	if got := m.status(t, id); got.GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("should still run: %v", got)
	}
	if out, _ := m.sh(t, id, "echo alive"); out != "alive" {
		t.Errorf("exec: %q", out)
	}
	before := len(messages(t, m.status(t, id).GetLogPath()))
	nstest.Eventually(t, "more output", func() bool { return len(messages(t, m.status(t, id).GetLogPath())) > before })
	if _, err := m.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: id}); err != nil {
		t.Error(err)
	}
	m.removePod(t, pod)
}

// testShimIsBusy: a shim that does not answer in time says nothing about its
// pod, neither to a server that starts nor to one that compares.
func (m *machine) testShimIsBusy(t *testing.T) {
	pod, config := m.runPod(t, "busy")
	id := m.runShell(t, pod, config, "a", loop)
	shims := m.shims(t)
	if len(shims) != 1 {
		t.Fatalf("shims of one pod: %v", shims)
	}
	kill9(m.server)
	if err := syscall.Kill(shims[0], syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	d := &daemon{Client: m.client}
	nstest.Eventually(t, "the shim stands still", func() bool {
		_, err := d.task(t.Context(), id)
		return err != nil && !errdefs.IsNotFound(err)
	})
	started := make(chan struct{})
	go func() { defer close(started); m.startServer() }()
	if tasks, err := d.listTasks(t.Context()); err != nil || len(tasks) != 0 {
		t.Errorf("tasks of a shim that stands still: %v, %v", tasks, err)
	}
	if err := syscall.Kill(shims[0], syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	<-started
	if got := m.status(t, id); got.GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("should still run: %v", got)
	}
	if r, err := m.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: pod}); err != nil || r.GetStatus().GetState() != runtimeapi.PodSandboxState_SANDBOX_READY {
		t.Errorf("should be ready: %v, %v", r.GetStatus(), err)
	}
	m.removePod(t, pod)
}

// testShimIsKilled: with its shim a pod loses its parent, and so must end.
func (m *machine) testShimIsKilled(t *testing.T) {
	pod, config := m.runPod(t, "shim")
	id := m.runShell(t, pod, config, "a", loop)
	d := &daemon{Client: m.client}
	process, err := d.task(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if shims := m.shims(t); len(shims) != 1 {
		t.Fatalf("shims of one pod: %v", shims)
	} else if err := syscall.Kill(shims[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	m.awaitState(t, id, runtimeapi.ContainerState_CONTAINER_EXITED)
	// Its orphan's new parent is this test, which does not ask for it: what has ended has no command line.
	if line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", process.GetPid())); len(line) > 0 {
		t.Errorf("the process lives on: %q", line)
	}
	nstest.Eventually(t, "the pod is not ready", func() bool {
		r, err := m.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: pod})
		return err == nil && r.GetStatus().GetState() == runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	})
	// Until containerd has cleared up, it may still ask the dead shim.
	nstest.Eventually(t, "the pod is gone", func() bool {
		_, err := m.RemovePodSandbox(t.Context(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod})
		return err == nil
	})
	m.testNothingIsLeft(t)
}

// shims lists the shims on this machine.
func (m *machine) shims(t *testing.T) (pids []int) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if line, _ := os.ReadFile(file); strings.Contains(string(line), "containerd-shim-runc-v2\x00") {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// testKilledHalfWay kills the server while a CNI plugin hangs, when the pod is
// recorded and has a namespace and a task, but nobody knows its id yet.
func (m *machine) testKilledHalfWay(t *testing.T) {
	hang := filepath.Join(m.cfg.CNIBinDirs[0], "hang")
	script := "#!/bin/sh\n[ $CNI_COMMAND = ADD ] && sleep 30\nexit 0\n"
	if err := os.WriteFile(hang, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	m.writeNetwork(strings.Replace(bridgeConfig, `"plugins":[`, `"plugins":[{"type":"hang"},`, 1))
	done := make(chan error, 1)
	go func() {
		_, err := m.RunPodSandbox(context.Background(), &runtimeapi.RunPodSandboxRequest{Config: m.podConfig("half")})
		done <- err
	}()
	d := &daemon{Client: m.client}
	nstest.Eventually(t, "the pause task", func() bool {
		tasks, err := d.listTasks(t.Context())
		return err == nil && len(tasks) == 1
	})
	kill9(m.server)
	if err := <-done; err == nil {
		t.Error("the call succeeded")
	}
	m.writeNetwork(bridgeConfig)
	m.startServer()
	pods, err := m.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{})
	if err != nil || len(pods.GetItems()) != 0 {
		t.Errorf("pods after the restart: %v, %v", pods.GetItems(), err)
	}
	m.testNothingIsLeft(t)
	// And the kubelet's next attempt succeeds.
	pod, _ := m.runPod(t, "half")
	m.removePod(t, pod)
}
