package scheduler

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics are the few of upstream's that dashboards are built on.
//
// Upstream: kubernetes pkg/scheduler/metrics
type metrics struct {
	registry *prometheus.Registry
	attempts *prometheus.CounterVec
	duration *prometheus.HistogramVec
	wait     prometheus.Histogram
}

func newMetrics(queue *Queue) *metrics {
	seconds := prometheus.ExponentialBuckets(0.001, 2, 15)
	m := &metrics{
		registry: prometheus.NewRegistry(),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "scheduler_schedule_attempts_total", Help: "Attempts to schedule pods, by result."}, []string{"result", "profile"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "scheduler_scheduling_attempt_duration_seconds", Help: "Scheduling attempt latency, decision and binding.", Buckets: seconds}, []string{"result", "profile"}),
		wait: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "scheduler_pod_scheduling_sli_duration_seconds", Help: "From a pod's first attempt to its binding.", Buckets: seconds}),
	}
	m.registry.MustRegister(m.attempts, m.duration, m.wait, &pendingPods{queue})
	return m
}

// Metrics serves the scheduler's metrics.
func (s *Scheduler) Metrics() http.Handler {
	return promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{})
}

func (m *metrics) scheduled(a *attempt) {
	m.observe(a, "scheduled")
	m.wait.Observe(time.Since(a.pod.FirstAttempt).Seconds())
}

func (m *metrics) unschedulable(a *attempt) { m.observe(a, "unschedulable") }
func (m *metrics) failed(a *attempt)        { m.observe(a, "error") }

func (m *metrics) observe(a *attempt, result string) {
	m.attempts.WithLabelValues(result, a.profile.Name).Inc()
	m.duration.WithLabelValues(result, a.profile.Name).Observe(time.Since(a.started).Seconds())
}

// pendingPods counts the queue when it is asked.
type pendingPods struct{ queue *Queue }

var pendingDesc = prometheus.NewDesc("scheduler_pending_pods", "Pods that wait, by where in the queue.", []string{"queue"}, nil)

func (p *pendingPods) Describe(ch chan<- *prometheus.Desc) { ch <- pendingDesc }

func (p *pendingPods) Collect(ch chan<- prometheus.Metric) {
	active, backoff, unschedulable, gated := p.queue.Pending()
	for name, n := range map[string]int{"active": active, "backoff": backoff, "unschedulable": unschedulable, "gated": gated} {
		ch <- prometheus.MustNewConstMetric(pendingDesc, prometheus.GaugeValue, float64(n), name)
	}
}
