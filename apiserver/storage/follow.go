package storage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/btree"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"
)

const (
	// loadPage bounds the size of one answer while a table is loaded.
	loadPage = 2000
	// retryFollow is the pause before we ask a broken etcd again.
	retryFollow = 500 * time.Millisecond
	// retryProgress is the pause before we ask for progress again: etcd does
	// not answer while the watch has events outstanding.
	retryProgress = 50 * time.Millisecond
	// idleProgress keeps an idle table's revision moving, so that bookmarks
	// spare clients a relist after compaction.
	idleProgress = 10 * time.Second
)

// follow loads the table and then applies etcd's events, for ever. It loads
// anew only when etcd has compacted what we missed; any other break resumes at
// the next revision, so that watchers never notice.
func (t *Table) follow(ctx context.Context) error {
	needLoad, loaded := true, false
	for ctx.Err() == nil {
		if needLoad {
			if err := t.load(ctx); err != nil {
				t.log.Warn("Cannot load from etcd, will retry", "err", err)
				pause(ctx, retryFollow)
				continue
			}
			if !loaded {
				close(t.synced)
				loaded = true
			}
		}
		err := t.tail(ctx)
		needLoad = errors.Is(err, rpctypes.ErrCompacted)
		if ctx.Err() == nil {
			t.log.Info("Watch of etcd ended, resuming", "err", err, "reload", needLoad)
			pause(ctx, retryFollow)
		}
	}
	return nil
}

// load replaces the tree by what etcd has at one revision.
func (t *Table) load(ctx context.Context) error {
	tree := newTree()
	var revision int64
	start, end := t.prefix, prefixEnd(t.prefix)
	for {
		options := []clientv3.OpOption{clientv3.WithRange(end), clientv3.WithLimit(loadPage), clientv3.WithRev(revision)}
		response, err := t.get(ctx, start, options...)
		if err != nil {
			return err
		}
		revision = max(revision, response.Header.Revision)
		for _, kv := range response.Kvs {
			if item := t.item(kv); item != nil {
				tree.ReplaceOrInsert(item)
			}
		}
		if !response.More {
			break
		}
		revision = response.Header.Revision
		start = string(response.Kvs[len(response.Kvs)-1].Key) + "\x00"
	}
	t.replace(tree, revision)
	return nil
}

// replace starts a new history. Watchers of the old one are ended: they come
// back, and learn that their revision is gone.
func (t *Table) replace(tree *btree.BTreeG[*Item], revision int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tree, t.frozen, t.changed = tree, nil, revision
	t.events.reset(revision)
	t.endAll()
	t.advance(revision)
}

// get is a read of etcd that ends in bounded time.
func (t *Table) get(ctx context.Context, key string, options ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, t.store.cfg.Timeout)
	defer cancel()
	return t.store.client.Get(ctx, key, options...)
}

// item makes an Item of a key and value; one that cannot be read is reported
// and left out, so that it does not take the others with it.
func (t *Table) item(kv *mvccpb.KeyValue) *Item {
	item, err := t.open(kv)
	if err != nil {
		t.log.Error("Cannot read a stored object", "key", string(kv.Key), "rv", kv.ModRevision, "err", err)
		return nil
	}
	return item
}

// open decrypts a value and makes an Item of it.
func (t *Table) open(kv *mvccpb.KeyValue) (*Item, error) {
	value, stale, err := unseal(t.providers, kv.Value, kv.Key)
	if err != nil {
		return nil, err
	}
	item, err := newItem(t.row, t.keyOf(kv.Key), value, kv.ModRevision)
	if err == nil {
		item.stale = stale
	}
	return item, err
}

// tail applies events from the revision after the last one seen, until the
// watch breaks. The watch has a gRPC stream of its own (etcd's client shares
// streams by the context's metadata), so that a request for progress asks this
// table only and is answered by this table only.
func (t *Table) tail(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ctx = metadata.NewOutgoingContext(ctx, metadata.Pairs("table", fmt.Sprintf("%s %p", t.row.Prefix, t)))
	ctx = clientv3.WithRequireLeader(ctx)
	t.mu.RLock()
	next := t.revision + 1
	t.mu.RUnlock()
	watch := t.store.client.Watch(ctx, t.prefix, clientv3.WithRange(prefixEnd(t.prefix)),
		clientv3.WithRev(next), clientv3.WithProgressNotify(), clientv3.WithCreatedNotify())
	progress := time.NewTimer(idleProgress)
	defer progress.Stop()
	for {
		select {
		case response, ok := <-watch:
			if !ok {
				return errors.New("watch channel closed")
			}
			if err := response.Err(); err != nil {
				return err
			}
			if response.IsProgressNotify() {
				t.mu.Lock()
				t.advance(response.Header.Revision)
				t.mu.Unlock()
			} else if len(response.Events) > 0 {
				t.apply(response.Events)
			}
		case <-t.asked:
			progress.Reset(t.askProgress(ctx))
		case <-progress.C:
			progress.Reset(t.askProgress(ctx))
		}
	}
}

// askProgress asks etcd to say how far the watch has come, and returns when to
// ask again.
func (t *Table) askProgress(ctx context.Context) time.Duration {
	if err := t.store.client.RequestProgress(ctx); err != nil && ctx.Err() == nil {
		t.log.Debug("Cannot request progress", "err", err)
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	if len(t.waiting) > 0 {
		return retryProgress
	}
	return idleProgress
}

// apply makes the tree and the history follow a batch of etcd's events.
func (t *Table) apply(batch []*clientv3.Event) {
	changes := make([]*change, 0, len(batch))
	for _, e := range batch {
		c := &change{key: t.keyOf(e.Kv.Key), revision: e.Kv.ModRevision}
		if e.Type == clientv3.EventTypePut {
			// An object we cannot read is as good as gone.
			c.item = t.item(e.Kv)
			if c.item != nil && t.nodeWatchers.Load() > 0 {
				c.item.Object() // decode before taking the lock
			}
		}
		changes = append(changes, c)
	}
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range changes {
		c.at = now
		c.old, _ = t.tree.Get(&Item{Key: c.key})
		switch {
		case c.old == nil && c.item == nil, c.old != nil && c.old.Revision >= c.revision:
			continue // known already
		case c.item != nil:
			t.tree.ReplaceOrInsert(c.item)
		default:
			t.tree.Delete(c.old)
		}
		t.frozen, t.changed = nil, c.revision
		t.events.append(c)
		t.wake(c)
	}
	t.advance(changes[len(changes)-1].revision)
}

// pause waits, but not beyond ctx.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
