package framework

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// MaxNodeScore is the best score a plugin may give; the worst is 0.
const MaxNodeScore int64 = 100

// Plugin is anything with a name. What it can do beyond that is told by which
// of the interfaces below it implements.
type Plugin interface{ Name() string }

type (
	// PreEnqueuePlugin keeps pods out of the queue that cannot be scheduled
	// whatever the nodes look like.
	PreEnqueuePlugin interface {
		Plugin
		PreEnqueue(pod *corev1.Pod) *Status
	}
	// QueueSortPlugin orders the active queue. All profiles share one.
	QueueSortPlugin interface {
		Plugin
		Less(a, b *QueuedPod) bool
	}
	// PreFilterPlugin prepares its Filter. It may return the names of the only
	// nodes worth looking at; nil means all.
	PreFilterPlugin interface {
		Plugin
		PreFilter(c *Cycle) (nodes map[string]bool, status *Status)
	}
	// FilterPlugin turns down nodes.
	FilterPlugin interface {
		Plugin
		Filter(c *Cycle, node *NodeInfo) *Status
	}
	// UpdatePlugin keeps what its PreFilter computed true while others come to
	// a node (sign +1) or leave it (-1) in thought: nominated pods, and victims
	// of preemption. What it computed must have a method Clone() any.
	UpdatePlugin interface {
		Plugin
		Update(c *Cycle, other *PodInfo, node *NodeInfo, sign int64)
	}
	// PostFilterPlugin says how room could be made when no node is feasible. It
	// only plans; the scheduler carries the plan out. The first that succeeds
	// ends the search; the pod waits for its next turn.
	PostFilterPlugin interface {
		Plugin
		PostFilter(c *Cycle, run *FilterRun, diagnosis *Diagnosis) (*Room, *Status)
	}
	// PreScorePlugin prepares its Score.
	PreScorePlugin interface {
		Plugin
		PreScore(c *Cycle, feasible []*NodeInfo) *Status
	}
	// ScorePlugin ranks nodes.
	ScorePlugin interface {
		Plugin
		Score(c *Cycle, node *NodeInfo) (int64, *Status)
	}
	// NormalizePlugin brings its raw scores, one per feasible node, into
	// 0..MaxNodeScore. Without it they must be there already.
	NormalizePlugin interface {
		Plugin
		NormalizeScore(c *Cycle, scores []int64) *Status
	}
	// ReservePlugin claims in memory what the pod will use on the node, and
	// gives it back when the attempt fails later. Unreserve must bear being
	// called without Reserve.
	ReservePlugin interface {
		Plugin
		Reserve(c *Cycle, node string) *Status
		Unreserve(c *Cycle, node string)
	}
	// PermitPlugin has the last word before binding starts: yes, no, or Wait
	// for so long until the plugin allows it (see WaitingPods).
	PermitPlugin interface {
		Plugin
		Permit(c *Cycle, node string) (*Status, time.Duration)
	}
	// PreBindPlugin prepares things outside, such as volumes.
	PreBindPlugin interface {
		Plugin
		PreBind(ctx context.Context, c *Cycle, node string) *Status
	}
	// SlowPlugin says of its PreBind whether it will wait for others, so that
	// quick bindings need not queue behind it.
	SlowPlugin interface {
		PreBindPlugin
		Slow(c *Cycle, node string) bool
	}
	// BindPlugin makes the decision true. The first that does not Skip decides.
	BindPlugin interface {
		Plugin
		Bind(ctx context.Context, c *Cycle, node string) *Status
	}
	// PostBindPlugin is told of success.
	PostBindPlugin interface {
		Plugin
		PostBind(c *Cycle, node string)
	}
	// EnqueuePlugin says which events may make a pod schedulable that this
	// plugin has turned down (upstream's EnqueueExtensions). A plugin without
	// it is taken to hope for everything.
	EnqueuePlugin interface {
		Plugin
		Hints() []Hint
	}
)

// Room is a plan to make room for a pod.
type Room struct {
	// Node is where the pod may then go; "" takes back an earlier nomination.
	Node string
	// Victims leave the node for it, the most important first.
	Victims []*PodInfo
	// Equals are other plans that would cost as much.
	Equals []Room
}

// Cycle is what one attempt to place one pod knows. It is used by one
// goroutine at a time: the scheduling loop first, then the binding.
type Cycle struct {
	Pod      *PodInfo
	Snapshot *Snapshot
	state    map[string]any
}

// NewCycle begins an attempt.
func NewCycle(pod *PodInfo, snapshot *Snapshot) *Cycle {
	return &Cycle{Pod: pod, Snapshot: snapshot, state: map[string]any{}}
}

// Set keeps what a plugin computed at one point for its later points.
func (c *Cycle) Set(key string, value any) { c.state[key] = value }

// Get returns what Set kept, or nil.
func (c *Cycle) Get(key string) any { return c.state[key] }

// Clone copies the cycle, so that a plugin can try what would be if.
func (c *Cycle) Clone() *Cycle {
	clone := &Cycle{Pod: c.Pod, Snapshot: c.Snapshot, state: make(map[string]any, len(c.state))}
	for key, value := range c.state {
		if changes, ok := value.(interface{ Clone() any }); ok {
			value = changes.Clone()
		}
		clone.state[key] = value
	}
	return clone
}

// Handle is what plugins may use of the world outside their arguments.
type Handle struct {
	// Bind tells the API server where the pod goes. It is nil offline.
	Bind func(ctx context.Context, pod *corev1.Pod, node string) error
	// Objects is nil where nothing else is known; ask Known.
	Objects Objects
	// Volumes changes them. It is nil offline.
	Volumes VolumeWriter
	// Waiting are the pods that Permit holds back. It is nil offline.
	Waiting *WaitingPods
}

// VolumeWriter does what has to be done to volumes before a pod is bound.
type VolumeWriter interface {
	// Both return the object's new resourceVersion.
	UpdateVolume(ctx context.Context, volume *corev1.PersistentVolume) (string, error)
	UpdateClaim(ctx context.Context, claim *corev1.PersistentVolumeClaim) (string, error)
	// Await asks again whenever a claim or a volume has changed, until the
	// answer is yes or an error, or ctx ends.
	Await(ctx context.Context, done func() (bool, error)) error
}
