package cri

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// CreateContainer looks at everything the spec depends on, computes the spec,
// and writes it down. Nothing runs yet.
func (s *Server) CreateContainer(ctx context.Context, r *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	sb, err := s.sandboxes.get(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	cfg := r.GetConfig()
	if err := validateContainer(cfg, sb); err != nil {
		return nil, err
	}
	image, err := s.images.resolve(ctx, cfg.GetImage().GetImage())
	if err != nil {
		return nil, err
	}
	record := containerRecord{
		ID: newID(), SandboxID: sb.ID, Config: cfg, ImageID: image.id, ImageRef: image.ref(),
		StopSignal: image.config.StopSignal, CreatedAt: now(),
	}
	if cfg.GetStopSignal() != runtimeapi.Signal_RUNTIME_DEFAULT {
		record.StopSignal = cfg.GetStopSignal().String()
	}
	if dir := sb.Config.GetLogDirectory(); dir != "" && cfg.GetLogPath() != "" {
		record.LogPath = filepath.Join(dir, cfg.GetLogPath())
	}
	if err := s.containers.reserve(record.name(), record.ID); err != nil {
		return nil, err
	}
	c, err := s.buildContainer(ctx, sb, image, record)
	if err != nil {
		cleanup, cancel := detach(ctx)
		defer cancel()
		undone := s.discardContainer(cleanup, record.ID, sb.ID)
		if undone == nil {
			s.containers.remove(record.name(), record.ID)
			return nil, err
		}
		// Leave it visible and over, so that it is removed with its pod.
		c = newContainer(record, containerStatus{FinishedAt: now(), ExitCode: 128, Reason: "CreateError", Message: err.Error()})
		s.containers.add(c.name(), c.ID, c)
		return nil, errors.Join(err, undone)
	}
	s.containers.add(c.name(), c.ID, c)
	s.publish(sb.ID, c.ID, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT)
	return &runtimeapi.CreateContainerResponse{ContainerId: c.ID}, nil
}

func (s *Server) buildContainer(ctx context.Context, sb *sandbox, image *imageInfo, record containerRecord) (*container, error) {
	spec, err := s.lookAndSpec(ctx, sb, image, record)
	if err != nil {
		return nil, err
	}
	user := spec.Process.User
	record.User = &runtimeapi.LinuxContainerUser{Uid: int64(user.UID), Gid: int64(user.GID)}
	for _, gid := range user.AdditionalGids {
		record.User.SupplementalGroups = append(record.User.SupplementalGroups, int64(gid))
	}
	labels := map[string]string{kindLabel: kindContainer, podLabel: sb.ID}
	userns := sb.userNamespace()
	if err := s.daemon.create(ctx, record.ID, image.names[0], labels, spec, userns, record); err != nil {
		return nil, fmt.Errorf("record container: %w", err)
	}
	if err := s.daemon.prepare(ctx, record.ID, image, userns.snapshot()...); err != nil {
		return nil, fmt.Errorf("prepare the container's filesystem: %w", err)
	}
	return newContainer(record, containerStatus{Resources: record.Config.GetLinux().GetResources()}), nil
}

// lookAndSpec collects the facts for containerSpec.
func (s *Server) lookAndSpec(ctx context.Context, sb *sandbox, image *imageInfo, record containerRecord) (*specs.Spec, error) {
	cfg, sc := record.Config, record.Config.GetLinux().GetSecurityContext()
	in := specInput{
		ID: record.ID, Sandbox: &sb.sandboxRecord, SandboxPid: sb.process(), Config: cfg, Image: image.config,
		Files: s.podFiles(sb), Host: s.host,
	}
	if in.SandboxPid == 0 {
		return nil, fmt.Errorf("sandbox %s is not ready: %w", sb.ID, errdefs.ErrFailedPrecondition)
	}
	if options := sc.GetNamespaceOptions(); options.GetPid() == runtimeapi.NamespaceMode_TARGET {
		target, err := s.containers.get(options.GetTargetId())
		if err != nil {
			return nil, err
		}
		running := false
		if in.TargetPid, running = target.running(); !running || target.SandboxID != sb.ID {
			return nil, fmt.Errorf("target container %s is not running in this pod: %w", target.ID, errdefs.ErrFailedPrecondition)
		}
	}
	found, err := s.images.readAccounts(ctx, image)
	if err != nil {
		return nil, err
	}
	if in.User, err = resolveUser(image.config.User, sc, found); err != nil {
		return nil, err
	}
	if in.Mounts, err = s.findMounts(ctx, record.ID, cfg.GetMounts()); err != nil {
		return nil, err
	}
	if in.Volumes, err = s.fillVolumes(ctx, record.ID, image, in.Mounts); err != nil {
		return nil, err
	}
	if in.Devices, err = findDevices(cfg); err != nil {
		return nil, err
	}
	if in.Seccomp, err = readSeccomp(sc.GetSeccomp()); err != nil {
		return nil, err
	}
	return containerSpec(in)
}

func validateContainer(cfg *runtimeapi.ContainerConfig, sb *sandbox) error {
	invalid := func(format string, args ...any) error {
		return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
	}
	switch {
	case cfg.GetMetadata().GetName() == "":
		return invalid("container metadata with a name is required")
	case cfg.GetLogPath() != "" && !filepath.IsLocal(cfg.GetLogPath()):
		return invalid("log path %q leaves the pod's log directory", cfg.GetLogPath())
	case cfg.GetWorkingDir() != "" && !filepath.IsAbs(cfg.GetWorkingDir()):
		return invalid("working directory %q is not absolute", cfg.GetWorkingDir())
	case cfg.GetLinux().GetSecurityContext().GetPrivileged() && !sb.Config.GetLinux().GetSecurityContext().GetPrivileged():
		return invalid("a privileged container needs a privileged sandbox")
	case !sameUserns(cfg, sb):
		return invalid("a container's user namespace is its pod's")
	}
	return nil
}

// findMounts follows the symbolic links of host paths, and makes a directory
// where there is nothing, on which manifests with a bare hostPath rely.
//
// Upstream: containerd@v2.3 internal/cri/opts WithMounts
func (s *Server) findMounts(ctx context.Context, id string, mounts []*runtimeapi.Mount) ([]*runtimeapi.Mount, error) {
	var found []*runtimeapi.Mount
	for n, m := range mounts {
		source, err := hostPath(m)
		if m.GetImage() != nil {
			source, err = s.mountImage(ctx, id, n, m)
		}
		if err != nil {
			return nil, err
		}
		found = append(found, &runtimeapi.Mount{
			ContainerPath: m.GetContainerPath(), HostPath: source, Readonly: m.GetReadonly(),
			RecursiveReadOnly: m.GetRecursiveReadOnly(), Propagation: m.GetPropagation(),
			UidMappings: m.GetUidMappings(), GidMappings: m.GetGidMappings(),
		})
	}
	return found, nil
}

func hostPath(m *runtimeapi.Mount) (string, error) {
	if m.GetImage() != nil {
		return "", nil
	}
	if !filepath.IsAbs(m.GetHostPath()) {
		return "", fmt.Errorf("mount %s: host path %q is not absolute: %w", m.GetContainerPath(), m.GetHostPath(), errdefs.ErrInvalidArgument)
	}
	source, err := filepath.EvalSymlinks(m.GetHostPath())
	if os.IsNotExist(err) {
		source = m.GetHostPath()
		err = os.MkdirAll(source, 0o755)
	}
	if err != nil {
		return "", fmt.Errorf("mount %s: %w", m.GetContainerPath(), err)
	}
	return source, nil
}

// maxVolumes bounds what an image may have us make: each is a directory and a
// mount of the host.
const maxVolumes = 256

// fillVolumes makes a directory of the host's for each VOLUME of the image
// that nothing is mounted on, and copies into it what the image has there.
func (s *Server) fillVolumes(ctx context.Context, id string, image *imageInfo, mounts []*runtimeapi.Mount) (map[string]string, error) {
	if declared := len(image.config.Volumes); declared > maxVolumes {
		return nil, fmt.Errorf("the image declares %d volumes, at most %d are possible: %w", declared, maxVolumes, errdefs.ErrInvalidArgument)
	}
	covered := map[string]bool{}
	for _, m := range mounts {
		covered[filepath.Join("/", m.GetContainerPath())] = true
	}
	volumes := map[string]string{}
	for declared := range image.config.Volumes {
		if destination := filepath.Join("/", declared); destination != "/" && !covered[destination] {
			volumes[destination] = filepath.Join(s.containerDir(id), "volumes", strconv.Itoa(len(volumes)))
		}
	}
	if len(volumes) == 0 {
		return nil, nil
	}
	return volumes, s.images.withRootFS(ctx, image, func(root string) error {
		for destination, source := range volumes {
			if err := os.MkdirAll(source, 0o755); err != nil {
				return err
			}
			// RootPath follows links as if the image were the root: a VOLUME
			// must not copy files of the host into the container.
			inImage, err := fs.RootPath(root, destination)
			if err != nil {
				return err
			}
			if info, err := os.Stat(inImage); err != nil || !info.IsDir() {
				continue
			}
			if err := fs.CopyDir(source, inImage); err != nil {
				return fmt.Errorf("fill volume %s: %w", destination, err)
			}
		}
		return nil
	})
}

// StartContainer runs a created container, once.
func (s *Server) StartContainer(ctx context.Context, r *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	c, err := s.containers.get(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	c.lifecycle.Lock()
	defer c.lifecycle.Unlock()
	status := c.snapshot()
	if state := status.state(); state != runtimeapi.ContainerState_CONTAINER_CREATED {
		return nil, fmt.Errorf("container is in state %s: %w", state, errdefs.ErrFailedPrecondition)
	}
	if status.Pid, status.Cgroup, err = s.startTask(ctx, c); err != nil {
		// Upstream's kubelet expects such a container to be Exited, with a
		// reason, and not to be started again.
		cleanup, cancel := detach(ctx)
		defer cancel()
		err = errors.Join(err, s.killTask(cleanup, c.ID))
		status.StartedAt, status.FinishedAt = 0, now()
		status.Reason, status.Message, status.ExitCode = "StartError", err.Error(), 128
		s.closeIO(c, 0)
		return nil, errors.Join(err, s.record(cleanup, c, status))
	}
	status.StartedAt = now()
	if err := s.record(ctx, c, status); err != nil {
		return nil, err
	}
	s.publish(c.SandboxID, c.ID, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT)
	return &runtimeapi.StartContainerResponse{}, nil
}

func (s *Server) startTask(ctx context.Context, c *container) (pid uint32, cgroup string, err error) {
	if sb, err := s.sandboxes.get(c.SandboxID); err != nil || sb.process() == 0 {
		return 0, "", fmt.Errorf("sandbox %s is not ready: %w", c.SandboxID, errdefs.ErrFailedPrecondition)
	}
	if err := s.openIO(ctx, c); err != nil {
		return 0, "", err
	}
	if pid, err = s.daemon.createTask(ctx, c.ID, fifoPaths(s.containerState(c.ID), c.Config.GetStdin(), c.Config.GetTty())); err != nil {
		return 0, "", fmt.Errorf("create task: %w", err)
	}
	cgroup = cgroupOf(pid) // the process stands still, so this cannot be late
	if err := s.daemon.startTask(ctx, c.ID, ""); err != nil {
		return 0, "", fmt.Errorf("start task: %w", err)
	}
	return pid, cgroup, nil
}

// openIO connects a container's log, now or after a restart of ours.
func (s *Server) openIO(ctx context.Context, c *container) error {
	log, err := openLog(c.LogPath)
	if err != nil {
		return err
	}
	// The container outlives the call that starts it.
	io, err := openContainerIO(context.WithoutCancel(ctx), s.containerState(c.ID), c.Config.GetStdin(), c.Config.GetTty(), log, s.logger, func(ctx context.Context) { s.daemon.endInput(ctx, c.ID, "") })
	if err != nil {
		log.close()
		return fmt.Errorf("open the container's output: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.io = io
	return nil
}

// record makes a status durable before anyone can see it.
func (s *Server) record(ctx context.Context, c *container, status containerStatus) error {
	if err := s.daemon.update(ctx, c.ID, statusExtension, status); err != nil {
		return fmt.Errorf("record the container's status: %w", err)
	}
	c.set(status)
	return nil
}

// UpdateContainerResources changes a running container's cgroup at once, and
// the record of one that has not started.
func (s *Server) UpdateContainerResources(ctx context.Context, r *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	c, err := s.containers.get(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	c.lifecycle.Lock()
	defer c.lifecycle.Unlock()
	status, asked := c.snapshot(), r.GetLinux()
	merged := mergeResources(status.Resources, asked)
	resources := linuxResources(merged, s.host)
	err = s.daemon.updateSpec(ctx, c.ID, func(spec *oci.Spec) {
		resources.Devices = spec.Linux.Resources.Devices // not part of an update
		spec.Linux.Resources = resources
	})
	if err != nil {
		return nil, err
	}
	if status.state() == runtimeapi.ContainerState_CONTAINER_RUNNING {
		if err := s.daemon.updateTask(ctx, c.ID, linuxResources(merged, s.host)); err != nil {
			return nil, err
		}
	}
	status.Resources = merged
	return &runtimeapi.UpdateContainerResourcesResponse{}, s.record(ctx, c, status)
}

// mergeResources keeps what an update leaves out.
func mergeResources(old, asked *runtimeapi.LinuxContainerResources) *runtimeapi.LinuxContainerResources {
	merged := &runtimeapi.LinuxContainerResources{}
	proto.Merge(merged, old)
	if len(asked.GetHugepageLimits()) > 0 {
		merged.HugepageLimits = nil // lists would be joined
	}
	proto.Merge(merged, asked)
	return merged
}

// ReopenContainerLog is called after the kubelet has renamed a full log.
func (s *Server) ReopenContainerLog(_ context.Context, r *runtimeapi.ReopenContainerLogRequest) (*runtimeapi.ReopenContainerLogResponse, error) {
	c, err := s.containers.get(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	io := c.output()
	if _, running := c.running(); !running || io == nil {
		return nil, fmt.Errorf("container %s is not running: %w", c.ID, errdefs.ErrFailedPrecondition)
	}
	return &runtimeapi.ReopenContainerLogResponse{}, io.log.reopen()
}

func (s *Server) containerStatuses(sandboxID string) []*runtimeapi.ContainerStatus {
	var list []*runtimeapi.ContainerStatus
	for _, c := range s.containersOf(sandboxID) {
		list = append(list, c.toStatus())
	}
	return list
}

func (s *Server) ContainerStatus(ctx context.Context, r *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	c, err := s.containers.get(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	response := &runtimeapi.ContainerStatusResponse{Status: c.toStatus()}
	if r.GetVerbose() {
		pid, _ := c.running()
		response.Info = s.verboseInfo(ctx, c.ID, map[string]any{"pid": pid, "sandboxID": c.SandboxID, "config": c.Config})
	}
	return response, nil
}

func (s *Server) ListContainers(_ context.Context, r *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	filter, response := r.GetFilter(), &runtimeapi.ListContainersResponse{}
	for _, c := range s.containers.list() {
		state := c.snapshot().state()
		if strings.HasPrefix(c.ID, filter.GetId()) && strings.HasPrefix(c.SandboxID, filter.GetPodSandboxId()) &&
			matches(c.Config.GetLabels(), filter.GetLabelSelector()) && (filter.GetState() == nil || filter.GetState().GetState() == state) {
			response.Containers = append(response.Containers, &runtimeapi.Container{
				Id: c.ID, PodSandboxId: c.SandboxID, Metadata: c.Config.GetMetadata(), Image: c.Config.GetImage(),
				ImageRef: c.ImageRef, ImageId: c.ImageID, State: state, CreatedAt: c.CreatedAt,
				Labels: c.Config.GetLabels(), Annotations: c.Config.GetAnnotations(),
			})
		}
	}
	return response, nil
}

func (c *container) toStatus() *runtimeapi.ContainerStatus {
	s := c.snapshot()
	status := &runtimeapi.ContainerStatus{
		Id: c.ID, Metadata: c.Config.GetMetadata(), State: s.state(), CreatedAt: c.CreatedAt,
		StartedAt: s.StartedAt, FinishedAt: s.FinishedAt, ExitCode: s.ExitCode, Reason: s.Reason, Message: s.Message,
		Image: &runtimeapi.ImageSpec{Image: cmp.Or(c.Config.GetImage().GetUserSpecifiedImage(), c.Config.GetImage().GetImage()),
			Annotations: c.Config.GetImage().GetAnnotations()},
		ImageRef: c.ImageRef, ImageId: c.ImageID,
		Labels: c.Config.GetLabels(), Annotations: c.Config.GetAnnotations(), Mounts: c.Config.GetMounts(), LogPath: c.LogPath,
		Resources:  &runtimeapi.ContainerResources{Linux: s.Resources},
		User:       &runtimeapi.ContainerUser{Linux: c.User},
		StopSignal: runtimeapi.Signal(runtimeapi.Signal_value[c.StopSignal]),
	}
	return status
}
