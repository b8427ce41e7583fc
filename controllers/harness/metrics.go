package harness

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics are what a person looks at first: is a controller behind, does it
// fail, and how much does it write.
//
// Simplified: a handful of series; upstream's names where upstream has them.
type metrics struct {
	registry *prometheus.Registry
	depth    *prometheus.GaugeVec
	runs     *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	writes   *prometheus.CounterVec
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		depth: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "workqueue_depth", Help: "Keys that wait, by controller."}, []string{"name"}),
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "controller_reconcile_total", Help: "Reconciles, by controller and result."}, []string{"controller", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "workqueue_work_duration_seconds", Help: "Time of one reconcile, by controller.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9)}, []string{"name"}),
		writes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "controller_writes_total", Help: "Requests that change something, by controller, resource and verb."},
			[]string{"controller", "resource", "verb"}),
	}
	m.registry.MustRegister(m.depth, m.runs, m.seconds, m.writes)
	return m
}

func (m *metrics) reconciled(controller string, took time.Duration, err error, depth int) {
	result := "success"
	if err != nil {
		result = "error"
	}
	m.runs.WithLabelValues(controller, result).Inc()
	m.seconds.WithLabelValues(controller).Observe(took.Seconds())
	m.depth.WithLabelValues(controller).Set(float64(depth))
}

// MetricsHandler serves the metrics in Prometheus' text format.
func (m *Manager) MetricsHandler() http.Handler {
	return promhttp.HandlerFor(m.metrics.registry, promhttp.HandlerOpts{})
}
