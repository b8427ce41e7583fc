package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
)

const (
	namespace  = "faults"
	configMaps = "/api/v1/namespaces/" + namespace + "/configmaps"
	// patience is after what a client gives up waiting for an answer.
	patience = 1500 * time.Millisecond
	// betweenTries spares a server that is away.
	betweenTries = 20 * time.Millisecond
)

// keys are few, so that clients meet.
var keys = []string{"a", "b", "c", "d", "e"}

// writer is a client that does one thing after another, at one API server or
// the other.
type writer struct {
	id      int
	world   *world
	random  *rand.Rand
	written int
	known   map[string]int64 // versions it has seen last, which may be old
}

func newWriter(id int, w *world, seed uint64) *writer {
	return &writer{id: id, world: w, random: rand.New(rand.NewPCG(seed, uint64(id))), known: map[string]int64{}}
}

// run works until ctx ends; what is under way is finished.
func (w *writer) run(ctx context.Context) {
	for ctx.Err() == nil {
		if w.once(w.choose()) == unknown {
			time.Sleep(betweenTries)
		}
	}
}

// choose makes up the next operation.
func (w *writer) choose() *operation {
	o := &operation{key: keys[w.random.IntN(len(keys))]}
	o.base = w.known[o.key]
	switch n := w.random.IntN(10); {
	case n < 2 || o.base == 0 && n < 6:
		o.verb = "create"
	case n < 5:
		o.verb = "update"
	case n < 6:
		o.verb = "delete"
	case n < 8:
		o.verb, o.field = "patch", fmt.Sprint("c", w.id)
	case n < 9:
		o.verb = "get"
	default:
		o.verb, o.key = "list", ""
	}
	return o
}

// once does an operation and writes down how it went.
func (w *writer) once(o *operation) outcome {
	w.written++
	o.client, o.value = w.id, fmt.Sprintf("%d-%d", w.id, w.written)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	api := w.world.pick(w.random)
	o.start = w.world.history.now()
	body, err := send(ctx, api, w.request(o))
	o.end = w.world.history.now()
	o.judge(body, err)
	if o.outcome == ok && o.key != "" {
		w.known[o.key] = o.version
	}
	w.world.history.add(o)
	return o.outcome
}

func send(ctx context.Context, api *client.Client, r client.Request) ([]byte, error) {
	response, err := api.Do(ctx, r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	return io.ReadAll(response.Body)
}

// request is an operation as it goes over the wire.
func (w *writer) request(o *operation) client.Request {
	object := corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: o.key}, Data: map[string]string{"v": o.value}}
	one := configMaps + "/" + o.key
	switch o.verb {
	case "create":
		return client.Request{Method: http.MethodPost, Path: configMaps, Body: encode(object)}
	case "update":
		object.ResourceVersion = strconv.FormatInt(o.base, 10)
		return client.Request{Method: http.MethodPut, Path: one, Body: encode(object)}
	case "patch":
		return client.Request{Method: http.MethodPatch, Path: one, ContentType: "application/merge-patch+json",
			Body: encode(map[string]any{"data": map[string]string{o.field: o.value}})}
	case "delete":
		version := strconv.FormatInt(o.base, 10)
		return client.Request{Method: http.MethodDelete, Path: one,
			Body: encode(metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &version}})}
	case "get":
		return client.Request{Method: http.MethodGet, Path: one}
	}
	return client.Request{Method: http.MethodGet, Path: configMaps}
}

func encode(v any) []byte {
	data, _ := json.Marshal(v)
	return data
}

// judge turns an answer into an outcome. What is not a clear yes or no is
// unknown, and so is a yes that broke off.
func (o *operation) judge(body []byte, err error) {
	o.outcome = unknown
	switch {
	case apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err), apierrors.IsConflict(err):
		o.outcome, o.reason = refused, string(apierrors.ReasonForError(err))
	case err != nil:
	case o.verb == "list":
		var list corev1.ConfigMapList
		if json.Unmarshal(body, &list) == nil {
			o.outcome, o.version, o.items = ok, number(list.ResourceVersion), states(list.Items)
		}
	case o.verb == "delete":
		o.outcome = ok
	default:
		var object corev1.ConfigMap
		if json.Unmarshal(body, &object) == nil {
			o.outcome, o.version, o.data = ok, number(object.ResourceVersion), canonical(object.Data)
		}
	}
}

func number(version string) int64 {
	n, _ := strconv.ParseInt(version, 10, 64)
	return n
}

func states(items []corev1.ConfigMap) map[string]state {
	out := map[string]state{}
	for i := range items {
		out[items[i].Name] = state{number(items[i].ResourceVersion), canonical(items[i].Data)}
	}
	return out
}

// watcher lists and watches as an informer does, but writes down all it sees.
// It breaks off now and then, and goes on elsewhere from where it was.
type watcher struct {
	world     *world
	random    *rand.Rand
	watchList bool // it gets its list by the watch itself

	position atomic.Int64 // the last revision it knows of; 0 is none
	sessions int
	records  []record
}

func (w *watcher) run(ctx context.Context) {
	for ctx.Err() == nil {
		err := w.session(ctx)
		if gone(err) {
			w.position.Store(0)
		} else if err != nil {
			time.Sleep(betweenTries)
		}
	}
}

func gone(err error) bool { return apierrors.IsResourceExpired(err) || apierrors.IsGone(err) }

// session is one watch, after a list if there is nothing to go on from.
func (w *watcher) session(ctx context.Context) error {
	w.sessions++
	api := w.world.pick(w.random)
	query := url.Values{"watch": {"true"}, "allowWatchBookmarks": {"true"}, "timeoutSeconds": {strconv.Itoa(1 + w.random.IntN(3))}}
	var initial map[string]state // while a WatchList sends it
	switch {
	case w.position.Load() > 0:
		query.Set("resourceVersion", strconv.FormatInt(w.position.Load(), 10))
	case w.watchList:
		query.Set("sendInitialEvents", "true")
		query.Set("resourceVersionMatch", "NotOlderThan")
		initial = map[string]state{}
	default:
		if err := w.list(ctx, api); err != nil {
			return err
		}
		query.Set("resourceVersion", strconv.FormatInt(w.position.Load(), 10))
	}
	response, err := api.Do(ctx, client.Request{Method: http.MethodGet, Path: configMaps, Query: query})
	if err != nil {
		return err
	}
	defer response.Body.Close()
	decoder := json.NewDecoder(response.Body)
	for {
		var next struct {
			Type   string
			Object json.RawMessage
		}
		if err := decoder.Decode(&next); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if initial, err = w.take(next.Type, next.Object, initial); err != nil {
			return err
		}
	}
}

func (w *watcher) list(ctx context.Context, api *client.Client) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	body, err := send(ctx, api, client.Request{Method: http.MethodGet, Path: configMaps})
	if err != nil {
		return err
	}
	var list corev1.ConfigMapList
	if err := json.Unmarshal(body, &list); err != nil {
		return err
	}
	w.note(record{event: event{kind: "LIST", version: number(list.ResourceVersion)}, list: states(list.Items)})
	return nil
}

// take writes down one event; before the bookmark that ends a WatchList's
// beginning, events are only that list's items.
func (w *watcher) take(kind string, data []byte, initial map[string]state) (map[string]state, error) {
	if kind == "ERROR" {
		var status metav1.Status
		if err := json.Unmarshal(data, &status); err != nil {
			return nil, err
		}
		return nil, &apierrors.StatusError{ErrStatus: status}
	}
	var object corev1.ConfigMap
	if err := json.Unmarshal(data, &object); err != nil {
		return nil, err
	}
	version := number(object.ResourceVersion)
	switch {
	case initial != nil && kind == "ADDED":
		initial[object.Name] = state{version, canonical(object.Data)}
		return initial, nil
	case initial != nil:
		w.note(record{event: event{kind: "LIST", version: version}, list: initial})
	case kind == "BOOKMARK":
		w.note(record{event: event{kind: kind, version: version}})
	default:
		w.note(record{event: event{kind: kind, key: object.Name, version: version, data: canonical(object.Data)}})
	}
	return nil, nil
}

func (w *watcher) note(r record) {
	r.sessions = w.sessions
	w.records = append(w.records, r)
	w.position.Store(r.version)
}
