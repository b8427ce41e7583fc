package kubelet

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// A worker owns one pod, from the first moment anything of it is known to the
// last trace of it on the node. It is one goroutine, so the pod is never worked
// on twice at once, and it is level-triggered: to wake it says only "look
// again", and looking again is always safe.
//
//	       update(pod)            deleted, evicted, finished
//	         │                            │
//	bringUp ◀┴▶ bringUp … ───────▶ terminate ──▶ stopped ──removed──▶ gone
//	volumes, sandbox, containers   stop all,      status told,
//	                               tear down      API object deleted
//
// Invariant: a worker only moves to the right. A pod whose end has begun never
// starts another container, whatever is said of it later.
type worker struct {
	k    *Kubelet
	uid  types.UID
	key  string        // namespace/name
	wake chan struct{} // capacity 1: a level, not a queue

	mu      sync.Mutex  // guards what follows, down to the blank line
	wanted  *corev1.Pod // as its source wants it
	pod     *corev1.Pod // the same, with the resources that are allocated to it
	resize  resizeConditions
	removed bool     // no source wants it any more
	ending  *endCase // why it must end, once it must
	yield   context.CancelFunc
	status  corev1.PodStatus // as last published
	seen    *observedPod     // as last observed
	placed  bool             // it counts against what the node has

	// Owned by the worker's goroutine.
	spawn     func(func(context.Context)) context.CancelFunc // a child that ends with run at the latest
	waiting   map[string]*waitError                          // why containers could not start, by name
	admitted  bool
	mounted   map[string]mountedVolume
	mountedAt time.Time
	mountedOf *corev1.Pod // the pod that mounted was made for
	stopped   bool        // nothing runs and nothing is mounted any more
	failures  int         // syncs that failed in a row
	born      time.Time   // zero: it ran before we knew it, or its start has been told
	pulling   time.Duration
}

// endCase is why a pod's end has begun.
type endCase struct {
	grace           *int64 // seconds that its containers get
	reason, message string // for pods that the kubelet itself ends: phase Failed
	disruption      bool   // it was not the pod's fault: condition DisruptionTarget
	rejected        bool   // it never was this node's: nothing is told of its containers
}

const (
	retryBase = 500 * time.Millisecond
	retryMax  = 10 * time.Second
	// volumeRefresh is how old the content of API volumes may get.
	volumeRefresh = 50 * time.Second
)

func newWorker(k *Kubelet, pod *corev1.Pod) *worker {
	w := &worker{k: k, uid: pod.UID, key: pod.Namespace + "/" + pod.Name, wake: make(chan struct{}, 1),
		wanted: pod, pod: k.allocatedPod(pod), resize: restoredResize(pod.Status), status: pod.Status, waiting: map[string]*waitError{}}
	if pod.Status.StartTime == nil {
		w.born = time.Now()
	}
	return w
}

// poke makes the worker look again, soon.
func (w *worker) poke() { touch(w.wake) }

// update tells the worker what its pod should be now.
func (w *worker) update(pod *corev1.Pod) {
	w.mu.Lock()
	changed := w.removed || specChanged(w.wanted, pod)
	if w.wanted != pod {
		if w.wanted, w.pod = pod, w.k.allocatedPod(pod); w.pod == pod {
			w.resize.pending = nil // it asks for nothing, or no longer
		}
	}
	w.noticeEnd(nil)
	w.mu.Unlock()
	if changed {
		w.poke()
	}
}

// remove tells the worker that its pod is wanted by nobody.
func (w *worker) remove() {
	w.mu.Lock()
	already := w.removed
	w.removed = true
	w.noticeEnd(nil)
	w.mu.Unlock()
	if !already {
		w.poke()
	}
}

// end ends the pod on the kubelet's own decision. If it is ending already that
// can only make it faster.
func (w *worker) end(own *endCase) {
	w.mu.Lock()
	switch {
	case w.ending == nil:
		w.noticeEnd(own)
	case own.grace != nil && *own.grace < w.ending.graceSeconds(w.pod):
		shorter := *w.ending
		shorter.grace = own.grace
		w.noticeEnd(&shorter)
	}
	w.mu.Unlock()
	w.poke()
}

// noticeEnd begins the pod's end if there is a reason to, or shortens it. It
// interrupts what the worker waits for: a pod to be deleted needs no image.
// The caller holds mu.
func (w *worker) noticeEnd(own *endCase) {
	grace, ends := requestedEnd(w.pod, w.removed)
	switch {
	case own != nil:
		w.ending = own
	case !ends:
		return
	case w.ending == nil:
		w.ending = &endCase{grace: grace}
	case grace != nil && (w.ending.grace == nil || *grace < *w.ending.grace):
		shorter := *w.ending
		shorter.grace = grace
		w.ending = &shorter
	default:
		return
	}
	if w.yield != nil {
		w.yield()
	}
}

// requestedEnd says whether the outside wants the pod to end, and how fast.
func requestedEnd(pod *corev1.Pod, removed bool) (grace *int64, ends bool) {
	if pod.DeletionTimestamp != nil {
		return pod.DeletionGracePeriodSeconds, true
	}
	return nil, removed
}

// graceSeconds is how long the containers get. Nobody gets nothing: a second
// is the difference between a clean end and a torn file.
func (e *endCase) graceSeconds(pod *corev1.Pod) int64 {
	grace := ptr.Deref(pod.Spec.TerminationGracePeriodSeconds, corev1.DefaultTerminationGracePeriodSeconds)
	if e != nil {
		grace = ptr.Deref(e.grace, grace)
	}
	return max(grace, 1)
}

// specChanged says whether a new version of the pod means work; most versions
// are echoes of our own status.
func specChanged(old, new *corev1.Pod) bool {
	if old.ResourceVersion == new.ResourceVersion && old.ResourceVersion != "" {
		return false
	}
	strip := func(m metav1.ObjectMeta) metav1.ObjectMeta {
		m.ResourceVersion, m.ManagedFields = "", nil
		return m
	}
	return !equal(strip(old.ObjectMeta), strip(new.ObjectMeta)) || !equal(old.Spec, new.Spec) ||
		len(new.Spec.ReadinessGates) > 0 && !equal(old.Status.Conditions, new.Status.Conditions)
}

// run works until the pod is gone or the kubelet ends. When the kubelet ends
// the pod goes on: the next kubelet finds it.
func (w *worker) run(ctx context.Context) {
	var children sync.WaitGroup
	defer children.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	w.spawn = func(child func(context.Context)) context.CancelFunc {
		ctx, cancel := context.WithCancel(ctx)
		children.Go(func() { child(ctx) })
		return cancel
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		case <-timer.C:
		}
		next, gone := w.sync(ctx)
		if gone {
			return
		}
		timer.Reset(next)
	}
}

// sync looks at what is wanted and what is there, and does the next step.
func (w *worker) sync(ctx context.Context) (next time.Duration, gone bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w.mu.Lock()
	w.yield = cancel
	pod, removed, ending := w.pod, w.removed, w.ending
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		w.yield = nil
		w.mu.Unlock()
	}()

	operation := "sync"
	if w.mounted == nil {
		operation = "create"
	}
	defer since(w.k.metrics.workerTime.WithLabelValues(operation), time.Now())
	seen, err := w.k.runtime.observe(ctx, w.uid)
	if err == nil {
		w.note(seen)
		switch {
		case w.stopped && removed:
			err = w.vanish(ctx, seen)
			gone = err == nil
		case w.stopped:
			w.k.statuses.stopped(w.uid)
		case ending != nil || isTerminal(w.publishedStatus().Phase):
			if err = w.terminate(ctx, pod, seen, ending); err == nil {
				w.poke() // one of the cases above follows at once
			}
		default:
			next, err = w.bringUp(ctx, pod, seen)
		}
	}
	if err != nil {
		return w.retryDelay(ctx, err), false
	}
	w.failures = 0
	// Anything may stay wrong for so long that nobody told us of.
	if most := w.k.cfg.SyncFrequency; next <= 0 || next > most {
		next = jitter(most)
	}
	return next, gone
}

// retryDelay logs a failed sync and spaces out the next ones.
func (w *worker) retryDelay(ctx context.Context, err error) time.Duration {
	if ctx.Err() != nil { // interrupted on purpose: wake is set, or we are ending
		return retryBase
	}
	delay := min(retryBase<<min(w.failures, 10), retryMax)
	w.failures++
	w.k.log.Warn("pod sync failed", "key", w.key, "attempt", w.failures, "err", err)
	return delay
}

// note keeps the observation for those who ask: probes, the node API.
func (w *worker) note(seen *observedPod) {
	w.mu.Lock()
	w.seen = seen
	w.mu.Unlock()
}

// view is what others may know of the pod: what it should be, what is there
// and what was told of it. All three are never changed, only replaced.
func (w *worker) view() (*corev1.Pod, *observedPod, corev1.PodStatus) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pod, w.seen, w.status
}

func (w *worker) publishedStatus() corev1.PodStatus {
	_, _, status := w.view()
	return status
}

// publish derives the pod's status from what is there and hands it on.
func (w *worker) publish(pod *corev1.Pod, seen *observedPod, terminal bool) corev1.PodStatus {
	w.mu.Lock()
	ending, old, resize := w.ending, w.status, w.resize.list() // only this goroutine changes the status
	w.mu.Unlock()
	in := statusInput{pod: pod, seen: seen, old: old, waiting: w.waiting, terminal: terminal, resize: resize,
		hostIPs: w.k.hostIPs(), now: time.Now(), verdictOf: w.k.probes.verdict, readyOf: w.k.probes.ready}
	in.recursiveReadOnly = w.k.node.supports(seen.sandbox().GetRuntimeHandler()).recursiveReadOnly
	if ending != nil {
		in.reason, in.message, in.disruption, in.rejected = ending.reason, ending.message, ending.disruption, ending.rejected
	}
	status := podStatus(in)
	w.mu.Lock()
	w.status = status
	w.mu.Unlock()
	w.k.statuses.set(pod, status, terminal)
	if status.Phase == corev1.PodRunning && !w.born.IsZero() {
		w.k.metrics.podStarted(pod, w.born, w.pulling)
		w.born = time.Time{}
	}
	return status
}

func isTerminal(phase corev1.PodPhase) bool {
	return phase == corev1.PodSucceeded || phase == corev1.PodFailed
}
