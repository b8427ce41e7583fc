package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	configv1 "k8s.io/kube-scheduler/config/v1"

	"golang.org/x/sync/errgroup"

	"tinykube/client"
	"tinykube/scheduler/config"
	"tinykube/scheduler/framework"
)

// maxBinding bounds the bindings and failure reports under way. When the API
// server is slower than the scheduler, the loop waits here, and new pods wait
// in the queue.
const maxBinding = 16

// Config is what the scheduler is told.
type Config struct {
	// Component holds profiles, backoffs and the rest of a
	// KubeSchedulerConfiguration; config.Default() without a file.
	Component *configv1.KubeSchedulerConfiguration
	// Election is used when its Name is set.
	Election client.ElectionConfig
}

// Scheduler gives pods nodes.
type Scheduler struct {
	log      *slog.Logger
	election client.ElectionConfig
	api      *client.Client
	profiles map[string]*framework.Profile
	recorder *client.Recorder
	metrics  *metrics

	podInformer  *client.Informer[*corev1.Pod]
	nodeInformer *client.Informer[*corev1.Node]
	objects      *objects
	queue        *Queue
	cache        *Cache
	waiting      *framework.WaitingPods
	ready        chan struct{}

	// Owned by the scheduling loop.
	startNode int // where the search for feasible nodes begins
}

// New makes a scheduler that talks through api.
func New(cfg Config, api *client.Client, log *slog.Logger) (*Scheduler, error) {
	s := &Scheduler{
		log:      log,
		election: cfg.Election,
		api:      api,
		profiles: map[string]*framework.Profile{},
		recorder: client.NewRecorder(api, config.DefaultSchedulerName, "", log),
		cache:    NewCache(),
		waiting:  framework.NewWaitingPods(),
		objects:  newObjects(api, log),
		ready:    make(chan struct{}),
	}
	profiles, err := config.Profiles(cfg.Component, framework.Handle{Bind: s.postBinding, Objects: s.objects, Volumes: s.objects, Waiting: s.waiting})
	if err != nil {
		return nil, err
	}
	for _, p := range profiles {
		s.profiles[p.Name] = p
	}
	s.queue = NewQueue(QueueConfig{
		InitialBackoff: time.Duration(*cfg.Component.PodInitialBackoffSeconds) * time.Second,
		MaxBackoff:     time.Duration(*cfg.Component.PodMaxBackoffSeconds) * time.Second,
		Less:           profiles[0].QueueSort.Less,
		Profile:        s.profileOf,
	})
	s.metrics = newMetrics(s.queue)
	s.watch()
	return s, nil
}

// Ready is closed once the caches are full; scheduling itself may still wait
// for leadership.
func (s *Scheduler) Ready() <-chan struct{} { return s.ready }

// Run watches, and schedules while it leads.
func (s *Scheduler) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.nodeInformer.Run(ctx) })
	g.Go(func() error { return s.podInformer.Run(ctx) })
	g.Go(func() error { return s.objects.Run(ctx) })
	g.Go(func() error { return s.recorder.Run(ctx) })
	g.Go(func() error { return s.queue.Run(ctx) })
	g.Go(func() error { return s.expire(ctx) })
	g.Go(func() error {
		// Without all nodes and pods in sight every decision would be wrong.
		if !client.WaitSynced(ctx, append(s.objects.Synced(), s.nodeInformer.Synced(), s.podInformer.Synced())...) {
			return nil
		}
		close(s.ready)
		if s.election.Name == "" {
			return s.scheduleAll(ctx)
		}
		s.election.Logger = s.log
		return client.NewElector(s.api, s.election).Run(ctx, s.scheduleAll)
	})
	return g.Wait()
}

// scheduleAll is the loop: one pod at a time is decided, many are bound. It
// ends with ctx, that is, also when leadership is lost; the process is then
// expected to end as well.
func (s *Scheduler) scheduleAll(ctx context.Context) error {
	defer context.AfterFunc(ctx, s.queue.Close)()
	binding := new(errgroup.Group)
	binding.SetLimit(maxBinding)
	// Those who wait for others hold nobody up, lest they wait for one of these.
	// There is one goroutine for each such pod.
	var waiting sync.WaitGroup
	defer waiting.Wait()
	for {
		pod, ok := s.queue.Pop()
		if !ok || ctx.Err() != nil {
			return binding.Wait()
		}
		after, slow := s.scheduleOne(ctx, pod)
		switch {
		case slow:
			waiting.Go(after)
		case after != nil:
			binding.Go(func() error { after(); return nil })
		}
	}
}

// scheduleOne decides one pod and returns what is left to do about it, which
// needs the API server, and if slow, something else as well.
func (s *Scheduler) scheduleOne(ctx context.Context, pod *framework.QueuedPod) (after func(), slow bool) {
	if pod.DeletionTimestamp != nil || s.cache.Assumed(pod.UID) {
		s.queue.Done(pod.UID)
		return nil, false
	}
	a := newAttempt(s, pod)
	node, diagnosis, err := s.choose(a)
	switch {
	case err != nil:
		return func() { s.failed(ctx, a, err) }, false
	case diagnosis != nil:
		if a.room != nil { // others must know of it before the API server does
			s.cache.Nominate(pod.PodInfo, a.room.Node)
		}
		return func() { s.unschedulable(ctx, a, diagnosis) }, false
	}
	a.node = node
	// From here on others see the room as taken.
	s.cache.Assume(pod.PodInfo, node)
	status := a.profile.RunReserve(a.cycle, node)
	var wait map[string]time.Duration
	if status.IsSuccess() {
		if wait, status = a.profile.RunPermit(a.cycle, node); !status.IsSuccess() {
			a.profile.RunUnreserve(a.cycle, node)
		}
	}
	if !status.IsSuccess() {
		s.cache.Forget(pod.UID)
		return func() { s.turnedDown(ctx, a, status) }, false
	}
	if wait != nil {
		a.waiting = s.waiting.Add(pod.PodInfo, node, wait)
	}
	a.slow = a.waiting != nil || a.profile.Slow(a.cycle, node)
	return func() { s.bind(ctx, a) }, a.slow
}

// attempt is one try to place one pod.
type attempt struct {
	pod     *framework.QueuedPod
	profile *framework.Profile
	cycle   *framework.Cycle
	node    string
	// room is how PostFilter wants to make some; nil if it has no opinion.
	room *framework.Room
	// waiting is set if Permit said to wait; slow then, or if PreBind will.
	waiting *framework.WaitingPod
	slow    bool
	started time.Time
}

// newAttempt takes the picture of the cluster on which the pod is decided.
func newAttempt(s *Scheduler, pod *framework.QueuedPod) *attempt {
	return &attempt{pod: pod, profile: s.profileOf(pod.Pod), cycle: framework.NewCycle(pod.PodInfo, s.cache.Snapshot()), started: time.Now()}
}

// bind carries the decision out.
func (s *Scheduler) bind(ctx context.Context, a *attempt) {
	if a.slow {
		// Others, an autoscaler say, should know what is meant to happen.
		if err := s.patchStatus(ctx, a.pod.Pod, map[string]any{"nominatedNodeName": a.node}); err != nil && ctx.Err() == nil {
			s.log.Warn("nomination not written", "key", client.Key(a.pod), "err", err)
		}
	}
	status := s.waiting.Await(ctx, a.waiting)
	if status.IsSuccess() {
		status = a.profile.RunBind(ctx, a.cycle, a.node)
	}
	if !status.IsSuccess() {
		a.profile.RunUnreserve(a.cycle, a.node)
		s.cache.Forget(a.pod.UID)
		// The room is free again, which may be what another pod waits for.
		s.queue.Happened(framework.Event{Action: framework.AssignedDelete, OldPod: a.pod.Pod})
		s.turnedDown(ctx, a, status)
		return
	}
	s.cache.Bound(a.pod.UID)
	s.queue.Done(a.pod.UID)
	s.metrics.scheduled(a)
	s.log.Info("bound pod", "key", client.Key(a.pod), "node", a.node, "attempt", a.pod.Attempts)
	s.recorder.Event(a.pod.Pod, corev1.EventTypeNormal, "Scheduled", "Successfully assigned %s/%s to %s", a.pod.Namespace, a.pod.Name, a.node)
}

// postBinding is DefaultBinder's way to the API server.
func (s *Scheduler) postBinding(ctx context.Context, pod *corev1.Pod, node string) error {
	binding := &corev1.Binding{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Binding"},
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: node},
	}
	if err := client.For(s.api, client.Pods).CreateSub(ctx, pod.Namespace, pod.Name, "binding", binding, nil); err != nil {
		return fmt.Errorf("bind to %s: %w", node, err)
	}
	return nil
}

// profileOf returns the profile that is responsible for a pod, or nil.
func (s *Scheduler) profileOf(pod *corev1.Pod) *framework.Profile {
	name := pod.Spec.SchedulerName
	if name == "" {
		name = config.DefaultSchedulerName
	}
	return s.profiles[name]
}

// expire drops stale assumptions now and then.
func (s *Scheduler) expire(ctx context.Context) error {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			if n := s.cache.Expire(now); n > 0 {
				s.log.Warn("assumed pods expired unconfirmed", "pods", n)
			}
		}
	}
}
