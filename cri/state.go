package cri

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// sandboxRecord is all we must know about a sandbox after our own death. It is
// written into containerd's record of the pause container (containerd.go).
type sandboxRecord struct {
	ID        string
	Config    *runtimeapi.PodSandboxConfig
	Handler   string
	CreatedAt int64
	// Hostname is the pod's, or the machine's on the host's network.
	Hostname string
	// NetNS is the pinned network namespace; empty on the host's network.
	NetNS string
	// IPs are the addresses of the CNI result, the primary one first.
	IPs []string
	// Started is written last: a record without it is a RunPodSandbox that
	// never answered, and recovery takes it down.
	Started bool
}

// sandbox is a pod: a pause process that holds the namespaces.
type sandbox struct {
	sandboxRecord // immutable once the sandbox is in the index
	// suspect: a call about its task was cut off, by our death or containerd's,
	// and may have left a shim that containerd does not know; see killShim.
	suspect atomic.Bool

	// lifecycle serialises teardown, so that two calls of StopPodSandbox do
	// not run the CNI plugins against each other.
	lifecycle sync.Mutex
	released  bool // guarded by lifecycle: its network has been given back

	mu    sync.Mutex // guards what follows
	pid   uint32     // of pause; not 0 means ready
	ended bool
}

func newSandbox(record sandboxRecord) *sandbox {
	return &sandbox{sandboxRecord: record}
}

// started and exited are the sandbox's two transitions.
func (s *sandbox) started(pid uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pid = pid
}

func (s *sandbox) exited() (changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed = !s.ended
	s.pid, s.ended = 0, true
	return changed
}

// process returns the pause process, which is 0 unless the sandbox is ready.
func (s *sandbox) process() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pid
}

func (s *sandbox) state() runtimeapi.PodSandboxState {
	if s.process() != 0 {
		return runtimeapi.PodSandboxState_SANDBOX_READY
	}
	return runtimeapi.PodSandboxState_SANDBOX_NOTREADY
}

// namespaces returns the pod's namespace options, never nil.
func (s *sandbox) namespaces() *runtimeapi.NamespaceOption {
	if o := s.Config.GetLinux().GetSecurityContext().GetNamespaceOptions(); o != nil {
		return o
	}
	return &runtimeapi.NamespaceOption{}
}

func (s *sandbox) hostNetwork() bool {
	return s.namespaces().GetNetwork() == runtimeapi.NamespaceMode_NODE
}

// containerRecord is what never changes about a container; containerStatus is
// what does. Both live in containerd's record of the container.
type containerRecord struct {
	ID         string
	SandboxID  string
	Config     *runtimeapi.ContainerConfig
	ImageID    string // the config digest
	ImageRef   string // a repo digest if there is one, else ImageID
	LogPath    string
	StopSignal string
	CreatedAt  int64
	User       *runtimeapi.LinuxContainerUser
}

type containerStatus struct {
	Pid        uint32
	StartedAt  int64
	FinishedAt int64
	ExitCode   int32
	Reason     string
	Message    string
	// Cgroup is the path in the hierarchy that counts memory.
	Cgroup string
	// Resources are the last ones set, at creation or by an update.
	Resources *runtimeapi.LinuxContainerResources
}

type container struct {
	containerRecord // immutable

	// lifecycle serialises start, exit handling and removal. Stop does not
	// hold it while it waits for the grace period.
	lifecycle sync.Mutex
	removed   bool // guarded by lifecycle

	mu     sync.Mutex // guards what follows
	status containerStatus
	io     *containerIO
	disk   diskSample
	gone   chan struct{} // closed when FinishedAt is set
}

func newContainer(record containerRecord, status containerStatus) *container {
	c := &container{containerRecord: record, status: status, gone: make(chan struct{})}
	if status.FinishedAt != 0 {
		close(c.gone)
	}
	return c
}

func (c *container) snapshot() containerStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// set replaces the status. Invariant: a finished container stays finished.
func (c *container) set(status containerStatus) {
	c.mu.Lock()
	defer c.mu.Unlock()
	wasFinished := c.status.FinishedAt != 0
	c.status = status
	if status.FinishedAt != 0 && !wasFinished {
		close(c.gone)
	}
}

// output is nil when the container does not run, or is not read.
func (c *container) output() *containerIO {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.io
}

func (s containerStatus) state() runtimeapi.ContainerState {
	switch {
	case s.FinishedAt != 0:
		return runtimeapi.ContainerState_CONTAINER_EXITED
	case s.StartedAt != 0:
		return runtimeapi.ContainerState_CONTAINER_RUNNING
	}
	return runtimeapi.ContainerState_CONTAINER_CREATED
}

func (c *container) running() (uint32, bool) {
	s := c.snapshot()
	return s.Pid, s.state() == runtimeapi.ContainerState_CONTAINER_RUNNING
}

// index finds objects by id and keeps their names unique. It is a cache: every
// entry can be rebuilt from containerd's records, and is when the server starts.
type index[T any] struct {
	kind string

	mu   sync.RWMutex // guards both
	byID map[string]T
	// ids maps a name to the id of the one object that may bear it. A kubelet
	// that gave up waiting and asks again must not get a second pod.
	ids map[string]string
}

func newIndex[T any](kind string) *index[T] {
	return &index[T]{kind: kind, byID: map[string]T{}, ids: map[string]string{}}
}

// reserve claims a name before any work is done; remove gives it back.
func (x *index[T]) reserve(name, id string) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if owner, taken := x.ids[name]; taken {
		return fmt.Errorf("name %q is reserved for %q: %w", name, owner, errdefs.ErrFailedPrecondition)
	}
	x.ids[name] = id
	return nil
}

func (x *index[T]) add(name, id string, object T) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.byID[id], x.ids[name] = object, id
}

func (x *index[T]) remove(name, id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.byID, id)
	if x.ids[name] == id {
		delete(x.ids, name)
	}
}

// get accepts a whole id or, as crictl's users type, a prefix of only one.
func (x *index[T]) get(id string) (match T, err error) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if id == "" {
		return match, fmt.Errorf("%s: no id is given: %w", x.kind, errdefs.ErrInvalidArgument)
	}
	if found, ok := x.byID[id]; ok {
		return found, nil
	}
	matched := 0
	for full, object := range x.byID {
		if strings.HasPrefix(full, id) {
			match, matched = object, matched+1
		}
	}
	if matched != 1 {
		return match, fmt.Errorf("%s %q: %w", x.kind, id, errdefs.ErrNotFound)
	}
	return match, nil
}

func (x *index[T]) list() []T {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return slices.Collect(maps.Values(x.byID))
}

func (r *sandboxRecord) name() string {
	m := r.Config.GetMetadata()
	return fmt.Sprintf("%s_%s_%s_%d", m.GetName(), m.GetNamespace(), m.GetUid(), m.GetAttempt())
}

func (r *containerRecord) name() string {
	m := r.Config.GetMetadata()
	return fmt.Sprintf("%s_%s_%d", m.GetName(), r.SandboxID, m.GetAttempt())
}

// containersOf lists one pod's containers.
func (s *Server) containersOf(sandboxID string) []*container {
	return slices.DeleteFunc(s.containers.list(), func(c *container) bool { return c.SandboxID != sandboxID })
}

// matches is how every list call filters by label.
func matches(labels, selector map[string]string) bool {
	for key, value := range selector {
		if labels[key] != value {
			return false
		}
	}
	return true
}

func now() int64 { return time.Now().UnixNano() }
