package scheduler

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"tinykube/scheduler/framework"
)

// The queue holds every pod that still needs a node, in one of four places:
//
//	            Add                         Pop
//	new pod ──────────▶  active  ──────────────────▶  in flight ──▶ bound
//	                     ▲    ▲                          │
//	     backoff is over │    │ backoff is over          │ Requeue
//	                     │    │ already                  │
//	                  backoff ◀──┬── an event helps ──── unschedulable
//	                             └── or 5 minutes passed     ▲
//	   gated pod ────────────────────────────────────────────┘
//
// A backoff keeps pods from crowding out others. If no other is active, there is
// nobody to crowd out, and Pop takes what an event has given hope from backoff at
// once. What failed by an error waits in any case, lest the error be repeated as
// fast as it can be.
//
// Unschedulable pods do not poll. Every plugin that turned a pod down told
// which events could change its mind (framework.Hint); only those move the pod
// on, and the flush after five minutes covers what no hint foresaw. So nothing
// spins, and nothing waits forever.
//
// An event may arrive while a pod is in flight, after the attempt looked at
// the thing that changed. Such events are remembered, and Requeue judges them
// as if they had come a moment later.

// Timings of the queue.
//
// Upstream: kubernetes pkg/scheduler/backend/queue
const (
	defaultInitialBackoff = time.Second
	defaultMaxBackoff     = 10 * time.Second
	unschedulableFor      = 5 * time.Minute
	flushEvery            = 30 * time.Second
	// maxMissed bounds the remembered events. Pods in flight for longer than
	// that are simply tried again.
	maxMissed = 1024
)

// place says where in the queue a pod is.
type place int

const (
	inActive place = iota
	inBackoff
	inUnschedulable
	inFlight
)

// entry is a pod in the queue.
type entry struct {
	framework.QueuedPod
	place place
	// index is the entry's position in its heap (active and backoff).
	index int
	// since is when it entered unschedulable.
	since time.Time
	// readyAt is when its backoff ends.
	readyAt time.Time
	// missedFrom is the first remembered event that the attempt may not have
	// seen (in flight).
	missedFrom int
}

// QueueConfig is what the queue needs to know of the profiles.
type QueueConfig struct {
	InitialBackoff, MaxBackoff time.Duration
	Less                       func(a, b *framework.QueuedPod) bool
	// Profile returns the profile a pod asks for.
	Profile func(pod *corev1.Pod) *framework.Profile
}

// Queue is the scheduling queue.
type Queue struct {
	config QueueConfig

	mu       sync.Mutex           // guards everything below
	nonEmpty *sync.Cond           // signalled when active grows, or on close
	pods     map[types.UID]*entry // all of them, wherever they are
	active   *podHeap
	backoff  *podHeap // an event gave hope
	failed   *podHeap // in backoff as well, after an error
	// unschedulable is apart so that an event costs nothing when nobody waits.
	unschedulable map[types.UID]*entry
	closed        bool
	inFlight      int
	// missed are the events since the oldest attempt in flight began;
	// forgotten is how many were dropped in front of it.
	missed    []framework.Event
	forgotten int
	// wake tells Run that the first backoff may end earlier than it thought.
	wake chan struct{}
}

// NewQueue makes an empty queue.
func NewQueue(config QueueConfig) *Queue {
	if config.InitialBackoff == 0 {
		config.InitialBackoff = defaultInitialBackoff
	}
	if config.MaxBackoff == 0 {
		config.MaxBackoff = defaultMaxBackoff
	}
	q := &Queue{config: config, pods: map[types.UID]*entry{}, unschedulable: map[types.UID]*entry{},
		wake: make(chan struct{}, 1)}
	q.nonEmpty = sync.NewCond(&q.mu)
	q.active = &podHeap{less: func(a, b *entry) bool { return config.Less(&a.QueuedPod, &b.QueuedPod) }}
	q.failed = &podHeap{less: func(a, b *entry) bool { return a.readyAt.Before(b.readyAt) }}
	// Within a second, as among the active: who may be taken early is taken in that order.
	q.backoff = &podHeap{less: func(a, b *entry) bool {
		if x, y := a.readyAt.Truncate(time.Second), b.readyAt.Truncate(time.Second); !x.Equal(y) {
			return x.Before(y)
		}
		return config.Less(&a.QueuedPod, &b.QueuedPod)
	}}
	return q
}

// Add takes in a pod that has no node yet.
func (q *Queue) Add(pod *corev1.Pod) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.pods[pod.UID] != nil {
		return
	}
	e := &entry{QueuedPod: framework.QueuedPod{PodInfo: framework.NewPodInfo(pod)}}
	q.pods[pod.UID] = e
	q.activate(e)
}

// Update takes over the new version of a waiting pod. A change of the pod
// itself can be what it was waiting for.
func (q *Queue) Update(old, new *corev1.Pod) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.pods[new.UID]
	if e == nil {
		e = &entry{QueuedPod: framework.QueuedPod{PodInfo: framework.NewPodInfo(new)}}
		q.pods[new.UID] = e
		q.activate(e)
		return
	}
	event := framework.Event{Action: ownActions(old, new), OldPod: old, NewPod: new}
	switch e.place {
	case inFlight:
		// The attempt goes on with what it has; Requeue will see the event.
		q.remember(event)
	case inActive, inBackoff:
		e.PodInfo = framework.NewPodInfo(new)
		// Its priority cannot change, so its place in the heap stands.
	case inUnschedulable:
		e.PodInfo = framework.NewPodInfo(new)
		if q.helps(e, event) {
			q.moveOn(e)
		}
	}
}

// Delete drops a pod: it is gone, or has a node. One in flight is dropped
// when its attempt ends.
func (q *Queue) Delete(uid types.UID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if e := q.pods[uid]; e != nil && e.place != inFlight {
		q.leave(e)
		delete(q.pods, uid)
	}
}

// Pop waits for the pod whose turn it is; false means the queue is closed. The
// caller ends the attempt with Done or Requeue.
//
// Upstream: kubernetes pkg/features SchedulerPopFromBackoffQ
func (q *Queue) Pop() (*framework.QueuedPod, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.active.Len() == 0 && !q.closed {
		if q.backoff.Len() > 0 {
			q.activate(q.backoff.popFirst())
		} else {
			q.nonEmpty.Wait()
		}
	}
	if q.closed {
		return nil, false
	}
	e := q.active.popFirst()
	e.place = inFlight
	e.missedFrom = q.forgotten + len(q.missed)
	e.Attempts++
	if e.FirstAttempt.IsZero() {
		e.FirstAttempt = time.Now()
	}
	e.Rejectors = nil
	q.inFlight++
	return &e.QueuedPod, true
}

// Done ends an attempt for good: the pod has a node or does not want one.
func (q *Queue) Done(uid types.UID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if e := q.pods[uid]; e != nil && e.place == inFlight {
		q.land()
		delete(q.pods, uid)
	}
}

// Requeue ends an attempt that found no node. pod is the newest version.
// rejectors are the plugins that said no; none means that something went
// wrong, which time rather than an event will mend.
func (q *Queue) Requeue(pod *corev1.Pod, rejectors map[string]bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.pods[pod.UID]
	if e == nil || e.place != inFlight {
		return
	}
	if pod.ResourceVersion != e.ResourceVersion {
		e.PodInfo = framework.NewPodInfo(pod)
	}
	e.Rejectors = rejectors
	e.readyAt = time.Now().Add(q.backoffFor(e.Attempts))
	helped := len(rejectors) == 0 || e.missedFrom < q.forgotten
	if !helped {
		for _, event := range q.missed[e.missedFrom-q.forgotten:] {
			helped = helped || q.helps(e, event)
		}
	}
	q.land()
	if helped {
		q.moveOn(e)
	} else {
		q.park(e)
	}
}

// Happened tells the queue of a change in the cluster.
func (q *Queue) Happened(event framework.Event) {
	if event.Action == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.remember(event)
	for _, e := range q.unschedulable {
		if q.helps(e, event) {
			q.moveOn(e)
		}
	}
}

// Activate tries an unschedulable pod again, whatever it hopes for.
func (q *Queue) Activate(uid types.UID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if e := q.unschedulable[uid]; e != nil {
		q.moveOn(e)
	}
}

// Pending counts the pods in each place, for the metrics.
func (q *Queue) Pending() (active, backoff, unschedulable, gated int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, e := range q.unschedulable {
		if e.Gate != nil {
			gated++
		}
	}
	return q.active.Len(), q.backoff.Len() + q.failed.Len(), len(q.unschedulable) - gated, gated
}

// Run ends backoffs when their time has come and flushes pods that have been
// unschedulable for long. It closes the queue when ctx ends.
func (q *Queue) Run(ctx context.Context) error {
	flush := time.NewTicker(flushEvery)
	defer flush.Stop()
	next := time.NewTimer(time.Hour)
	defer next.Stop()
	for {
		next.Reset(q.endBackoffs())
		select {
		case <-ctx.Done():
			q.Close()
			return nil
		case <-next.C:
		case <-q.wake:
		case <-flush.C:
			q.flush()
		}
	}
}

// Close makes Pop say that there will be no more.
func (q *Queue) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.nonEmpty.Broadcast()
}

// endBackoffs activates what is ready and returns how long nothing will be.
func (q *Queue) endBackoffs() time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	next := time.Hour
	for _, waiting := range []*podHeap{q.backoff, q.failed} {
		for waiting.Len() > 0 {
			if wait := time.Until(waiting.entries[0].readyAt); wait > 0 {
				next = min(next, wait)
				break
			}
			q.activate(waiting.popFirst())
		}
	}
	return next
}

func (q *Queue) flush() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, e := range q.unschedulable {
		if time.Since(e.since) >= unschedulableFor {
			q.moveOn(e)
		}
	}
}

// The methods below need mu.

// activate puts an entry into active, unless a gate holds it back. It must not
// be in a heap.
func (q *Queue) activate(e *entry) {
	delete(q.unschedulable, e.UID)
	if e.Gate = q.config.Profile(e.Pod).RunPreEnqueue(e.Pod); e.Gate != nil {
		e.Rejectors = map[string]bool{e.Gate.Plugin: true}
		q.park(e)
		return
	}
	e.place, e.Added = inActive, time.Now()
	q.active.push(e)
	q.nonEmpty.Signal()
}

// moveOn takes an entry to backoff, or past it. It must not be in a heap.
func (q *Queue) moveOn(e *entry) {
	delete(q.unschedulable, e.UID)
	if !time.Now().Before(e.readyAt) {
		q.activate(e)
		return
	}
	e.place = inBackoff
	q.waiting(e).push(e)
	q.nonEmpty.Signal()
	select {
	case q.wake <- struct{}{}:
	default: // Run has one waiting already
	}
}

// waiting is the heap of an entry in backoff.
func (q *Queue) waiting(e *entry) *podHeap {
	if len(e.Rejectors) == 0 {
		return q.failed
	}
	return q.backoff
}

func (q *Queue) park(e *entry) {
	e.place, e.since = inUnschedulable, time.Now()
	q.unschedulable[e.UID] = e
}

func (q *Queue) leave(e *entry) {
	switch e.place {
	case inActive:
		q.active.remove(e)
	case inBackoff:
		q.waiting(e).remove(e)
	case inUnschedulable:
		delete(q.unschedulable, e.UID)
	}
}

func (q *Queue) backoffFor(attempts int) time.Duration {
	d := q.config.InitialBackoff
	for i := 1; i < attempts && d < q.config.MaxBackoff; i++ {
		d *= 2
	}
	return min(d, q.config.MaxBackoff)
}

// helps asks the plugins that rejected the pod whether the event gives hope.
func (q *Queue) helps(e *entry, event framework.Event) bool {
	profile := q.config.Profile(e.Pod)
	for plugin := range e.Rejectors {
		hints, known := profile.Hints[plugin]
		if !known {
			return true
		}
		for _, h := range hints {
			if h.On&event.Action == 0 || event.IsOwn() && event.NewPod.UID != e.UID {
				continue
			}
			if h.Helps == nil || h.Helps(e.PodInfo, event) {
				return true
			}
		}
	}
	return len(e.Rejectors) == 0
}

// remember keeps an event for the pods in flight.
func (q *Queue) remember(event framework.Event) {
	if q.inFlight == 0 {
		return
	}
	if len(q.missed) >= maxMissed {
		q.forgotten += len(q.missed)
		q.missed = nil
	}
	q.missed = append(q.missed, event)
}

// land ends one flight; when all have landed, there is nothing to remember.
func (q *Queue) land() {
	if q.inFlight--; q.inFlight == 0 {
		q.forgotten += len(q.missed)
		q.missed = q.missed[:0]
	}
}
