package apiserver

import (
	"context"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/google/uuid"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// answer remembers what was sent, for metrics, for the audit log and for fail.
type answer struct {
	http.ResponseWriter
	request *request // nil for those of our own
	code    int
	sent    int64
	failed  bool // a write did not get through
}

// began notes the code of the answer, once.
func (a *answer) began(code int) {
	if a.code != 0 {
		return
	}
	a.code = code
	if q := a.request; q != nil {
		q.audit.started(code, q.longRunning())
	}
}

func (a *answer) WriteHeader(code int) {
	if code >= 200 {
		a.began(code)
	}
	a.ResponseWriter.WriteHeader(code)
}

func (a *answer) Write(data []byte) (int, error) {
	a.began(http.StatusOK)
	n, err := a.ResponseWriter.Write(data)
	a.sent += int64(n)
	a.failed = a.failed || err != nil
	return n, err
}

// Unwrap lets http.ResponseController reach Flush, Hijack and deadlines.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// notCached is every answer's Cache-Control that has none of its own. The
// values are shared: nobody changes a header's values in place.
var notCached = []string{"no-cache, private"}

// identify gives a request its ID, by which the audit log and the client can
// speak of it. A client may bring one.
func (q *request) identify() {
	if q.auditID = q.Header.Get("Audit-Id"); q.auditID == "" || len(q.auditID) > 64 {
		q.auditID = uuid.NewString()
	}
	q.w.Header()["Audit-Id"] = []string{q.auditID}
}

// query is the request's parameters, taken apart once.
func (q *request) query() url.Values {
	if q.parameters == nil {
		q.parameters = q.URL.Query()
	}
	return q.parameters
}

// longRunning reports whether the request lasts as long as the client likes.
func (q *request) longRunning() bool { return q.verb == "watch" || q.isStream() }

// isStream reports whether somebody else answers the request.
func (q *request) isStream() bool {
	switch q.subresource {
	case "log", "exec", "attach", "portforward", "proxy":
		return q.isResource
	}
	return false
}

var errTimeout = apierrors.NewTimeoutError("request did not complete within the allotted timeout", 0)

// sendPatience is how long an answer may still take when its time is over.
const sendPatience = 5 * time.Second

// bound gives a request its deadline, which a client can make earlier. When it
// is over, not only those who look at the context notice: a body that does not
// come is not waited for, nor a client who does not take its answer.
func (s *Server) bound(q *request) (finish func(), err error) {
	if q.longRunning() {
		return func() {}, nil
	}
	timeout := s.cfg.RequestTimeout
	if wanted := q.query().Get("timeout"); wanted != "" {
		parsed, err := time.ParseDuration(wanted)
		if err != nil {
			return nil, apierrors.NewBadRequest("invalid timeout specified in the request URL - " + err.Error())
		}
		if parsed > 0 {
			timeout = min(timeout, parsed)
		}
	}
	ctx := &bounded{Context: q.Context(), deadline: time.Now().Add(timeout)}
	q.Request = q.Request.WithContext(ctx)
	over := make(chan struct{})
	control := http.NewResponseController(q.w.ResponseWriter)
	timer := time.AfterFunc(timeout, func() {
		defer close(over)
		control.SetReadDeadline(time.Now())
		control.SetWriteDeadline(time.Now().Add(sendPatience))
	})
	return func() {
		// Nobody may touch the writer after the handler has returned.
		if !timer.Stop() {
			<-over
		}
		ctx.end()
	}, nil
}

// bounded is a request's context, with its deadline. Most requests are answered
// from memory and never wait for anything; so what waiting takes (a timer, a
// channel, a place among the parent's children) is made when somebody first
// asks for Done, and not for every request, where it would cost as much as all
// the rest of a GET.
type bounded struct {
	context.Context // of the connection: it ends when the client goes away
	deadline        time.Time

	mu     sync.Mutex      // guards the fields below
	timed  context.Context // nil as long as nobody has waited
	cancel context.CancelFunc
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

// end is called when the request is answered.
func (b *bounded) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cancel != nil {
		b.cancel()
	}
}
