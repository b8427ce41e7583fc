package nodelifecycle

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Watched is one node as this controller sees it, for whoever turns the clock
// by hand: the decisions are reconcile's, but there is no API, and an hour
// takes no time.
type Watched struct {
	Config
	Node *corev1.Node

	seen observation
}

// Look is one reconcile at a moment at which the node's Lease says when it was
// last renewed, in a zone in which this node may be given up.
func (w *Watched) Look(renewed, now time.Time) {
	w.seen = w.seen.observe(heartbeat{lease: renewed}, now)
	if w.patience(w.Node, w.seen, now) <= 0 {
		w.Node.Status.Conditions = silence(w.Node, metav1.NewTime(now))
	}
	w.Node.Spec.Taints = makeTaints(w.Node, evict, metav1.NewTime(now))
}
