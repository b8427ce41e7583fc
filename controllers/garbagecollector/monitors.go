package garbagecollector

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"tinykube/client"
	"tinykube/controllers/harness"
)

// rediscover is how soon the objects of a new kind are watched.
// Upstream: kubernetes/kubernetes pkg/controller/garbagecollector Sync period
const rediscover = 30 * time.Second

// patience bounds how long a kind's first list is waited for. A kind that
// cannot be listed (its own server is down, its conversion webhook fails) must
// not keep all others from being collected; its objects are read one by one.
// Upstream: kubernetes/kubernetes pkg/controller/garbagecollector Run initialSyncTimeout
const patience = 30 * time.Second

// monitors watch the metadata of every kind that can be deleted. What another
// controller's store watches already is not watched again.
type monitors struct {
	scope  *harness.Scope
	change func(r harness.Resource, old, new metav1.Object)
	// first is closed when the graph is complete for the first time.
	first chan struct{}

	mu        sync.Mutex // guards all below
	resources []harness.Resource
	running   map[schema.GroupResource]*monitor
}

type monitor struct {
	resource harness.Resource
	synced   <-chan struct{}
	started  time.Time
	stop     context.CancelFunc
}

// Events are not worth a graph: nothing owns them and there are very many.
var ignored = map[schema.GroupResource]bool{
	{Resource: "events"}: true, {Group: "events.k8s.io", Resource: "events"}: true,
}

// run keeps one watch per kind until ctx ends.
func (m *monitors) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.awaitFirst(ctx) })
	ticker := time.NewTicker(rediscover)
	defer ticker.Stop()
	for {
		retry := ticker.C
		if err := m.refresh(ctx, g); err != nil && ctx.Err() == nil {
			m.scope.Log.Warn("Discovery failed, will retry", "err", err)
			retry = time.After(time.Second)
		}
		select {
		case <-ctx.Done():
			return g.Wait()
		case <-retry:
		}
	}
}

// awaitFirst closes first.
func (m *monitors) awaitFirst(ctx context.Context) error {
	defer close(m.first)
	ticker := time.NewTicker(notSynced)
	defer ticker.Stop()
	for !m.synced() {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
	return nil
}

// refresh starts watches for new kinds and stops those of kinds that went
// away. While a group cannot be discovered, its watches stay.
func (m *monitors) refresh(ctx context.Context, g *errgroup.Group) error {
	resources, stale, err := harness.Discover(ctx, m.scope.Client)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	wanted := map[schema.GroupResource]bool{}
	for _, r := range resources {
		id := r.GroupResource()
		if ignored[id] || !r.Can("list", "watch", "delete") {
			continue
		}
		wanted[id] = true
		have := m.running[id]
		if have != nil && !have.resource.SameAs(r) { // served in another version now: the old watch has ended
			have.stop()
			have = nil
		}
		if have == nil {
			m.running[id] = m.start(ctx, g, r)
		}
	}
	for _, group := range stale {
		for id := range m.running {
			wanted[id] = wanted[id] || id.Group == group
		}
	}
	for id, running := range m.running {
		if !wanted[id] {
			running.stop()
			delete(m.running, id)
		}
	}
	m.resources = resources
	return nil
}

func (m *monitors) start(ctx context.Context, g *errgroup.Group, r harness.Resource) *monitor {
	ctx, stop := context.WithCancel(ctx)
	if synced, ok := m.scope.Stored(r.GroupResource()); ok {
		return &monitor{r, synced, time.Now(), stop}
	}
	informer := client.NewInformer(client.For(m.scope.Client, r.Metadata()), client.InformerOptions[*metav1.PartialObjectMetadata]{Logger: m.scope.Log})
	informer.OnChange(func(old, new *metav1.PartialObjectMetadata) {
		var o, n metav1.Object // nil interfaces, not nil pointers in them
		if old != nil {
			o = old
		}
		if new != nil {
			n = new
		}
		m.change(r, o, n)
	})
	g.Go(func() error { return informer.Run(ctx) })
	return &monitor{r, informer.Synced(), time.Now(), stop}
}

// synced says whether every watch has delivered its first list, or had long
// enough to.
func (m *monitors) synced() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, running := range m.running {
		select {
		case <-running.synced:
		default:
			if time.Since(running.started) < patience {
				return false
			}
		}
	}
	return len(m.running) > 0
}

// resourceOf finds how an owner reference's kind is served. A version that is
// not served is an unknown kind: it may have meant anything.
func (m *monitors) resourceOf(apiVersion, kind string) (harness.Resource, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	gv, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return harness.Resource{}, false
	}
	for _, r := range m.resources {
		if r.Group == gv.Group && r.Kind == kind && r.ServedIn(gv.Version) && r.Can("get") {
			return r, true
		}
	}
	return harness.Resource{}, false
}

// absent remembers owners that are certainly gone: a UID never comes back. One
// that was seen to go is remembered by its UID; one that was asked for and not
// found by all that the reference said, since a reference with a wrong name
// proves nothing about an owner that others name rightly.
//
// Upstream: kubernetes/kubernetes pkg/controller/garbagecollector ReferenceCache
type absent struct {
	mu     sync.Mutex // guards owners
	owners map[coordinates]bool
}

// coordinates are what one reference says about its owner, or a UID alone.
type coordinates struct {
	uid                               types.UID
	apiVersion, kind, namespace, name string
}

func coordinatesOf(ref metav1.OwnerReference, namespace string) coordinates {
	return coordinates{ref.UID, ref.APIVersion, ref.Kind, namespace, ref.Name}
}

// maxAbsent bounds the memory; forgetting costs one request each.
const maxAbsent = 10_000

func (a *absent) add(owner coordinates) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.owners) >= maxAbsent {
		clear(a.owners)
	}
	a.owners[owner] = true
}

func (a *absent) has(owner coordinates) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.owners[owner] || a.owners[coordinates{uid: owner.uid}]
}
