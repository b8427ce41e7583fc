package kubelet

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"tinykube/api/placement"
	"tinykube/api/qos"
	"tinykube/client"
)

// When a node runs out of memory the kernel kills something, and nobody chose
// it. Eviction is the kubelet choosing first. Every ten seconds:
//
//	measure ─▶ thresholds met? ─▶ condition on the Node  (taints follow from it,
//	                │                                     so no new pods come)
//	                ▼ and for as long as their grace
//	           free what nobody needs: dead containers, unused images
//	                │ not enough
//	                ▼
//	           rank the pods, end the first, look again
//
// A condition stays for a while after its reason went away (the transition
// period): a node that flaps is worse than one that is full. What must be
// decided is in eviction_threshold.go and eviction_rank.go, without I/O; what
// is measured comes from measure.go.
//
// A limit of local storage (an emptyDir's sizeLimit, limits.ephemeral-storage)
// is kept here as well, since no kernel does it: whoever is over it goes.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/eviction/eviction_manager.go.
type evictor struct {
	k *Kubelet

	// Owned by run.
	met   []threshold                            // last time: they end only with their minimum reclaim
	since map[string]time.Time                   // when each threshold was first met, by its text
	last  map[corev1.NodeConditionType]time.Time // when each condition was last true

	mu       sync.Mutex // guards pressure
	pressure []corev1.NodeConditionType
}

const (
	evictionPeriod = 10 * time.Second
	// evictionGrace is what a pod gets that a hard threshold ends.
	evictionGrace = int64(1)
	// evictionPatience is how long the next round waits for an evicted pod.
	evictionPatience = 30 * time.Second
	reasonEvicted    = "Evicted"
)

func newEvictor(k *Kubelet) *evictor {
	return &evictor{k: k, since: map[string]time.Time{}, last: map[corev1.NodeConditionType]time.Time{}}
}

// run evicts until ctx ends.
func (e *evictor) run(ctx context.Context) error {
	if e.k.cfg.Hollow {
		return nil // nothing runs, nothing is used
	}
	for {
		gone := e.look(ctx, time.Now())
		e.await(ctx, gone)
		if !wait(ctx, evictionPeriod) {
			return nil
		}
	}
}

// look measures once and evicts at most one pod for the node's sake. It
// returns the pods whose end it began.
func (e *evictor) look(ctx context.Context, now time.Time) []*worker {
	k := e.k
	seen := k.observeNode(ctx)
	e.note(seen, now)
	due := e.due(now)

	if gone := e.enforceStorageLimits(ctx); len(gone) > 0 {
		return gone
	}
	if len(due) == 0 {
		return nil
	}
	worst := mostUrgent(due)
	kind := signals[worst.signal]
	k.eventNode(corev1.EventTypeWarning, "EvictionThresholdMet", "Attempting to reclaim %s", kind.resource)
	if kind.condition == corev1.NodeDiskPressure && k.reclaimDisk(ctx, worst.signal) {
		if len(metThresholds(k.cfg.Thresholds, k.observeNode(ctx), true)) == 0 {
			return nil
		}
	}
	candidates := k.candidates(ctx, k.livingPods(), kind.condition == corev1.NodeDiskPressure)
	rankForEviction(candidates, kind.resource, k.partsOf(worst.signal))
	for _, c := range candidates {
		if isCritical(c.pod) {
			continue
		}
		grace := evictionGrace
		if !worst.hard {
			grace = min(k.cfg.MaxEvictionGrace, (*endCase)(nil).graceSeconds(c.pod))
		}
		message := evictionMessage(c, kind.resource, due, seen)
		if w := k.evict(c.pod, message, grace, true); w != nil {
			k.metrics.evictions.WithLabelValues(string(worst.signal)).Inc()
			return []*worker{w}
		}
	}
	k.log.Warn("no pod can be evicted", "resource", kind.resource)
	return nil
}

// note brings thresholds and conditions up to date with what was observed.
func (e *evictor) note(seen map[signal]observation, now time.Time) {
	met := metThresholds(e.k.cfg.Thresholds, seen, false)
	for _, t := range metThresholds(e.met, seen, true) {
		if !slices.Contains(met, t) {
			met = append(met, t)
		}
	}
	since := map[string]time.Time{}
	for _, t := range met {
		key := fmt.Sprint(t)
		if since[key] = e.since[key]; since[key].IsZero() {
			since[key] = now
		}
		e.last[signals[t.signal].condition] = now
	}
	e.met, e.since = met, since
	var pressure []corev1.NodeConditionType
	for _, kind := range []corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure} {
		if at, found := e.last[kind]; found && (at.Equal(now) || now.Sub(at) < e.k.cfg.PressureTransition) {
			pressure = append(pressure, kind)
		}
	}
	e.mu.Lock()
	changed := !slices.Equal(e.pressure, pressure)
	e.pressure = pressure
	e.mu.Unlock()
	if changed {
		e.k.node.touchStatus()
	}
}

// due are the thresholds that have been met for their grace. Only those keep
// asking for their minimum reclaim.
func (e *evictor) due(now time.Time) []threshold {
	var out []threshold
	for _, t := range e.met {
		if now.Sub(e.since[fmt.Sprint(t)]) >= t.grace {
			out = append(out, t)
		}
	}
	e.met = out
	return out
}

// mostUrgent puts memory first: the kernel acts on that one by itself.
func mostUrgent(thresholds []threshold) threshold {
	return slices.MinFunc(thresholds, func(a, b threshold) int {
		return compareBools(signals[a.signal].resource == corev1.ResourceMemory, signals[b.signal].resource == corev1.ResourceMemory)
	})
}

// enforceStorageLimits ends every pod that holds more on disk than it may.
func (e *evictor) enforceStorageLimits(ctx context.Context) []*worker {
	k := e.k
	if !k.cfg.LocalStorageIsolation {
		return nil
	}
	var gone []*worker
	rootfsHere := k.partsOf(nodeFsAvailable).rootfs
	limited := slices.DeleteFunc(k.livingPods(), func(pod *corev1.Pod) bool { return !limitsStorage(pod) })
	for _, c := range k.candidates(ctx, limited, true) {
		if message, broken := storageLimitBroken(c, rootfsHere); broken && !isCritical(c.pod) {
			if w := k.evict(c.pod, message, evictionGrace, false); w != nil {
				gone = append(gone, w)
			}
		}
	}
	return gone
}

// candidates are the pods with what they use.
func (k *Kubelet) candidates(ctx context.Context, pods []*corev1.Pod, disk bool) []candidate {
	if len(pods) == 0 {
		return nil
	}
	used := k.podUsages(ctx, pods, disk)
	var out []candidate
	for _, pod := range pods {
		out = append(out, candidate{pod, used[pod.UID]})
	}
	return out
}

// evict ends one pod for good.
func (k *Kubelet) evict(pod *corev1.Pod, message string, grace int64, disruption bool) *worker {
	w := k.worker(pod.UID)
	if w == nil {
		return nil
	}
	k.eventf(pod, corev1.EventTypeWarning, reasonEvicted, "%s", message)
	k.log.Info("evicting", "key", client.Key(pod), "text", message)
	w.end(&endCase{grace: &grace, reason: reasonEvicted, message: message, disruption: disruption})
	return w
}

// await gives evicted pods time to be gone, so that the next look does not
// measure what is already being freed.
func (e *evictor) await(ctx context.Context, gone []*worker) {
	ctx, cancel := context.WithTimeout(ctx, evictionPatience)
	defer cancel()
	for _, w := range gone {
		for !isTerminal(w.publishedStatus().Phase) && e.k.worker(w.uid) == w {
			if !wait(ctx, time.Second) {
				return
			}
		}
	}
}

// underPressure lists the conditions that hold.
func (e *evictor) underPressure() []corev1.NodeConditionType {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.pressure
}

// admit refuses newcomers that would make it worse: all of them but under
// memory pressure, where those that have requested what they use may come.
func (e *evictor) admit(pod *corev1.Pod) *rejection {
	pressure := e.underPressure()
	if len(pressure) == 0 || isCritical(pod) {
		return nil
	}
	if slices.Equal(pressure, []corev1.NodeConditionType{corev1.NodeMemoryPressure}) {
		taint := corev1.Taint{Key: corev1.TaintNodeMemoryPressure, Effect: corev1.TaintEffectNoSchedule}
		if qos.Of(pod) != corev1.PodQOSBestEffort || placement.Tolerated(&taint, pod.Spec.Tolerations) {
			return nil
		}
	}
	var names []string
	for _, kind := range pressure {
		names = append(names, string(kind))
	}
	return &rejection{reasonEvicted, fmt.Sprintf("The node had condition: [%s]. ", strings.Join(names, " "))}
}

// pressureConditions are the node's conditions that eviction raises.
func (e *evictor) pressureConditions(set func(kind corev1.NodeConditionType, status corev1.ConditionStatus, reason, text string)) {
	pressure := e.underPressure()
	for _, row := range []struct {
		kind                         corev1.NodeConditionType
		good, goodText, bad, badText string
	}{
		{corev1.NodeMemoryPressure, "KubeletHasSufficientMemory", "kubelet has sufficient memory available",
			"KubeletHasInsufficientMemory", "kubelet has insufficient memory available"},
		{corev1.NodeDiskPressure, "KubeletHasNoDiskPressure", "kubelet has no disk pressure",
			"KubeletHasDiskPressure", "kubelet has disk pressure"},
		{corev1.NodePIDPressure, "KubeletHasSufficientPID", "kubelet has sufficient PID available",
			"KubeletHasInsufficientPID", "kubelet has insufficient PID available"},
	} {
		if slices.Contains(pressure, row.kind) {
			set(row.kind, corev1.ConditionTrue, row.bad, row.badText)
		} else {
			set(row.kind, corev1.ConditionFalse, row.good, row.goodText)
		}
	}
}
