package kubelet

import (
	"sync"
	"time"
)

// backoff spaces out repeated failures of one key: the delay doubles from base
// to max with each, and starts over after twice max without any.
//
// It lives in memory only, as upstream's does: a restarted kubelet is allowed
// one quick try.
//
// Upstream: kubernetes@v1.36 client-go/util/flowcontrol Backoff.
type backoff struct {
	base, max time.Duration

	mu      sync.Mutex // guards entries
	entries map[string]backoffEntry
}

type backoffEntry struct {
	delay time.Duration
	last  time.Time
}

func newBackoff(base, max time.Duration) *backoff {
	return &backoff{base: base, max: max, entries: map[string]backoffEntry{}}
}

// remaining is how long the key must still wait at now.
func (b *backoff) remaining(key string, now time.Time) time.Duration {
	b.mu.Lock()
	e := b.entries[key]
	b.mu.Unlock()
	return e.last.Add(e.delay).Sub(now)
}

// since is remaining, counted from an event such as a container's end instead
// of from the last try. It also returns the whole delay, for the message.
func (b *backoff) since(key string, event, now time.Time) (remaining, delay time.Duration) {
	b.mu.Lock()
	e, found := b.entries[key]
	b.mu.Unlock()
	if !found || event.Sub(e.last) > 2*b.max {
		return 0, 0
	}
	return event.Add(e.delay).Sub(now), e.delay
}

// next records one more failure, which happened at event and is acted on now.
func (b *backoff) next(key string, event, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e, found := b.entries[key]
	if !found || event.Sub(e.last) > 2*b.max {
		b.entries[key] = backoffEntry{b.base, now}
		return
	}
	b.entries[key] = backoffEntry{min(e.delay*2, b.max), now}
}

func (b *backoff) forget(key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.entries, key)
}
