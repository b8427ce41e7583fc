package cri

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// StopContainer asks, waits for the grace period, and kills.
func (s *Server) StopContainer(ctx context.Context, r *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	c, err := s.containers.get(r.GetContainerId())
	if err != nil {
		return &runtimeapi.StopContainerResponse{}, ignoreNotFound(err)
	}
	return &runtimeapi.StopContainerResponse{}, s.stopContainer(ctx, c, time.Duration(r.GetTimeout())*time.Second)
}

// stopContainer returns when the container's exit has been recorded. Two calls
// may overlap, so that a second with a shorter grace period has effect.
func (s *Server) stopContainer(ctx context.Context, c *container, grace time.Duration) error {
	c.settle() // a start under way comes first
	if _, running := c.running(); !running {
		return nil
	}
	defer c.settle() // the task is reaped when we return
	if grace > 0 {
		if err := s.daemon.kill(ctx, c.ID, "", stopSignal(c.StopSignal), false); err != nil {
			return err
		}
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-c.gone:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
	}
	if err := s.daemon.kill(ctx, c.ID, "", syscall.SIGKILL, true); err != nil {
		return err
	}
	// The event stream usually tells us first; asking covers its absence.
	if code, err := s.daemon.waitTask(ctx, c.ID, ""); err == nil {
		err := s.containerExited(ctx, c, taskExit{id: c.ID, code: code, at: time.Now()})
		if err != nil {
			return err
		}
	}
	select {
	case <-c.gone:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("container %s does not die: %w", c.ID, ctx.Err())
	}
}

// stopSignal reads "SIGQUIT", "QUIT", "3" or "SIGRTMIN+3"; SIGTERM otherwise.
func stopSignal(text string) syscall.Signal {
	name := strings.ToUpper(strings.TrimSpace(text))
	if n, err := strconv.Atoi(name); err == nil && n > 0 && n < 65 {
		return syscall.Signal(n)
	}
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	// glibc's numbers, which programs mean; the CRI's enum spells the sign out.
	name = strings.NewReplacer("MINPLUS", "MIN+", "MAXMINUS", "MAX-").Replace(name)
	for prefix, base := range map[string]int{"SIGRTMIN": 34, "SIGRTMAX": 64} {
		if offset, ok := strings.CutPrefix(name, prefix); ok {
			n, _ := strconv.Atoi(offset) // "" is 0, "+3" and "-3" are signed
			return syscall.Signal(base + n)
		}
	}
	if signal := unix.SignalNum(name); signal != 0 {
		return signal
	}
	return syscall.SIGTERM
}

// settle waits for a start or an exit that is being handled.
func (c *container) settle() {
	c.lifecycle.Lock()
	defer c.lifecycle.Unlock()
}

// containerExited handles one exit, of which we may hear several times.
func (s *Server) containerExited(ctx context.Context, c *container, exit taskExit) error {
	c.lifecycle.Lock()
	defer c.lifecycle.Unlock()
	status := c.snapshot()
	if status.state() != runtimeapi.ContainerState_CONTAINER_RUNNING || c.removed {
		return nil
	}
	return s.recordExit(ctx, c, exit)
}

// recordExit writes down how a container ended, and then reaps the task. The
// order matters: a task that is reaped before would leave a container of which
// nobody knows how it ended.
//
// Invariant: c.lifecycle is held.
func (s *Server) recordExit(ctx context.Context, c *container, exit taskExit) error {
	s.closeIO(c, drainPatience)
	status := c.snapshot()
	status.Pid, status.FinishedAt, status.ExitCode = 0, exit.at.UnixNano(), int32(exit.code)
	if status.StartedAt == 0 || status.StartedAt > status.FinishedAt {
		status.StartedAt = status.FinishedAt // it was over before we noted the start
	}
	switch {
	case exit.code == 0:
		status.Reason = "Completed"
	case exit.unknown:
		status.Reason = "Unknown"
	case oomKills(status.Cgroup) > 0:
		// The kernel's own count, which is there until the task is reaped; the
		// event that tells of it may come too late.
		status.Reason = "OOMKilled"
	default:
		status.Reason = "Error"
	}
	if err := s.record(ctx, c, status); err != nil {
		return err
	}
	s.publish(c.SandboxID, c.ID, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
	return s.daemon.deleteTask(ctx, c.ID)
}

// drainPatience is for output that is still on its way when the program has
// ended; usually it is none.
const drainPatience = 2 * time.Second

// closeIO ends the container's output.
func (s *Server) closeIO(c *container, patience time.Duration) {
	c.mu.Lock()
	io := c.io
	c.io = nil
	c.mu.Unlock()
	if io == nil {
		return
	}
	if patience > 0 {
		io.drain(patience)
		return
	}
	io.close()
}

// RemoveContainer kills what still runs and forgets everything but the log.
func (s *Server) RemoveContainer(ctx context.Context, r *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	c, err := s.containers.get(r.GetContainerId())
	if err != nil {
		return &runtimeapi.RemoveContainerResponse{}, ignoreNotFound(err)
	}
	return &runtimeapi.RemoveContainerResponse{}, s.removeContainer(ctx, c)
}

func (s *Server) removeContainer(ctx context.Context, c *container) error {
	if err := s.stopContainer(ctx, c, 0); err != nil {
		return err
	}
	c.lifecycle.Lock()
	defer c.lifecycle.Unlock()
	if c.removed {
		return nil
	}
	if err := s.discardContainer(ctx, c.ID, c.SandboxID); err != nil {
		return err
	}
	c.removed = true
	s.containers.remove(c.name(), c.ID)
	s.publish(c.SandboxID, c.ID, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT)
	return nil
}

// discardContainer removes a container's task (of an unfinished start), files
// and record, as far as they exist.
func (s *Server) discardContainer(ctx context.Context, id, sandboxID string) error {
	if err := s.killTask(ctx, id); err != nil {
		return err
	}
	if sb, err := s.sandboxes.get(sandboxID); err == nil {
		removeCgroup(cgroupsPath(specInput{ID: id, Sandbox: &sb.sandboxRecord, Host: s.host}))
	}
	if err := s.unmountImages(ctx, id); err != nil {
		return err
	}
	for _, dir := range []string{s.containerDir(id), s.containerState(id)} {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return s.daemon.discard(ctx, id)
}
