package apiserver

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics are the figures that dashboards for a kube-apiserver look for, under
// upstream's names.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	inFlight *prometheus.GaugeVec
	long     *prometheus.GaugeVec
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_request_total", Help: "Requests by verb, resource and HTTP code.",
		}, []string{"verb", "group", "version", "resource", "subresource", "scope", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "apiserver_request_duration_seconds", Help: "Time from a request to the end of its answer.",
			Buckets: []float64{0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 2, 5, 10, 30, 60},
		}, []string{"verb", "group", "version", "resource", "subresource", "scope"}),
	}
	m.inFlight = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "apiserver_current_inflight_requests", Help: "Requests in progress.",
	}, []string{"request_kind"})
	m.long = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "apiserver_longrunning_requests", Help: "Watches and streams in progress.",
	}, []string{"verb", "resource", "subresource"})
	m.registry.MustRegister(m.requests, m.duration, m.inFlight, m.long, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// begin counts a request in progress, until the returned function is called.
func (m *metrics) begin(q *request) (end func()) {
	var gauge prometheus.Gauge
	switch {
	case q.longRunning():
		gauge = m.long.WithLabelValues(strings.ToUpper(q.verb), q.row.Plural, q.subresource)
	case q.Method == http.MethodGet || q.Method == http.MethodHead:
		gauge = m.inFlight.WithLabelValues("readOnly")
	default:
		gauge = m.inFlight.WithLabelValues("mutating")
	}
	gauge.Inc()
	return gauge.Dec
}

// observe counts a finished request. Only rows that exist become labels: a
// stranger's paths must not fill our memory.
func (m *metrics) observe(q *request, took time.Duration) {
	if q.row == nil {
		return
	}
	scope := "cluster"
	if q.name != "" {
		scope = "resource"
	} else if q.namespace != "" {
		scope = "namespace"
	}
	verb := strings.ToUpper(q.verb)
	m.requests.WithLabelValues(verb, q.group, q.version, q.row.Plural, q.subresource, scope, strconv.Itoa(q.w.code)).Inc()
	if !q.longRunning() {
		m.duration.WithLabelValues(verb, q.group, q.version, q.row.Plural, q.subresource, scope).Observe(took.Seconds())
	}
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}
