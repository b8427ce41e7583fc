package garbagecollector

import (
	"context"
	"strings"
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

// firstSync bounds how long the first look at everything may take. A kind that
// cannot be listed must not keep all others from being collected; its objects
// are read one by one then.
const firstSync = 30 * time.Second

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
	for deadline := time.Now().Add(firstSync); !m.synced() && time.Now().Before(deadline); {
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
		if ignored[id] || !r.Can("list", "watch", "delete") || strings.Contains(r.Plural, "/") {
			continue
		}
		wanted[id] = true
		if m.running[id] == nil {
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
		return &monitor{r, synced, stop}
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
	return &monitor{r, informer.Synced(), stop}
}

// synced says whether every watch has delivered its first list.
func (m *monitors) synced() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, running := range m.running {
		select {
		case <-running.synced:
		default:
			return false
		}
	}
	return len(m.running) > 0
}

// resourceOf finds how an owner reference's kind is served.
func (m *monitors) resourceOf(apiVersion, kind string) (harness.Resource, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	group := ""
	if gv, err := schema.ParseGroupVersion(apiVersion); err == nil {
		group = gv.Group
	}
	for _, r := range m.resources {
		if r.Group == group && r.Kind == kind && r.Can("get") {
			return r, true
		}
	}
	return harness.Resource{}, false
}

// absent remembers owners that are certainly gone: a UID never comes back.
type absent struct {
	mu   sync.Mutex // guards uids
	uids map[types.UID]bool
}

// maxAbsent bounds the memory; forgetting costs one request each.
const maxAbsent = 10_000

func (a *absent) add(uid types.UID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.uids) >= maxAbsent {
		clear(a.uids)
	}
	a.uids[uid] = true
}

func (a *absent) has(uid types.UID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.uids[uid]
}
