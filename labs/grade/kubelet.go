package grade

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"tinykube/apiserver"
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
	port    int // of its API
	starts  int
	marks   atomic.Int64 // pods made to see that time has passed
	*process

	mu     sync.Mutex        // guards what follows
	asked  map[string]string // by pod: who asked, in order
	order  []string          // sandboxes made and stopped
	births map[string][]int  // by pod: how often it had been asked when each of its lives began
}

// withKubelet starts the reader's kubelet on a runtime of ours, with nothing
// else.
func withKubelet(_ context.Context, b *bench) error {
	if err := b.openWard(false); err != nil {
		return err
	}
	return b.startKubelet()
}

// withCluster starts it with an API server of ours.
func withCluster(ctx context.Context, b *bench) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := b.ourServer(ctx); err != nil {
		return err
	}
	if err := b.openWard(true); err != nil {
		return err
	}
	b.ward.args = append(b.ward.args, "--kubeconfig", filepath.Join(b.scratch, "pki", apiserver.AdminKubeconfig))
	return b.startKubelet()
}

// openWard prepares the runtime and the kubelet's configuration. How a
// container behaves is its command's first word: see programOf.
func (b *bench) openWard(nodeAPI bool) error {
	dir := filepath.Join(b.scratch, "node")
	if err := os.MkdirAll(filepath.Join(dir, "manifests"), 0o755); err != nil {
		return err
	}
	w := &ward{bench: b, asked: map[string]string{}, births: map[string][]int{}, runtime: fakecri.New(), dir: dir}
	w.runtime.ProgramOf = w.programOf
	listener, err := net.Listen("unix", filepath.Join(dir, "cri.sock"))
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(w.note))
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
	port, err := freePort()
	if err != nil {
		return err
	}
	w.port = port
	clientCA := ""
	if nodeAPI {
		clientCA = filepath.Join(b.scratch, "pki", "ca.crt")
	}
	config := fmt.Sprintf(`{"kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1", "staticPodPath": %q, "podLogsDir": %q,
"containerRuntimeEndpoint": %q, "cgroupsPerQOS": false, "evictionHard": {"memory.available": "0%%", "nodefs.available": "0%%", "nodefs.inodesFree": "0%%", "imagefs.available": "0%%"}, "enforceNodeAllocatable": [], "enableServer": %v, "address": "127.0.0.1", "port": %d, "healthzPort": 0, "authentication": {"x509": {"clientCAFile": %q}}, "fileCheckFrequency": "1s"}`,
		w.path("manifests"), w.path("logs"), "unix://"+w.path("cri.sock"), nodeAPI, port, clientCA)
	if err := os.WriteFile(w.path("config.yaml"), []byte(config), 0o600); err != nil {
		return err
	}
	w.args = []string{"--config", w.path("config.yaml"), "--root-dir", w.path("root"), "--hostname-override", nodeName, "--node-ip", "127.0.0.1"}
	b.ward = w
	return nil
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
//	run          until it is stopped
//	end 3        ends at once, with this exit code
//	fail-once    ends with 1 the first time, and with 0 from then on
//
// What an exec probe hears is written in it: "script POD live FFS" is a failure,
// another one, and then success for ever.
func (w *ward) programOf(config *runtimeapi.ContainerConfig) fakecri.Program {
	program, pod := fakecri.Program{Exec: w.answer}, config.Labels["io.kubernetes.pod.name"]
	w.mu.Lock()
	w.births[pod] = append(w.births[pod], len(w.asked[pod]))
	w.mu.Unlock()
	word, rest, _ := strings.Cut(strings.Join(config.Command, " "), " ")
	switch word {
	case "end":
		program.Runs = programRuns
		_, _ = fmt.Sscan(rest, &program.ExitCode) // "end" alone ends well
	case "fail-once":
		program.Runs = programRuns
		if config.Metadata.Attempt == 0 {
			program.ExitCode = 1
		}
	}
	return program
}

// answer plays one attempt of an exec probe, and remembers it.
func (w *ward) answer(_ string, command []string) (string, int32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	pod, probe, script := command[1], command[2], command[3]
	before := strings.Count(w.asked[pod], probe[:1])
	w.asked[pod] += probe[:1]
	if again, cycles := strings.CutSuffix(script, "*"); cycles {
		script = again
		before %= len(again)
	}
	if script[min(before, len(script)-1)] == 'F' {
		return "no", 1
	}
	return "", 0
}

// note remembers in which order sandboxes are made and stopped.
func (w *ward) note(ctx context.Context, request any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	w.mu.Lock()
	switch r := request.(type) {
	case *runtimeapi.RunPodSandboxRequest:
		w.order = append(w.order, "run "+r.Config.Metadata.Name)
	case *runtimeapi.StopPodSandboxRequest:
		w.order = append(w.order, "stop "+r.PodSandboxId)
	}
	w.mu.Unlock()
	return next(ctx, request)
}

// heard is who was asked about a pod so far, by the first letters: "ssslrlr".
func (w *ward) heard(pod string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked[pod]
}

func (w *ward) born(pod string) []int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.births[pod])
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
	if err := mark.write("  restartPolicy: Never\n  containers: [{name: a, image: x, command: [end]}]\n"); err != nil {
		return err
	}
	return mark.lived(ctx, "a", 1, stateEnded)
}
