package kubelet

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A container that dies tells nobody but the runtime. Two ways to learn of it:
//
//	relist   list everything, compare with the last list, wake who differs
//	events   the runtime's own stream, if it has one: the relist is then only
//	         the safety net and can be slow
//
// Upstream calls this the pod lifecycle event generator. Ours carries no
// events: it wakes the pod's worker, who looks for himself.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/pleg.
type relister struct {
	runtime *containerRuntime
	wake    func(types.UID)
	metrics *metrics

	last  map[types.UID]uint64 // owned by run, as the next: a digest of each pod's states
	began time.Time            // the last relist

	evented atomic.Bool // the stream is open

	mu   sync.Mutex // guards seen
	seen time.Time  // when the last relist succeeded
}

const (
	relistPeriod        = time.Second
	relistPeriodEvented = 10 * time.Second
	// relistThreshold is how long the runtime may not answer before the node
	// says that it is not ready.
	relistThreshold = 3 * time.Minute
)

// run relists until ctx ends.
func (r *relister) run(ctx context.Context) error {
	for {
		if states, err := r.list(ctx); err == nil {
			r.compare(states)
		}
		period := relistPeriod
		if r.evented.Load() {
			period = relistPeriodEvented
		}
		if !wait(ctx, period) {
			return nil
		}
	}
}

// list digests the state of every pod that the runtime knows.
func (r *relister) list(ctx context.Context) (map[types.UID]uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	began := time.Now()
	if !r.began.IsZero() {
		r.metrics.relistInterval.Observe(began.Sub(r.began).Seconds())
	}
	r.began = began
	lines, err := r.runtime.states(ctx)
	if err != nil {
		return nil, err
	}
	since(r.metrics.relistTime, began)
	r.metrics.relistSeen.SetToCurrentTime()
	digests := map[types.UID]uint64{}
	for uid, states := range lines {
		slices.Sort(states)
		h := fnv.New64a()
		for _, s := range states {
			fmt.Fprintln(h, s)
		}
		digests[uid] = h.Sum64()
	}
	r.mu.Lock()
	r.seen = time.Now()
	r.mu.Unlock()
	return digests, nil
}

func (r *relister) compare(now map[types.UID]uint64) {
	for uid, digest := range now {
		if r.last[uid] != digest {
			r.wake(uid)
		}
	}
	for uid := range r.last {
		if _, still := now[uid]; !still {
			r.wake(uid)
		}
	}
	r.last = now
}

// follow reads the runtime's event stream for as long as there is one.
func (r *relister) follow(ctx context.Context) error {
	for {
		err := r.stream(ctx)
		r.evented.Store(false)
		if ctx.Err() != nil || status.Code(err) == codes.Unimplemented {
			return nil
		}
		if !wait(ctx, 5*time.Second) {
			return nil
		}
	}
}

func (r *relister) stream(ctx context.Context) error {
	events, err := r.runtime.runtime.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	if err != nil {
		return err
	}
	if _, err := events.Header(); err != nil { // the stream really is open
		return err
	}
	r.evented.Store(true)
	for {
		event, err := events.Recv()
		if err != nil {
			return err
		}
		if uid := event.GetPodSandboxStatus().GetMetadata().GetUid(); uid != "" {
			r.wake(types.UID(uid))
		}
	}
}

// healthy says whether the runtime answers.
func (r *relister) healthy(now time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch silent := now.Sub(r.seen); {
	case r.seen.IsZero():
		return fmt.Errorf("PLEG is not healthy: pleg has yet to be successful")
	case silent > relistThreshold:
		return fmt.Errorf("PLEG is not healthy: pleg was last seen active %v ago; threshold is %v", silent.Truncate(time.Second), relistThreshold)
	}
	return nil
}

// started says whether a relist ever succeeded.
func (r *relister) started() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.seen.IsZero()
}

// states lists, by pod, the state of every sandbox and container.
func (r *containerRuntime) states(ctx context.Context) (map[types.UID][]string, error) {
	sandboxes, err := r.runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return nil, err
	}
	containers, err := r.runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return nil, err
	}
	out := map[types.UID][]string{}
	add := func(labels map[string]string, id string, state fmt.Stringer) {
		if uid := types.UID(labels[labelPodUID]); uid != "" { // else it is not a kubelet's
			out[uid] = append(out[uid], id+" "+state.String())
		}
	}
	for _, s := range sandboxes.Items {
		add(s.Labels, s.Id, s.State)
	}
	for _, c := range containers.Containers {
		add(c.Labels, c.Id, c.State)
	}
	return out, nil
}

// podUIDs lists the pods that the runtime knows.
func (r *containerRuntime) podUIDs(ctx context.Context) (map[types.UID]bool, error) {
	states, err := r.states(ctx)
	if err != nil {
		return nil, err
	}
	out := map[types.UID]bool{}
	for uid := range states {
		out[uid] = true
	}
	return out, nil
}
