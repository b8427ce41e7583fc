package storage

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/btree"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"tinykube/apiserver/resources"
)

// Table is the watch cache of one resource: its present objects in the order
// of their keys, and its recent past as a list of events.
//
//	etcd watch ──▶ apply ─┬─▶ tree   (now)     ──▶ GET, LIST
//	                      └─▶ log    (events)  ──▶ watchers, each a cursor
//
// Reading never touches etcd's values; writing never touches the tree: a write
// is seen when it comes back through the watch, in etcd's order.
type Table struct {
	row    *resources.Row
	store  *Store
	log    *slog.Logger
	prefix string
	// providers encrypt what is stored; none means plain.
	providers []provider
	// stop ends what Attach began; nil for tables that are there from the start.
	stop context.CancelFunc

	synced chan struct{} // closed after the first load
	asked  chan struct{} // capacity 1: somebody waits for a newer revision

	// nodeWatchers counts watchers that follow one node's objects, so that
	// nobody pays for decoding when there are none.
	nodeWatchers atomic.Int64

	mu       sync.RWMutex // guards everything below
	tree     *btree.BTreeG[*Item]
	frozen   *btree.BTreeG[*Item] // a clone of tree, until tree changes
	revision int64                // the tree shows everything up to here
	changed  int64                // revision of the last change of the tree
	events   history
	waiting  []*waiter
	watchers map[interest]map[*Watcher]struct{}
	pages    []snapshot // trees that continue tokens refer to
	over     bool       // the table was detached and has stopped
}

// waiter is somebody who needs the cache to have reached a revision.
type waiter struct {
	revision int64
	reached  chan struct{}
}

func newTable(s *Store, row *resources.Row) *Table {
	return &Table{
		row: row, store: s, prefix: tablePrefix(s.cfg.Prefix, row),
		log:       s.log.With("table", row.Prefix),
		providers: s.cfg.Encryption.providersFor(row),
		synced:    make(chan struct{}), asked: make(chan struct{}, 1),
		tree:     newTree(),
		watchers: map[interest]map[*Watcher]struct{}{},
	}
}

func newTree() *btree.BTreeG[*Item] {
	return btree.NewG(32, func(a, b *Item) bool { return a.Key < b.Key })
}

// Row is the row whose objects the table holds.
func (t *Table) Row() *resources.Row { return t.row }

// Changed returns the revision of the last change: what was computed from the
// table is still right if it has not moved.
func (t *Table) Changed() int64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.changed
}

// Cached returns an object as the cache has it, or nil. It may be stale.
func (t *Table) Cached(key string) *Item {
	t.mu.RLock()
	defer t.mu.RUnlock()
	item, _ := t.tree.Get(&Item{Key: key})
	return item
}

// Get returns an object that is at least as new as resourceVersion: "" means
// everything committed so far, "0" whatever the cache has.
func (t *Table) Get(ctx context.Context, key, resourceVersion string) (*Item, error) {
	if err := t.fresh(ctx, resourceVersion); err != nil {
		return nil, err
	}
	if item := t.Cached(key); item != nil {
		return item, nil
	}
	_, name := SplitKey(key)
	return nil, apierrors.NewNotFound(t.row.GVR().GroupResource(), name)
}

// CatchUp waits until the cache shows everything committed so far.
func (t *Table) CatchUp(ctx context.Context) error { return t.fresh(ctx, "") }

// fresh waits until the cache is at least as new as resourceVersion.
func (t *Table) fresh(ctx context.Context, resourceVersion string) error {
	switch resourceVersion {
	case "0":
		return nil
	case "":
		revision, err := t.store.barrier.wait(ctx)
		if err != nil {
			return err
		}
		return t.reach(ctx, revision, t.store.cfg.Timeout)
	}
	revision, err := parseVersion(resourceVersion)
	if err != nil {
		return err
	}
	return t.reach(ctx, revision, futureWait)
}

// futureWait is how long a resourceVersion from the future may take to become
// the present: another server's cache may be ahead of ours.
// Upstream: kubernetes@v1.36 k8s.io/apiserver/pkg/storage/cacher/watch_cache.go blockTimeout
const futureWait = 3 * time.Second

// reach waits until the cache shows everything up to revision.
func (t *Table) reach(ctx context.Context, revision int64, patience time.Duration) error {
	t.mu.RLock()
	current := t.revision
	t.mu.RUnlock()
	if current >= revision {
		return nil
	}
	w := &waiter{revision: revision, reached: make(chan struct{})}
	t.mu.Lock()
	if t.revision >= revision {
		t.mu.Unlock()
		return nil
	}
	t.waiting = append(t.waiting, w)
	t.mu.Unlock()
	select {
	case t.asked <- struct{}{}:
	default:
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-w.reached:
		return nil
	case <-ctx.Done():
		t.forget(w)
		return readError(ctx.Err())
	case <-timer.C:
		return tooLargeVersion(revision, t.forget(w))
	}
}

// forget takes a waiter out and returns the current revision.
func (t *Table) forget(w *waiter) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, other := range t.waiting {
		if other == w {
			t.waiting = append(t.waiting[:i], t.waiting[i+1:]...)
			break
		}
	}
	return t.revision
}

// advance notes that everything up to revision has been seen, and wakes those
// who waited for it. The caller holds mu.
func (t *Table) advance(revision int64) {
	if revision <= t.revision {
		return
	}
	t.revision = revision
	rest := t.waiting[:0]
	for _, w := range t.waiting {
		if w.revision <= revision {
			close(w.reached)
		} else {
			rest = append(rest, w)
		}
	}
	clear(t.waiting[len(rest):])
	t.waiting = rest
}

// keyOf cuts the table's prefix from an etcd key.
func (t *Table) keyOf(etcdKey []byte) string {
	return strings.TrimPrefix(string(etcdKey), t.prefix)
}
