package kubelet

import (
	"cmp"
	"context"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The labels that tie sandboxes and containers to pods, and the annotations
// that carry over a kubelet's death what only it knew. crictl and log
// collectors read them too.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/types/labels.go, kuberuntime/labels.go.
const (
	labelPodName       = "io.kubernetes.pod.name"
	labelPodNamespace  = "io.kubernetes.pod.namespace"
	labelPodUID        = "io.kubernetes.pod.uid"
	labelContainerName = "io.kubernetes.container.name"

	annotationHash              = "io.kubernetes.container.hash"
	annotationRestartCount      = "io.kubernetes.container.restartCount"
	annotationTerminationPath   = "io.kubernetes.container.terminationMessagePath"
	annotationTerminationPolicy = "io.kubernetes.container.terminationMessagePolicy"
	annotationGracePeriod       = "io.kubernetes.pod.terminationGracePeriod"
)

// containerRuntime is everything the kubelet knows about running containers:
// CRI, and nothing beside it. Every answer is read afresh; the runtime is the
// memory, so that a kubelet that was killed finds all there was.
type containerRuntime struct {
	runtime runtimeapi.RuntimeServiceClient
	images  runtimeapi.ImageServiceClient
	name    string // as the runtime calls itself, known before any pod is looked at
	given   *resourceRecord
}

func newContainerRuntime(conn, imageConn grpc.ClientConnInterface) *containerRuntime {
	return &containerRuntime{
		runtime: runtimeapi.NewRuntimeServiceClient(conn),
		images:  runtimeapi.NewImageServiceClient(imageConn),
	}
}

// observedContainer is one container as the runtime describes it.
type observedContainer struct {
	*runtimeapi.ContainerStatus
	sandboxID   string
	runtimeName string
	given       *corev1.ResourceRequirements // what it may use, as we told the runtime; nil: not by us
}

// fullID is how the API tells containers of several runtimes apart.
func (c *observedContainer) fullID() string { return c.runtimeName + "://" + c.Id }

func (c *observedContainer) name() string    { return c.Metadata.GetName() }
func (c *observedContainer) attempt() uint32 { return c.Metadata.GetAttempt() }
func (c *observedContainer) running() bool {
	return c.State == runtimeapi.ContainerState_CONTAINER_RUNNING
}
func (c *observedContainer) exited() bool {
	return c.State == runtimeapi.ContainerState_CONTAINER_EXITED
}

// observedPod is what really exists of one pod: the input of every decision.
type observedPod struct {
	uid             types.UID
	namespace, name string

	// Invariant: both lists are newest first.
	sandboxes  []*runtimeapi.PodSandboxStatus
	containers []*observedContainer
}

// observe asks the runtime for everything that carries the pod's UID.
func (r *containerRuntime) observe(ctx context.Context, uid types.UID) (*observedPod, error) {
	seen := &observedPod{uid: uid}
	selector := map[string]string{labelPodUID: string(uid)}
	sandboxes, err := r.runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{
		Filter: &runtimeapi.PodSandboxFilter{LabelSelector: selector}})
	if err != nil {
		return nil, err
	}
	for _, s := range sandboxes.Items {
		answer, err := r.runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: s.Id})
		if isNotFound(err) { // removed since the list
			continue
		}
		if err != nil {
			return nil, err
		}
		seen.sandboxes = append(seen.sandboxes, answer.Status)
		seen.namespace, seen.name = s.Metadata.GetNamespace(), s.Metadata.GetName()
	}
	containers, err := r.runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{
		Filter: &runtimeapi.ContainerFilter{LabelSelector: selector}})
	if err != nil {
		return nil, err
	}
	grant, _ := r.given.of(uid)
	for _, c := range containers.Containers {
		answer, err := r.runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: c.Id})
		if isNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		observed := &observedContainer{ContainerStatus: answer.Status, sandboxID: c.PodSandboxId, runtimeName: r.name}
		if given, known := grant.ContainerResources[observed.name()]; known {
			observed.given = &given
		}
		seen.containers = append(seen.containers, observed)
		seen.namespace, seen.name = c.Labels[labelPodNamespace], c.Labels[labelPodName]
	}
	seen.sort()
	return seen, nil
}

// sort orders by attempt before time: attempts only grow, clocks may jump.
func (p *observedPod) sort() {
	slices.SortStableFunc(p.sandboxes, func(a, b *runtimeapi.PodSandboxStatus) int {
		return cmp.Or(cmp.Compare(b.Metadata.GetAttempt(), a.Metadata.GetAttempt()), cmp.Compare(b.CreatedAt, a.CreatedAt))
	})
	slices.SortStableFunc(p.containers, func(a, b *observedContainer) int {
		return cmp.Or(cmp.Compare(b.attempt(), a.attempt()), cmp.Compare(b.CreatedAt, a.CreatedAt))
	})
}

// sandbox is the newest sandbox, or nil.
func (p *observedPod) sandbox() *runtimeapi.PodSandboxStatus {
	if len(p.sandboxes) == 0 {
		return nil
	}
	return p.sandboxes[0]
}

// attempts returns the observed lives of a container, newest first.
func (p *observedPod) attempts(name string) []*observedContainer {
	return slices.DeleteFunc(slices.Clone(p.containers), func(c *observedContainer) bool { return c.name() != name })
}

// latest is the newest life of a container, or nil.
func (p *observedPod) latest(name string) *observedContainer {
	for _, c := range p.containers {
		if c.name() == name {
			return c
		}
	}
	return nil
}

// latestIn is latest within one sandbox: init containers start over with it.
func (p *observedPod) latestIn(sandboxID, name string) *observedContainer {
	for _, c := range p.containers {
		if c.sandboxID == sandboxID && c.name() == name {
			return c
		}
	}
	return nil
}

func (p *observedPod) running() []*observedContainer {
	return slices.DeleteFunc(slices.Clone(p.containers), func(c *observedContainer) bool { return !c.running() })
}

// alive says whether anything of the pod still uses the node.
func (p *observedPod) alive() bool {
	return slices.ContainsFunc(p.sandboxes, isReady) || slices.ContainsFunc(p.containers, (*observedContainer).running)
}

// ips are the addresses of the newest sandbox, while it lives.
func (p *observedPod) ips() []string {
	s := p.sandbox()
	if !isReady(s) || s.Network.GetIp() == "" {
		return nil
	}
	ips := []string{s.Network.Ip}
	for _, extra := range s.Network.AdditionalIps {
		ips = append(ips, extra.Ip)
	}
	return ips
}

// isReady says whether there is a sandbox, and its processes can be used.
func isReady(s *runtimeapi.PodSandboxStatus) bool {
	return s != nil && s.State == runtimeapi.PodSandboxState_SANDBOX_READY
}

// usesHostNetwork says what the sandbox was made with.
func usesHostNetwork(s *runtimeapi.PodSandboxStatus) bool {
	return s.GetLinux().GetNamespaces().GetOptions().GetNetwork() == runtimeapi.NamespaceMode_NODE
}

// stopContainer sends the stop signal, and SIGKILL after the grace period.
func (r *containerRuntime) stopContainer(ctx context.Context, id string, graceSeconds int64) error {
	// The call itself takes as long as the container does, and then some.
	ctx, cancel := context.WithTimeout(ctx, time.Duration(graceSeconds)*time.Second+2*time.Minute)
	defer cancel()
	_, err := r.runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: graceSeconds})
	return ignoreNotFound(err)
}

func (r *containerRuntime) removeContainer(ctx context.Context, id string) error {
	_, err := r.runtime.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id})
	return ignoreNotFound(err)
}

func (r *containerRuntime) stopSandbox(ctx context.Context, id string) error {
	_, err := r.runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id})
	return ignoreNotFound(err)
}

func (r *containerRuntime) removeSandbox(ctx context.Context, id string) error {
	_, err := r.runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id})
	return ignoreNotFound(err)
}

// exec runs a command in a container and waits for it. A timeout of zero means
// as long as ctx.
func (r *containerRuntime) exec(ctx context.Context, id string, command []string, timeout time.Duration) (execAnswer, error) {
	answer, err := r.runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{
		ContainerId: id, Cmd: command, Timeout: int64(timeout / time.Second)})
	return execAnswer{answer}, err
}

// execAnswer is what a command has said.
type execAnswer struct{ *runtimeapi.ExecSyncResponse }

func (a execAnswer) both() []byte { return append(a.GetStdout(), a.GetStderr()...) }

func isNotFound(err error) bool { return status.Code(err) == codes.NotFound }

func ignoreNotFound(err error) error {
	if isNotFound(err) {
		return nil
	}
	return err
}

// message is what a gRPC error says, without gRPC's framing: events and
// statuses are read by people.
func message(err error) string {
	if s, ok := status.FromError(err); ok {
		return s.Message()
	}
	return err.Error()
}
