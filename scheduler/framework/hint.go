package framework

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Action is what happened to an object, as far as scheduling cares; a set.
type Action uint32

// Actions on nodes, on pods that run somewhere (Assigned) and on the waiting
// pod itself (Own).
const (
	NodeAdd Action = 1 << iota
	NodeDelete
	NodeAllocatable
	NodeLabels
	NodeTaints // and spec.unschedulable
	AssignedAdd
	AssignedDelete
	AssignedLabels
	AssignedScaledDown
	OwnLabels
	OwnTolerations
	OwnScaledDown
	OwnGatesGone
	ClaimAdd
	ClaimUpdate
	VolumeAdd
	VolumeUpdate
	ClassAdd
	ClassUpdate
	CSINodeAdd
	CSINodeUpdate
	CSIDriverUpdate
	CapacityAdd
	CapacityUpdate
	AttachmentDelete
)

// Event is one change in the cluster. Exactly one pair of old and new is set,
// and old is nil for something new, new for something gone.
type Event struct {
	Action           Action
	OldNode, NewNode *corev1.Node
	OldPod, NewPod   *corev1.Pod
	// Old and New are objects of storage, of the kind that Action says.
	Old, New any
}

// IsOwn says that the event is a change of a waiting pod (NewPod), which only
// that pod itself can hope from.
func (e Event) IsOwn() bool {
	return e.Action&(OwnLabels|OwnTolerations|OwnScaledDown|OwnGatesGone) != 0
}

// Hint is one row of a plugin's hopes: an event which may help a pod it has
// turned down. Helps narrows that; without it any such event does.
type Hint struct {
	On    Action
	Helps func(pod *PodInfo, e Event) bool
}

// QueuedPod is a pod in the scheduling queue with its history there.
type QueuedPod struct {
	*PodInfo
	// Added is when it last entered the queue's active part: earlier goes first.
	Added time.Time
	// FirstAttempt is when scheduling it began; zero before.
	FirstAttempt time.Time
	Attempts     int
	// Rejectors are the plugins that turned it down in the last attempt; only
	// their hints can wake it. Empty means any event wakes it.
	Rejectors map[string]bool
	// Gate is what PreEnqueue said when it kept the pod out; nil otherwise.
	Gate *Status
}
