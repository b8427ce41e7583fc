package grade

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"tinykube/internal/fakecri"
)

// Labs about the kubelet run the reader's against a container runtime that is
// ours and runs nothing: it only says so, over CRI.
//
//	manifests/*.yaml ──▶ the reader's kubelet ──CRI──▶ checks, which play the runtime
//	                              │
//	                              └──▶ our API server, in labs that have one

// nodeName is what the reader's kubelet is called.
const nodeName = "grade"

// ward is the reader's kubelet and what it works on.
type ward struct {
	bench   *bench
	runtime *fakecri.Runtime
	dir     string
	args    []string
	starts  int
	stops   atomic.Int64 // how often a sandbox was stopped
	marks   atomic.Int64 // pods made to see that time has passed
	*process
}

// withKubelet starts the reader's kubelet on a runtime of ours. How a container
// behaves is its command's first word: see programOf.
func withKubelet(ctx context.Context, b *bench) error {
	dir := filepath.Join(b.scratch, "node")
	if err := os.MkdirAll(filepath.Join(dir, "manifests"), 0o755); err != nil {
		return err
	}
	w := &ward{bench: b, runtime: fakecri.New(), dir: dir}
	w.runtime.ProgramOf = programOf
	w.runtime.Fault = func(method string) error {
		if method == "StopPodSandbox" {
			w.stops.Add(1)
		}
		return nil
	}
	listener, err := net.Listen("unix", filepath.Join(dir, "cri.sock"))
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	runtimeapi.RegisterRuntimeServiceServer(server, w.runtime)
	runtimeapi.RegisterImageServiceServer(server, w.runtime)
	ended := make(chan struct{})
	go func() { // joined by the closer
		defer close(ended)
		_ = server.Serve(listener) // until Stop
	}()
	b.closers = append(b.closers, func() {
		server.Stop()
		<-ended
	})
	config := fmt.Sprintf(`{"kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1", "staticPodPath": %q, "podLogsDir": %q,
"containerRuntimeEndpoint": %q, "cgroupsPerQOS": false, "enforceNodeAllocatable": [], "enableServer": %v, "address": "127.0.0.1", "healthzPort": 0, "fileCheckFrequency": "1s",
"nodeStatusUpdateFrequency": "1s"}`, w.path("manifests"), w.path("logs"), "unix://"+w.path("cri.sock"), false)
	if err := os.WriteFile(w.path("config.yaml"), []byte(config), 0o600); err != nil {
		return err
	}
	w.args = []string{"--config", w.path("config.yaml"), "--root-dir", w.path("root"), "--hostname-override", nodeName, "--node-ip", "127.0.0.1"}
	b.ward = w
	return b.startKubelet()
}

func (w *ward) path(name string) string { return filepath.Join(w.dir, name) }

// startKubelet starts the reader's kubelet, or another one after it.
func (b *bench) startKubelet() (err error) {
	b.ward.starts++
	b.ward.process, err = b.start("kubelet", b.ward.path(fmt.Sprintf("kubelet-%d", b.ward.starts)), b.ward.args...)
	return err
}

// programOf lets a container say what it is: its command is played, not run.
//
//	run              until it is stopped
//	end 3            ends at once, with this exit code
//	fail-once NAME   ends with 1 the first time, and with 0 from then on
//	probed FILE      runs; an exec probe succeeds while FILE is there
func programOf(config *runtimeapi.ContainerConfig) fakecri.Program {
	word, rest, _ := strings.Cut(strings.Join(config.Command, " "), " ")
	switch word {
	case "end":
		code := int32(0)
		_, _ = fmt.Sscan(rest, &code) // "end" alone ends well
		return fakecri.Program{Runs: programRuns, ExitCode: code}
	case "fail-once":
		return fakecri.Program{Runs: programRuns, ExitCode: map[bool]int32{true: 1}[config.Metadata.Attempt == 0]}
	case "probed":
		return fakecri.Program{Exec: func(_ string, command []string) (string, int32) {
			if _, err := os.Stat(command[len(command)-1]); err != nil {
				return "not there", 1
			}
			return "", 0
		}}
	}
	return fakecri.Program{}
}

// programRuns is how long something runs that ends.
const programRuns = 300e6 // nanoseconds

// staticPod is a pod that a check has for itself.
type staticPod struct {
	*ward
	name string
}

// static is a check about one pod. Its spec is YAML.
func static(name, spec string, check func(context.Context, *staticPod) error) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		p := &staticPod{b.ward, name}
		if err := p.write(spec); err != nil {
			return err
		}
		return check(ctx, p)
	}
}

func (p *staticPod) file() string { return filepath.Join(p.path("manifests"), p.name+".yaml") }

// write puts the pod's manifest into the folder, in one step.
func (p *staticPod) write(spec string) error {
	text := "apiVersion: v1\nkind: Pod\nmetadata: {name: " + p.name + "}\nspec:\n  terminationGracePeriodSeconds: 1\n" + spec
	temporary := filepath.Join(p.dir, p.name+".new")
	if err := os.WriteFile(temporary, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, p.file())
}

// sandboxes are those of the pod, the newest first.
func (p *staticPod) sandboxes() (found []*runtimeapi.PodSandboxStatus) {
	for _, s := range p.runtime.Sandboxes() {
		if s.Metadata.Name == p.name+"-"+nodeName {
			found = append(found, s)
		}
	}
	slices.SortFunc(found, func(a, b *runtimeapi.PodSandboxStatus) int { return int(b.CreatedAt - a.CreatedAt) })
	return found
}

// lives are those of one of the pod's containers, the first one first.
func (p *staticPod) lives(container string) (found []*runtimeapi.ContainerStatus) {
	for _, c := range p.runtime.Containers() {
		if c.Metadata.Name == container && c.Labels["io.kubernetes.pod.name"] == p.name+"-"+nodeName {
			found = append(found, c)
		}
	}
	slices.SortFunc(found, func(a, b *runtimeapi.ContainerStatus) int { return int(a.CreatedAt - b.CreatedAt) })
	return found
}

// lived waits until a container has had that many lives, and the last one is
// in that state.
func (p *staticPod) lived(ctx context.Context, container string, lives int, state runtimeapi.ContainerState) error {
	return p.until(ctx, func() error {
		all := p.lives(container)
		if len(all) == lives && all[lives-1].State == state {
			return nil
		}
		now := "it was never made"
		if len(all) > 0 {
			now = fmt.Sprintf("there were %d, and the last one is %s", len(all), stateName(all[len(all)-1].State))
		}
		return fmt.Errorf("container %s should have life number %d, and that one be %s; %s", container, lives, stateName(state), now)
	})
}

const (
	stateRuns  = runtimeapi.ContainerState_CONTAINER_RUNNING
	stateEnded = runtimeapi.ContainerState_CONTAINER_EXITED
)

func stateName(s runtimeapi.ContainerState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "CONTAINER_"))
}

// looked waits until the kubelet has looked at all pods again: another one,
// made now, has been brought up and seen to run. What was to follow from before
// has followed by then.
func (p *staticPod) looked(ctx context.Context) error {
	p.marks.Add(1)
	mark := &staticPod{p.ward, fmt.Sprintf("mark-%d", p.marks.Load())}
	defer os.Remove(mark.file())
	if err := mark.write("  containers: [{name: a, image: x, command: [fail-once]}]\n"); err != nil {
		return err
	}
	return mark.lived(ctx, "a", 2, stateEnded)
}
