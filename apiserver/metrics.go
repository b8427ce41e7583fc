package apiserver

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/apimachinery/pkg/types"

	"tinykube/api/version"
)

// metrics are the figures that dashboards and alerts for a kube-apiserver look
// for, under upstream's names and labels. Those of the storage are in
// storage/metrics.go.
//
// Upstream: kubernetes@v1.36 k8s.io/apiserver/pkg/endpoints/metrics/metrics.go
type metrics struct {
	registry *prometheus.Registry

	requests, terminated, watchEvents, auditLevels, auditErrors *prometheus.CounterVec
	duration, sli, sizes, watchSizes                            *prometheus.HistogramVec
	inFlight, long                                              *prometheus.GaugeVec
	auditEvents, handshakes                                     prometheus.Counter
	flows                                                       flowMetrics
	rights                                                      rightsMetrics

	// Finding a counter by eight labels costs more than counting. What was
	// found is kept, by what decides it.
	observers sync.Map // observerKey → *observer
}

// observerKey is what of a request becomes labels.
type observerKey struct {
	group, version, resource, subresource string
	verb, scope, dryRun                   string
	code                                  int
}

type observer struct {
	requests             prometheus.Counter
	duration, sli, sizes prometheus.Observer
}

const (
	readOnly, mutating = "readOnly", "mutating"
	componentLabel     = "apiserver"
)

func newMetrics() *metrics {
	m := &metrics{registry: prometheus.NewRegistry()}
	seconds := []float64{0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60}
	what := []string{"group", "version", "resource", "subresource", "scope", "component"}
	with := func(first ...string) []string { return append(first, what...) }
	m.requests = m.counter("apiserver_request_total", "Counter of requests by verb, dry run, resource, scope and HTTP code.", append(with("verb", "dry_run"), "code")...)
	m.duration = m.histogram("apiserver_request_duration_seconds", "Time from a request to the end of its answer.", seconds, with("verb", "dry_run")...)
	m.sli = m.histogram("apiserver_request_sli_duration_seconds", "The same, without the time spent waiting for room.", seconds[2:], with("verb")...)
	m.sizes = m.histogram("apiserver_response_sizes", "Size of answers to reads in bytes.", prometheus.ExponentialBuckets(1000, 10, 7), with("verb")...)
	m.terminated = m.counter("apiserver_request_terminations_total", "Requests that the server ended in self-defense.", append(with("verb"), "code")...)
	m.watchEvents = m.counter("apiserver_watch_events_total", "Events sent to watchers.", "group", "version", "resource")
	m.watchSizes = m.histogram("apiserver_watch_events_sizes", "Size of events in bytes.", prometheus.ExponentialBuckets(1024, 2, 8), "group", "version", "resource")
	m.inFlight = m.gauge("apiserver_current_inflight_requests", "Requests in progress.", "request_kind")
	m.long = m.gauge("apiserver_longrunning_requests", "Watches and streams in progress.", with("verb")...)
	m.flows, m.rights = newFlowMetrics(m), newRightsMetrics(m)
	m.auditLevels = m.counter("apiserver_audit_level_total", "Requests by the level of the policy's rule.", "level")
	m.auditErrors = m.counter("apiserver_audit_error_total", "Events that could not be written.", "plugin")
	m.auditEvents = prometheus.NewCounter(prometheus.CounterOpts{Name: "apiserver_audit_event_total", Help: "Events written to the audit log."})
	m.handshakes = prometheus.NewCounter(prometheus.CounterOpts{Name: "apiserver_tls_handshake_errors_total", Help: "Connections that failed in the TLS handshake."})
	m.registry.MustRegister(m.auditEvents, m.handshakes, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	info := version.Info()
	m.gauge("kubernetes_build_info", "What is running.", "major", "minor", "git_version", "git_commit", "git_tree_state", "build_date", "go_version", "compiler", "platform").
		WithLabelValues(info.Major, info.Minor, info.GitVersion, info.GitCommit, info.GitTreeState, info.BuildDate, info.GoVersion, info.Compiler, info.Platform).Set(1)
	return m
}

func (m *metrics) counter(name, help string, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	m.registry.MustRegister(c)
	return c
}

func (m *metrics) gauge(name, help string, labels ...string) *prometheus.GaugeVec {
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	m.registry.MustRegister(g)
	return g
}

func (m *metrics) histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	m.registry.MustRegister(h)
	return h
}

// begin counts a request in progress, until the returned function is called.
func (m *metrics) begin(q *request) (end func()) {
	gauge := m.inFlight.WithLabelValues(q.kindOfWork())
	if q.longRunning() {
		gauge = m.long.WithLabelValues(q.reportedVerb(), q.group, q.version, q.row.Plural, q.subresource, q.scope(), componentLabel)
	}
	gauge.Inc()
	return gauge.Dec
}

// kindOfWork is how the flags' two limits divide requests.
func (q *request) kindOfWork() string {
	switch q.verb {
	case "get", "list", "watch", "head":
		return readOnly
	}
	return mutating
}

// observe counts a finished request. Only rows that exist become labels: a
// stranger's paths must not fill our memory.
func (m *metrics) observe(q *request, took time.Duration) {
	if q.row == nil {
		return
	}
	key := observerKey{q.row.Group, q.row.Version, q.row.Plural, q.subresource, q.reportedVerb(), q.scope(), "", q.w.code}
	if q.options.dryRun {
		key.dryRun = "All"
	}
	found, ok := m.observers.Load(key)
	if !ok {
		found, _ = m.observers.LoadOrStore(key, m.observer(key))
	}
	o := found.(*observer)
	o.requests.Inc()
	o.duration.Observe(took.Seconds())
	if key.dryRun == "" {
		o.sli.Observe((took - q.waited).Seconds())
	}
	if o.sizes != nil {
		o.sizes.Observe(float64(q.w.sent))
	}
	if q.w.code == http.StatusTooManyRequests || q.w.code == http.StatusGatewayTimeout {
		m.terminated.WithLabelValues(key.verb, key.group, key.version, key.resource, key.subresource, key.scope, componentLabel, strconv.Itoa(key.code)).Inc()
	}
}

func (m *metrics) observer(k observerKey) *observer {
	o := &observer{
		requests: m.requests.WithLabelValues(k.verb, k.dryRun, k.group, k.version, k.resource, k.subresource, k.scope, componentLabel, strconv.Itoa(k.code)),
		duration: m.duration.WithLabelValues(k.verb, k.dryRun, k.group, k.version, k.resource, k.subresource, k.scope, componentLabel),
		sli:      m.sli.WithLabelValues(k.verb, k.group, k.version, k.resource, k.subresource, k.scope, componentLabel),
	}
	if k.verb == "GET" || k.verb == "LIST" {
		o.sizes = m.sizes.WithLabelValues(k.verb, k.group, k.version, k.resource, k.subresource, k.scope, componentLabel)
	}
	return o
}

// reportedVerb is a request's verb as upstream's metrics know it: HTTP's, but
// for what HTTP has no word for.
func (q *request) reportedVerb() string {
	switch {
	case q.isStream():
		return "CONNECT"
	case q.verb == "patch" && bodyMediaType(q.Request) == string(types.ApplyYAMLPatchType):
		return "APPLY"
	}
	switch q.verb {
	case "create":
		return "POST"
	case "update":
		return "PUT"
	case "deletecollection":
		return "DELETE"
	}
	return strings.ToUpper(q.verb)
}

// scope is how much a request is about.
func (q *request) scope() string {
	switch {
	case q.name != "" || q.verb == "create":
		return "resource"
	case q.namespace != "":
		return "namespace"
	}
	return "cluster"
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}
