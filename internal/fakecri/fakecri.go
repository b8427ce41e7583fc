// Package fakecri is a container runtime in memory: the CRI's RuntimeService
// and ImageService with scripted containers instead of processes.
//
//	kubelet ──CRI──▶ Runtime ── sandboxes, containers: maps
//	                     └───── Program: how long an image's container runs,
//	                            how it ends, what exec in it answers
//
// It starts no goroutine and no timer. A container that shall end after ten
// seconds is found to have ended by whoever looks after ten seconds. So it
// works under synctest's clock, and thousands of them cost nothing: hollow
// nodes run on it as well as the kubelet's tests.
//
// It keeps CRI's promises that a kubelet leans on: stop and remove may be
// repeated, a removed thing is NotFound, a name and attempt exist once.
//
// Start reading at Runtime.
package fakecri

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Program is how the containers of an image behave. The zero Program runs until
// it is stopped and obeys SIGTERM at once.
type Program struct {
	Runs     time.Duration // ends by itself after this long; 0: never
	ExitCode int32         // when it ends by itself
	Stubborn bool          // ignores SIGTERM: needs the whole grace period
	// Exec answers ExecSync. Nil: exit code 0 and no output.
	Exec func(container string, command []string) (output string, code int32)
}

// Runtime is the fake. Its exported fields are set before use.
type Runtime struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	runtimeapi.UnimplementedImageServiceServer

	// Programs by image name; other images have the zero Program.
	Programs map[string]Program
	// ProgramOf, if set, is asked instead.
	ProgramOf func(*runtimeapi.ContainerConfig) Program
	// Missing images cannot be pulled.
	Missing map[string]bool
	// Memory is what each container of a pod uses, by the pod's name.
	Memory map[string]uint64
	// PodCIDR is where sandboxes get their addresses from.
	PodCIDR netip.Prefix
	// Fault is asked before every call, by the call's short name; an error is
	// the call's answer.
	Fault func(method string) error
	// Lost is asked after every call that was carried out; an error is what the
	// caller hears instead of the answer.
	Lost func(method string) error

	mu         sync.Mutex // guards what follows
	next       int
	ip         netip.Addr
	sandboxes  map[string]*sandbox
	containers map[string]*container
	images     map[string]*runtimeapi.Image
	networkErr string
}

type sandbox struct {
	status *runtimeapi.PodSandboxStatus
	config *runtimeapi.PodSandboxConfig
}

type container struct {
	status    *runtimeapi.ContainerStatus
	sandboxID string
	program   Program
	endsAt    time.Time // zero: not by itself
}

// New makes an empty runtime with pod addresses from 10.244.0.0/16.
func New() *Runtime {
	return &Runtime{Programs: map[string]Program{}, Missing: map[string]bool{}, PodCIDR: netip.MustParsePrefix("10.244.0.0/16"),
		sandboxes: map[string]*sandbox{}, containers: map[string]*container{}, images: map[string]*runtimeapi.Image{}}
}

// SetNetworkError makes the runtime say that pods get no network, or that they
// do again.
func (r *Runtime) SetNetworkError(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.networkErr = text
}

// Kill ends a running container from outside, like the kernel might.
func (r *Runtime) Kill(id string, code int32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.containers[id]; c != nil {
		c.settle()
		c.end(time.Now(), code)
	}
}

// KillSandbox ends a sandbox and all that is in it.
func (r *Runtime) KillSandbox(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopSandbox(id)
}

// Containers returns the status of every container there is.
func (r *Runtime) Containers() []*runtimeapi.ContainerStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*runtimeapi.ContainerStatus
	for _, c := range r.containers {
		c.settle()
		out = append(out, c.status)
	}
	return out
}

// Sandboxes returns the status of every sandbox there is.
func (r *Runtime) Sandboxes() []*runtimeapi.PodSandboxStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*runtimeapi.PodSandboxStatus
	for _, s := range r.sandboxes {
		out = append(out, s.status)
	}
	return out
}

// SandboxConfig returns what a sandbox was created with, or nil.
func (r *Runtime) SandboxConfig(id string) *runtimeapi.PodSandboxConfig {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.sandboxes[id]; s != nil {
		return s.config
	}
	return nil
}

// id makes a name like a real runtime's: 64 hexadecimal digits.
func (r *Runtime) id() string {
	r.next++
	return fmt.Sprintf("%064x", r.next)
}

// settle finds out whether the container has ended meanwhile.
func (c *container) settle() {
	if !c.endsAt.IsZero() && !time.Now().Before(c.endsAt) {
		c.end(c.endsAt, c.program.ExitCode)
	}
}

// end makes a running container an exited one, once.
func (c *container) end(at time.Time, code int32) {
	if c.status.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return
	}
	// Statuses that were handed out are never changed.
	next := cloneStatus(c.status)
	next.State, next.FinishedAt, next.ExitCode = runtimeapi.ContainerState_CONTAINER_EXITED, at.UnixNano(), code
	next.Reason = "Completed"
	if code != 0 {
		next.Reason = "Error"
	}
	c.status, c.endsAt = next, time.Time{}
}

// check asks for faults.
func (r *Runtime) check(method string) error {
	if r.Fault == nil {
		return nil
	}
	return r.Fault(method)
}

// Version answers the first question of every client.
func (r *Runtime) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	if err := r.check("Version"); err != nil {
		return nil, err
	}
	return &runtimeapi.VersionResponse{Version: "0.1.0", RuntimeName: "fake", RuntimeVersion: "1", RuntimeApiVersion: "v1"}, nil
}

// Status says that the runtime is well, and whether the network is.
func (r *Runtime) Status(context.Context, *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	if err := r.check("Status"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	network := &runtimeapi.RuntimeCondition{Type: runtimeapi.NetworkReady, Status: true}
	if r.networkErr != "" {
		network = &runtimeapi.RuntimeCondition{Type: runtimeapi.NetworkReady, Reason: "NetworkPluginNotReady", Message: r.networkErr}
	}
	return &runtimeapi.StatusResponse{Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
		{Type: runtimeapi.RuntimeReady, Status: true}, network}}}, nil
}

// RuntimeConfig names the cgroup driver, though there are no cgroups.
func (r *Runtime) RuntimeConfig(context.Context, *runtimeapi.RuntimeConfigRequest) (*runtimeapi.RuntimeConfigResponse, error) {
	return &runtimeapi.RuntimeConfigResponse{Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: runtimeapi.CgroupDriver_CGROUPFS}}, nil
}

// RunPodSandbox makes a sandbox with an address.
func (r *Runtime) RunPodSandbox(_ context.Context, request *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	if err := r.check("RunPodSandbox"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	config := request.Config
	for _, s := range r.sandboxes {
		if m := s.status.Metadata; m.Uid == config.Metadata.Uid && m.Attempt == config.Metadata.Attempt {
			return nil, status.Errorf(codes.AlreadyExists, "sandbox attempt %d of pod %s exists", m.Attempt, m.Name)
		}
	}
	options := config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	if options == nil {
		options = &runtimeapi.NamespaceOption{}
	}
	s := &runtimeapi.PodSandboxStatus{Id: r.id(), Metadata: config.Metadata, State: runtimeapi.PodSandboxState_SANDBOX_READY,
		CreatedAt: time.Now().UnixNano(), RuntimeHandler: request.RuntimeHandler, Labels: maps.Clone(config.Labels), Annotations: maps.Clone(config.Annotations),
		Network: &runtimeapi.PodSandboxNetworkStatus{}, Linux: &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{Options: options}}}
	if options.Network != runtimeapi.NamespaceMode_NODE {
		if !r.ip.IsValid() {
			r.ip = r.PodCIDR.Addr().Next() // .1 is the bridge's
		}
		r.ip = r.ip.Next()
		s.Network.Ip = r.ip.String()
	}
	r.sandboxes[s.Id] = &sandbox{s, config}
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: s.Id}, nil
}

// StopPodSandbox stops a sandbox and its containers; again is fine.
func (r *Runtime) StopPodSandbox(_ context.Context, request *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	if err := r.check("StopPodSandbox"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopSandbox(request.PodSandboxId)
	return &runtimeapi.StopPodSandboxResponse{}, nil
}

func (r *Runtime) stopSandbox(id string) {
	s := r.sandboxes[id]
	if s == nil {
		return
	}
	for _, c := range r.containers {
		if c.sandboxID == id {
			c.settle()
			c.end(time.Now(), 137)
		}
	}
	next := cloneSandbox(s.status)
	next.State, next.Network = runtimeapi.PodSandboxState_SANDBOX_NOTREADY, &runtimeapi.PodSandboxNetworkStatus{}
	s.status = next
}

// RemovePodSandbox removes a sandbox and its containers; again is fine.
func (r *Runtime) RemovePodSandbox(_ context.Context, request *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	if err := r.check("RemovePodSandbox"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopSandbox(request.PodSandboxId)
	delete(r.sandboxes, request.PodSandboxId)
	maps.DeleteFunc(r.containers, func(_ string, c *container) bool { return c.sandboxID == request.PodSandboxId })
	return &runtimeapi.RemovePodSandboxResponse{}, nil
}

// PodSandboxStatus describes one sandbox.
func (r *Runtime) PodSandboxStatus(_ context.Context, request *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	if err := r.check("PodSandboxStatus"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sandboxes[request.PodSandboxId]
	if s == nil {
		return nil, status.Errorf(codes.NotFound, "sandbox %s not found", request.PodSandboxId)
	}
	return &runtimeapi.PodSandboxStatusResponse{Status: s.status}, nil
}

// ListPodSandbox lists the sandboxes that a filter lets through.
func (r *Runtime) ListPodSandbox(_ context.Context, request *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	if err := r.check("ListPodSandbox"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	out := &runtimeapi.ListPodSandboxResponse{}
	f := request.GetFilter()
	for _, s := range r.sandboxes {
		if f.GetId() != "" && f.Id != s.status.Id || f.GetState() != nil && f.State.State != s.status.State || !selects(f.GetLabelSelector(), s.status.Labels) {
			continue
		}
		out.Items = append(out.Items, &runtimeapi.PodSandbox{Id: s.status.Id, Metadata: s.status.Metadata, State: s.status.State,
			CreatedAt: s.status.CreatedAt, Labels: s.status.Labels, Annotations: s.status.Annotations})
	}
	return out, nil
}

func selects(selector, labels map[string]string) bool {
	for name, value := range selector {
		if labels[name] != value {
			return false
		}
	}
	return true
}
