package client

// The reflector keeps a sink equal to a collection on the server.
//
//	   ┌───────────── 410 Expired: our revision is compacted ──────────────┐
//	   ▼                                                                   │
//	 list ──items, revision──▶ replace ──▶ watch from revision ──events──▶ apply
//	                                          ▲                  │
//	                                          └── stream ended: ─┘
//	                                              watch again from the last revision
//
// The list comes as a WatchList where the server can: one watch that begins
// with every object and then a bookmark saying "that was all". It saves the
// server from building one big answer.
//
// Invariant: the sink never goes back in time. A relist that fails leaves the
// old contents, which are stale but consistent.

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

const (
	// Upstream's are 800 ms and 30 s, for thousands of clients. Ours are few,
	// and a cluster that comes up should not wait for a kubelet to look again.
	reflectorBackoffMin = 250 * time.Millisecond
	reflectorBackoffMax = 4 * time.Second
	// A watch that lived this long was a good one: start the backoff anew.
	reflectorHealthy = 10 * time.Second
	// watchTimeout (plus up to as much again, so that clients spread) is how
	// long one watch lasts; a server that stopped sending is left then.
	watchTimeout = 5 * time.Minute
)

var errExpired = errors.New("resource version is too old")

type sink[T Object] interface {
	replace(items []T, revision string)
	upsert(obj T)
	remove(obj T)
	reached(revision string)
	resync()
}

type reflector[T Object] struct {
	resource *Resource[T]
	options  InformerOptions[T]
	sink     sink[T]

	// Owned by run.
	revision    string // where the next watch begins; "" means list first
	noWatchList bool   // the server does not know it
}

// run returns nil when ctx ends; every other failure is tried again.
func (r *reflector[T]) run(ctx context.Context) error {
	log := r.options.Logger.With("resource", r.resource.Kind.Plural)
	delay := reflectorBackoffMin
	for ctx.Err() == nil {
		started := time.Now()
		err := r.listAndWatch(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(started) > reflectorHealthy {
			delay = reflectorBackoffMin
		}
		switch {
		case errors.Is(err, errExpired):
			r.revision = ""
		case err != nil:
			log.Warn("watch failed, will try again", "err", err, "delay", delay)
		}
		if err == nil && time.Since(started) > time.Second {
			continue // a regular end: go on at once
		}
		jittered := delay/2 + time.Duration(rand.Int64N(int64(delay)))
		select {
		case <-ctx.Done():
		case <-time.After(jittered):
		}
		delay = min(2*delay, reflectorBackoffMax)
	}
	return nil
}

func (r *reflector[T]) listAndWatch(ctx context.Context) error {
	if r.revision == "" && !r.noWatchList {
		err := r.watch(ctx, true)
		// Servers before WatchList answer 422 or 404.
		if !apierrors.IsInvalid(err) && !apierrors.IsNotFound(err) && !apierrors.IsBadRequest(err) {
			return err
		}
		r.noWatchList = true
	}
	if r.revision == "" {
		if err := r.list(ctx); err != nil {
			return err
		}
	}
	return r.watch(ctx, false)
}

func (r *reflector[T]) list(ctx context.Context) error {
	list, err := r.resource.List(ctx, r.options.Namespace, metav1.ListOptions{
		LabelSelector: r.options.LabelSelector,
		FieldSelector: r.options.FieldSelector,
	})
	if err != nil {
		return err
	}
	r.sink.replace(list.Items, list.ResourceVersion)
	r.revision = list.ResourceVersion
	return nil
}

// watch applies one watch to the sink until it ends. With initial set, the
// watch begins with the list, which is collected and applied at once.
func (r *reflector[T]) watch(ctx context.Context, initial bool) error {
	timeout := int64((watchTimeout + time.Duration(rand.Int64N(int64(watchTimeout)))).Seconds())
	options := metav1.ListOptions{
		LabelSelector: r.options.LabelSelector, FieldSelector: r.options.FieldSelector,
		ResourceVersion: r.revision, AllowWatchBookmarks: true, TimeoutSeconds: &timeout,
	}
	if initial {
		yes := true
		options.SendInitialEvents, options.ResourceVersionMatch = &yes, metav1.ResourceVersionMatchNotOlderThan
	}
	w, err := r.resource.Watch(ctx, r.options.Namespace, options)
	if err != nil {
		return expired(err)
	}
	defer w.Stop()

	var resync <-chan time.Time
	if r.options.Resync > 0 {
		ticker := time.NewTicker(r.options.Resync)
		defer ticker.Stop()
		resync = ticker.C
	}
	var collected []T // of the initial list; nil once it is applied
	for {
		select {
		case <-resync:
			r.sink.resync()
		case event, open := <-w.Events:
			if !open {
				return w.Err()
			}
			if event.Type == watch.Error {
				return expired(&apierrors.StatusError{ErrStatus: *event.Status})
			}
			if initial {
				done, err := r.collect(event, &collected)
				if err != nil {
					return err
				}
				if done {
					initial, collected = false, nil
				}
				continue
			}
			r.apply(event)
		}
	}
}

// collect gathers the objects of a WatchList; true means the list is complete
// and applied.
func (r *reflector[T]) collect(event Event[T], collected *[]T) (bool, error) {
	switch event.Type {
	case watch.Added, watch.Modified:
		*collected = append(*collected, event.Object)
		return false, nil
	case watch.Bookmark:
		if !isInitialEventsEnd(event.Object) {
			return false, nil
		}
		r.sink.replace(latest(*collected), event.Object.GetResourceVersion())
		r.revision = event.Object.GetResourceVersion()
		return true, nil
	default:
		return false, fmt.Errorf("watch %s: %s before the initial list was complete", r.resource.Kind.Plural, event.Type)
	}
}

// latest keeps the last of several versions of one object, in the order in
// which the server told of them first: who queues what a list brings does not
// want to queue it in another order each time.
func latest[T Object](items []T) []T {
	at := make(map[string]int, len(items))
	list := items[:0]
	for _, obj := range items {
		if i, seen := at[Key(obj)]; seen {
			list[i] = obj
			continue
		}
		at[Key(obj)] = len(list)
		list = append(list, obj)
	}
	return list
}

func (r *reflector[T]) apply(event Event[T]) {
	switch event.Type {
	case watch.Added, watch.Modified:
		r.sink.upsert(event.Object)
	case watch.Deleted:
		r.sink.remove(event.Object)
	case watch.Bookmark:
		r.sink.reached(event.Object.GetResourceVersion())
	}
	r.revision = event.Object.GetResourceVersion()
}

func expired(err error) error {
	if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		return errExpired
	}
	return err
}
