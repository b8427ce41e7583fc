package apiserver

import (
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Is there room? Two counters bound the requests in progress, as upstream's
// flags say: one for reads, one for writes. A flood of either must not take
// down what keeps the cluster alive, so nodes and the control plane's own
// programs have a third counter that the flood cannot use up.

// limits counts the requests in progress. A nil channel has no limit.
type limits struct {
	reads, writes, system chan struct{}
}

const systemShare = 200 // requests of nodes and control plane at a time

func newLimits(cfg Config) *limits {
	counter := func(n int) chan struct{} {
		if n <= 0 {
			return nil
		}
		return make(chan struct{}, n)
	}
	return &limits{
		reads: counter(cfg.MaxInFlight), writes: counter(cfg.MaxMutatingInFlight), system: counter(systemShare),
	}
}

// enter takes a place, or answers 429. Who lasts as long as the client likes
// takes none: such requests are bounded by memory, not by us.
func (l *limits) enter(q *request) (leave func(), err error) {
	counter := l.reads
	switch {
	case q.longRunning() || !q.isResource && isPublicPath(q.path):
		return func() {}, nil
	case q.user.in(groupMasters) || q.user.in(groupNodes) || isControlPlane(q.user.name):
		counter = l.system
	case q.Method != http.MethodGet && q.Method != http.MethodHead:
		counter = l.writes
	}
	if counter == nil {
		return func() {}, nil
	}
	select {
	case counter <- struct{}{}:
		return func() { <-counter }, nil
	default:
	}
	if counter == l.system { // may wait: it is bounded, and it matters
		select {
		case counter <- struct{}{}:
			return func() { <-counter }, nil
		case <-q.Context().Done():
			return nil, q.Context().Err()
		}
	}
	return nil, apierrors.NewTooManyRequests("too many requests, please try again later", 1)
}

func isControlPlane(name string) bool {
	switch name {
	case "system:kube-scheduler", "system:kube-controller-manager", "system:kube-proxy":
		return true
	}
	return false
}
