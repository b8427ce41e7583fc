package hostpath

import (
	"context"
	"slices"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// locks let one call at a time do something to a volume, while calls for other volumes go on: copying a big clone must
// not keep a pod's small volume waiting. Keys are volume IDs, snapshot IDs and names.
//
// Spec: CSI 1.13 §Error Scheme, ABORTED: a driver may refuse the second call, or let it wait. We let it wait for as long
// as its caller does.
type locks struct {
	mu   sync.Mutex // guards held
	held map[string]chan struct{}
}

// lock waits until nobody else holds any of keys (empty ones do not count) and answers how to give them back.
//
// Invariant: keys are taken in their order, so that two calls for the same two volumes cannot wait for each other.
func (l *locks) lock(ctx context.Context, keys ...string) (unlock func(), err error) {
	keys = slices.DeleteFunc(keys, func(key string) bool { return key == "" })
	slices.Sort(keys)
	keys = slices.Compact(keys)
	for i, key := range keys {
		if err := l.one(ctx, key); err != nil {
			l.unlock(keys[:i])
			return nil, err
		}
	}
	return func() { l.unlock(keys) }, nil
}

func (l *locks) one(ctx context.Context, key string) error {
	for {
		l.mu.Lock()
		wait, taken := l.held[key]
		if !taken {
			if l.held == nil {
				l.held = map[string]chan struct{}{}
			}
			l.held[key] = make(chan struct{})
		}
		l.mu.Unlock()
		if !taken {
			return nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return status.Errorf(codes.Aborted, "another call for %s is still being worked on", key)
		}
	}
}

func (l *locks) unlock(keys []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range keys {
		close(l.held[key])
		delete(l.held, key)
	}
}
