package proxy

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
)

// health is what the proxy says about itself: /healthz for load balancers in
// front of the node, metrics, and the health-check ports of Services whose
// external traffic policy is Local.
type health struct {
	mode     string // set before serve
	limit    time.Duration
	log      *slog.Logger
	registry *prometheus.Registry
	metrics  metrics

	started    time.Time
	mu         sync.Mutex  // guards all below
	pending    time.Time   // when the oldest change came that is not written; zero: none
	triggers   []time.Time // of the changes of endpoints that are not written
	lastUpdate time.Time
	eligible   bool // the node is not being removed
	checks     map[uint16]serviceCheck
}

// serviceCheck is what a health-check node port answers.
type serviceCheck struct {
	namespace, name string
	endpoints       int
}

func newHealth(syncPeriod time.Duration, log *slog.Logger) *health {
	h := &health{limit: 2 * syncPeriod, log: log, registry: prometheus.NewRegistry(), eligible: true, lastUpdate: time.Now(), started: time.Now()}
	h.metrics = newMetrics(h.registry)
	return h
}

// metrics have upstream's names and labels.
//
// Upstream: kubernetes pkg/proxy/metrics/metrics.go
type metrics struct {
	duration, programming                         *prometheus.HistogramVec
	lastSync, lastQueued, noLocal                 *prometheus.GaugeVec
	iptablesFailures, nftFailures, healthz, livez *prometheus.CounterVec
	flows                                         *prometheus.CounterVec
	services, endpoints                           prometheus.Counter
}

func newMetrics(registry *prometheus.Registry) metrics {
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Subsystem: "kubeproxy", Name: name, Help: help}, labels)
		registry.MustRegister(v)
		return v
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Subsystem: "kubeproxy", Name: name, Help: help}, labels)
		registry.MustRegister(v)
		return v
	}
	const family = "ip_family"
	m := metrics{
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{Subsystem: "kubeproxy", Name: "sync_proxy_rules_duration_seconds",
			Help: "SyncProxyRules latency in seconds", Buckets: prometheus.ExponentialBuckets(0.001, 2, 15)}, []string{family}),
		programming: prometheus.NewHistogramVec(prometheus.HistogramOpts{Subsystem: "kubeproxy", Name: "network_programming_duration_seconds",
			Help:    "In Cluster Network Programming Latency in seconds",
			Buckets: slices.Concat(prometheus.LinearBuckets(0.25, 0.25, 2), prometheus.LinearBuckets(1, 1, 59), prometheus.LinearBuckets(60, 5, 12), prometheus.LinearBuckets(120, 30, 7))}, []string{family}),
		lastSync:         gauge("sync_proxy_rules_last_timestamp_seconds", "The last time proxy rules were successfully synced", family),
		lastQueued:       gauge("sync_proxy_rules_last_queued_timestamp_seconds", "The last time a sync of proxy rules was queued", family),
		noLocal:          gauge("sync_proxy_rules_no_local_endpoints_total", "Number of services with a Local traffic policy and no endpoints", "traffic_policy", family),
		iptablesFailures: counter("sync_proxy_rules_iptables_restore_failures_total", "Cumulative proxy iptables restore failures", family),
		nftFailures:      counter("sync_proxy_rules_nftables_sync_failures_total", "Cumulative proxy nftables sync failures", family),
		healthz:          counter("proxy_healthz_total", "Cumulative proxy healthz HTTP status", "code"),
		livez:            counter("proxy_livez_total", "Cumulative proxy livez HTTP status", "code"),
		flows:            counter("conntrack_reconciler_deleted_entries_total", "Cumulative conntrack flows deleted by conntrack reconciler", family),
		services:         counter("sync_proxy_rules_service_changes_total", "Cumulative proxy rules Service changes").WithLabelValues(),
		endpoints:        counter("sync_proxy_rules_endpoint_changes_total", "Cumulative proxy rules Endpoint changes").WithLabelValues(),
	}
	registry.MustRegister(m.duration, m.programming)
	return m
}

// label is the family's word there.
func (f Family) label() string { return f.either("IPv4", "IPv6") }

func (h *health) queued() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pending.IsZero() {
		h.pending = time.Now()
	}
}

// mostTriggers are kept while nothing can be written; what comes after them is not
// measured.
const mostTriggers = 10_000

// triggered notes when that happened, to a pod or a Service, of which a slice now
// tells. Upstream: kubernetes pkg/proxy/endpointschangetracker.go
func (h *health) triggered(old, now *discoveryv1.EndpointSlice) {
	if now == nil || old != nil && old.Annotations[corev1.EndpointsLastChangeTriggerTime] == now.Annotations[corev1.EndpointsLastChangeTriggerTime] {
		return
	}
	at, err := time.Parse(time.RFC3339Nano, now.Annotations[corev1.EndpointsLastChangeTriggerTime])
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil && at.After(h.started) && len(h.triggers) < mostTriggers {
		h.triggers = append(h.triggers, at)
	}
}

// begun is before a sync reads what there is: so many triggers it will cover.
func (h *health) begun() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.triggers)
}

// updated says that nothing is wrong and nothing had to be written.
func (h *health) updated() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lastUpdate = time.Now()
}

func (h *health) failed(f Family) {
	failures := h.metrics.iptablesFailures
	if h.mode == modeNFTables {
		failures = h.metrics.nftFailures
	}
	failures.WithLabelValues(f.label()).Inc()
}

func (h *health) setEligible(eligible bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.eligible = eligible
}

func (h *health) synced(took time.Duration, covered int, state State) {
	checks := map[uint16]serviceCheck{}
	family := state.Family.label()
	internal, external := 0, 0 // without an endpoint here that the policy asks for
	for _, p := range state.Ports {
		if p.InternalLocal && len(p.Local) == 0 && len(p.Cluster) > 0 {
			internal++
		}
		if p.ExternalLocal && p.IsExternal() && len(p.Local) == 0 && len(p.Cluster) > 0 {
			external++
		}
		if p.HealthCheckNodePort != 0 {
			// All ports of a Service share its check.
			n := max(len(p.ReadyHere), checks[p.HealthCheckNodePort].endpoints)
			checks[p.HealthCheckNodePort] = serviceCheck{p.Name.Namespace, p.Name.Name, n}
		}
	}
	h.metrics.duration.WithLabelValues(family).Observe(took.Seconds())
	h.metrics.lastSync.WithLabelValues(family).SetToCurrentTime()
	h.metrics.noLocal.WithLabelValues("internal", family).Set(float64(internal))
	h.metrics.noLocal.WithLabelValues("external", family).Set(float64(external))
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.pending.IsZero() {
		h.metrics.lastQueued.WithLabelValues(family).Set(float64(h.pending.UnixNano()) / 1e9)
	}
	for _, at := range h.triggers[:covered] {
		h.metrics.programming.WithLabelValues(family).Observe(max(0, time.Since(at).Seconds())) // another machine's clock, which may have jumped
	}
	h.triggers = h.triggers[covered:]
	h.pending, h.lastUpdate, h.checks = time.Time{}, time.Now(), checks
}

// alive is false when a change has been waiting for too long.
func (h *health) alive() (ok, eligible bool, last time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.pending.IsZero() || time.Since(h.pending) < h.limit, h.eligible, h.lastUpdate
}

// serve runs all servers until ctx ends. A port that is taken costs the answers
// there, not the Services: it is logged and tried again.
func (h *health) serve(ctx context.Context, healthz, metrics string) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return h.listen(ctx, healthz, h.healthzMux()) })
	group.Go(func() error { return h.listen(ctx, metrics, h.metricsMux()) })
	group.Go(func() error { return h.serveChecks(ctx) })
	return group.Wait()
}

const listenRetry = 5 * time.Second

func (h *health) listen(ctx context.Context, address string, handler http.Handler) error {
	for ctx.Err() == nil {
		server := &http.Server{Addr: address, Handler: handler, ReadHeaderTimeout: 5 * time.Second}
		stop := context.AfterFunc(ctx, func() { server.Close() })
		err := server.ListenAndServe()
		stop()
		if ctx.Err() != nil {
			return nil
		}
		h.log.Error("Cannot serve; will try again", "address", address, "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(listenRetry):
		}
	}
	return nil
}

// healthzMux: /livez is about us, /healthz also about the node: false takes it
// out of load balancers.
func (h *health) healthzMux() http.Handler {
	answer := func(ofNode bool) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			ok, eligible, last := h.alive()
			status, counted := http.StatusOK, h.metrics.livez
			if ofNode {
				counted = h.metrics.healthz
			}
			if !ok || ofNode && !eligible {
				status = http.StatusServiceUnavailable
			} else {
				last = time.Now() // as it was when this said when the loop had last run
			}
			counted.WithLabelValues(strconv.Itoa(status)).Inc()
			body := map[string]any{"lastUpdated": last.String(), "currentTime": time.Now().String()}
			if ofNode {
				body["nodeEligible"] = eligible
			}
			writeJSON(w, status, body)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", answer(true))
	mux.HandleFunc("/livez", answer(false))
	return mux
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

func (h *health) metricsMux() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(h.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("/proxyMode", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, h.mode) })
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	return mux
}

// serveChecks opens and closes the Services' health-check ports as they come and
// go.
func (h *health) serveChecks(ctx context.Context) error {
	open := map[uint16]context.CancelFunc{}
	group := errgroup.Group{}
	defer func() { _ = group.Wait() }()
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		h.mu.Lock()
		checks := h.checks
		h.mu.Unlock()
		for port := range checks {
			if open[port] == nil {
				child, cancel := context.WithCancel(ctx)
				open[port] = cancel
				group.Go(func() error {
					return h.listen(child, net.JoinHostPort("", strconv.Itoa(int(port))), h.checkHandler(port))
				})
			}
		}
		for port, cancel := range open {
			if _, wanted := checks[port]; !wanted {
				cancel()
				delete(open, port)
			}
		}
		select {
		case <-ctx.Done():
			for _, cancel := range open {
				cancel()
			}
			return nil
		case <-ticker.C:
		}
	}
}

// checkHandler tells a load balancer whether this node has endpoints.
func (h *health) checkHandler(port uint16) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		ok, _, _ := h.alive()
		h.mu.Lock()
		check := h.checks[port]
		h.mu.Unlock()
		status := http.StatusOK
		if check.endpoints == 0 || !ok {
			status = http.StatusServiceUnavailable
		}
		w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(check.endpoints))
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.WriteHeader(status)
		fmt.Fprintf(w, "{\n\t\"service\": {\n\t\t\"namespace\": %q,\n\t\t\"name\": %q\n\t},\n\t\"localEndpoints\": %d,\n\t\"serviceProxyHealthy\": %t\n}\n",
			check.namespace, check.name, check.endpoints, ok)
	})
}
