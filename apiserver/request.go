package apiserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"tinykube/apiserver/resources"
	"tinykube/apiserver/storage"
)

// One request, one page: serve below is the life of every request, whatever it
// is about.
//
//	who is it? → may they? → is there room? → what is it about? → do it → answer
//
// "Do it" for a write is createObject or updateObject in write.go, which read
// just as straight: decode → default → prepare → admit → validate → store.

// request is one HTTP request and what we have found out about it so far.
type request struct {
	*http.Request
	w *answer
	target
	user       *user
	row        *resources.Row // what the path names
	table      *storage.Table // where its objects are; nil for kinds not stored
	bounded    *bounded       // nil if the request lasts as long as the client likes
	format     format         // what the answer shall look like
	parameters url.Values     // of the URL, once query has been called
	options    writeOptions
	auditID    string
	audit      *auditRecord  // nil if nobody wants to know
	seat       *seat         // among the requests in progress; nil if it needs none
	waited     time.Duration // for the seat
	// generated is set when we made up the object's name.
	generated bool
	// inNamespace is the revision at which the new object's namespace was seen
	// to be open; 0 if nobody looked.
	inNamespace int64
	// unlock lets others write to a namespace with quotas; nil if we do not
	// hold them up (admission_quota.go).
	unlock func()
	// patching is what the refusal of a patch's outcome needs.
	patching struct {
		shown    string  // a strategic patch; "" for the others
		repeated []error // its fields that are there twice
	}
	// applying is set while a server-side apply keeps the managed fields.
	applying bool
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := &request{Request: r, target: parseTarget(r)}
	q.w = &answer{ResponseWriter: w, request: q}
	start := time.Now()
	q.identify()
	if len(s.cfg.HSTS) > 0 {
		q.w.Header().Set("Strict-Transport-Security", strings.Join(s.cfg.HSTS, "; "))
	}
	q.w.Header()["Cache-Control"] = notCached
	s.sayGoaway(q)
	defer func() {
		if cause := recover(); cause != nil {
			s.recovered(q, cause)
		}
		q.audit.ended()
		s.metrics.observe(q, time.Since(start))
	}()
	if err := s.serve(q, start); err != nil {
		q.fail(err)
	}
}

func (s *Server) serve(q *request, start time.Time) (err error) {
	// In bounded time.
	if err = s.bound(q); err != nil {
		q.audit = s.audit.audited(q, start)
		return err
	}
	defer q.bounded.end()
	// Who is it?
	q.user, err = s.authenticate(q)
	s.metrics.rights.came(q.user, err, start)
	q.audit = s.audit.audited(q, start)
	if err != nil {
		return err
	}
	if q.user, err = s.impersonate(q); err != nil {
		return err
	}
	q.audit.impersonated(q.user)
	// May they?
	asked := time.Now()
	decision := s.authz.decide(q.Context(), q.user, q.target)
	s.metrics.rights.asked(decision.allowed, asked)
	q.audit.decided(decision.allowed, decision.reason)
	if !decision.allowed {
		q.w.Header().Set("X-Content-Type-Options", "nosniff")
		return forbidden(q.user, q.target, decision.reason)
	}
	// Is there room?
	if q.seat, err = s.flows.enter(q); err != nil {
		return err
	}
	defer q.seat.leave()
	// Is it somebody else's?
	if other := s.elsewhere(q.path); other != nil {
		return s.askElsewhere(q, other)
	}
	// What is it about?
	if !q.isResource || q.resource == "" {
		s.paths.ServeHTTP(q.w, q.WithContext(q.Context()))
		return nil
	}
	handle, err := s.route(q)
	if err != nil {
		return err
	}
	if q.format, err = formatOf(q.Request, q.query(), q.row != nil && q.row.Custom != nil); err != nil {
		return err
	}
	if err = q.checkForm(); err != nil {
		return err
	}
	if q.kindOfWork() == mutating {
		if q.options, err = readWriteOptions(q.Request, q.query()); err != nil {
			return err
		}
	}
	if q.row != nil && q.row.Deprecated != "" {
		q.warn(q.row.Deprecated)
	}
	// Do it, and answer.
	defer s.metrics.begin(q)()
	return handle(s, q)
}

// fail answers with a Status. What is not a StatusError is nobody's mistake, or
// ours.
func (q *request) fail(err error) {
	if q.w.code != 0 {
		return // the answer has begun; the connection can only be cut
	}
	if err == errTooMany {
		q.sendTooMany()
		return
	}
	if plain, ok := err.(*plainError); ok {
		http.Error(q.w, plain.text, plain.code)
		return
	}
	status := statusOf(err)
	q.audit.failed(&status)
	if status.Details != nil && status.Details.RetryAfterSeconds > 0 {
		q.w.Header().Set("Retry-After", strconv.Itoa(int(status.Details.RetryAfterSeconds)))
	}
	f, err := formatOf(q.Request, q.query(), false)
	if err != nil || f.as != "" {
		f = format{media: storage.JSONMediaType, pretty: f.pretty}
	}
	q.format = f
	q.sendObject(int(status.Code), &status, schema.GroupVersionKind{Version: "v1", Kind: "Status"})
}

// plainError is answered as text, where upstream's answer is no Status.
type plainError struct {
	code int
	text string
}

func (e *plainError) Error() string { return e.text }

// errUnavailable is said of a server that is not well.
var errUnavailable = &plainError{http.StatusServiceUnavailable, "service unavailable"}

// statusOf is the one place where an error becomes a Status.
func statusOf(err error) metav1.Status {
	if known, ok := err.(apierrors.APIStatus); ok {
		status := known.Status()
		status.Status = metav1.StatusFailure
		if status.Code == 0 {
			status.Code = http.StatusInternalServerError
		}
		return status
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return errTimeout.ErrStatus
	}
	return metav1.Status{Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Message: err.Error()}
}

// recovered turns a panic into an answer and a log line with its place.
func (s *Server) recovered(q *request, cause any) {
	q.audit.panicked(cause)
	if cause == http.ErrAbortHandler {
		panic(cause)
	}
	s.log.Error("Request panicked", "key", q.Method+" "+q.path, "err", fmt.Sprint(cause), "stack", string(debug.Stack()))
	q.fail(apierrors.NewInternalError(fmt.Errorf("this request caused a panic: %v", cause)))
}

// warn adds a Warning header, once per text.
// Spec: RFC 7234 §5.5: code 299, agent, quoted text.
func (q *request) warn(text string) {
	header := fmt.Sprintf("299 - %s", quote(text))
	for _, sent := range q.w.Header()["Warning"] {
		if sent == header {
			return
		}
	}
	q.w.Header().Add("Warning", header)
}

// quote makes a quoted-string, in which nothing but quotes and backslashes is
// special; control characters may not appear in a header.
func quote(text string) string {
	var out bytes.Buffer
	out.WriteByte('"')
	for _, r := range text {
		switch {
		case r == '"' || r == '\\':
			out.WriteByte('\\')
			out.WriteRune(r)
		case r < ' ' || r == 0x7f:
			out.WriteByte(' ')
		default:
			out.WriteRune(r)
		}
	}
	out.WriteByte('"')
	return out.String()
}
