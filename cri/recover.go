package cri

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// recover rebuilds the store from containerd's records and the tasks that run.
// There is no other memory, so this is also what makes kill -9 harmless:
//
//	record says       task says        then it is
//	sandbox started   running          ready
//	sandbox started   –                not ready; the kubelet removes it
//	sandbox unfinished                 taken down: nobody was told its id
//	container         running          running; its output is opened again
//	container         stopped          exited, with the code the shim kept
//	container started –                exited, 255: it died with its shim
//	container no snapshot              half created: removed
func (s *Server) recover(ctx context.Context) error {
	records, err := s.daemon.ContainerService().List(ctx, fmt.Sprintf("labels.%q", kindLabel))
	if err != nil {
		return err
	}
	tasks, err := s.daemon.listTasks(ctx)
	if err != nil {
		return err
	}
	for _, kind := range []string{kindSandbox, kindContainer} { // pods first
		for _, record := range records {
			if record.Labels[kindLabel] != kind {
				continue
			}
			restore := s.recoverContainer
			if kind == kindSandbox {
				restore = s.recoverSandbox
			}
			// One broken record must not keep a node from starting.
			if err := restore(ctx, record, tasks[record.ID]); err != nil {
				s.logger.Error("not recovered", "key", record.ID, "err", err)
			}
		}
	}
	s.removeLeftovers()
	if err := s.removeLeftoverViews(ctx); err != nil {
		return err
	}
	views, err := s.daemon.LeasesService().List(ctx, fmt.Sprintf("labels.%q==%s", kindLabel, kindView))
	if err != nil {
		return err
	}
	for _, view := range views {
		s.report("remove leftover lease", view.ID, s.daemon.LeasesService().Delete(ctx, view))
	}
	s.logger.Info("recovered", "sandboxes", len(s.sandboxes.list()), "containers", len(s.containers.list()))
	return nil
}

func (s *Server) recoverSandbox(ctx context.Context, record containers.Container, task *tasktypes.Process) error {
	var saved sandboxRecord
	if err := readExtension(record, recordExtension, &saved); err != nil {
		return err
	}
	sb := newSandbox(saved)
	sb.suspect.Store(true)
	if task == nil && saved.Started {
		var err error
		if task, err = s.awaitTask(ctx, sb.ID); err != nil {
			s.logger.Error("taken for dead", "key", sb.ID, "err", err)
		}
	}
	running := task.GetStatus() == tasktypes.Status_RUNNING
	if saved.Started && running {
		sb.started(task.GetPid())
	} else if saved.Started {
		sb.exited()
	} else if err := s.destroySandbox(ctx, sb); err == nil {
		return nil
	} else {
		s.logger.Error("unfinished sandbox stays", "key", sb.ID, "err", err)
		sb.exited()
	}
	s.sandboxes.add(sb.name(), sb.ID, sb)
	return nil
}

// awaitTask asks for a task that a list has left out until its shim answers;
// nil if there is none.
func (s *Server) awaitTask(ctx context.Context, id string) (*tasktypes.Process, error) {
	ctx, cancel := context.WithTimeout(ctx, teardownTimeout)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		task, err := s.daemon.task(ctx, id)
		if err = ignoreNotFound(err); err == nil || ctx.Err() != nil {
			return task, err
		}
		<-tick.C
	}
}

func (s *Server) recoverContainer(ctx context.Context, record containers.Container, task *tasktypes.Process) error {
	var saved containerRecord
	var status containerStatus
	if err := readExtension(record, recordExtension, &saved); err != nil {
		return err
	}
	if err := ignoreNotFound(readExtension(record, statusExtension, &status)); err != nil {
		return err
	}
	if _, err := s.daemon.SnapshotService(record.Snapshotter).Stat(ctx, record.ID); errdefs.IsNotFound(err) {
		return s.discardContainer(ctx, record.ID, saved.SandboxID)
	}
	if status.Resources == nil {
		status.Resources = saved.Config.GetLinux().GetResources()
	}
	c := newContainer(saved, status)
	s.containers.add(c.name(), c.ID, c)
	return s.catchUp(ctx, c, task)
}

// catchUp brings a container's status in line with its task, whatever was
// missed. It is also the periodic resync of watchTasks. The task may be older
// news than the status.
func (s *Server) catchUp(ctx context.Context, c *container, task *tasktypes.Process) error {
	c.lifecycle.Lock()
	defer c.lifecycle.Unlock()
	status := c.snapshot()
	if status.FinishedAt != 0 || c.removed {
		return nil
	}
	if task == nil {
		// A list leaves out a shim that is slow to answer. Only NotFound to a
		// direct question means that nothing runs.
		var err error
		if task, err = s.daemon.task(ctx, c.ID); ignoreNotFound(err) != nil {
			return err
		}
	}
	switch task.GetStatus() {
	case tasktypes.Status_RUNNING, tasktypes.Status_PAUSED, tasktypes.Status_PAUSING:
		if c.output() == nil {
			if err := s.openIO(ctx, c); err != nil {
				return err
			}
		}
		if status.StartedAt != 0 {
			return nil
		}
		// Killed between starting it and writing that down.
		status.StartedAt, status.Pid, status.Cgroup = now(), task.GetPid(), cgroupOf(task.GetPid())
		return s.record(ctx, c, status)
	case tasktypes.Status_STOPPED:
		return s.recordExit(ctx, c, taskExit{id: c.ID, code: task.GetExitStatus(), at: task.GetExitedAt().AsTime()})
	case tasktypes.Status_CREATED:
		return nil // a start that was cut short: discardContainer kills it
	}
	if status.StartedAt == 0 {
		return nil // created and never started
	}
	return s.recordExit(ctx, c, taskExit{id: c.ID, code: unknownExit, at: time.Now(), unknown: true})
}

// unknownExit is what the kubelet takes for "nobody knows".
const unknownExit = 255

// removeLeftovers deletes files and namespaces that belong to no record.
func (s *Server) removeLeftovers() {
	live := map[string]bool{}
	for _, sb := range s.sandboxes.list() {
		live[sb.ID] = true
	}
	for _, c := range s.containers.list() {
		live[c.ID] = true
	}
	for _, dir := range []string{s.sandboxDir(""), s.sandboxState(""), s.containerDir(""), s.containerState("")} {
		entries, _ := os.ReadDir(dir) // absent on the first start
		for _, entry := range entries {
			if id := entry.Name(); !live[id] {
				path := filepath.Join(dir, id)
				s.report("remove leftover files", path, errors.Join(unmountBelow(path, "shm"), unmountBelow(path, "images/*"), os.RemoveAll(path)))
			}
		}
	}
	images, _ := filepath.Glob(filepath.Join(s.cfg.State, "image-*")) // see withRootFS
	for _, root := range images {
		s.report("remove leftover mount", root, errors.Join(unmount(root), os.Remove(root)))
	}
	entries, _ := os.ReadDir(s.cfg.NetNSDir)
	for _, entry := range entries {
		if id, ours := strings.CutPrefix(entry.Name(), netnsPrefix); ours && !live[id] {
			path := filepath.Join(s.cfg.NetNSDir, entry.Name())
			s.report("remove leftover network namespace", path, removeNetNS(path))
		}
	}
}

func unmountBelow(dir, pattern string) (err error) {
	places, _ := filepath.Glob(filepath.Join(dir, pattern))
	for _, place := range places {
		err = errors.Join(err, unmount(place))
	}
	return err
}

// killShim ends the shim of a sandbox that is gone, should there be one.
func (s *Server) killShim(id string) {
	commands, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range commands {
		data, _ := os.ReadFile(file) // gone meanwhile: not the one
		args := strings.Split(string(data), "\x00")
		if i := slices.Index(args, id); i > 0 && args[i-1] == "-id" && strings.HasPrefix(filepath.Base(args[0]), "containerd-shim") {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			s.report("kill leftover shim", id, syscall.Kill(pid, syscall.SIGKILL))
		}
	}
}

func (s *Server) report(what, key string, err error) {
	if err != nil {
		s.logger.Error(what, "key", key, "err", err)
		return
	}
	s.logger.Info(what, "key", key)
}

const (
	resyncPeriod  = 30 * time.Second
	reconnectWait = time.Second
)

// watchTasks learns of every exit. It subscribes first and then looks, so that
// nothing falls between; when the stream breaks, because containerd was
// restarted, it begins again. Events only make it faster: the look alone, every
// resyncPeriod, would do.
func (s *Server) watchTasks(ctx context.Context) error {
	for {
		if err := s.followEvents(ctx); err != nil && ctx.Err() == nil {
			s.logger.Warn("containerd's event stream broke", "err", err)
			for _, sb := range s.sandboxes.list() {
				sb.suspect.Store(true)
			}
		}
		timer := time.NewTimer(reconnectWait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

func (s *Server) followEvents(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxExitHandlers)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events, errs := s.daemon.Subscribe(ctx, `topic=="/tasks/exit"`)
	resync := time.NewTicker(resyncPeriod)
	defer resync.Stop()
	for {
		if err := s.resync(ctx); err != nil {
			return err
		}
	events:
		for {
			select {
			case envelope := <-events:
				if exit, ok := readExit(envelope.Event); ok {
					group.Go(func() error { s.handleExit(ctx, exit); return nil })
				}
			case err := <-errs:
				cancel()
				return errors.Join(err, group.Wait())
			case <-ctx.Done():
				return group.Wait()
			case <-resync.C:
				break events
			}
		}
	}
}

// maxExitHandlers lets many containers drain their output at once.
const maxExitHandlers = 64

func (s *Server) handleExit(ctx context.Context, exit taskExit) {
	var err error
	if c, unknown := s.containers.get(exit.id); unknown == nil {
		err = s.containerExited(ctx, c, exit)
	} else if sb, unknown := s.sandboxes.get(exit.id); unknown == nil {
		err = s.sandboxExited(ctx, sb)
	}
	if err != nil && ctx.Err() == nil {
		s.logger.Error("exit not recorded, will try again", "key", exit.id, "err", err)
	}
}

// sandboxExited notes that pause died. Its network is given back when the
// kubelet stops the sandbox, as it will.
func (s *Server) sandboxExited(ctx context.Context, sb *sandbox) error {
	sb.lifecycle.Lock()
	defer sb.lifecycle.Unlock()
	if !sb.exited() {
		return nil
	}
	s.publish(sb.ID, sb.ID, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
	return s.daemon.deleteTask(ctx, sb.ID)
}

// resync compares everything that should run with everything that does.
func (s *Server) resync(ctx context.Context) error {
	known := s.containers.list() // before asking: what is started later is not missing
	pods := s.sandboxes.list()
	tasks, err := s.daemon.listTasks(ctx)
	if err != nil {
		return err
	}
	for _, c := range known {
		if err := s.catchUp(ctx, c, tasks[c.ID]); err != nil {
			s.logger.Error("resync", "key", c.ID, "err", err)
		}
	}
	for _, sb := range pods {
		if sb.process() == 0 || tasks[sb.ID].GetStatus() == tasktypes.Status_RUNNING {
			continue
		}
		if task, err := s.daemon.task(ctx, sb.ID); ignoreNotFound(err) != nil || task.GetStatus() == tasktypes.Status_RUNNING {
			continue // the list was wrong, or we cannot tell
		}
		if err := s.sandboxExited(ctx, sb); err != nil {
			s.logger.Error("resync", "key", sb.ID, "err", err)
		}
	}
	return nil
}
