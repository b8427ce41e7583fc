package apiserver

import (
	"net/http"
	"net/url"

	"github.com/google/uuid"
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
