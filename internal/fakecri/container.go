package fakecri

import (
	"context"
	"maps"
	"path/filepath"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func cloneStatus(s *runtimeapi.ContainerStatus) *runtimeapi.ContainerStatus {
	return proto.Clone(s).(*runtimeapi.ContainerStatus)
}

func cloneSandbox(s *runtimeapi.PodSandboxStatus) *runtimeapi.PodSandboxStatus {
	return proto.Clone(s).(*runtimeapi.PodSandboxStatus)
}

// CreateContainer makes a container that does not run yet.
func (r *Runtime) CreateContainer(_ context.Context, request *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	if err := r.check("CreateContainer"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sandboxes[request.PodSandboxId]
	if s == nil || s.status.State != runtimeapi.PodSandboxState_SANDBOX_READY {
		return nil, status.Errorf(codes.NotFound, "no running sandbox %s", request.PodSandboxId)
	}
	config := request.Config
	for _, c := range r.containers {
		if c.sandboxID == request.PodSandboxId && c.status.Metadata.Name == config.Metadata.Name && c.status.Metadata.Attempt == config.Metadata.Attempt {
			return nil, status.Errorf(codes.AlreadyExists, "attempt %d of container %s exists", config.Metadata.Attempt, config.Metadata.Name)
		}
	}
	image := config.Image.UserSpecifiedImage
	if image == "" {
		image = config.Image.Image
	}
	program := r.Programs[image]
	if r.ProgramOf != nil {
		program = r.ProgramOf(config)
	}
	c := &container{sandboxID: request.PodSandboxId, program: program, status: &runtimeapi.ContainerStatus{
		Id: r.id(), Metadata: config.Metadata, State: runtimeapi.ContainerState_CONTAINER_CREATED, CreatedAt: time.Now().UnixNano(),
		Image: config.Image, ImageRef: config.Image.Image, ImageId: config.Image.Image, Labels: maps.Clone(config.Labels),
		Annotations: maps.Clone(config.Annotations), Mounts: config.Mounts,
		Resources: &runtimeapi.ContainerResources{Linux: config.GetLinux().GetResources()}, LogPath: filepath.Join(s.config.LogDirectory, config.LogPath)}}
	r.containers[c.status.Id] = c
	return &runtimeapi.CreateContainerResponse{ContainerId: c.status.Id}, nil
}

// with carries a call about one container out.
func (r *Runtime) with(call, id string, do func(*container) error) error {
	if err := r.check(call); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return status.Errorf(codes.NotFound, "container %s not found", id)
	}
	return do(c)
}

// StartContainer starts a created container.
func (r *Runtime) StartContainer(_ context.Context, request *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	return &runtimeapi.StartContainerResponse{}, r.with("StartContainer", request.ContainerId, func(c *container) error {
		if c.status.State != runtimeapi.ContainerState_CONTAINER_CREATED {
			return status.Errorf(codes.FailedPrecondition, "container %s is %s", request.ContainerId, c.status.State)
		}
		now := time.Now()
		next := cloneStatus(c.status)
		next.State, next.StartedAt = runtimeapi.ContainerState_CONTAINER_RUNNING, now.UnixNano()
		c.status = next
		if c.program.Runs > 0 {
			c.endsAt = now.Add(c.program.Runs)
		}
		return nil
	})
}

// UpdateContainerResources changes what a container may use.
func (r *Runtime) UpdateContainerResources(_ context.Context, request *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	return &runtimeapi.UpdateContainerResourcesResponse{}, r.with("UpdateContainerResources", request.ContainerId, func(c *container) error {
		next := cloneStatus(c.status)
		next.Resources = &runtimeapi.ContainerResources{Linux: request.Linux}
		c.status = next
		return nil
	})
}

// StopContainer ends a container: at once, or after the grace period if it is
// stubborn. A call that is given up leaves it running.
func (r *Runtime) StopContainer(ctx context.Context, request *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	if err := r.check("StopContainer"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	c := r.containers[request.ContainerId]
	stubborn := false
	if c != nil {
		c.settle()
		stubborn = c.program.Stubborn && c.status.State == runtimeapi.ContainerState_CONTAINER_RUNNING
	}
	r.mu.Unlock()
	code := int32(0)
	if stubborn {
		timer := time.NewTimer(time.Duration(request.Timeout) * time.Second)
		defer timer.Stop()
		select {
		case <-timer.C:
			code = 137
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.containers[request.ContainerId]; c != nil {
		c.settle()
		c.end(time.Now(), code)
	}
	return &runtimeapi.StopContainerResponse{}, nil
}

// RemoveContainer removes a container; again is fine.
func (r *Runtime) RemoveContainer(_ context.Context, request *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	if err := r.check("RemoveContainer"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.containers, request.ContainerId)
	return &runtimeapi.RemoveContainerResponse{}, nil
}

// ContainerStatus describes one container.
func (r *Runtime) ContainerStatus(_ context.Context, request *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	response := &runtimeapi.ContainerStatusResponse{}
	return response, r.with("ContainerStatus", request.ContainerId, func(c *container) error {
		c.settle()
		response.Status = c.status
		return nil
	})
}

// ListContainers lists the containers that a filter lets through.
func (r *Runtime) ListContainers(_ context.Context, request *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	if err := r.check("ListContainers"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &runtimeapi.ListContainersResponse{}
	f := request.GetFilter()
	for _, c := range r.containers {
		c.settle()
		s := c.status
		if f.GetId() != "" && f.Id != s.Id || f.GetPodSandboxId() != "" && f.PodSandboxId != c.sandboxID ||
			f.GetState() != nil && f.State.State != s.State || !selects(f.GetLabelSelector(), s.Labels) {
			continue
		}
		out.Containers = append(out.Containers, &runtimeapi.Container{Id: s.Id, PodSandboxId: c.sandboxID, Metadata: s.Metadata,
			Image: s.Image, ImageRef: s.ImageRef, State: s.State, CreatedAt: s.CreatedAt, Labels: s.Labels, Annotations: s.Annotations})
	}
	return out, nil
}

// ExecSync asks the container's program.
func (r *Runtime) ExecSync(_ context.Context, request *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	if err := r.check("ExecSync"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	c := r.containers[request.ContainerId]
	if c != nil {
		c.settle()
	}
	if c == nil || c.status.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		r.mu.Unlock()
		return nil, status.Errorf(codes.NotFound, "no running container %s", request.ContainerId)
	}
	answer, name := c.program.Exec, c.status.Metadata.Name
	r.mu.Unlock()
	if answer == nil {
		return &runtimeapi.ExecSyncResponse{}, nil
	}
	output, code := answer(name, request.Cmd)
	return &runtimeapi.ExecSyncResponse{Stdout: []byte(output), ExitCode: code}, nil
}

// ReopenContainerLog has no log to reopen.
func (r *Runtime) ReopenContainerLog(context.Context, *runtimeapi.ReopenContainerLogRequest) (*runtimeapi.ReopenContainerLogResponse, error) {
	return &runtimeapi.ReopenContainerLogResponse{}, nil
}

// ListPodSandboxStats says that pods use what Memory says, and nothing else.
func (r *Runtime) ListPodSandboxStats(context.Context, *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &runtimeapi.ListPodSandboxStatsResponse{}
	now := time.Now().UnixNano()
	for id, s := range r.sandboxes {
		linux := &runtimeapi.LinuxPodSandboxStats{Process: &runtimeapi.ProcessUsage{Timestamp: now, ProcessCount: &runtimeapi.UInt64Value{Value: 1}}}
		for _, c := range r.containers {
			if c.settle(); c.sandboxID == id && c.status.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
				linux.Containers = append(linux.Containers, &runtimeapi.ContainerStats{
					Attributes: &runtimeapi.ContainerAttributes{Id: c.status.Id, Metadata: c.status.Metadata, Labels: c.status.Labels},
					Memory: &runtimeapi.MemoryUsage{Timestamp: now, WorkingSetBytes: &runtimeapi.UInt64Value{Value: r.Memory[s.status.Metadata.GetName()]},
						UsageBytes: &runtimeapi.UInt64Value{Value: r.Memory[s.status.Metadata.GetName()]}}})
			}
		}
		out.Stats = append(out.Stats, &runtimeapi.PodSandboxStats{Linux: linux,
			Attributes: &runtimeapi.PodSandboxAttributes{Id: id, Metadata: s.status.Metadata, Labels: s.status.Labels}})
	}
	return out, nil
}

// PodSandboxStats is the same for one pod.
func (r *Runtime) PodSandboxStats(ctx context.Context, request *runtimeapi.PodSandboxStatsRequest) (*runtimeapi.PodSandboxStatsResponse, error) {
	all, err := r.ListPodSandboxStats(ctx, nil)
	for _, s := range all.GetStats() {
		if s.Attributes.Id == request.PodSandboxId {
			return &runtimeapi.PodSandboxStatsResponse{Stats: s}, err
		}
	}
	return nil, status.Errorf(codes.NotFound, "sandbox %s not found", request.PodSandboxId)
}

// ListContainerStats says that nothing uses anything.
func (r *Runtime) ListContainerStats(context.Context, *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &runtimeapi.ListContainerStatsResponse{}
	now := time.Now().UnixNano()
	for _, c := range r.containers {
		if c.settle(); c.status.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			out.Stats = append(out.Stats, &runtimeapi.ContainerStats{
				Attributes: &runtimeapi.ContainerAttributes{Id: c.status.Id, Metadata: c.status.Metadata, Labels: c.status.Labels},
				Cpu:        &runtimeapi.CpuUsage{Timestamp: now, UsageCoreNanoSeconds: &runtimeapi.UInt64Value{}},
				Memory:     &runtimeapi.MemoryUsage{Timestamp: now, WorkingSetBytes: &runtimeapi.UInt64Value{}}})
		}
	}
	return out, nil
}

// PullImage puts an image on the node, unless it is missing.
func (r *Runtime) PullImage(_ context.Context, request *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	if err := r.check("PullImage"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	name := request.Image.Image
	if r.Missing[name] || r.Missing[request.Image.UserSpecifiedImage] {
		return nil, status.Errorf(codes.NotFound, "failed to resolve reference %q: not found", name)
	}
	r.images[name] = &runtimeapi.Image{Id: name, RepoTags: []string{name}, Size: 1 << 20}
	return &runtimeapi.PullImageResponse{ImageRef: name}, nil
}

// Load puts an image on the node without a pull.
func (r *Runtime) Load(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.images[name] = &runtimeapi.Image{Id: name, RepoTags: []string{name}, Size: 1 << 20}
}

// ImageStatus describes one image, if it is there.
func (r *Runtime) ImageStatus(_ context.Context, request *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	if err := r.check("ImageStatus"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return &runtimeapi.ImageStatusResponse{Image: r.images[request.Image.Image]}, nil
}

// ListImages lists what was pulled.
func (r *Runtime) ListImages(context.Context, *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &runtimeapi.ListImagesResponse{}
	for _, image := range r.images {
		out.Images = append(out.Images, image)
	}
	return out, nil
}

// RemoveImage removes an image; again is fine.
func (r *Runtime) RemoveImage(_ context.Context, request *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.images, request.Image.Image)
	return &runtimeapi.RemoveImageResponse{}, nil
}
