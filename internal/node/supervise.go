package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	restartMin = 500 * time.Millisecond
	restartMax = 10 * time.Second
	// healthyAfter ends the backoff of a child that stayed up this long.
	healthyAfter = 30 * time.Second
	// maxLog is when a child's log is cut; what it printed before is kept once.
	maxLog       = 10 << 20
	socketWait   = 60 * time.Second
	socketPoll   = 20 * time.Millisecond
	imagesMarker = "/var/lib/tinykube/images"
)

// child is one of the programs that PID 1 keeps running.
type child struct {
	name string
	args func() []string // asked again at each start
}

func always(args ...string) func() []string { return func() []string { return args } }

// supervise starts containerd, gives it the images, then starts the CRI server
// and the kubelet, and restarts whatever ends until ctx does. Everything else
// on the node is the kubelet's business.
func supervise(ctx context.Context, s *Spec) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("node", s.Name)
	reaper := newReaper()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return reaper.run(ctx) })
	status := Status{Started: time.Now()}
	phase := func(format string, args ...any) {
		status.Phase, status.Since = fmt.Sprintf(format, args...), time.Now()
		log.Info(status.Phase)
		raw, _ := json.Marshal(status)
		if err := writeFile(statusFile, raw, 0o644); err != nil {
			log.Error("write status", "err", err)
		}
	}
	start := func(c child) { group.Go(func() error { return keepRunning(ctx, log, reaper, c) }) }

	phase("starting containerd")
	start(child{"containerd", always(ToolsDir+"/bin/containerd", "--config", "/etc/containerd/config.toml")})
	if err := awaitSocket(ctx, ContainerdSocket); err != nil {
		return err
	}
	images := &importer{socket: ContainerdSocket, dir: filepath.Join(ToolsDir, "images"), marker: imagesMarker}
	phase("importing the images of static pods")
	if err := images.run(ctx, s.FirstImages...); err != nil {
		return fmt.Errorf("import images: %w", err)
	}
	if s.Bare {
		if err := images.run(ctx); err != nil {
			return fmt.Errorf("import images: %w", err)
		}
		phase("running")
		return group.Wait()
	}
	if !s.ContainerdCRI() {
		phase("starting cri")
		start(child{"cri", always(ToolsDir+"/bin/tinykube", "cri", "--listen", s.RuntimeEndpoint,
			"--containerd", ContainerdSocket, "--pause-image", s.PauseImage)})
		if err := awaitSocket(ctx, strings.TrimPrefix(s.RuntimeEndpoint, "unix://")); err != nil {
			return err
		}
	}
	phase("starting kubelet")
	start(child{"kubelet", s.kubelet})
	// The kubelet has enough to do by now; the other images come meanwhile.
	phase("importing images")
	if err := images.run(ctx); err != nil {
		return fmt.Errorf("import images: %w", err)
	}
	phase("running")
	return group.Wait()
}

// otherKubelet is a program that runs in the place of our kubelet if somebody
// puts it there: on a real machine one would edit the systemd unit.
const otherKubelet = "/var/lib/tinykube/bin/kubelet"

func (s *Spec) kubelet() []string {
	args := []string{ToolsDir + "/bin/tinykube", "kubelet", "--config=/var/lib/kubelet/config.yaml",
		"--kubeconfig=/etc/kubernetes/kubelet.conf", "--node-ip=" + s.Address.Addr().String(), "--hostname-override=" + s.Name}
	if info, err := os.Stat(otherKubelet); err == nil && info.Mode()&0o111 != 0 {
		return append([]string{otherKubelet}, args[2:]...) // the rest is only ours
	}
	if s.CPU != "" {
		args = append(args, "--node-cpu="+s.CPU)
	}
	if s.Memory > 0 {
		args = append(args, fmt.Sprintf("--node-memory=%d", s.Memory))
	}
	return args
}

// keepRunning starts c again whenever it ends, with a growing delay.
func keepRunning(ctx context.Context, log *slog.Logger, reaper *reaper, c child) error {
	delay := restartMin
	for ctx.Err() == nil {
		started := time.Now()
		exited, err := c.start(reaper)
		if err != nil {
			return fmt.Errorf("start %s: %w", c.name, err)
		}
		select {
		case <-ctx.Done():
			return nil
		case status := <-exited:
			log.Warn("ended, starting it again", "component", c.name, "status", describe(status), "delay", delay)
		}
		if time.Since(started) > healthyAfter {
			delay = restartMin
		}
		select {
		case <-ctx.Done():
		case <-time.After(delay):
		}
		delay = min(2*delay, restartMax)
	}
	return nil
}

func (c child) start(reaper *reaper) (<-chan syscall.WaitStatus, error) {
	out, err := openLog(filepath.Join(LogDir, c.name+".log"))
	if err != nil {
		return nil, err
	}
	defer out.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	return reaper.start(c.args(), &os.ProcAttr{Dir: "/", Env: os.Environ(), Files: []*os.File{null, out, out}})
}

// openLog opens a log for appending; one that has grown too long becomes
// NAME.1 first.
func openLog(name string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return nil, err
	}
	if info, err := os.Stat(name); err == nil && info.Size() > maxLog {
		if err := os.Rename(name, name+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
}

func describe(status syscall.WaitStatus) string {
	if status.Signaled() {
		return "killed by " + status.Signal().String()
	}
	return fmt.Sprintf("exit code %d", status.ExitStatus())
}

// reaper waits for every child of PID 1, its own and those that lost their
// parent. os/exec must not be used beside it: it would wait for the same ones.
type reaper struct {
	mu      sync.Mutex // guards waiting, and keeps a child from being reaped before it is known
	waiting map[int]chan syscall.WaitStatus
}

func newReaper() *reaper { return &reaper{waiting: map[int]chan syscall.WaitStatus{}} }

func (r *reaper) start(args []string, attr *os.ProcAttr) (<-chan syscall.WaitStatus, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	process, err := os.StartProcess(args[0], args, attr)
	if err != nil {
		return nil, err
	}
	exited := make(chan syscall.WaitStatus, 1)
	r.waiting[process.Pid] = exited
	return exited, process.Release()
}

// run reaps until ctx ends. Signals may be merged, so each one reaps all.
func (r *reaper) run(ctx context.Context) error {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	defer signal.Stop(ended)
	for {
		r.reap()
		select {
		case <-ctx.Done():
			return nil
		case <-ended:
		}
	}
}

func (r *reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if exited, ok := r.waiting[pid]; ok {
			exited <- status
			delete(r.waiting, pid)
		}
	}
}

// awaitSocket waits until something listens at path.
func awaitSocket(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, socketWait)
	defer cancel()
	ticker := time.NewTicker(socketPoll)
	defer ticker.Stop()
	for {
		if fd, err := dialUnix(path); err == nil {
			return fd.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("nothing listens at %s after %s; see %s", path, socketWait, LogDir)
		case <-ticker.C:
		}
	}
}
