package client

import (
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
	request := Request{Method: http.MethodGet, Path: r.Path(namespace, ""), Query: listQuery(options), Accept: r.accept}
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
		w.err = r.receive(ctx, response.Body, events)
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

// receive decodes the stream of {"type":…,"object":…} documents.
func (r *Resource[T]) receive(ctx context.Context, body io.Reader, events chan<- Event[T]) error {
	stream := json.NewDecoder(body)
	for {
		var frame struct {
			Type   watch.EventType `json:"type"`
			Object json.RawMessage `json:"object"`
		}
		if err := stream.Decode(&frame); err != nil {
			if err == io.EOF || ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("watch %s: %w", r.Kind.Plural, err)
		}
		event := Event[T]{Type: frame.Type}
		var err error
		if frame.Type == watch.Error {
			event.Status = &metav1.Status{}
			err = json.Unmarshal(frame.Object, event.Status)
		} else {
			event.Object = r.new()
			err = decode(frame.Object, event.Object)
			r.setKind(event.Object)
		}
		if err != nil {
			return fmt.Errorf("watch %s: %w", r.Kind.Plural, err)
		}
		select {
		case events <- event:
		case <-ctx.Done():
			return nil
		}
	}
}
