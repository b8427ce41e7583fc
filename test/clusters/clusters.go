// Package clusters makes clusters out of programs, for tests: an API server in
// the test's process, and scheduler, controller managers and nodes as processes
// beside it, ours or anybody's. Nobody needs root for it, and nothing but
// loopback is used.
//
// Start reading at Cluster.
package clusters

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
	"tinykube/internal/reference"
	"tinykube/internal/testenv"
)

// Patience bounds a wait that should end in far less; benchmarks, which should
// tell how long something takes, prolong it.
var Patience = 2 * time.Minute

// Cluster is an API server and what was started around it.
type Cluster struct {
	T      testing.TB
	Env    *testenv.Env
	Client *client.Client // an administrator's
	dir    string
}

// New starts the API server, with certificates and keys for the rest.
func New(t testing.TB, options ...testenv.Option) *Cluster {
	t.Helper()
	env := testenv.New(t, options...)
	api, err := client.New(env.Config)
	if err != nil {
		t.Fatal(err)
	}
	return &Cluster{T: t, Env: env, Client: api, dir: t.TempDir()}
}

// Program returns the path in an environment variable.
func Program(t testing.TB, env string) string {
	t.Helper()
	path := os.Getenv(env)
	if path == "" {
		t.Fatalf("$%s is not set: give the path of a real program, for example make smoke-swap %s=/usr/local/bin/…", env, env)
	}
	if _, err := exec.LookPath(path); err != nil {
		t.Fatalf("$%s: %v", env, err)
	}
	return path
}

// Built is the path of what make has put into bin.
func Built(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(reference.Checkout(t), "bin", name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("bin/%s is missing: run make (%v)", name, err)
	}
	return path
}

// Own builds one of our programs by itself, which a benchmark compares with the
// real one: the all-in-one has the code of all others in memory as well.
func Own(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if out, err := exec.Command("go", "build", "-C", reference.Checkout(t), "-ldflags=-s -w", "-o", path, "./cmd/"+name).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// Process is a program that runs until Stop, or the end of the test.
type Process struct {
	t    testing.TB
	cmd  *exec.Cmd
	once sync.Once
	log  string
}

// Start runs a program. Its output is shown if the test fails.
func (c *Cluster) Start(path string, args ...string) *Process {
	c.T.Helper()
	log, err := os.CreateTemp(c.dir, filepath.Base(path)+"-*.log")
	if err != nil {
		c.T.Fatal(err)
	}
	defer log.Close()
	p := &Process{t: c.T, cmd: exec.Command(path, args...), log: log.Name()}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // it ends with us even if we are killed
	if err := p.cmd.Start(); err != nil {
		c.T.Fatal(err)
	}
	c.T.Cleanup(func() {
		p.Stop()
		if c.T.Failed() {
			out := p.Log()
			c.T.Logf("%s %s printed:\n…%s", filepath.Base(path), strings.Join(args, " "), out[max(0, len(out)-4000):])
		}
	})
	return p
}

// Stop ends the program as its supervisor would.
func (p *Process) Stop() { p.end(syscall.SIGTERM) }

// Kill ends it as a power cut would.
func (p *Process) Kill() { p.end(syscall.SIGKILL) }

func (p *Process) end(signal syscall.Signal) {
	p.once.Do(func() {
		_ = p.cmd.Process.Signal(signal)
		_ = p.cmd.Wait()
	})
}

// Log is what the program has printed so far.
func (p *Process) Log() string {
	out, _ := os.ReadFile(p.log)
	return string(out)
}

// PIDs are the program's process and its children, which the kernel lists by
// the thread that made them.
func (p *Process) PIDs() []int {
	pids := []int{p.cmd.Process.Pid}
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pids[0]))
	for _, list := range lists {
		children, _ := os.ReadFile(list)
		for _, field := range strings.Fields(string(children)) {
			if pid, err := strconv.Atoi(field); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// Usage is the CPU time that the program and its children have used, and the
// most memory that they have had resident.
func (p *Process) Usage() (cpu time.Duration, peakMiB float64) {
	for _, pid := range p.PIDs() {
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])); len(fields) > 12 {
			for _, ticks := range fields[11:13] { // utime and stime, in 1/100 s
				n, _ := strconv.Atoi(ticks)
				cpu += time.Duration(n) * 10 * time.Millisecond
			}
		}
		peakMiB = max(peakMiB, memory(pid, "VmHWM:"))
	}
	return cpu, peakMiB
}

// Resident is what the program and its children have resident now.
func (p *Process) Resident() (mib float64) {
	for _, pid := range p.PIDs() {
		mib = max(mib, memory(pid, "VmRSS:"))
	}
	return mib
}

func memory(pid int, field string) float64 {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := strings.Cut(string(status), field)
	kib, _ := strconv.Atoi(strings.Fields(rest + " 0")[0])
	return float64(kib) / 1024
}

// Scheduler starts ours.
func (c *Cluster) Scheduler(more ...string) *Process {
	args := append([]string{"kube-scheduler", "--kubeconfig=" + c.Env.Kubeconfig, "--secure-port=0"}, more...)
	return c.Start(Built(c.T, "tinykube"), args...)
}

// ControllerManager starts the program at a path with one command line, which
// both ours and the real one take; an empty path means ours.
func (c *Cluster) ControllerManager(path string, more ...string) *Process {
	pki := func(name string) string { return filepath.Join(c.Env.Dir, "pki", name) }
	args := append([]string{"--kubeconfig=" + c.Env.Kubeconfig, "--secure-port=0", "--use-service-account-credentials=true",
		"--root-ca-file=" + pki("ca.crt"), "--service-account-private-key-file=" + pki("sa.key"),
		"--cluster-signing-cert-file=" + pki("ca.crt"), "--cluster-signing-key-file=" + pki("ca.key"), "--controllers=*,bootstrapsigner,tokencleaner"}, more...)
	if path == "" {
		return c.Start(Built(c.T, "tinykube"), append([]string{"kube-controller-manager"}, args...)...)
	}
	return c.Start(path, args...)
}

// Hollow starts so many hollow nodes.
func (c *Cluster) Hollow(nodes int) *Process {
	return c.Start(Built(c.T, "tinykube"), "hollow", fmt.Sprint("--nodes=", nodes), "--kubeconfig="+c.Env.Kubeconfig)
}

// Kubectl runs our kubectl and returns what it printed.
func (c *Cluster) Kubectl(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, Built(c.T, "tinykube"), append([]string{"kubectl", "--kubeconfig=" + c.Env.Kubeconfig}, args...)...).CombinedOutput()
	return string(out), err
}

// MustKubectl is Kubectl for what has to work.
func (c *Cluster) MustKubectl(args ...string) string {
	c.T.Helper()
	out, err := c.Kubectl(args...)
	if err != nil {
		c.T.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// Eventually waits until the condition holds and fails the test otherwise.
func Eventually(t testing.TB, what string, holds func(ctx context.Context) (bool, error)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		ok, err := holds(ctx)
		if ok {
			return
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within %s (last: %v)", what, Patience, last)
		case <-tick.C:
		}
	}
}

// Ready waits for so many nodes that take pods.
func (c *Cluster) Ready(nodes int) {
	c.T.Helper()
	Eventually(c.T, fmt.Sprint(nodes, " nodes without taints"), func(ctx context.Context) (bool, error) {
		list, err := client.For(c.Client, client.Nodes).List(ctx, "", metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		n := 0
		for _, node := range list.Items {
			if len(node.Spec.Taints) == 0 {
				n++
			}
		}
		return n == nodes, fmt.Errorf("%d", n)
	})
}

// Provision plays whoever provides storage until the test ends: for every claim
// that is pending there is a volume, a folder which nobody looks into. To bind
// the two is the controller manager's.
func (c *Cluster) Provision() {
	claims := client.NewInformer(client.For(c.Client, client.PersistentVolumeClaims), client.InformerOptions[*corev1.PersistentVolumeClaim]{})
	queue := client.NewQueue[string](client.QueueOptions{Base: 10 * time.Millisecond, Max: time.Second})
	claims.OnChange(func(_, new *corev1.PersistentVolumeClaim) {
		if new != nil && new.Status.Phase != corev1.ClaimBound {
			queue.Add(client.Key(new))
		}
	})
	ctx, cancel := context.WithCancel(context.WithoutCancel(c.T.Context()))
	var running sync.WaitGroup
	running.Go(func() { _ = claims.Run(ctx) })
	running.Go(func() {
		for {
			key, ok := queue.Get()
			if !ok {
				return
			}
			if claim, found := claims.Get(key); found && c.provision(ctx, claim) != nil {
				queue.AddRateLimited(key)
			}
			queue.Done(key)
		}
	})
	c.T.Cleanup(func() { cancel(); queue.ShutDown(); running.Wait() })
}

func (c *Cluster) provision(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	name, class := "pv-"+string(claim.UID), ""
	if claim.Spec.StorageClassName != nil {
		class = *claim.Spec.StorageClassName
	}
	_, err := client.For(c.Client, client.PersistentVolumes).Create(ctx, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{
		Capacity: claim.Spec.Resources.Requests, AccessModes: claim.Spec.AccessModes, StorageClassName: class,
		PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/nowhere/" + name}},
		ClaimRef:               &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID},
	}})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// Get reads any object or list by its path, as JSON.
func (c *Cluster) Get(ctx context.Context, path string) (map[string]any, error) {
	var out json.RawMessage
	if err := c.Client.DoInto(ctx, client.Request{Method: "GET", Path: path}, nil, &out); err != nil {
		return nil, err
	}
	object := map[string]any{}
	return object, json.Unmarshal(out, &object)
}
