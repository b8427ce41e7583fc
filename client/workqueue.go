package client

import (
	"sync"
	"time"
)

// QueueOptions are the bounds of a queue's per-key backoff.
type QueueOptions struct {
	Base time.Duration // first delay of AddRateLimited; default 5 ms
	Max  time.Duration // default 1000 s
}

// Queue holds keys that need work.
//
//	Add ──▶ dirty ──Get──▶ processing ──Done──▶ gone, or back if dirty again
//	 ▲
//	 └── AddAfter / AddRateLimited, when their time has come
//
// Invariants: a key waits at most once; a key is in the hands of at most one
// worker; a key added while it is worked on is worked on once more. So a
// worker that rereads state misses no change, and two never race on one key.
// Its length is bounded by the number of distinct keys.
type Queue[K comparable] struct {
	options QueueOptions

	mu         sync.Mutex // guards everything below
	cond       *sync.Cond
	order      []K
	dirty      map[K]bool
	processing map[K]bool
	failures   map[K]int
	timers     map[K]*delayed
	closed     bool
}

type delayed struct {
	timer *time.Timer
	at    time.Time
}

// NewQueue makes an empty queue.
func NewQueue[K comparable](options QueueOptions) *Queue[K] {
	if options.Base <= 0 {
		options.Base = 5 * time.Millisecond
	}
	if options.Max <= 0 {
		options.Max = 1000 * time.Second
	}
	q := &Queue[K]{options: options, dirty: map[K]bool{}, processing: map[K]bool{},
		failures: map[K]int{}, timers: map[K]*delayed{}}
	q.cond = sync.NewCond(&q.mu)
	return q
}

// Add puts a key into the queue unless it waits there already.
func (q *Queue[K]) Add(key K) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.add(key)
}

// add is Add for who has the lock.
//
// LAB 05 add: a key that is dirty waits already, or will. Else it is dirty now;
// and if no worker has it in his hands, put it at the end of order, and wake
// one up. Nothing is added to a queue that is closed.
func (q *Queue[K]) add(key K) {
	if q.closed || q.dirty[key] {
		return
	}
	q.dirty[key] = true
	if !q.processing[key] {
		q.order = append(q.order, key)
		q.cond.Signal()
	}
}

// AddAfter adds a key later. Of several pending delays the shortest counts.
func (q *Queue[K]) AddAfter(key K, delay time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.addAfter(key, delay)
}

func (q *Queue[K]) addAfter(key K, delay time.Duration) {
	if delay <= 0 {
		q.add(key)
		return
	}
	at := time.Now().Add(delay)
	if pending, ok := q.timers[key]; ok {
		if !at.Before(pending.at) {
			return
		}
		pending.timer.Stop()
	}
	if q.closed {
		return
	}
	d := &delayed{at: at}
	d.timer = time.AfterFunc(delay, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		if q.timers[key] == d {
			delete(q.timers, key)
		}
		q.add(key)
	})
	q.timers[key] = d
}

// AddRateLimited adds a key after a delay that doubles with each failure since
// the last Forget.
func (q *Queue[K]) AddRateLimited(key K) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delay := q.options.Base
	for range q.failures[key] {
		if delay *= 2; delay >= q.options.Max {
			delay = q.options.Max
			break
		}
	}
	q.failures[key]++
	q.addAfter(key, delay)
}

// Forget ends the backoff of a key: it was worked on with success.
func (q *Queue[K]) Forget(key K) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.failures, key)
}

// Failures is the number of AddRateLimited calls since the last Forget.
func (q *Queue[K]) Failures(key K) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.failures[key]
}

// Get waits for a key and hands it out; false means the queue is shut down.
// Every key that Get returned must be given to Done.
//
// LAB 05 get: wait until there is something in order, or the end. What is
// handed out is not dirty any more, from before it is looked at: it is
// processing.
func (q *Queue[K]) Get() (K, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.order) == 0 && !q.closed {
		q.cond.Wait()
	}
	if len(q.order) == 0 {
		var none K
		return none, false
	}
	key := q.order[0]
	q.order = q.order[1:]
	delete(q.dirty, key)
	q.processing[key] = true
	return key, true
}

// Done says that the worker is finished with a key.
//
// LAB 05 done: the key is not processing any more. If it has become dirty
// meanwhile, somebody must look again.
func (q *Queue[K]) Done(key K) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.processing, key)
	if q.dirty[key] {
		q.order = append(q.order, key)
		q.cond.Signal()
	}
}

// Len is the number of keys that wait.
func (q *Queue[K]) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.order)
}

// ShutDown lets workers finish what waits and then end; nothing can be added
// any more.
func (q *Queue[K]) ShutDown() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for _, d := range q.timers {
		d.timer.Stop()
	}
	clear(q.timers)
	q.cond.Broadcast()
}
