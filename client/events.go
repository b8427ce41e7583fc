package client

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// recorderWriters send at the same time: few, so that in a rush what is
	// done comes before what is told of it. An object's events all go to one of
	// them, so they arrive in order and are counted in one place.
	recorderWriters = 4
	// recorderBuffer is how many events may wait per writer; when it is full,
	// further ones are dropped: events are advice, and must never slow down
	// what they tell of.
	recorderBuffer = 4000
	// recorderMemory is how many distinct events a writer remembers for counting.
	recorderMemory = 1024
	// recorderWindow is how long a repetition adds to the same event.
	recorderWindow = 10 * time.Minute
	recorderWrite  = 10 * time.Second
)

// Recorder writes Events about objects. Repetitions of one message raise its
// count instead of making new objects, so kubectl describe shows
// "Unhealthy  3s (x7 over 61s)".
type Recorder struct {
	component string
	host      string
	*sender
}

// sender is what recorders of one client may share.
type sender struct {
	events *Resource[*corev1.Event]
	log    *slog.Logger
	queues [recorderWriters]chan *corev1.Event
}

type eventKey struct {
	uid                     types.UID
	kind, key, field        string
	eventType, reason, text string
}

// NewRecorder makes a recorder that reports as component (on host, which may
// be empty). Nothing is sent before Run; a nil client records nothing.
func NewRecorder(c *Client, component, host string, log *slog.Logger) *Recorder {
	r := &Recorder{component, host, &sender{log: log}}
	for i := range r.queues {
		r.queues[i] = make(chan *corev1.Event, recorderBuffer)
	}
	if log == nil {
		r.log = slog.Default()
	}
	if c != nil {
		r.events = For(c, Events)
	}
	return r
}

// On is a recorder that reports of another host through this one, which is the
// one to run.
func (r *Recorder) On(host string) *Recorder { return &Recorder{r.component, host, r.sender} }

// Event reports something about obj, which must carry its kind.
func (r *Recorder) Event(obj Object, eventType, reason, format string, args ...any) {
	gvk := obj.GetObjectKind().GroupVersionKind()
	r.EventRef(corev1.ObjectReference{
		APIVersion: gvk.GroupVersion().String(), Kind: gvk.Kind, Namespace: obj.GetNamespace(),
		Name: obj.GetName(), UID: obj.GetUID(), ResourceVersion: obj.GetResourceVersion(),
	}, eventType, reason, format, args...)
}

// EventRef reports something about a reference, which may name a part of an
// object in its FieldPath ("spec.containers{web}").
func (r *Recorder) EventRef(ref corev1.ObjectReference, eventType, reason, format string, args ...any) {
	namespace := ref.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	now := metav1.Now()
	event := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("%s.%x", ref.Name, now.UnixNano())},
		InvolvedObject: ref, Type: eventType, Reason: reason, Message: fmt.Sprintf(format, args...),
		Source:              corev1.EventSource{Component: r.component, Host: r.host},
		ReportingController: r.component, ReportingInstance: r.host,
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}
	hash := fnv.New32a()
	fmt.Fprint(hash, ref.Kind, ref.Namespace, ref.Name)
	select {
	case r.queues[hash.Sum32()%recorderWriters] <- event:
	default:
		r.log.Warn("event dropped, too many wait", "reason", reason, "key", ref.Name)
	}
}

// Run sends events until ctx ends.
func (r *sender) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, queue := range r.queues {
		g.Go(func() error { return r.send(ctx, queue) })
	}
	return g.Wait()
}

func (r *sender) send(ctx context.Context, queue <-chan *corev1.Event) error {
	seen := map[eventKey]*corev1.Event{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case event := <-queue:
			if r.events == nil {
				continue
			}
			write, cancel := context.WithTimeout(ctx, recorderWrite)
			if err := r.record(write, seen, event); err != nil && ctx.Err() == nil {
				r.log.Warn("event not written", "reason", event.Reason, "key", event.InvolvedObject.Name, "err", err)
			}
			cancel()
		}
	}
}

// record writes an event, or raises the count of one that was seen before.
func (r *sender) record(ctx context.Context, seen map[eventKey]*corev1.Event, event *corev1.Event) error {
	key := eventKey{event.InvolvedObject.UID, event.InvolvedObject.Kind, event.Namespace + "/" + event.InvolvedObject.Name,
		event.InvolvedObject.FieldPath, event.Type, event.Reason, event.Message}
	before := seen[key]
	if before != nil && event.LastTimestamp.Sub(before.LastTimestamp.Time) < recorderWindow {
		before.Count++
		before.LastTimestamp = event.LastTimestamp
		patch, _ := json.Marshal(map[string]any{"count": before.Count, "lastTimestamp": before.LastTimestamp})
		_, err := r.events.Patch(ctx, before.Namespace, before.Name, types.StrategicMergePatchType, patch)
		if !apierrors.IsNotFound(err) {
			return err
		}
	}
	if len(seen) >= recorderMemory {
		clear(seen) // worst case: a repetition becomes a second event
	}
	seen[key] = event
	r.events.setKind(event)
	// The answer holds nothing that we do not know, so it is not decoded.
	return r.events.client.DoInto(ctx, Request{Method: http.MethodPost, Path: r.events.Path(event.Namespace, "")}, event, nil)
}
