package cri

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// newID is 256 random bits in hex, the form every tool expects.
func newID() string {
	id := make([]byte, 32)
	rand.Read(id)
	return hex.EncodeToString(id)
}

// RunPodSandbox makes a pod's surroundings:
//
//	record in containerd ─▶ network namespace ─▶ ┬ CNI ADD ──────────┬─▶ start pause ─▶ record: started
//	                                             └ create pause task ┘
//
// The record comes first, so that whatever follows can be found and undone by
// the next life of this process. Undoing is the same code as stopping.
func (s *Server) RunPodSandbox(ctx context.Context, r *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	if err := validateSandbox(r.GetConfig(), r.GetRuntimeHandler()); err != nil {
		return nil, err
	}
	sb := newSandbox(sandboxRecord{ID: newID(), Config: r.GetConfig(), Handler: r.GetRuntimeHandler(), CreatedAt: now()})
	sb.Hostname = sb.Config.GetHostname()
	if sb.hostNetwork() || sb.Hostname == "" {
		var err error
		if sb.Hostname, err = os.Hostname(); err != nil {
			return nil, err
		}
	}
	if !sb.hostNetwork() {
		sb.NetNS = filepath.Join(s.cfg.NetNSDir, netnsPrefix+sb.ID)
	}
	if err := s.sandboxes.reserve(sb.name(), sb.ID); err != nil {
		return nil, err
	}
	if err := s.buildSandbox(ctx, sb); err != nil {
		sb.suspect.Store(true)
		cleanup, cancel := detach(ctx)
		defer cancel()
		if undone := s.destroySandbox(cleanup, sb); undone != nil {
			// Leave it visible and not ready: the kubelet will stop and
			// remove it until that works.
			sb.exited()
			s.sandboxes.add(sb.name(), sb.ID, sb)
			return nil, errors.Join(err, undone)
		}
		s.sandboxes.remove(sb.name(), sb.ID)
		return nil, err
	}
	s.sandboxes.add(sb.name(), sb.ID, sb)
	s.publish(sb.ID, sb.ID, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT)
	s.publish(sb.ID, sb.ID, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT)
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: sb.ID}, nil
}

func (s *Server) buildSandbox(ctx context.Context, sb *sandbox) error {
	image, err := s.pauseImage(ctx)
	if err != nil {
		return fmt.Errorf("pause image: %w", err)
	}
	spec, err := s.pauseSpec(ctx, sb, image)
	if err != nil {
		return err
	}
	labels := map[string]string{kindLabel: kindSandbox, podLabel: sb.ID}
	if err := s.daemon.create(ctx, sb.ID, image.names[0], labels, spec, sb.userNamespace(), sb.sandboxRecord); err != nil {
		return fmt.Errorf("record sandbox: %w", err)
	}
	if err := s.writePodFiles(sb); err != nil {
		return err
	}
	pid, err := s.connectSandbox(ctx, sb, image)
	if err != nil {
		return err
	}
	if err := s.daemon.startTask(ctx, sb.ID, ""); err != nil {
		return fmt.Errorf("start the pause container: %w", err)
	}
	sb.Started = true
	if err := s.daemon.update(ctx, sb.ID, recordExtension, sb.sandboxRecord); err != nil {
		return err
	}
	sb.started(pid)
	return nil
}

// connectSandbox makes the network namespace and pause's process, which stands
// still, and runs the plugins.
func (s *Server) connectSandbox(ctx context.Context, sb *sandbox, image *imageInfo) (pid uint32, err error) {
	userns := sb.userNamespace()
	pause := func(ctx context.Context) (err error) {
		if err = s.daemon.prepare(ctx, sb.ID, image, userns.snapshot()...); err != nil {
			return fmt.Errorf("prepare the pause container's filesystem: %w", err)
		}
		pid, err = s.daemon.createTask(ctx, sb.ID, ioPaths{})
		if err != nil {
			return fmt.Errorf("create the pause container: %w", err)
		}
		return nil
	}
	plugins := func(ctx context.Context) (err error) {
		sb.IPs, err = s.network.add(ctx, &sb.sandboxRecord)
		return err
	}
	if sb.NetNS == "" {
		return pid, pause(ctx)
	}
	if userns != nil {
		if err := pause(ctx); err != nil {
			return 0, err
		}
		if err := pinNetNS(sb.NetNS, fmt.Sprintf("/proc/%d/ns/net", pid)); err != nil {
			return 0, err
		}
		return pid, plugins(ctx)
	}
	if err := createNetNS(sb.NetNS); err != nil {
		return 0, err
	}
	// Plugins and runc do not need each other until pause runs.
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return plugins(ctx) })
	group.Go(func() error { return pause(ctx) })
	err = group.Wait()
	return pid, err
}

// pauseImage pulls the image when it is not there: nobody else will.
func (s *Server) pauseImage(ctx context.Context) (*imageInfo, error) {
	image, err := s.images.resolve(ctx, s.cfg.PauseImage)
	if errdefs.IsNotFound(err) {
		request := &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: s.cfg.PauseImage}}
		if _, err = s.images.PullImage(ctx, request); err == nil {
			image, err = s.images.resolve(ctx, s.cfg.PauseImage)
		}
	}
	return image, err
}

// StopPodSandbox kills the pod's processes and gives back its network. The
// record stays, so that the pod can still be inspected.
func (s *Server) StopPodSandbox(ctx context.Context, r *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	sb, err := s.sandboxes.get(r.GetPodSandboxId())
	if err != nil {
		return &runtimeapi.StopPodSandboxResponse{}, ignoreNotFound(err)
	}
	for _, c := range s.containersOf(sb.ID) {
		if err := s.stopContainer(ctx, c, 0); err != nil {
			return nil, fmt.Errorf("stop container %s: %w", c.ID, err)
		}
	}
	return &runtimeapi.StopPodSandboxResponse{}, s.teardown(ctx, sb)
}

// teardown is every step that undoes buildSandbox but the last. Each step may
// have been done before, or never.
func (s *Server) teardown(ctx context.Context, sb *sandbox) error {
	sb.lifecycle.Lock()
	defer sb.lifecycle.Unlock()
	if err := s.killTask(ctx, sb.ID); err != nil {
		return fmt.Errorf("stop the pause container: %w", err)
	}
	if sb.exited() {
		s.publish(sb.ID, sb.ID, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
	}
	// A pod is stopped at least twice, and asking all plugins again is most of the
	// work. Who is not sure, after a restart, asks them once more.
	if sb.NetNS != "" && !sb.released {
		if err := s.network.remove(ctx, &sb.sandboxRecord); err != nil {
			return err
		}
		if err := removeNetNS(sb.NetNS); err != nil {
			return err
		}
		sb.released = true
	}
	return unmount(s.shm(sb.ID))
}

// destroySandbox leaves nothing: what teardown does, the files, the record.
func (s *Server) destroySandbox(ctx context.Context, sb *sandbox) error {
	if err := s.teardown(ctx, sb); err != nil {
		return err
	}
	if sb.suspect.Load() {
		s.killShim(sb.ID)
	}
	removeCgroup(cgroupsPath(specInput{ID: sb.ID, Sandbox: &sb.sandboxRecord, Host: s.host}))
	return errors.Join(
		os.RemoveAll(s.sandboxDir(sb.ID)), os.RemoveAll(s.sandboxState(sb.ID)),
		s.daemon.discardSandbox(ctx, sb.ID))
}

// RemovePodSandbox forgets the pod, containers and all.
func (s *Server) RemovePodSandbox(ctx context.Context, r *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	sb, err := s.sandboxes.get(r.GetPodSandboxId())
	if err != nil {
		return &runtimeapi.RemovePodSandboxResponse{}, ignoreNotFound(err)
	}
	for _, c := range s.containersOf(sb.ID) {
		if err := s.removeContainer(ctx, c); err != nil {
			return nil, fmt.Errorf("remove container %s: %w", c.ID, err)
		}
	}
	if err := s.destroySandbox(ctx, sb); err != nil {
		return nil, err
	}
	s.publish(sb.ID, sb.ID, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT)
	s.sandboxes.remove(sb.name(), sb.ID)
	return &runtimeapi.RemovePodSandboxResponse{}, nil
}

func (s *Server) PodSandboxStatus(ctx context.Context, r *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	sb, err := s.sandboxes.get(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	response := &runtimeapi.PodSandboxStatusResponse{
		Status: sb.toStatus(), ContainersStatuses: s.containerStatuses(sb.ID), Timestamp: now(),
	}
	if r.GetVerbose() {
		info := map[string]any{"pid": sb.process(), "config": sb.Config, "netns": sb.NetNS}
		if sb.NetNS != "" && sb.process() != 0 {
			info["cniResult"], info["cniCheck"] = s.network.inspect(ctx, &sb.sandboxRecord)
		}
		response.Info = s.verboseInfo(ctx, sb.ID, info)
	}
	return response, nil
}

func (s *Server) ListPodSandbox(_ context.Context, r *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	filter, response := r.GetFilter(), &runtimeapi.ListPodSandboxResponse{}
	for _, sb := range s.sandboxes.list() {
		if strings.HasPrefix(sb.ID, filter.GetId()) && matches(sb.Config.GetLabels(), filter.GetLabelSelector()) &&
			(filter.GetState() == nil || filter.GetState().GetState() == sb.state()) {
			response.Items = append(response.Items, sb.toCRI())
		}
	}
	sort.Slice(response.Items, func(i, j int) bool { return response.Items[i].CreatedAt > response.Items[j].CreatedAt })
	return response, nil
}

func (s *sandbox) toCRI() *runtimeapi.PodSandbox {
	return &runtimeapi.PodSandbox{
		Id: s.ID, Metadata: s.Config.GetMetadata(), State: s.state(), CreatedAt: s.CreatedAt,
		Labels: s.Config.GetLabels(), Annotations: s.Config.GetAnnotations(), RuntimeHandler: s.Handler,
	}
}

func (s *sandbox) toStatus() *runtimeapi.PodSandboxStatus {
	status := &runtimeapi.PodSandboxStatus{
		Id: s.ID, Metadata: s.Config.GetMetadata(), State: s.state(), CreatedAt: s.CreatedAt,
		Labels: s.Config.GetLabels(), Annotations: s.Config.GetAnnotations(), RuntimeHandler: s.Handler,
		Network: &runtimeapi.PodSandboxNetworkStatus{},
		Linux:   &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{Options: s.namespaces()}},
	}
	for i, ip := range s.IPs {
		if i == 0 {
			status.Network.Ip = ip
			continue
		}
		status.Network.AdditionalIps = append(status.Network.AdditionalIps, &runtimeapi.PodIP{Ip: ip})
	}
	return status
}

// killTask ends a task and reaps it; there may be none.
func (s *Server) killTask(ctx context.Context, id string) error {
	if err := s.daemon.kill(ctx, id, "", syscall.SIGKILL, true); err != nil {
		return err
	}
	if _, err := s.daemon.waitTask(ctx, id, ""); err != nil {
		return ignoreNotFound(err)
	}
	return s.daemon.deleteTask(ctx, id)
}
