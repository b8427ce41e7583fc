package harness

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"tinykube/client"
)

// resync is how often every object is looked at again though nothing changed:
// what a bug in an event handler missed is repaired then.
const resync = 10 * time.Minute

// Manager owns what controllers share. Controllers register themselves with
// it (Scope, StoreOf, NewLoop, Watch); then Run runs everything.
type Manager struct {
	shared  *client.Client // fills the caches
	log     *slog.Logger
	metrics *metrics
	// clientFor returns the client to write with under a service account's
	// name; nil means that all use shared.
	clientFor func(account string) *client.Client

	// Set while controllers register, read-only in Run.
	informers map[string]runner                        // by plural.group?selector
	views     map[string]any                           // *view[T], likewise
	stored    map[schema.GroupResource]<-chan struct{} // synced, of views without selector
	onStored  []func(r Resource, old, new metav1.Object)
	loops     []runner
	scopes    []*Scope

	ready     chan struct{}
	readyOnce sync.Once
}

type runner interface {
	Run(ctx context.Context) error
}

// storeHandle is what a Scope needs from a Store of any type.
type storeHandle interface {
	synced() <-chan struct{}
	settle(ctx context.Context) error
}

// Scope is one controller's place in the manager: its name, its identity, its
// logger and its events.
type Scope struct {
	Name   string
	Client *client.Client
	Log    *slog.Logger
	Events *client.Recorder

	manager *Manager
	stores  []storeHandle
}

// New makes a Manager. clientFor may be nil.
func New(shared *client.Client, clientFor func(account string) *client.Client, log *slog.Logger) *Manager {
	return &Manager{
		shared: shared, clientFor: clientFor, log: log, metrics: newMetrics(),
		informers: map[string]runner{}, views: map[string]any{},
		stored: map[schema.GroupResource]<-chan struct{}{}, ready: make(chan struct{}),
	}
}

// Identity is the three names of a controller: its own, on the command line
// and in logs; the service account in kube-system whose rights it has (none
// means the manager's own); and the source that its events show.
type Identity struct{ Name, Account, Source string }

// Scope makes a controller's place.
func (m *Manager) Scope(id Identity) *Scope {
	s := &Scope{Name: id.Name, Client: m.shared, Log: m.log.With("component", id.Name), manager: m}
	if m.clientFor != nil && id.Account != "" {
		s.Client = m.clientFor(id.Account)
	}
	s.Events = client.NewRecorder(s.Client, id.Source, "", s.Log)
	m.scopes = append(m.scopes, s)
	return s
}

// StoreOf returns the scope's view of a kind. All scopes share one informer.
func StoreOf[T client.Object](s *Scope, kind client.Kind[T]) *Store[T] {
	return StoreSelected(s, kind, "")
}

// StoreSelected is StoreOf for the objects that a field selector selects.
func StoreSelected[T client.Object](s *Scope, kind client.Kind[T], fieldSelector string) *Store[T] {
	m := s.manager
	id := kind.Plural + "." + kind.Group + "?" + fieldSelector
	shared, ok := m.views[id].(*view[T])
	if !ok {
		api := client.For(m.shared, kind).Protobuf()
		shared = &view[T]{
			api: api,
			informer: client.NewInformer(api, client.InformerOptions[T]{
				Indexers: indexersFor[T](), FieldSelector: fieldSelector, Resync: resync, Logger: m.log}),
			own:    map[string]ownWrite[T]{},
			doubts: map[string]struct{}{},
		}
		shared.informer.OnChange(shared.observe)
		m.views[id], m.informers[id] = shared, shared.informer
		if fieldSelector == "" {
			announce(m, kind, shared.informer)
		}
	}
	store := &Store[T]{view: shared, api: client.For(s.Client, kind), client: s.Client, count: func(verb string) {
		m.metrics.writes.WithLabelValues(s.Name, kind.Plural, verb).Inc()
	}}
	s.stores = append(s.stores, store)
	return store
}

// Go registers work of a controller that is not a Loop; it is run with the
// manager, after the scope's stores are filled.
func (s *Scope) Go(run func(ctx context.Context) error) {
	s.manager.loops = append(s.manager.loops, scopedRun{s, run})
}

type scopedRun struct {
	scope *Scope
	run   func(ctx context.Context) error
}

func (r scopedRun) Run(ctx context.Context) error {
	if !r.scope.waitForStores(ctx) {
		return nil
	}
	return r.run(ctx)
}

// waitForStores blocks until every cache of the scope is filled: a plan made
// from half a cache would create the other half again.
func (s *Scope) waitForStores(ctx context.Context) bool {
	for _, store := range s.stores {
		if !client.WaitSynced(ctx, store.synced()) {
			return false
		}
	}
	return true
}

// Run fills the caches and runs every controller until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range m.scopes {
		g.Go(func() error { return s.Events.Run(ctx) })
	}
	for _, informer := range m.informers {
		g.Go(func() error { return informer.Run(ctx) })
	}
	for _, loop := range m.loops {
		g.Go(func() error { return loop.Run(ctx) })
	}
	g.Go(func() error {
		for _, s := range m.scopes {
			if !s.waitForStores(ctx) {
				return nil
			}
		}
		m.readyOnce.Do(func() { close(m.ready) })
		return nil
	})
	return g.Wait()
}

// Ready is closed when all caches are filled.
func (m *Manager) Ready() <-chan struct{} { return m.ready }
