package harness

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"tinykube/client"
)

// A controller that looks at every kind (garbage collection) should not watch
// again what another controller's store watches already. It is told of all
// changes here, and asks which kinds that covers.

// WatchStored calls handler for every change in any store of the manager, with
// nil for an object that was not there before, or is not there any more.
func (s *Scope) WatchStored(handler func(r Resource, old, new metav1.Object)) {
	s.manager.onStored = append(s.manager.onStored, handler)
}

// Stored says whether the manager has a store of a resource, and when it is
// filled.
func (s *Scope) Stored(resource schema.GroupResource) (synced <-chan struct{}, ok bool) {
	synced, ok = s.manager.stored[resource]
	return synced, ok
}

// announce tells the handlers of WatchStored about a store's changes.
func announce[T client.Object](m *Manager, kind client.Kind[T], informer *client.Informer[T]) {
	r := Resource{Group: kind.Group, Version: kind.Version, Kind: kind.Kind, Plural: kind.Plural, Namespaced: kind.Namespaced}
	m.stored[r.GroupResource()] = informer.Synced()
	var none T
	informer.OnChange(func(old, new T) {
		var o, n metav1.Object // nil interfaces, not nil pointers in them
		if any(old) != any(none) {
			o = old
		}
		if any(new) != any(none) {
			n = new
		}
		for _, handler := range m.onStored {
			handler(r, o, n)
		}
	})
}
