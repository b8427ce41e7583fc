package daemonset

import (
	"sync"
	"time"
)

// Pods that fail again and again on one node are replaced ever more slowly: a
// kubelet that refuses a pod would otherwise be asked a hundred times a second.
// Upstream: kubernetes/kubernetes pkg/controller/daemon BackoffInitial, BackoffMax
const (
	backoffFirst = time.Second
	backoffMax   = 15 * time.Minute
)

// backoff remembers failures by DaemonSet and node. Losing it costs one quick
// attempt.
type backoff struct {
	mu      sync.Mutex // guards entries
	entries map[string]*failures
}

type failures struct {
	delay time.Duration
	next  time.Time // nothing before this
}

// allow says whether a failed pod may be replaced now; if not, when.
func (b *backoff) allow(key string, now time.Time) (ok bool, in time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forgetOld(now)
	e := b.entries[key]
	if e == nil {
		e = &failures{}
		b.entries[key] = e
	}
	if left := e.next.Sub(now); left > 0 {
		return false, left
	}
	e.delay = min(max(2*e.delay, backoffFirst), backoffMax)
	e.next = now.Add(e.delay)
	return true, 0
}

// forgetOld drops what has not failed for twice the longest delay.
func (b *backoff) forgetOld(now time.Time) {
	for key, e := range b.entries {
		if now.Sub(e.next) > 2*backoffMax {
			delete(b.entries, key)
		}
	}
}
