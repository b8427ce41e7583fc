package app

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"tinykube/internal/fakecri"
)

// The kubelet is killed, really, by SIGKILL, again and again, while it starts,
// runs and ends pods. The runtime is a fake that outlives it, in this process,
// behind a real socket: so a kill can fall exactly before or after any call,
// and what became of the call is known. Everything else is real: the process,
// its files, its mounts.
var kills = flag.Int("kills", 30, "how often TestKillSoak kills the kubelet")

const asKubelet = "TINYKUBE_SOAK_KUBELET"

func TestMain(m *testing.M) {
	if os.Getenv(asKubelet) != "" {
		cmd := NewCommand()
		cmd.SetArgs(os.Args[1:])
		if cmd.Execute() != nil {
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// soak is a node whose kubelet does not live long.
type soak struct {
	t         *testing.T
	dir       string
	runtime   *fakecri.Runtime
	manifests map[string]string // wanted, by name

	mu      sync.Mutex // guards what follows
	process *os.Process
	left    int            // calls until the kill; negative: none
	changes bool           // only calls that change something are counted
	after   bool           // kill once the call has been carried out
	hit     map[string]int // kills, by the call that they fell on
}

func TestKillSoak(t *testing.T) {
	s := newSoak(t)
	random := rand.New(rand.NewPCG(uint64(*kills), 7))
	for n := 1; n <= *kills; n++ {
		s.change(random)
		// Most calls only look: every other time the kill falls on one that does not.
		if s.changes = random.IntN(2) == 0; s.changes {
			s.killAt(random.IntN(6), random.IntN(2) == 0)
		} else {
			s.killAt(random.IntN(40), random.IntN(2) == 0)
		}
		s.noneTwice()
		if n%50 == 0 || n == *kills {
			s.settle()
		}
	}
	for name := range maps.Clone(s.manifests) {
		s.remove(name)
	}
	s.settle()
	var where []string
	for _, method := range slices.Sorted(maps.Keys(s.hit)) {
		where = append(where, fmt.Sprintf("%s %d", method, s.hit[method]))
	}
	t.Logf("%d times killed: %s; no container ran twice, none was missing, nothing was left", *kills, strings.Join(where, ", "))
}

func newSoak(t *testing.T) *soak {
	s := &soak{t: t, dir: t.TempDir(), runtime: fakecri.New(), manifests: map[string]string{}, hit: map[string]int{}, left: -1}
	s.runtime.Programs["once"] = fakecri.Program{Runs: 10 * time.Millisecond}
	listener, err := net.Listen("unix", filepath.Join(s.dir, "cri.sock"))
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(s.intercept))
	s.runtime.Register(server)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() { server.Stop(); <-done; s.unmountAll() })
	config := "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nenableServer: false\nhealthzPort: 0\ncgroupsPerQOS: false\nenforceNodeAllocatable: []\n" +
		"evictionHard: {}\nimageGCHighThresholdPercent: 100\nfileCheckFrequency: 200ms\nregisterNode: false\n" +
		"staticPodPath: " + s.dir + "/manifests\npodLogsDir: " + s.dir + "/log/pods\ncontainerRuntimeEndpoint: unix://" + s.dir + "/cri.sock\n"
	if err := os.WriteFile(filepath.Join(s.dir, "config.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"manifests", "host"} {
		if err := os.MkdirAll(filepath.Join(s.dir, dir, "sub"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// intercept counts the calls and kills the kubelet before or after its last.
func (s *soak) intercept(ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	s.mu.Lock()
	counts := !s.changes || changing(info.FullMethod)
	last := s.left == 0 && counts
	if counts {
		s.left--
	}
	if last && !s.after {
		s.kill(info.FullMethod)
		s.mu.Unlock()
		return nil, context.Canceled // nobody hears it
	}
	s.mu.Unlock()
	answer, err := handle(context.WithoutCancel(ctx), request) // what was heard is carried out
	if last {
		s.mu.Lock()
		s.kill(info.FullMethod)
		s.mu.Unlock()
	}
	return answer, err
}

// changing says whether a call does more than to look.
func changing(method string) bool {
	for _, verb := range []string{"/Run", "/Create", "/Start", "/Stop", "/Remove", "/Pull"} {
		if strings.Contains(method, verb) {
			return true
		}
	}
	return false
}

// kill kills. The caller holds mu.
func (s *soak) kill(method string) {
	_ = s.process.Kill() // gone already is as good
	s.hit[method[strings.LastIndexByte(method, '/')+1:]]++
}

func (s *soak) start() *exec.Cmd {
	s.t.Helper()
	program, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command(program, "--config="+s.dir+"/config.yaml", "--root-dir="+s.dir+"/kubelet", "--hostname-override=n", "--node-ip=192.0.2.1")
	cmd.Env = append(os.Environ(), asKubelet+"=1", "GOMAXPROCS=2")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := os.Create(filepath.Join(s.dir, "log.txt"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.process = cmd.Process
	return cmd
}

// killAt runs the kubelet until its nth call. One that rests asks seldom, so
// it is not waited for for ever.
func (s *soak) killAt(n int, after bool) {
	s.t.Helper()
	s.mu.Lock()
	s.left, s.after = n, after
	s.mu.Unlock()
	cmd := s.start()
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case <-done:
	case <-time.After(3 * time.Second):
		s.mu.Lock()
		if s.left >= 0 {
			s.left = -1
			s.kill("/resting")
		}
		s.mu.Unlock()
		<-done
	}
	if cmd.ProcessState.Exited() {
		raw, _ := os.ReadFile(filepath.Join(s.dir, "log.txt"))
		s.t.Fatalf("the kubelet ended by itself: %v\n%s", cmd.ProcessState, raw)
	}
}

// change adds, removes or edits a pod.
func (s *soak) change(random *rand.Rand) {
	name := fmt.Sprintf("pod-%d", random.IntN(4))
	switch random.IntN(4) {
	case 0:
		s.remove(name)
	case 1, 2:
		text := fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: soak, labels: {v: \"%d\"}}\nspec:\n"+
			"  terminationGracePeriodSeconds: 1\n  initContainers:\n  - {name: init, image: once}\n  - {name: side, image: app, restartPolicy: Always}\n"+
			"  containers:\n  - name: main\n    image: app\n    volumeMounts: [{name: host, mountPath: /h, subPath: sub}, {name: memory, mountPath: /m}]\n"+
			"  - {name: other, image: app}\n"+
			"  volumes:\n  - {name: host, hostPath: {path: %s/host}}\n  - {name: memory, emptyDir: {medium: Memory}}\n", name, random.IntN(3), s.dir)
		s.manifests[name] = text
		if err := os.WriteFile(s.manifest(name), []byte(text), 0o600); err != nil {
			s.t.Fatal(err)
		}
	} // else: as it was
}

func (s *soak) manifest(name string) string { return filepath.Join(s.dir, "manifests", name+".yaml") }

func (s *soak) remove(name string) {
	delete(s.manifests, name)
	if err := os.Remove(s.manifest(name)); err != nil && !os.IsNotExist(err) {
		s.t.Fatal(err)
	}
}

// noneTwice checks what must hold at every instant.
func (s *soak) noneTwice() {
	s.t.Helper()
	running := map[string]bool{}
	for _, c := range s.runtime.Containers() {
		key := c.Labels["io.kubernetes.pod.uid"] + "/" + c.Metadata.Name
		if c.State == runtimeapi.ContainerState_CONTAINER_RUNNING && running[key] {
			s.t.Fatalf("container %s runs twice", key)
		}
		running[key] = running[key] || c.State == runtimeapi.ContainerState_CONTAINER_RUNNING
	}
}

// settle lets a kubelet live until all is as wanted, and no longer.
func (s *soak) settle() {
	s.t.Helper()
	s.mu.Lock()
	s.left = -1
	s.mu.Unlock()
	cmd := s.start()
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	deadline := time.Now().Add(90 * time.Second)
	for {
		wrong := s.wrong()
		if wrong == "" {
			return
		}
		if time.Now().After(deadline) {
			raw, _ := os.ReadFile(filepath.Join(s.dir, "log.txt"))
			s.t.Fatalf("it does not settle: %s\n%s", wrong, raw)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// wrong says what is not as it must be in the end, or nothing.
func (s *soak) wrong() string {
	var want, running []string
	for name := range s.manifests {
		for _, c := range []string{"main", "other", "side"} {
			want = append(want, name+"-n/"+c)
		}
	}
	for _, c := range s.runtime.Containers() {
		if c.State == runtimeapi.ContainerState_CONTAINER_RUNNING && c.Metadata.Name != "init" {
			running = append(running, c.Labels["io.kubernetes.pod.name"]+"/"+c.Metadata.Name)
		}
	}
	slices.Sort(want)
	slices.Sort(running)
	if !slices.Equal(want, running) {
		return fmt.Sprintf("running %v, wanted %v", running, want)
	}
	uids := map[string]bool{}
	for _, sandbox := range s.runtime.Sandboxes() {
		if sandbox.State == runtimeapi.PodSandboxState_SANDBOX_READY {
			uids[sandbox.Metadata.Uid] = true
		}
	}
	directories, _ := os.ReadDir(filepath.Join(s.dir, "kubelet", "pods"))
	mounts := s.mounts()
	if len(uids) != len(s.manifests) || len(directories) != len(s.manifests) || len(mounts) != 2*len(s.manifests) {
		return fmt.Sprintf("%d pods: sandboxes of %d, %d directories, mounts %v", len(s.manifests), len(uids), len(directories), mounts)
	}
	return ""
}

// mounts lists what is mounted below the node's directory.
func (s *soak) mounts() []string {
	raw, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		s.t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(raw)) {
		if fields := strings.Fields(line); strings.HasPrefix(fields[1], s.dir+"/") {
			out = append(out, fields[1])
		}
	}
	return out
}

// unmountAll cleans up after a test that failed.
func (s *soak) unmountAll() {
	for _, path := range s.mounts() {
		_ = syscall.Unmount(path, syscall.MNT_DETACH)
	}
}
