package cri

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// execution is one more process in a running container.
type execution struct {
	command        []string
	terminal       bool
	stdin          io.Reader
	stdout, stderr io.Writer
	resize         <-chan remotecommand.TerminalSize
}

// maxExecOutput is what ExecSync keeps of each stream; the rest is read and
// forgotten, so that a chatty probe neither blocks nor fills our memory.
//
// Spec: CRI v1 ExecSyncResponse (CVE-2022-1708)
const maxExecOutput = 16 << 20

// capped is a buffer that pretends to take everything.
type capped struct{ data []byte }

func (c *capped) Write(p []byte) (int, error) {
	room := maxExecOutput - len(c.data)
	c.data = append(c.data, p[:min(room, len(p))]...)
	return len(p), nil
}

// ExecSync runs a command to its end: exec probes and hooks.
func (s *Server) ExecSync(ctx context.Context, r *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	c, err := s.containers.get(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	if timeout := r.GetTimeout(); timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(timeout)*time.Second)
		defer cancel()
	}
	var stdout, stderr capped
	code, err := s.exec(ctx, c, execution{command: r.GetCmd(), stdout: &stdout, stderr: &stderr})
	if err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", c.ID, err)
	}
	return &runtimeapi.ExecSyncResponse{Stdout: stdout.data, Stderr: stderr.data, ExitCode: int32(code)}, nil
}

// exec adds a process to a container and waits for it. When the context ends
// first the process is killed and the context's error returned.
func (s *Server) exec(ctx context.Context, c *container, e execution) (uint32, error) {
	if _, running := c.running(); !running {
		return 0, fmt.Errorf("container is not running: %w", errdefs.ErrFailedPrecondition)
	}
	if len(e.command) == 0 {
		return 0, fmt.Errorf("no command: %w", errdefs.ErrInvalidArgument)
	}
	process, err := s.execProcess(ctx, c, e)
	if err != nil {
		return 0, err
	}
	execID := newID()
	dir := filepath.Join(s.containerState(c.ID), "exec-"+execID[:16])
	defer os.RemoveAll(dir)
	sinks := map[string]io.Writer{streamStdout: e.stdout, streamStderr: e.stderr}
	// A start that is cut off may yet succeed, and nobody would know the process:
	// it is waited for, even when its time is over already.
	start, cancel := detach(ctx)
	defer cancel()
	pipes, err := openPipes(start, dir, e.stdin != nil, e.terminal, func(stream string, chunk []byte) {
		if to := sinks[stream]; to != nil {
			to.Write(chunk) // a client that went away is not the process's problem
		}
	})
	if err != nil {
		return 0, err
	}
	defer pipes.close()
	if err := s.daemon.addProcess(start, c.ID, execID, process, pipes.paths); err != nil {
		return 0, err
	}
	if err := s.daemon.startTask(start, c.ID, execID); err != nil {
		return 0, errors.Join(err, s.daemon.deleteProcess(start, c.ID, execID))
	}
	if e.stdin != nil {
		// Ends with the client's input, or when the stream server closes the
		// connection after we have returned.
		go func() {
			io.Copy(pipes.stdin, e.stdin)
			pipes.stdin.Close()
			s.daemon.endInput(ctx, c.ID, execID)
		}()
	}
	if e.resize != nil {
		go s.resize(ctx, c, execID, e.resize) // ends with the channel
	}
	code, err := s.daemon.waitTask(ctx, c.ID, execID)
	cleanup, cancel := detach(ctx) // only now: it may have run for hours
	defer cancel()
	if err != nil {
		// The time is over, which containerd may have noticed before we do.
		s.daemon.kill(cleanup, c.ID, execID, syscall.SIGKILL, true)
		s.daemon.waitTask(cleanup, c.ID, execID)
		err = cmp.Or(ctx.Err(), err)
	}
	// With the process the shim deletes its ends of the FIFOs, at the latest
	// two seconds later: grandchildren that keep the pipe do not keep us.
	if s.daemon.deleteProcess(cleanup, c.ID, execID) == nil && err == nil {
		pipes.copies.Wait()
	}
	return code, err
}

// execProcess is the container's own process with another command: the same
// user, environment, directory and confinement.
func (s *Server) execProcess(ctx context.Context, c *container, e execution) (*specs.Process, error) {
	spec, err := s.daemon.spec(ctx, c.ID)
	if err != nil {
		return nil, err
	}
	process := spec.Process
	process.Args, process.Terminal, process.ConsoleSize = e.command, e.terminal, nil
	if e.terminal && !slices.ContainsFunc(process.Env, func(v string) bool { return strings.HasPrefix(v, "TERM=") && v != "TERM=" }) {
		process.Env = append(process.Env, "TERM=xterm")
	}
	return process, nil
}

func (s *Server) resize(ctx context.Context, c *container, execID string, sizes <-chan remotecommand.TerminalSize) {
	for {
		select {
		case <-ctx.Done():
			return
		case size, ok := <-sizes:
			if !ok {
				return
			}
			s.daemon.TaskService().ResizePty(ctx, &tasks.ResizePtyRequest{
				ContainerID: c.ID, ExecID: execID, Width: uint32(size.Width), Height: uint32(size.Height)})
		}
	}
}

// addProcess tells the shim about a process; startTask runs it.
func (d *daemon) addProcess(ctx context.Context, id, execID string, process *specs.Process, paths ioPaths) error {
	spec, err := typeurl.MarshalAnyToProto(process)
	if err != nil {
		return err
	}
	_, err = d.TaskService().Exec(ctx, &tasks.ExecProcessRequest{
		ContainerID: id, ExecID: execID, Terminal: paths.terminal,
		Stdin: paths.stdin, Stdout: paths.stdout, Stderr: paths.stderr, Spec: spec,
	})
	return errgrpc.ToNative(err)
}

func (d *daemon) deleteProcess(ctx context.Context, id, execID string) error {
	_, err := d.TaskService().DeleteProcess(ctx, &tasks.DeleteProcessRequest{ContainerID: id, ExecID: execID})
	return ignoreNotFound(errgrpc.ToNative(err))
}

// endInput closes the shim's own writing end of a process's standard input.
// That the process is gone meanwhile is the usual case, and no error.
func (d *daemon) endInput(ctx context.Context, id, execID string) {
	ctx, cancel := detach(ctx)
	defer cancel()
	d.TaskService().CloseIO(ctx, &tasks.CloseIORequest{ContainerID: id, ExecID: execID, Stdin: true})
}
