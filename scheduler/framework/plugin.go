package framework

import (
	"context"

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
	// PostFilterPlugin tries to make room when no node is feasible. The first
	// that succeeds ends the search; the pod waits for its next turn.
	PostFilterPlugin interface {
		Plugin
		PostFilter(ctx context.Context, c *Cycle, diagnosis *Diagnosis) (nominatedNode string, status *Status)
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
	// PermitPlugin has the last word before binding starts.
	//
	// Simplified: upstream's Permit can also make a pod wait for others; gang
	// scheduling would need that.
	PermitPlugin interface {
		Plugin
		Permit(c *Cycle, node string) *Status
	}
	// PreBindPlugin prepares things outside, such as volumes.
	PreBindPlugin interface {
		Plugin
		PreBind(ctx context.Context, c *Cycle, node string) *Status
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

// Handle is what plugins may use of the world outside their arguments.
type Handle struct {
	// Bind tells the API server where the pod goes. It is nil offline.
	Bind func(ctx context.Context, pod *corev1.Pod, node string) error
	// Objects is nil where nothing else is known; ask Known.
	Objects Objects
}
