package kubelet

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"tinykube/client"
)

// housekeepingPeriod is how long an orphan may stay: a pod in the runtime
// or on disk that no source wants and no worker has.
const housekeepingPeriod = 2 * time.Second

// syncLoop gives every wanted pod a worker and tells workers what changed. It
// does not follow events: whenever anything happened it compares all that is
// wanted with all there is. A node has a hundred pods; that is nothing.
//
// Invariant: no two workers have pods of one namespace and name: they would
// share log names, host ports, perhaps data. The later one waits.
func (k *Kubelet) syncLoop(ctx context.Context) error {
	workers, workerCtx := errgroup.WithContext(ctx)
	housekeeping := time.NewTicker(housekeepingPeriod)
	defer housekeeping.Stop()
	// Leftovers first: a static pod that changed while we were away must wait
	// for its former self to end.
	k.endOrphans(ctx, workerCtx, workers)
	for {
		k.dispatch(workerCtx, workers)
		select {
		case <-ctx.Done():
			return workers.Wait()
		case <-k.dirty:
		case <-housekeeping.C:
			k.endOrphans(ctx, workerCtx, workers)
		}
	}
}

// endOrphans gives each pod that nobody wants a worker that ends it.
func (k *Kubelet) endOrphans(ctx, workerCtx context.Context, workers *errgroup.Group) {
	orphans, err := k.findOrphans(ctx)
	if err != nil && ctx.Err() == nil {
		k.log.Warn("looking for orphans", "err", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, pod := range orphans {
		k.log.Info("ending a pod that nobody wants", "key", client.Key(pod), "uid", pod.UID)
		k.startWorker(workerCtx, workers, pod, true)
	}
}

// touch makes the sync loop compare again.
func (k *Kubelet) touch() { touch(k.dirty) }

// touch tells whoever reads a channel of capacity 1, unless he is told already.
func touch(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// wanted collects the pods of all sources. complete says whether all have been
// read: only then does a pod's absence mean anything.
func (k *Kubelet) wanted() (pods map[types.UID]*corev1.Pod, complete bool) {
	pods = map[types.UID]*corev1.Pod{}
	static, complete := k.static.list()
	for _, p := range static {
		pods[p.UID] = p
	}
	if k.podInformer == nil {
		return pods, complete
	}
	for _, p := range k.podInformer.List() {
		if !isMirror(p) {
			pods[p.UID] = p
		}
	}
	return pods, complete && k.podInformer.HasSynced()
}

// dispatch brings the workers in line with what is wanted.
func (k *Kubelet) dispatch(ctx context.Context, group *errgroup.Group) {
	wanted, complete := k.wanted()
	k.mu.Lock()
	defer k.mu.Unlock()
	busy := map[string]bool{}
	for uid, w := range k.workers {
		busy[w.key] = true
		switch pod := wanted[uid]; {
		case pod != nil:
			w.update(pod)
		case complete || isStatic(w.pod):
			w.remove()
		}
	}
	k.resizePods()
	// Oldest first, so that on a node too small for all the same ones win again
	// after a restart.
	for _, pod := range oldestFirst(wanted) {
		if k.workers[pod.UID] == nil && !busy[client.Key(pod)] {
			busy[client.Key(pod)] = true
			k.startWorker(ctx, group, pod, false)
		}
	}
}

func oldestFirst(pods map[types.UID]*corev1.Pod) []*corev1.Pod {
	return slices.SortedFunc(maps.Values(pods), func(a, b *corev1.Pod) int {
		return cmp.Or(compareBools(isStatic(a), isStatic(b)), a.CreationTimestamp.Compare(b.CreationTimestamp.Time))
	})
}

// startWorker starts a pod's worker. The caller holds mu.
func (k *Kubelet) startWorker(ctx context.Context, group *errgroup.Group, pod *corev1.Pod, removed bool) {
	w := newWorker(k, pod)
	// What was told of it before we were started. That it ended is no reason for
	// a static pod to stay so: after a shutdown the file is still there.
	if mirror := k.apiObject(pod); isStatic(pod) && mirror != nil && !isTerminal(mirror.Status.Phase) {
		w.status = mirror.Status
	}
	w.removed = removed
	w.noticeEnd(nil)
	k.workers[pod.UID] = w
	group.Go(func() error {
		w.run(ctx)
		k.mu.Lock()
		if ctx.Err() == nil {
			delete(k.workers, w.uid)
		}
		k.mu.Unlock()
		if ctx.Err() == nil {
			k.statuses.forget(w.uid)
			k.touch() // a pod of the same name may have waited for this
		}
		return nil
	})
}

// findOrphans finds what no worker has: leftovers of a kubelet that was killed,
// of pods force-deleted while it was away, of sandboxes made too late to be
// noticed. What came from a file needs no API server to be judged.
func (k *Kubelet) findOrphans(ctx context.Context) ([]*corev1.Pod, error) {
	wanted, complete := k.wanted()
	if _, read := k.static.list(); !read {
		return nil, nil
	}
	known, err := k.runtime.podUIDs(ctx)
	if err != nil {
		return nil, err
	}
	for _, uid := range k.volumes.podsOnDisk() {
		known[uid] = true
	}
	var out []*corev1.Pod
	for uid := range known {
		if wanted[uid] != nil || k.worker(uid) != nil {
			continue
		}
		seen, err := k.runtime.observe(ctx, uid)
		if err != nil {
			return out, err
		}
		if s := seen.sandbox(); complete || s != nil && s.Annotations[annotationConfigSource] == sourceFile {
			out = append(out, orphan(seen))
		}
	}
	return out, nil
}

// worker returns the worker of a pod, or nil.
func (k *Kubelet) worker(uid types.UID) *worker {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.workers[uid]
}

func (k *Kubelet) allWorkers() []*worker {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Collect(maps.Values(k.workers))
}

// livingPods are those that have something running and have not ended.
func (k *Kubelet) livingPods() (pods []*corev1.Pod) {
	for _, w := range k.allWorkers() {
		if pod, seen, status := w.view(); seen != nil && seen.alive() && !isTerminal(status.Phase) {
			pods = append(pods, pod)
		}
	}
	return pods
}

// apiObject is how the API server knows a pod: as itself, or by its mirror. The
// mirror of the next version is there before this one has ended, and is not of
// this one.
func (k *Kubelet) apiObject(pod *corev1.Pod) *corev1.Pod {
	if k.podInformer == nil {
		return nil
	}
	found, exists := k.podInformer.Get(client.Key(pod))
	if exists && (found.UID == pod.UID || isStatic(pod) && isMirror(found) && found.Annotations[annotationConfigMirror] == pod.Annotations[annotationConfigHash]) {
		return found
	}
	return nil
}
