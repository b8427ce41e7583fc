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
	"golang.org/x/time/rate"

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
	// recorderMemory is how many objects a writer remembers for counting.
	recorderMemory = 1024
	// recorderBurst is how many writes an object causes at once, recorderRefill
	// after how long it has one more: a probe that fails every second must not
	// write every second. What is not written is counted all the same.
	recorderBurst  = 25
	recorderRefill = 5 * time.Minute
	// recorderSimilar is the first of an object's messages of one reason within
	// the window that shares one event with those which follow.
	recorderSimilar = 10
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
	limit  *rate.Limiter // nil: none
}

// objectKey is what events are about, and on which host they were seen.
type objectKey struct{ host, apiVersion, kind, namespace, name, uid string }

// told is what a writer remembers of one object's events.
type told struct {
	allowed *rate.Limiter
	reasons map[reasonKey]*similar
	events  map[eventKey]*corev1.Event
}

type reasonKey struct{ eventType, reason string }

// similar are the messages of one reason.
type similar struct {
	texts map[string]bool
	last  time.Time
}

type eventKey struct {
	reasonKey
	field, text string
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

// Limit spaces out what is sent. It is called before Run.
func (r *Recorder) Limit(l *rate.Limiter) { r.limit = l }

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
	seen := map[objectKey]*told{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case event := <-queue:
			if r.events == nil {
				continue
			}
			if r.limit != nil && r.limit.Wait(ctx) != nil {
				return nil // ended meanwhile
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
//
// Upstream: kubernetes@v1.36 staging/src/k8s.io/client-go/tools/record/events_cache.go EventCorrelator.
func (r *sender) record(ctx context.Context, seen map[objectKey]*told, event *corev1.Event) error {
	about := event.InvolvedObject
	object := objectKey{event.Source.Host, about.APIVersion, about.Kind, about.Namespace, about.Name, string(about.UID)}
	of := seen[object]
	if of == nil {
		if len(seen) >= recorderMemory {
			clear(seen) // worst case: a repetition becomes a second event
		}
		of = &told{rate.NewLimiter(rate.Every(recorderRefill), recorderBurst), map[reasonKey]*similar{}, map[eventKey]*corev1.Event{}}
		seen[object] = of
	}
	now := event.LastTimestamp
	kept, repeated := of.count(event)
	if !of.allowed.AllowN(now.Time, 1) {
		return nil
	}
	if repeated {
		patch, _ := json.Marshal(map[string]any{"count": kept.Count, "lastTimestamp": now, "message": kept.Message})
		_, err := r.events.Patch(ctx, kept.Namespace, kept.Name, types.StrategicMergePatchType, patch)
		if !apierrors.IsNotFound(err) {
			return err
		}
	}
	r.events.setKind(kept)
	// The answer holds nothing that we do not know, so it is not decoded.
	return r.events.client.DoInto(ctx, Request{Method: http.MethodPost, Path: r.events.Path(kept.Namespace, "")}, kept, nil)
}

// count is the event as it now stands, and whether it is an older one which
// has come again. Too many messages of one reason become one event, which has
// the text of the last.
func (t *told) count(event *corev1.Event) (kept *corev1.Event, repeated bool) {
	now := event.LastTimestamp
	reason := reasonKey{event.Type, event.Reason}
	alike := t.reasons[reason]
	if alike == nil || now.Sub(alike.last) > recorderWindow {
		alike = &similar{texts: map[string]bool{}}
		t.reasons[reason] = alike
	}
	alike.last = now.Time
	key := eventKey{reason, event.InvolvedObject.FieldPath, event.Message}
	if alike.texts[event.Message] || len(alike.texts)+1 < recorderSimilar {
		alike.texts[event.Message] = true
	} else {
		key.field, key.text = "", ""
		event.Message = "(combined from similar events): " + event.Message
	}
	before := t.events[key]
	if before == nil || now.Sub(before.LastTimestamp.Time) >= recorderWindow {
		t.events[key] = event
		return event, false
	}
	before.Count++
	before.LastTimestamp, before.Message = now, event.Message
	return before, true
}
