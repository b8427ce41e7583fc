package harness

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"tinykube/client"
)

// Store is one controller's view of one kind: the shared informer's cache with
// our own recent writes laid over it, and the verbs to write with.
//
// Invariant: after a write returns, every read through any Store of that kind
// in this process shows that write or something newer.
//
// Objects that a Store returns are shared: DeepCopy before changing one.
type Store[T client.Object] struct {
	view   *view[T]            // shared by all controllers
	api    *client.Resource[T] // with this controller's identity
	client *client.Client
	// count is told the verb of each write.
	count func(verb string)
}

// view is the part of Store that all controllers of a manager share.
type view[T client.Object] struct {
	informer *client.Informer[T]
	api      *client.Resource[T] // with the manager's own identity

	mu sync.Mutex // guards own, doubts
	// own holds the newest outcome of our writes by key, until the informer
	// shows it too. It is as small as the watch's lag.
	own map[string]ownWrite[T]
	// doubts are creations whose answer was lost: they may or may not exist.
	doubts map[string]struct{}
}

// ownWrite is what the server answered to a write of ours.
type ownWrite[T client.Object] struct {
	obj     T
	deleted bool // obj carries a deletionTimestamp that we put there
}

// Get returns an object by namespace and name.
func (s *Store[T]) Get(namespace, name string) (T, bool) {
	key := name
	if namespace != "" {
		key = namespace + "/" + name
	}
	return s.view.get(key)
}

// List returns every object.
func (s *Store[T]) List() []T {
	return s.view.overlay(s.view.informer.List, func(T) bool { return true })
}

// ByIndex returns the objects that have value in one of the indexes of
// index.go.
func (s *Store[T]) ByIndex(index, value string) []T {
	belongs := func(obj T) bool {
		for _, v := range indexersFor[T]()[index](obj) {
			if v == value {
				return true
			}
		}
		return false
	}
	return s.view.overlay(func() []T { return s.view.informer.ByIndex(index, value) }, belongs)
}

// Live reads from the server, past every cache.
func (s *Store[T]) Live(ctx context.Context, namespace, name string) (T, error) {
	return s.api.Get(ctx, namespace, name)
}

// Kind is the kind this store holds.
func (s *Store[T]) Kind() client.Kind[T] { return s.api.Kind }

// Create creates obj, whose name must be set: a name chosen by us is what lets
// us find out later whether a creation whose answer was lost has happened.
func (s *Store[T]) Create(ctx context.Context, obj T) (T, error) {
	s.count("create")
	created, err := s.api.Create(ctx, obj)
	if err == nil {
		s.view.wrote(created, false)
	} else if outcomeUnknown(err) {
		s.view.doubt(client.Key(obj))
	}
	return created, err
}

// Update replaces an object, if it is still at the resourceVersion we read.
func (s *Store[T]) Update(ctx context.Context, obj T) (T, error) {
	s.count("update")
	return s.remember(s.api.Update(ctx, obj))
}

// UpdateStatus is Update for the status subresource.
func (s *Store[T]) UpdateStatus(ctx context.Context, obj T) (T, error) {
	s.count("update")
	return s.remember(s.api.UpdateStatus(ctx, obj))
}

// UpdateSub is Update for another subresource that takes and returns the
// object itself, such as a namespace's finalize.
func (s *Store[T]) UpdateSub(ctx context.Context, obj T, subresource string) (T, error) {
	s.count("update")
	return s.remember(s.api.UpdateSub(ctx, obj, subresource))
}

// Patch changes an object or a subresource of it.
func (s *Store[T]) Patch(ctx context.Context, namespace, name string, pt types.PatchType, data []byte, subresources ...string) (T, error) {
	s.count("patch")
	return s.remember(s.api.Patch(ctx, namespace, name, pt, data, subresources...))
}

func (s *Store[T]) remember(obj T, err error) (T, error) {
	if err == nil {
		s.view.wrote(obj, false)
	}
	return obj, err
}

// Delete deletes exactly the object it is given: another one that has taken
// its name since is left alone. An object that is already gone is no error.
func (s *Store[T]) Delete(ctx context.Context, obj T, options metav1.DeleteOptions) error {
	uid := obj.GetUID()
	if options.Preconditions == nil {
		options.Preconditions = &metav1.Preconditions{}
	}
	options.Preconditions.UID = &uid
	s.count("delete")
	err := s.api.Delete(ctx, obj.GetNamespace(), obj.GetName(), options)
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	if latest, ok := s.view.get(client.Key(obj)); ok && latest.GetUID() == uid {
		obj = latest
	}
	terminating := obj.DeepCopyObject().(T)
	if terminating.GetDeletionTimestamp() == nil {
		now := metav1.Now()
		terminating.SetDeletionTimestamp(&now)
	}
	s.view.wrote(terminating, true)
	return nil
}

// settle resolves creations whose answer was lost, by asking the server. A
// Loop calls it before every reconcile, so a plan never builds on a doubt. It
// lists, since that is what whoever may watch may do.
func (s *Store[T]) settle(ctx context.Context) error {
	for _, key := range s.view.doubtful() {
		namespace, name := client.SplitKey(key)
		found, err := s.view.api.List(ctx, namespace, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
		if err != nil {
			return fmt.Errorf("did %s %s come to be: %w", s.api.Kind.Kind, key, err)
		}
		for _, obj := range found.Items {
			s.view.wrote(obj, false)
		}
		s.view.settled(key)
	}
	return nil
}

func (s *Store[T]) synced() <-chan struct{} { return s.view.informer.Synced() }

// outcomeUnknown says whether the server may have acted although we got an
// error: the connection broke, or the server lost its store in between.
func outcomeUnknown(err error) bool {
	var transport *url.Error
	var network net.Error
	return errors.As(err, &transport) || errors.As(err, &network) ||
		apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err) || apierrors.IsInternalError(err)
}

// get is Get by key.
//
// Invariant: how far the informer is is read before the object. In the other
// order the object could arrive in between, and would be taken for one that has
// come and gone.
func (v *view[T]) get(key string) (T, bool) {
	v.mu.Lock()
	own, written := v.own[key]
	v.mu.Unlock()
	seen := version(v.informer.ResourceVersion())
	cached, ok := v.informer.Get(key)
	if !written {
		return cached, ok
	}
	obj, ok, stale := newer(own, cached, ok, seen)
	if stale {
		v.forget(key, own)
	}
	return obj, ok
}

// overlay replaces and adds to what a query returns from the informer.
//
// Invariant: own is read before the informer. A write leaves own once the
// informer has it, so read in the other order it could be missing from both.
func (v *view[T]) overlay(query func() []T, belongs func(T) bool) []T {
	v.mu.Lock()
	own := make(map[string]ownWrite[T], len(v.own))
	for key, w := range v.own {
		own[key] = w
	}
	v.mu.Unlock()
	cached := query()
	if len(own) == 0 {
		return cached
	}
	result := make([]T, 0, len(cached)+len(own))
	for _, obj := range cached {
		if _, written := own[client.Key(obj)]; !written {
			result = append(result, obj)
		}
	}
	for key := range own {
		if obj, ok := v.get(key); ok && belongs(obj) {
			result = append(result, obj)
		}
	}
	return result
}

// newer decides between our own write and what the informer has for its key,
// which has seen everything up to a version; stale means that the informer has
// caught up and the write can be forgotten.
//
// Resource versions of one kind are compared as numbers.
// Upstream: KEP-5504 Comparable Resource Version
func newer[T client.Object](own ownWrite[T], cached T, ok bool, seen uint64) (obj T, exists, stale bool) {
	wrote := version(own.obj.GetResourceVersion())
	switch {
	case !ok && seen >= wrote:
		return cached, false, true // it was there, and is gone again
	case !ok:
		return own.obj, true, false // the informer has not heard of it yet
	case own.deleted && cached.GetUID() == own.obj.GetUID():
		if cached.GetDeletionTimestamp() != nil {
			return cached, true, true
		}
		return own.obj, true, false
	case version(cached.GetResourceVersion()) >= wrote:
		return cached, true, true
	default:
		return own.obj, true, false
	}
}

func (v *view[T]) wrote(obj T, deleted bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	key := client.Key(obj)
	if have, ok := v.own[key]; ok && have.obj.GetUID() == obj.GetUID() && version(have.obj.GetResourceVersion()) > version(obj.GetResourceVersion()) {
		return // a later write of ours is already here
	}
	v.own[key] = ownWrite[T]{obj, deleted}
}

// forget drops a write unless a newer one has taken its place.
func (v *view[T]) forget(key string, own ownWrite[T]) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if have, ok := v.own[key]; ok && any(have.obj) == any(own.obj) {
		delete(v.own, key)
	}
}

// observe is the first handler of the informer: reading a key forgets our
// write of it once it has arrived, so that own stays small.
func (v *view[T]) observe(old, new T) { v.get(client.Key(present(old, new))) }

func (v *view[T]) doubt(key string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.doubts[key] = struct{}{}
}

func (v *view[T]) settled(key string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.doubts, key)
}

func (v *view[T]) doubtful() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	keys := make([]string, 0, len(v.doubts))
	for key := range v.doubts {
		keys = append(keys, key)
	}
	return keys
}

// present returns new, or old if the object is gone.
func present[T client.Object](old, new T) T {
	var none T
	if any(new) == any(none) {
		return old
	}
	return new
}

func version(resourceVersion string) uint64 {
	n, _ := strconv.ParseUint(resourceVersion, 10, 64)
	return n
}
