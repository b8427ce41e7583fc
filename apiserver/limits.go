package apiserver

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// Is there room? What can be done at a time is counted in seats. They are
// dealt out to priority levels once and for all, so that a flood at one level
// (somebody lists everything, again and again) finds its own seats taken and
// waits, while a node's heartbeat at another sits down at once:
//
//	request ──flow schema──▶ level ──▶ a free seat?  go
//	           (flows.go)              a place to wait?  wait, fairly
//	                                   else  429, Retry-After
//
// Fairly: a level has one queue per flow, which is a user or a namespace, and
// seats that become free go round the queues. Who asks a thousand times waits
// behind himself, and not before others.
//
// Simplified: upstream shuffles flows onto a fixed number of queues, and lets
// busy levels borrow idle levels' seats. Here each flow has a queue of its own
// while somebody waits in it, and seats are not lent: the sum of all seats is
// many times what two cores can do, so nothing lies idle.
//
// Upstream: kubernetes@v1.36 k8s.io/apiserver/pkg/util/flowcontrol

const (
	// maxWaitingFlows bounds a level's queues, and with them its memory.
	maxWaitingFlows = 1024
	// A LIST is work for each object, so that it takes a seat for every
	// hundred of them, but never more than ten.
	objectsPerSeat = 100
	maxWidth       = 10
	// retryAfter is what upstream says at least.
	retryAfterSeconds = 1
)

// errTooMany is the answer when there is no room. Like upstream's it is not a
// Status but a line of text: it is made where even that should be cheap.
var errTooMany = errors.New("Too many requests, please try again later.")

// level is a priority level: seats, and queues of who waits for one.
type level struct {
	name   string
	exempt bool // takes no seats
	reject bool // nobody waits

	mu         sync.Mutex // guards the fields below
	seats      int
	used       int
	queueLimit int // of one flow
	queues     map[string][]*waitingRequest
	turns      []string // flows with a queue, in the order of their turns
}

// waitingRequest waits until ready is closed.
type waitingRequest struct {
	width int
	ready chan struct{}
}

// seat is what a request in progress holds, if only in name at a level that is
// exempt. A nil seat is held by who needs none.
type seat struct {
	level   *level
	width   int
	figures *flowFigures
	once    sync.Once
}

// leave gives the seat back. It may be called again.
func (t *seat) leave() {
	if t != nil {
		t.once.Do(func() {
			if !t.level.exempt {
				t.level.release(t.width)
			}
			t.figures.left(t)
		})
	}
}

// Why somebody was sent away, in upstream's words.
const (
	refusedFull  = "queue-full"
	refusedLate  = "time-out"
	refusedLimit = "concurrency-limit"
)

// enter takes seats at a level, or returns why not. It waits for them until ctx
// ends, but not longer than patience.
func (l *level) enter(ctx context.Context, flow string, width int, patience time.Duration, figures *flowFigures) (*seat, string) {
	l.mu.Lock()
	width = min(width, l.seats)
	if len(l.turns) == 0 && l.used+width <= l.seats {
		l.used += width
		l.mu.Unlock()
		return &seat{level: l, width: width}, ""
	}
	queue := l.queues[flow]
	switch {
	case l.reject:
		l.mu.Unlock()
		return nil, refusedLimit
	case len(queue) >= l.queueLimit, len(queue) == 0 && len(l.turns) >= maxWaitingFlows:
		l.mu.Unlock()
		return nil, refusedFull
	case len(queue) == 0:
		l.turns = append(l.turns, flow)
	}
	w := &waitingRequest{width: width, ready: make(chan struct{})}
	l.queues[flow] = append(queue, w)
	l.mu.Unlock()
	defer figures.waits()()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-w.ready:
		return &seat{level: l, width: width}, ""
	case <-timer.C:
	case <-ctx.Done():
	}
	if !l.withdraw(flow, w) { // the seat came in the same moment
		return &seat{level: l, width: width}, ""
	}
	return nil, refusedLate
}

// release gives seats back, and away.
func (l *level) release(width int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.used -= width
	l.deal()
}

// deal gives free seats to who waits, one of each flow in turn.
//
// Invariant: a flow is in turns if and only if its queue is not empty. The
// caller holds mu.
func (l *level) deal() {
	for len(l.turns) > 0 {
		flow := l.turns[0]
		queue := l.queues[flow]
		// Who needs more seats than are free makes all wait: otherwise it
		// would never have enough.
		if l.used+queue[0].width > l.seats {
			return
		}
		l.used += queue[0].width
		close(queue[0].ready)
		l.turns = l.turns[1:]
		if len(queue) > 1 {
			l.queues[flow] = queue[1:]
			l.turns = append(l.turns, flow)
		} else {
			delete(l.queues, flow)
		}
	}
}

// withdraw takes a request out of its queue; false if it is not there any more.
func (l *level) withdraw(flow string, w *waitingRequest) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	queue := l.queues[flow]
	for i := range queue {
		if queue[i] != w {
			continue
		}
		rest := append(queue[:i:i], queue[i+1:]...)
		if len(rest) > 0 {
			l.queues[flow] = rest
		} else {
			delete(l.queues, flow)
			for j := range l.turns {
				if l.turns[j] == flow {
					l.turns = append(l.turns[:j:j], l.turns[j+1:]...)
					break
				}
			}
		}
		l.deal() // what stood behind it may need fewer seats
		return true
	}
	return false
}

// resize changes what a configuration may change.
func (l *level) resize(seats, queueLimit int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seats, l.queueLimit = max(seats, 1), queueLimit
	l.deal()
}

// enter finds a request its level, and a seat there.
func (f *flowControl) enter(q *request) (*seat, error) {
	if q.longRunning() && q.verb != "watch" { // streams are bounded by their connections
		return nil, nil
	}
	schema := f.classify(q)
	if schema == nil {
		return nil, nil
	}
	schema.stamp(q.w.Header())
	if schema.level.exempt {
		return schema.figures.sits(&seat{level: schema.level, width: 1}, 0), nil
	}
	start := time.Now()
	seat, why := schema.level.enter(q.Context(), schema.flow(q), f.width(q), f.patience, schema.figures)
	q.waited = time.Since(start)
	if why != "" {
		schema.figures.refused(q.waited)
		f.server.metrics.flows.rejected.WithLabelValues(schema.level.name, schema.name, why).Inc()
		return nil, errTooMany
	}
	return schema.figures.sits(seat, q.waited), nil
}

// width is how many seats a request is worth.
func (f *flowControl) width(q *request) int {
	if q.verb != "list" && q.verb != "watch" || q.name != "" {
		return 1
	}
	row := f.server.lookUp(q.target)
	if row == nil {
		return 1
	}
	table := f.server.store.Table(row)
	if table == nil {
		return 1
	}
	query := q.query()
	if q.verb == "watch" && query.Get("sendInitialEvents") != "true" && query.Get("resourceVersion") != "" {
		return 1 // it begins with what is new
	}
	objects := table.Count()
	if limit, err := strconv.Atoi(query.Get("limit")); err == nil && limit > 0 {
		objects = min(objects, limit)
	}
	return min(max((objects+objectsPerSeat-1)/objectsPerSeat, 1), maxWidth)
}

// sendTooMany answers who found no room.
func (q *request) sendTooMany() {
	q.w.Header().Set("Retry-After", strconv.Itoa(retryAfterSeconds))
	http.Error(q.w, errTooMany.Error(), http.StatusTooManyRequests)
}

// patienceOf is how long a request may wait for a seat: a quarter of what it
// has in all, as upstream.
func patienceOf(timeout time.Duration) time.Duration { return timeout / 4 }
