package apiserver

import (
	"errors"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// rightsMetrics count who comes and what they may, under upstream's names.
//
// Upstream: kubernetes@v1.36 k8s.io/apiserver/pkg/endpoints/filters/metrics.go
type rightsMetrics struct {
	users                   *prometheus.CounterVec
	known, unknown, refused attempts // who comes
	allowed, noOpinion      attempts // and asks
	certificates            prometheus.Observer
}

// attempts are those that ended in one way.
type attempts struct {
	count   prometheus.Counter
	seconds prometheus.Observer
}

func (a *attempts) ended(start time.Time) {
	a.count.Inc()
	a.seconds.Observe(time.Since(start).Seconds())
}

func newRightsMetrics(m *metrics) rightsMetrics {
	milliseconds := prometheus.ExponentialBuckets(0.001, 2, 15)
	comes := m.counter("authentication_attempts", "Requests by what became of the proof of who sent them.", "result")
	comesSeconds := m.histogram("authentication_duration_seconds", "Time that it took to find out who sent a request.", milliseconds, "result")
	asks := m.counter("authorization_attempts_total", "Requests by whether they were allowed.", "result")
	asksSeconds := m.histogram("authorization_duration_seconds", "Time that it took to find out whether a request is allowed.", milliseconds, "result")
	of := func(count *prometheus.CounterVec, seconds *prometheus.HistogramVec, result string) attempts {
		return attempts{count.WithLabelValues(result), seconds.WithLabelValues(result)}
	}
	const hour, day = 3600, 24 * 3600
	return rightsMetrics{
		users: m.counter("authenticated_user_requests", "Requests by who sent them, roughly.", "username"),
		known: of(comes, comesSeconds, "success"), unknown: of(comes, comesSeconds, "failure"), refused: of(comes, comesSeconds, "error"),
		allowed: of(asks, asksSeconds, "allowed"), noOpinion: of(asks, asksSeconds, "no-opinion"),
		certificates: m.histogram("apiserver_client_certificate_expiration_seconds", "Time that clients' certificates are still good for.",
			[]float64{0, hour / 2, hour, 2 * hour, 6 * hour, 12 * hour, day, 2 * day, 4 * day, 7 * day, 30 * day, 90 * day, 180 * day, 365 * day}).WithLabelValues(),
	}
}

// came counts a request of somebody who is known, or is not.
func (m *rightsMetrics) came(u *user, err error, start time.Time) {
	switch {
	case errors.Is(err, errNoProof):
		m.unknown.ended(start)
	case err != nil:
		m.refused.ended(start)
	default:
		m.users.WithLabelValues(sortOfUser(u.name)).Inc()
		m.known.ended(start)
	}
}

// asked counts what was allowed, and what nobody allowed.
func (m *rightsMetrics) asked(allowed bool, start time.Time) {
	if allowed {
		m.allowed.ended(start)
	} else {
		m.noOpinion.ended(start)
	}
}

// sortOfUser names the few that every cluster has; all the others would fill
// our memory, and tell who works when.
func sortOfUser(name string) string {
	switch name {
	case "admin", "client", "kube_proxy", "kubelet", "system:serviceaccount:kube-system:default":
		return name
	}
	if strings.Contains(name, "@") {
		return "email_id"
	}
	return "other"
}
