package harness

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
)

const (
	// A key that fails is tried again after 5 ms, 10 ms, 20 ms … up to this;
	// it is also tried again at once when something it watches changes.
	// Upstream: client-go util/workqueue DefaultControllerRateLimiter (1000 s)
	minBackoff = 5 * time.Millisecond
	maxBackoff = 2 * time.Minute
)

// Reconcile makes the world fit the object named by key, whatever happened. A
// duration above zero asks to be called again after it, for what only time
// changes; an error asks to be called again with backoff.
type Reconcile[K comparable] func(ctx context.Context, key K) (time.Duration, error)

// Loop calls a Reconcile for every key that may need it: one worker per key at
// a time, a key that is added twice is done once.
type Loop[K comparable] struct {
	scope     *Scope
	queue     *client.Queue[K]
	workers   int
	reconcile Reconcile[K]
	gate      <-chan struct{} // may be nil
}

// NewLoop makes a loop and registers it with the manager, which runs it once
// every store of the scope is filled.
func NewLoop[K comparable](s *Scope, workers int, reconcile Reconcile[K]) *Loop[K] {
	l := &Loop[K]{
		scope: s, workers: workers, reconcile: reconcile,
		queue: client.NewQueue[K](client.QueueOptions{Base: minBackoff, Max: maxBackoff}),
	}
	s.manager.loops = append(s.manager.loops, l)
	return l
}

// WaitFor lets the loop start only when gate is closed. Call it before Run.
func (l *Loop[K]) WaitFor(gate <-chan struct{}) { l.gate = gate }

// Add asks for key to be reconciled.
func (l *Loop[K]) Add(key K) { l.queue.Add(key) }

// AddAfter asks for it in a while.
func (l *Loop[K]) AddAfter(key K, after time.Duration) { l.queue.AddAfter(key, after) }

// Watch enqueues the keys that a change of one of store's objects concerns.
// old is nil for a new object, new for one that is gone; now and then every
// object comes with old == new. The event says only where to look: nothing is
// decided here.
func Watch[T client.Object, K comparable](l *Loop[K], store *Store[T], keys func(old, new T) []K) {
	store.view.informer.OnChange(func(old, new T) {
		for _, key := range keys(old, new) {
			l.queue.Add(key)
		}
	})
}

// WatchSelf enqueues the key of the changed object itself.
func WatchSelf[T client.Object](l *Loop[string], store *Store[T]) {
	Watch(l, store, func(old, new T) []string { return []string{client.Key(present(old, new))} })
}

// WatchOwned enqueues the controlling owner, of kind ownerKind, of the changed
// object, before and after the change. adopters (may be nil) finds owners who
// may want an object that has none.
func WatchOwned[T client.Object](l *Loop[string], store *Store[T], ownerKind string, adopters func(T) []string) {
	Watch(l, store, func(old, new T) []string {
		var keys []string
		var none T
		for _, obj := range []T{old, new} {
			if any(obj) == any(none) {
				continue
			}
			if key, ok := ownerKey(obj, ownerKind); ok {
				keys = append(keys, key)
			}
		}
		if adopters != nil && any(new) != any(none) && metav1.GetControllerOfNoCopy(new) == nil {
			keys = append(keys, adopters(new)...)
		}
		return keys
	})
}

// WatchWorkload is how every owner with a selector listens: to its own kind,
// and to the parts that it has or may adopt.
func WatchWorkload[O, P client.Object](l *Loop[string], owners *Store[O], parts *Store[P], selectorOf func(O) *metav1.LabelSelector) {
	WatchSelf(l, owners)
	WatchOwned(l, parts, owners.Kind().Kind, Selecting[P](owners, selectorOf))
}

// Run works until ctx ends.
func (l *Loop[K]) Run(ctx context.Context) error {
	if !l.scope.waitForStores(ctx) || l.gate != nil && !client.WaitSynced(ctx, l.gate) {
		return nil
	}
	l.scope.Log.Debug("Caches are filled")
	g, ctx := errgroup.WithContext(ctx)
	for range l.workers {
		g.Go(func() error {
			for l.next(ctx) {
			}
			return nil
		})
	}
	<-ctx.Done()
	l.queue.ShutDown()
	return g.Wait()
}

func (l *Loop[K]) next(ctx context.Context) bool {
	key, ok := l.queue.Get()
	if !ok {
		return false
	}
	defer l.queue.Done(key)
	started := time.Now()
	after, err := l.once(ctx, key)
	l.scope.manager.metrics.reconciled(l.scope.Name, time.Since(started), err, l.queue.Len())
	switch {
	case ctx.Err() != nil:
	case err == nil:
		l.queue.Forget(key)
		if after > 0 {
			l.queue.AddAfter(key, after)
		}
	case apierrors.IsConflict(err), apierrors.IsNotFound(err):
		// Someone else wrote or deleted first. We will hear of it; look again.
		l.scope.Log.Debug("Overtaken, looking again", "key", key, "err", err)
		l.queue.AddRateLimited(key)
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		l.queue.Forget(key) // nothing can be created there any more
	default:
		l.scope.Log.Warn("Reconcile failed, will retry", "key", key, "err", err)
		l.queue.AddRateLimited(key)
	}
	return ctx.Err() == nil
}

func (l *Loop[K]) once(ctx context.Context, key K) (time.Duration, error) {
	var errs []error
	for _, store := range l.scope.stores {
		errs = append(errs, store.settle(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		return 0, err
	}
	return l.reconcile(ctx, key)
}
