package sidecar

import (
	"context"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"tinykube/client"
)

// loop calls do for every key that is added, again with growing pauses as long
// as it fails.
//
// Invariant: do sees what it has written itself. Each write comes back as an
// event, and a look at the cache before that would find the work undone, and
// ask the driver once more.
type loop struct {
	queue   *client.Queue[string]
	do      func(ctx context.Context, key string) error
	reached map[string]func() string
	log     *slog.Logger
	said    sync.Map // by key: the error that was logged last
	written sync.Map // by key: what its last turn wrote, until the caches show it
}

// catchUp is how long a key waits for the caches.
const catchUp = 20 * time.Millisecond

// writes are the versions that a turn has written last, by the kind's plural.
type writes map[string]uint64

type writesKey struct{}

func (s *Sidecar) loop(part string, do func(ctx context.Context, key string) error) *loop {
	return &loop{queue: client.NewQueue[string](client.QueueOptions{Base: time.Second, Max: 5 * time.Minute}), do: do, reached: s.reached, log: s.log.With("part", part)}
}

// wrote notes what a request has written, as part of the key's turn in ctx.
func wrote[T client.Object](ctx context.Context, kind client.Kind[T]) func(T, error) (T, error) {
	return func(obj T, err error) (T, error) {
		if turn, ok := ctx.Value(writesKey{}).(writes); ok && err == nil {
			turn[kind.Plural] = max(turn[kind.Plural], version(obj.GetResourceVersion()))
		}
		return obj, err
	}
}

func version(resourceVersion string) uint64 {
	n, _ := strconv.ParseUint(resourceVersion, 10, 64)
	return n
}

func (l *loop) run(ctx context.Context) error {
	defer context.AfterFunc(ctx, l.queue.ShutDown)()
	var g errgroup.Group
	for range workers {
		g.Go(func() error {
			for {
				key, ok := l.queue.Get()
				if !ok {
					return nil
				}
				if l.behind(key) {
					l.queue.AddAfter(key, catchUp)
				} else {
					l.turn(ctx, key)
				}
				l.queue.Done(key)
			}
		})
	}
	return g.Wait()
}

// behind: a cache does not show yet what the key's last turn has written.
func (l *loop) behind(key string) bool {
	last, ok := l.written.Load(key)
	if !ok {
		return false
	}
	for plural, at := range last.(writes) {
		if reached, watched := l.reached[plural]; watched && version(reached()) < at {
			return true
		}
	}
	l.written.Delete(key)
	return false
}

func (l *loop) turn(ctx context.Context, key string) {
	turn := writes{}
	err := l.do(context.WithValue(ctx, writesKey{}, turn), key)
	if len(turn) > 0 {
		l.written.Store(key, turn)
	}
	if err == nil {
		l.said.Delete(key)
		l.queue.Forget(key)
	} else if ctx.Err() == nil {
		if last, _ := l.said.Swap(key, err.Error()); last != err.Error() { // once: a driver may be away for long
			l.log.Warn("failed, will retry", "key", key, "err", err)
		}
		l.queue.AddRateLimited(key)
	}
}
