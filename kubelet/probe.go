package kubelet

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// A probe is one goroutine per container and kind of probe. It asks, counts
// in a row what it hears, and when a threshold is reached changes the verdict
// on that one life of the container. The pod's worker reads the verdicts:
//
//	startup    until it passes, the other two wait; if it fails, restart
//	liveness   if it fails, restart
//	readiness  whether the pod is sent traffic
//
// A verdict belongs to a container ID, so a new life starts unjudged, and what
// was said of a dead one can do no harm.
type probes struct {
	k     *Kubelet
	total *prometheus.CounterVec   // /metrics/probes
	took  *prometheus.HistogramVec // the same

	mu      sync.Mutex // guards what follows
	active  map[probeKey]*prober
	results map[string]*probeResults // by container ID
}

// firstProbeDelay lets a program open its port: the next chance to be found
// ready comes a whole period later. (Upstream learns of the container's start
// about as late.)
const firstProbeDelay = time.Second

type probeKind string

const (
	startupProbe   probeKind = "Startup"
	livenessProbe  probeKind = "Liveness"
	readinessProbe probeKind = "Readiness"
)

type probeKey struct {
	pod       types.UID
	container string
	kind      probeKind
}

// probeResults is what the probes have settled of one life of a container. A
// nil field is not settled yet.
type probeResults struct {
	pod                          types.UID
	startup, liveness, readiness *bool
	has                          map[probeKind]bool
}

func (r *probeResults) of(kind probeKind) **bool {
	switch kind {
	case startupProbe:
		return &r.startup
	case livenessProbe:
		return &r.liveness
	}
	return &r.readiness
}

func newProbes(k *Kubelet) *probes {
	return &probes{k: k, active: map[probeKey]*prober{}, results: map[string]*probeResults{},
		total: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "prober_probe_total",
			Help: "Cumulative number of a liveness, readiness or startup probe for a container by result."},
			[]string{"probe_type", "result", "container", "pod", "namespace", "pod_uid"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "prober_probe_duration_seconds",
			Help: "Duration in seconds for a probe response."}, []string{"probe_type", "container", "pod", "namespace"})}
}

// follow makes the running containers of a pod be probed, and only those.
func (p *probes) follow(w *worker, pod *corev1.Pod, seen *observedPod) {
	told := w.publishedStatus()
	p.mu.Lock()
	defer p.mu.Unlock()
	alive := map[string]bool{}
	for _, c := range allContainers(pod) {
		latest := seen.latest(c.Name)
		if latest == nil || !latest.running() || isInit(pod, c.Name) && !isSidecar(c) {
			continue
		}
		alive[latest.Id] = true
		if p.results[latest.Id] == nil {
			results := &probeResults{pod: pod.UID, has: map[probeKind]bool{}}
			p.results[latest.Id] = results
			for kind, probe := range map[probeKind]*corev1.Probe{startupProbe: c.StartupProbe, livenessProbe: c.LivenessProbe, readinessProbe: c.ReadinessProbe} {
				switch results.has[kind] = probe != nil; {
				case probe == nil:
				case p.k.cfg.Hollow:
					*results.of(kind) = to(true) // nobody is there to be asked
				default:
					p.start(w, pod, c, latest, kind, probe)
				}
			}
			results.inherit(told, latest)
		}
	}
	maps.DeleteFunc(p.results, func(id string, r *probeResults) bool { return r.pod == pod.UID && !alive[id] })
	p.stop(func(key probeKey, id string) bool { return key.pod == pod.UID && !alive[id] })
}

// stop ends some probers. The caller holds mu.
func (p *probes) stop(which func(key probeKey, id string) bool) {
	maps.DeleteFunc(p.active, func(key probeKey, prober *prober) bool {
		if !which(key, prober.id) {
			return false
		}
		prober.cancel()
		return true
	})
}

// inherit lets a restarted kubelet go on from what was last told of this very
// life: a pod must not drop out of its Services because we were away.
func (r *probeResults) inherit(status corev1.PodStatus, c *observedContainer) {
	yes := true
	for _, s := range allStatuses(&status) {
		if s.ContainerID != c.fullID() || s.State.Running == nil {
			continue
		}
		if isTrue(s.Started) {
			r.startup = &yes
		}
		if s.Ready {
			r.readiness = &yes
		}
	}
}

// start starts one prober. The caller holds mu.
func (p *probes) start(w *worker, pod *corev1.Pod, c *corev1.Container, latest *observedContainer, kind probeKind, probe *corev1.Probe) {
	key := probeKey{pod.UID, c.Name, kind}
	if old := p.active[key]; old != nil {
		old.cancel()
	}
	prober := &prober{probes: p, worker: w, pod: pod, container: c, id: latest.Id, kind: kind,
		probe: withProbeDefaults(probe), startedAt: time.Unix(0, latest.StartedAt)}
	prober.cancel = w.spawn(prober.run)
	p.active[key] = prober
}

// drain ends startup and liveness probes of a pod that is ending: nothing will
// be restarted. Readiness goes on until its container is gone.
func (p *probes) drain(seen *observedPod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stop(func(key probeKey, id string) bool {
		alive := slices.ContainsFunc(seen.running(), func(c *observedContainer) bool { return c.Id == id })
		return key.pod == seen.uid && (key.kind != readinessProbe || !alive)
	})
}

func (p *probes) forget(uid types.UID) {
	p.total.DeletePartialMatch(prometheus.Labels{"pod_uid": string(uid)})
	if w := p.k.worker(uid); w != nil {
		pod, _, _ := w.view()
		p.took.DeletePartialMatch(prometheus.Labels{"pod": pod.Name, "namespace": pod.Namespace})
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stop(func(key probeKey, _ string) bool { return key.pod == uid })
	maps.DeleteFunc(p.results, func(_ string, r *probeResults) bool { return r.pod == uid })
}

// verdict is what the probes say of a life: what planPod needs.
func (p *probes) verdict(c *observedContainer) verdict {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.results[c.Id]; r != nil {
		return r.verdict()
	}
	return verdict{} // not followed yet
}

// verdict draws the conclusion from what is settled: has it started, and is
// there a reason to end it? A probe that has not settled anything yet says
// neither; a container without a startup probe starts as it runs.
//
// LAB 15 verdict: a startup probe has the first word, and its failure is as
// final as that of liveness. Readiness is no reason to end anything.
func (r *probeResults) verdict() verdict {
	v := verdict{started: !r.has[startupProbe] || r.startup != nil && *r.startup}
	switch {
	case r.startup != nil && !*r.startup:
		v.unfit = "startup"
	case r.liveness != nil && !*r.liveness:
		v.unfit = "liveness"
	}
	return v
}

// ready says whether a running container is ready for traffic: once started,
// and if it has a readiness probe, once that passes.
func (p *probes) ready(c *observedContainer) bool {
	if !p.verdict(c).started {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.results[c.Id]
	return r != nil && (!r.has[readinessProbe] || r.readiness != nil && *r.readiness)
}

// withProbeDefaults fills in what the API would, for pods that never saw it.
func withProbeDefaults(probe *corev1.Probe) corev1.Probe {
	p := *probe
	set := func(field *int32, value int32) {
		if *field == 0 {
			*field = value
		}
	}
	set(&p.TimeoutSeconds, 1)
	set(&p.PeriodSeconds, 10)
	set(&p.SuccessThreshold, 1)
	set(&p.FailureThreshold, 3)
	return p
}

// prober is one running probe.
type prober struct {
	probes    *probes
	worker    *worker
	pod       *corev1.Pod
	container *corev1.Container
	id        string
	kind      probeKind
	probe     corev1.Probe
	startedAt time.Time
	cancel    context.CancelFunc

	counter probeCounter // owned by run
}

// run probes until its container or the kubelet is gone, or nothing more can
// change: a startup probe ends when it passes.
func (p *prober) run(ctx context.Context) {
	period := time.Duration(p.probe.PeriodSeconds) * time.Second
	// After a restart of the kubelet the probes of all pods would fire as one.
	if age := time.Since(p.startedAt); age > period {
		if !wait(ctx, rand.N(period)) {
			return
		}
	}
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for p.once(ctx) {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// once probes one time; false means this probe has nothing more to say.
func (p *prober) once(ctx context.Context) (more bool) {
	if p.kind != startupProbe && !p.probes.started(p.id) {
		return true
	}
	if p.kind == startupProbe && p.probes.started(p.id) {
		return false
	}
	initial := max(time.Duration(p.probe.InitialDelaySeconds)*time.Second, firstProbeDelay)
	delay := time.Until(p.startedAt.Add(initial))
	if delay > 0 && !wait(ctx, delay) {
		return false
	}
	began := time.Now()
	result, text := p.attempt(ctx)
	for again := 1; again < maxProbeAttempts && !result.counts() && ctx.Err() == nil; again++ {
		result, text = p.attempt(ctx)
	}
	if ctx.Err() != nil {
		return false
	}
	p.tell(result, text)
	if result == probeSuccess || result == probeWarning {
		p.probes.took.WithLabelValues(string(p.kind), p.container.Name, p.pod.Name, p.pod.Namespace).Observe(time.Since(began).Seconds())
	}
	if !result.counts() { // the runtime was away, perhaps: that says nothing
		return true
	}
	settled, changed := p.counter.count(result != probeFailure, &p.probe)
	if !changed {
		return true
	}
	p.probes.settle(p, settled)
	// A failed startup or liveness probe is final for this life.
	return settled && p.kind != startupProbe || p.kind == readinessProbe
}

func (p *prober) tell(result probeResult, text string) {
	if result.counts() {
		name := map[bool]string{true: "failed", false: "successful"}[result == probeFailure]
		p.probes.total.WithLabelValues(string(p.kind), name, p.container.Name, p.pod.Name, p.pod.Namespace, string(p.pod.UID)).Inc()
	}
	switch event := p.probes.k.containerEvents(p.pod, p.container); result {
	case probeFailure:
		event(corev1.EventTypeWarning, "Unhealthy", "%s probe failed: %s", p.kind, text)
	case probeWarning:
		event(corev1.EventTypeWarning, "ProbeWarning", "%s probe warning: %s", p.kind, text)
	case probeUnknown:
		event(corev1.EventTypeWarning, "Unhealthy", "%s probe errored and resulted in unknown state: %s", p.kind, text)
	case probeBroken:
		event(corev1.EventTypeWarning, "Unhealthy", "%s probe errored and resulted in failure state: %s", p.kind, text)
	}
}

func (p *probes) started(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.results[id]
	return r != nil && r.verdict().started
}

// settle records a changed verdict and wakes the pod's worker.
func (p *probes) settle(by *prober, good bool) {
	p.mu.Lock()
	r := p.results[by.id]
	changed := false
	if r != nil {
		field := r.of(by.kind)
		changed = *field == nil || **field != good
		*field = &good
	}
	p.mu.Unlock()
	if changed {
		by.worker.poke()
	}
}

// probeCounter counts equal results in a row.
type probeCounter struct {
	last bool
	run  int32
}

// count adds one result; reached says that its threshold is reached (or held).
//
// Upstream: kubernetes@v1.36 pkg/kubelet/prober/worker.go doProbe.
//
// LAB 15 count: results count only in a row, and success has another threshold
// than failure.
func (c *probeCounter) count(good bool, probe *corev1.Probe) (settled, reached bool) {
	if c.run > 0 && c.last == good {
		c.run++
	} else {
		c.last, c.run = good, 1
	}
	threshold := probe.FailureThreshold
	if good {
		threshold = probe.SuccessThreshold
	}
	return good, c.run >= threshold
}

// wait pauses; false means ctx ended first.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func jitter(d time.Duration) time.Duration { return d + rand.N(d/2) }
