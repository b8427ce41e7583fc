package apiserver

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// flowMetrics say how full the priority levels are, under upstream's names.
//
// Upstream: kubernetes@v1.36 k8s.io/apiserver/pkg/util/flowcontrol/metrics/metrics.go
type flowMetrics struct {
	executing, seats, waiting, limit *prometheus.GaugeVec
	dispatched, rejected             *prometheus.CounterVec
	waited                           *prometheus.HistogramVec
}

func newFlowMetrics(m *metrics) flowMetrics {
	const prefix, level, schema = "apiserver_flowcontrol_", "priority_level", "flow_schema"
	return flowMetrics{
		executing:  m.gauge(prefix+"current_executing_requests", "Requests that have a seat.", level, schema),
		seats:      m.gauge(prefix+"current_executing_seats", "Seats that are taken.", level, schema),
		waiting:    m.gauge(prefix+"current_inqueue_requests", "Requests that wait for a seat.", level, schema),
		limit:      m.gauge(prefix+"nominal_limit_seats", "Seats of a priority level.", level),
		dispatched: m.counter(prefix+"dispatched_requests_total", "Requests that got a seat.", level, schema),
		rejected:   m.counter(prefix+"rejected_requests_total", "Requests for which there was no room.", level, schema, "reason"),
		waited: m.histogram(prefix+"request_wait_duration_seconds", "Time that requests waited for a seat.",
			[]float64{0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30}, level, schema, "execute"),
	}
}

// flowFigures are those of one schema at one level. Nil counts nothing.
type flowFigures struct {
	executing, seats, waiting prometheus.Gauge
	dispatched                prometheus.Counter
	waited, gaveUp            prometheus.Observer
}

func (m *flowMetrics) of(level, schema string) *flowFigures {
	return &flowFigures{
		m.executing.WithLabelValues(level, schema), m.seats.WithLabelValues(level, schema), m.waiting.WithLabelValues(level, schema),
		m.dispatched.WithLabelValues(level, schema),
		m.waited.WithLabelValues(level, schema, "true"), m.waited.WithLabelValues(level, schema, "false"),
	}
}

// waits counts a request that waits, until the returned function is called.
func (f *flowFigures) waits() (end func()) {
	if f == nil {
		return func() {}
	}
	f.waiting.Inc()
	return f.waiting.Dec
}

// sits counts a request that has its seat, until it leaves.
func (f *flowFigures) sits(t *seat, waited time.Duration) *seat {
	if f != nil {
		f.dispatched.Inc()
		f.waited.Observe(waited.Seconds())
		f.executing.Inc()
		f.seats.Add(float64(t.width))
		t.figures = f
	}
	return t
}

func (f *flowFigures) left(t *seat) {
	if f != nil {
		f.executing.Dec()
		f.seats.Sub(float64(t.width))
	}
}

func (f *flowFigures) refused(waited time.Duration) {
	if f != nil {
		f.gaveUp.Observe(waited.Seconds())
	}
}
