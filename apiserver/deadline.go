package apiserver

import (
	"context"
	"net/http"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

var errTimeout = apierrors.NewTimeoutError("request did not complete within the allotted timeout", 0)

// sendPatience is how long an answer may still take when its time is over.
const sendPatience = 5 * time.Second

// bound gives a request its deadline, which a client can make earlier. When it
// is over, not only those who look at the context notice: a body that does not
// come is not waited for, nor a client who does not take its answer.
func (s *Server) bound(q *request) error {
	if q.longRunning() {
		return nil
	}
	timeout := s.cfg.RequestTimeout
	if wanted := q.query().Get("timeout"); wanted != "" {
		parsed, err := time.ParseDuration(wanted)
		if err != nil {
			return apierrors.NewBadRequest("invalid timeout specified in the request URL - " + err.Error())
		}
		if parsed > 0 {
			timeout = min(timeout, parsed)
		}
	}
	q.bounded = &bounded{Context: q.Context(), deadline: time.Now().Add(timeout), control: http.NewResponseController(q.w.ResponseWriter)}
	q.bounded.timer = time.AfterFunc(timeout, q.bounded.expire)
	return nil
}

// Context ends with the request's time, or when the client goes away.
func (q *request) Context() context.Context {
	if q.bounded == nil {
		return q.Request.Context()
	}
	return q.bounded
}

// bounded is the context of a request that has a deadline. Most requests are
// answered from memory and never wait for anything; so what waiting takes (a
// channel, a place among the parent's children) is made when somebody first
// asks for Done. Made for every request, it would cost as much as all the rest
// that we do for a GET.
type bounded struct {
	context.Context // of the connection
	deadline        time.Time
	control         *http.ResponseController
	timer           *time.Timer

	mu       sync.Mutex // guards the fields below
	answered bool
	timed    context.Context // nil as long as nobody has waited
	cancel   context.CancelFunc
}

func (b *bounded) Deadline() (time.Time, bool) { return b.deadline, true }

func (b *bounded) Done() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.timed == nil {
		b.timed, b.cancel = context.WithDeadline(b.Context, b.deadline)
	}
	return b.timed.Done()
}

func (b *bounded) Err() error {
	err := b.current().Err()
	if err == nil && !time.Now().Before(b.deadline) {
		err = context.DeadlineExceeded
	}
	return err
}

// Value must find the context behind Done, if there is one: contexts that are
// made of this one then join its children.
func (b *bounded) Value(key any) any { return b.current().Value(key) }

func (b *bounded) current() context.Context {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.timed != nil {
		return b.timed
	}
	return b.Context
}

// expire is called when the time is over.
//
// Invariant: nobody touches the writer after the handler has returned.
func (b *bounded) expire() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.answered {
		b.control.SetReadDeadline(time.Now())
		b.control.SetWriteDeadline(time.Now().Add(sendPatience))
	}
}

// end is called when the request is answered, or was never bounded.
func (b *bounded) end() {
	if b == nil {
		return
	}
	b.timer.Stop()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answered = true
	if b.cancel != nil {
		b.cancel()
	}
}
