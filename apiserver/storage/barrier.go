package storage

import (
	"context"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// A default GET or LIST must show everything that was committed before it was
// sent. The cache may lag, so a reader first asks etcd, linearizably, "which
// revision is it?", and waits until the cache has come that far.
//
// The question costs a round trip, but it need not cost one per reader: all
// readers that arrive while a question is under way share the next one.
//
//	reader A ──▶ [question 1 ........ answer 41]        A waits for 41
//	reader B ──────▶ joins question 2 ..[....... 43]    B and C wait for 43
//	reader C ──────────▶ joins question 2
//
// Invariant: a reader never joins a question that was sent before the reader
// came: that answer may be older than a write the reader knows of.

// barrier is the queue before the question.
type barrier struct {
	kick chan struct{} // capacity 1: there is a next round

	mu   sync.Mutex
	next *round // the question not yet sent; nil if nobody waits
}

type round struct {
	done     chan struct{}
	revision int64
	err      error
}

// wait returns a revision at least as new as everything committed before the
// call.
func (b *barrier) wait(ctx context.Context) (int64, error) {
	b.mu.Lock()
	r := b.next
	if r == nil {
		r = &round{done: make(chan struct{})}
		b.next = r
		select {
		case b.kick <- struct{}{}:
		default:
		}
	}
	b.mu.Unlock()
	select {
	case <-r.done:
		return r.revision, r.err
	case <-ctx.Done():
		return 0, readError(ctx.Err())
	}
}

// runBarrier asks one question after another, as long as somebody waits.
func (s *Store) runBarrier(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.barrier.kick:
		}
		s.barrier.mu.Lock()
		r := s.barrier.next
		s.barrier.next = nil
		s.barrier.mu.Unlock()
		if r == nil {
			continue
		}
		r.revision, r.err = s.currentRevision(ctx)
		close(r.done)
	}
}

// currentRevision is the cheapest linearizable read: a key that never exists.
func (s *Store) currentRevision(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	response, err := s.client.Get(ctx, s.cfg.Prefix+"/", clientv3.WithKeysOnly())
	if err != nil {
		return 0, readError(err)
	}
	return response.Header.Revision, nil
}
