package client

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// Event is one change. Object is set for ADDED, MODIFIED, DELETED and BOOKMARK
// (then only its resourceVersion and annotations mean anything), Status for
// ERROR.
type Event[T Object] struct {
	Type   watch.EventType
	Object T
	Status *metav1.Status
}

// Watch is an open watch. Events is closed when the server ends it, when the
// connection breaks or after Stop; Err then says why (nil for a regular end).
type Watch[T Object] struct {
	Events <-chan Event[T]

	cancel context.CancelFunc
	done   chan struct{}
	once   sync.Once
	err    error // written before Events is closed
}

// Watch opens a watch from options.ResourceVersion on.
func (r *Resource[T]) Watch(ctx context.Context, namespace string, options metav1.ListOptions) (*Watch[T], error) {
	options.Watch = true
	ctx, cancel := context.WithCancel(ctx)
	request := Request{Method: http.MethodGet, Path: r.Path(namespace, ""), Query: listQuery(options), Accept: cmp.Or(r.watchAccept, r.accept)}
	response, err := r.client.Do(ctx, request)
	if err != nil {
		cancel()
		return nil, err
	}
	events := make(chan Event[T], 100)
	w := &Watch[T]{Events: events, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		defer cancel()
		defer close(events)
		defer response.Body.Close()
		next := r.jsonFrames(response.Body)
		if inProtobuf(response) {
			next = r.protobufFrames(response.Body)
		}
		w.err = r.receive(ctx, next, events)
	}()
	return w, nil
}

// Stop ends the watch and waits until its goroutine is gone.
func (w *Watch[T]) Stop() {
	w.once.Do(w.cancel)
	<-w.done
}

// Err says why Events was closed.
func (w *Watch[T]) Err() error {
	<-w.done
	return w.err
}

// receive passes on what comes until there is no more.
func (r *Resource[T]) receive(ctx context.Context, next func() (Event[T], error), events chan<- Event[T]) error {
	for {
		event, err := next()
		if err == io.EOF || err != nil && ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("watch %s: %w", r.Kind.Plural, err)
		}
		if event.Type != watch.Error {
			r.setKind(event.Object)
		}
		select {
		case events <- event:
		case <-ctx.Done():
			return nil
		}
	}
}

// jsonFrames decodes a stream of {"type":…,"object":…} documents.
func (r *Resource[T]) jsonFrames(body io.Reader) func() (Event[T], error) {
	stream := json.NewDecoder(body)
	return func() (event Event[T], err error) {
		var frame struct {
			Type   watch.EventType `json:"type"`
			Object json.RawMessage `json:"object"`
		}
		if err := stream.Decode(&frame); err != nil {
			return event, err
		}
		event.Type = frame.Type
		if frame.Type == watch.Error {
			event.Status = &metav1.Status{}
			return event, json.Unmarshal(frame.Object, event.Status)
		}
		event.Object = r.new()
		return event, decode(frame.Object, event.Object)
	}
}
