package client

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// InformerOptions narrow what an informer holds.
type InformerOptions[T Object] struct {
	Namespace     string // empty: all
	LabelSelector string
	FieldSelector string
	// Resync calls the handlers again for every object, with old == new. It
	// repairs what a handler missed, never what the informer missed.
	Resync time.Duration
	// Indexers compute, per index name, the values under which an object is
	// found with ByIndex.
	Indexers map[string]func(T) []string
	// Trim takes away what nobody here reads, before an object is stored.
	Trim   func(T)
	Logger *slog.Logger
}

// TrimManagedFields forgets who set which field: a third of a pod, and nothing to
// decide by. Who writes patches loses nothing by it.
func TrimManagedFields[T Object](object T) { object.SetManagedFields(nil) }

// Informer is a local, indexed copy of a resource. What it returns is shared:
// never change it, DeepCopy first.
type Informer[T Object] struct {
	resource *Resource[T]
	options  InformerOptions[T]
	handlers []func(old, new T) // set before Run
	synced   chan struct{}
	fed      bool // by a Split, not by a watch of its own

	mu      sync.RWMutex // guards all below
	objects map[string]T
	// revision is how far the store is: every change up to it is in objects.
	revision string
	indexes  map[string]map[string]map[string]T // index → value → key → object
}

// NewInformer makes an informer. Nothing is read before Run.
func NewInformer[T Object](r *Resource[T], options InformerOptions[T]) *Informer[T] {
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	i := &Informer[T]{resource: r, options: options, synced: make(chan struct{}),
		objects: map[string]T{}, indexes: map[string]map[string]map[string]T{}}
	for name := range options.Indexers {
		i.indexes[name] = map[string]map[string]T{}
	}
	return i
}

// OnChange adds a handler; call it before Run. old is nil for an object that
// appeared, new is nil for one that went away. Handlers run one at a time, in
// order, after the store has changed; they must not block.
func (i *Informer[T]) OnChange(handler func(old, new T)) {
	i.handlers = append(i.handlers, handler)
}

// Run keeps the copy current until ctx ends.
func (i *Informer[T]) Run(ctx context.Context) error {
	if i.fed {
		<-ctx.Done()
		return nil
	}
	r := reflector[T]{resource: i.resource, options: i.options, sink: i}
	return r.run(ctx)
}

// Synced is closed once the first full list is in the store and its handlers
// have run.
func (i *Informer[T]) Synced() <-chan struct{} { return i.synced }

// HasSynced reports whether Synced is closed.
func (i *Informer[T]) HasSynced() bool {
	select {
	case <-i.synced:
		return true
	default:
		return false
	}
}

// WaitSynced waits for all the given Synced channels; false means ctx ended
// first.
func WaitSynced(ctx context.Context, synced ...<-chan struct{}) bool {
	for _, s := range synced {
		select {
		case <-s:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// Get returns the object with a Key.
func (i *Informer[T]) Get(key string) (T, bool) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	obj, ok := i.objects[key]
	return obj, ok
}

// List returns all objects, in no order.
func (i *Informer[T]) List() []T {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return values(i.objects)
}

// ByIndex returns the objects for which the named indexer gives value.
func (i *Informer[T]) ByIndex(index, value string) []T {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return values(i.indexes[index][value])
}

func values[T any](m map[string]T) []T {
	list := make([]T, 0, len(m))
	for _, obj := range m {
		list = append(list, obj)
	}
	return list
}

// ResourceVersion is how far the store is: it shows every change up to and
// including this revision. Someone who wrote at a later one knows that the
// store does not show it yet.
func (i *Informer[T]) ResourceVersion() string {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return i.revision
}

// reached notes a revision up to which nothing is missing: a bookmark's.
func (i *Informer[T]) reached(revision string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.revision = revision
}

// replace makes the store hold exactly items, which is the collection at
// revision. It is how both the first list and a relist after a lost watch
// arrive: what is missing was deleted.
func (i *Informer[T]) replace(items []T, revision string) {
	keep := make(map[string]bool, len(items))
	for _, obj := range items {
		keep[Key(obj)] = true
		i.put(obj, "")
	}
	i.reached(revision)
	for _, obj := range i.List() {
		if !keep[Key(obj)] {
			i.drop(obj, "")
		}
	}
	if !i.HasSynced() {
		close(i.synced)
	}
}

// upsert and remove apply one event; its object carries the event's revision.
func (i *Informer[T]) upsert(obj T) { i.put(obj, obj.GetResourceVersion()) }
func (i *Informer[T]) remove(obj T) { i.drop(obj, obj.GetResourceVersion()) }

// put stores obj. A relist may bring back what we already have; handlers hear
// only of changes.
//
// Invariant: revision moves together with the store, and before the handlers
// hear of it.
func (i *Informer[T]) put(obj T, revision string) {
	if i.options.Trim != nil {
		i.options.Trim(obj)
	}
	key := Key(obj)
	i.mu.Lock()
	if revision != "" {
		i.revision = revision
	}
	old, existed := i.objects[key]
	if existed && old.GetResourceVersion() == obj.GetResourceVersion() && old.GetUID() == obj.GetUID() {
		i.mu.Unlock()
		return
	}
	if existed {
		i.unindex(key, old)
	}
	i.objects[key] = obj
	i.index(key, obj)
	i.mu.Unlock()

	var none T
	if existed && old.GetUID() != obj.GetUID() {
		// Deleted and created again while we were not looking: two changes, so
		// that nobody mistakes the new object for the old one.
		i.notify(old, none)
		old = none
	}
	i.notify(old, obj)
}

func (i *Informer[T]) drop(obj T, revision string) {
	key := Key(obj)
	i.mu.Lock()
	if revision != "" {
		i.revision = revision
	}
	old, existed := i.objects[key]
	if existed {
		i.unindex(key, old)
		delete(i.objects, key)
	}
	i.mu.Unlock()
	if existed {
		var none T
		i.notify(old, none)
	}
}

func (i *Informer[T]) resync() {
	for _, obj := range i.List() {
		i.notify(obj, obj)
	}
}

func (i *Informer[T]) notify(old, new T) {
	for _, handler := range i.handlers {
		handler(old, new)
	}
}

// index and unindex need mu.
func (i *Informer[T]) index(key string, obj T) {
	for name, indexer := range i.options.Indexers {
		for _, value := range indexer(obj) {
			if i.indexes[name][value] == nil {
				i.indexes[name][value] = map[string]T{}
			}
			i.indexes[name][value][key] = obj
		}
	}
}

func (i *Informer[T]) unindex(key string, obj T) {
	for name, indexer := range i.options.Indexers {
		for _, value := range indexer(obj) {
			delete(i.indexes[name][value], key)
			if len(i.indexes[name][value]) == 0 {
				delete(i.indexes[name], value)
			}
		}
	}
}
