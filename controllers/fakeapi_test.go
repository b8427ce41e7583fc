package controllers

// fakeAPI is an API server in a few pages, for tests in virtual time: the real
// one has sockets and a disk, which testing/synctest cannot wait for.
//
// It stands in at the HTTP boundary, so that everything from client.Client up
// is the real thing. It stores, checks resourceVersions and UIDs, keeps spec
// and status apart, deletes in two steps where the real one does, and streams
// watches. It does not validate, default, authorize, or speak of versions.
// What only the real server can tell is tested against the real one.
//
// Lag and loss are its other purpose: a watch can be made to trail behind, and
// any request to fail before or after it took effect.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"tinykube/client"
)

// object is any object, as JSON.
type object = map[string]any

// fakeAPI is the store and, as an http.RoundTripper, the way to it.
type fakeAPI struct {
	// Lag is by how much watches trail. Set it before use.
	Lag time.Duration
	faults
	// Fault is asked about every write: an error before means that it does not
	// happen, an error after that it does but nobody hears of it. Either may
	// be nil.
	Fault func(method, path string) (before, after error)

	mu          sync.Mutex // guards all below
	revision    int
	compacted   int                    // no watch can start before it
	collections map[string]*collection // by "group/plural"
	writes      []string               // "POST pods web-x", in order, since last asked
	history     []string               // those of the manager, from the beginning
}

type collection struct {
	objects map[string]object // by "namespace/name"
	log     []event           // every change, for watches
	changed chan struct{}     // closed and replaced at every change
}

type event struct {
	revision int
	at       time.Time
	kind     string // ADDED MODIFIED DELETED
	object   []byte
}

func newFakeAPI() *fakeAPI { return &fakeAPI{collections: map[string]*collection{}} }

// Config is how a client reaches the server.
func (s *fakeAPI) Config() *client.Config {
	return &client.Config{Host: "http://fake", UserAgent: "test", Transport: s}
}

// Writes returns the writes since the last call, but for events and leases.
func (s *fakeAPI) Writes() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	writes := s.writes
	s.writes = nil
	return writes
}

// Compact forgets the past and ends every watch: whoever was behind must list.
func (s *fakeAPI) Compact() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision++
	s.compacted = s.revision
	for _, c := range s.collections {
		c.log = nil
		close(c.changed)
		c.changed = make(chan struct{})
	}
}

// RoundTrip answers a request; a client sees no difference to a connection.
func (s *fakeAPI) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		body, _ = io.ReadAll(r.Body)
	}
	if answer := builtIn(r, body); answer != nil {
		return respond(r, http.StatusOK, answer), nil
	}
	t := parse(r.URL.Path)
	if r.Method == http.MethodGet && t.name == "" && t.plural == s.Unlisted {
		return respond(r, http.StatusInternalServerError, apierrors.NewInternalError(errors.New("conversion failed")).ErrStatus), nil
	}
	if r.Method == http.MethodGet && r.URL.Query().Get("watch") == "true" {
		return s.watch(r, t)
	}
	before, after := s.fault(r)
	if before != nil {
		return nil, before
	}
	s.mu.Lock()
	answer, err := s.serve(r, t, body)
	s.mu.Unlock()
	if after != nil {
		return nil, after
	}
	code := http.StatusOK
	if err != nil {
		var status *apierrors.StatusError
		if !errors.As(err, &status) {
			status = apierrors.NewInternalError(err)
		}
		status.ErrStatus.Kind, status.ErrStatus.APIVersion = "Status", "v1"
		answer, code = status.ErrStatus, int(status.ErrStatus.Code)
	}
	return respond(r, code, answer), nil
}

func respond(r *http.Request, code int, answer any) *http.Response {
	raw, err := json.Marshal(answer)
	if err != nil {
		panic(err)
	}
	return &http.Response{StatusCode: code, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(raw)), Request: r}
}

// target is what a path names.
type target struct{ group, plural, namespace, name, subresource string }

func (t target) collection() string { return t.group + "/" + t.plural }
func (t target) key() string        { return t.namespace + "/" + t.name }
func (t target) resource() schema.GroupResource {
	return schema.GroupResource{Group: t.group, Resource: t.plural}
}

// parse reads /api/v1/… and /apis/GROUP/VERSION/….
func parse(path string) target {
	var t target
	parts := strings.Split(strings.Trim(path, "/"), "/")
	if parts[0] == "apis" {
		t.group, parts = parts[1], parts[1:]
	}
	parts = parts[2:]
	if parts[0] == "namespaces" && len(parts) > 2 && parts[2] != "status" && parts[2] != "finalize" {
		t.namespace, parts = parts[1], parts[2:]
	}
	parts = append(parts, "", "")
	t.plural, t.name, t.subresource = parts[0], parts[1], parts[2]
	return t
}

// serve runs one request; mu is held.
func (s *fakeAPI) serve(r *http.Request, t target, body []byte) (any, error) {
	c := s.collection(t.collection())
	if r.Method != http.MethodGet && t.plural != "events" && t.plural != "leases" {
		write := strings.TrimSpace(fmt.Sprintf("%s %s %s %s", r.Method, t.plural, t.name, t.subresource))
		s.writes = append(s.writes, write)
		if byManager(r) {
			s.history = append(s.history, write)
		}
	}
	if s.meddles(r, t) && c.objects[t.key()] != nil {
		obj := copied(c.objects[t.key()])
		meta(obj)["annotations"] = with(meta(obj)["annotations"], corev1.LastAppliedConfigAnnotation, strconv.Itoa(s.revision))
		s.put(c, t, obj, "MODIFIED")
	}
	have, exists := c.objects[t.key()]
	switch {
	case r.Method == http.MethodGet && t.name == "":
		return s.list(c, t, r.URL.Query().Get("fieldSelector")), nil
	case r.Method == http.MethodPost && t.subresource == "":
		return s.create(c, t, body)
	case r.Method == http.MethodDelete && t.name == "":
		return s.deleteAll(c, t, body)
	case !exists:
		return nil, apierrors.NewNotFound(t.resource(), t.name)
	}
	switch r.Method {
	case http.MethodPost:
		return s.bind(c, t, have, body)
	case http.MethodGet:
		return have, nil
	case http.MethodPut:
		return s.update(c, t, have, decode(body))
	case http.MethodPatch:
		result, err := patched(r.Header.Get("Content-Type"), t, have, body)
		if err != nil {
			return nil, err
		}
		return s.update(c, t, have, result)
	case http.MethodDelete:
		return s.delete(c, t, have, body)
	}
	return nil, apierrors.NewMethodNotSupported(t.resource(), r.Method)
}

func (s *fakeAPI) collection(name string) *collection {
	if s.collections[name] == nil {
		s.collections[name] = &collection{objects: map[string]object{}, changed: make(chan struct{})}
	}
	return s.collections[name]
}

func (s *fakeAPI) list(c *collection, t target, selector string) any {
	items := []object{}
	for key, obj := range c.objects {
		namespace, _, _ := strings.Cut(key, "/")
		if (t.namespace == "" || namespace == t.namespace) && selects(selector, obj) {
			items = append(items, obj)
		}
	}
	return object{"metadata": object{"resourceVersion": strconv.Itoa(s.revision)}, "items": items}
}

func (s *fakeAPI) create(c *collection, t target, body []byte) (any, error) {
	obj := decode(body)
	m := meta(obj)
	t.name, _ = m["name"].(string)
	if c.objects[t.key()] != nil {
		return nil, apierrors.NewAlreadyExists(t.resource(), t.name)
	}
	m["uid"] = fmt.Sprintf("uid-%d", s.revision+1)
	m["creationTimestamp"] = time.Now().UTC().Format(time.RFC3339)
	m["generation"] = float64(1)
	if t.plural == "jobs" {
		selectByUID(obj)
	}
	return s.put(c, t, obj, "ADDED"), nil
}

// bind gives a pod its node.
func (s *fakeAPI) bind(c *collection, t target, have object, body []byte) (any, error) {
	var binding corev1.Binding
	if err := json.Unmarshal(body, &binding); err != nil {
		return nil, err
	}
	obj := copied(have)
	obj["spec"].(object)["nodeName"] = binding.Target.Name
	return s.put(c, t, obj, "MODIFIED"), nil
}

// update replaces spec or status, never both, as the real server does.
func (s *fakeAPI) update(c *collection, t target, have, obj object) (any, error) {
	m, was := meta(obj), meta(have)
	if v := m["resourceVersion"]; v != nil && v != was["resourceVersion"] {
		return nil, apierrors.NewConflict(t.resource(), t.name, errors.New("the object has been modified"))
	}
	if v := m["uid"]; v != nil && v != was["uid"] {
		return nil, apierrors.NewConflict(t.resource(), t.name, errors.New("the UID differs"))
	}
	for _, fixed := range []string{"uid", "creationTimestamp", "deletionTimestamp", "generation"} {
		if m[fixed] = was[fixed]; m[fixed] == nil {
			delete(m, fixed)
		}
	}
	switch {
	case t.subresource == "status":
		obj["spec"] = have["spec"]
	case t.subresource != "approval" && t.plural != "events" && have["status"] != nil:
		obj["status"] = have["status"]
	case t.subresource != "approval" && t.plural != "events":
		delete(obj, "status")
	}
	m["resourceVersion"] = was["resourceVersion"]
	if equal(obj, have) {
		return have, nil // nothing changed: nothing is written
	}
	if !equal(obj["spec"], have["spec"]) {
		generation, _ := was["generation"].(float64)
		m["generation"] = generation + 1
	}
	if m["deletionTimestamp"] != nil && empty(m["finalizers"]) && !held(t, obj) {
		return s.put(c, t, obj, "DELETED"), nil
	}
	return s.put(c, t, obj, "MODIFIED"), nil
}

// delete removes an object, or marks it: while it has finalizers, and for a pod
// on a node until its kubelet deletes it with grace period zero.
func (s *fakeAPI) delete(c *collection, t target, have object, body []byte) (any, error) {
	var options metav1.DeleteOptions
	if len(body) > 0 {
		_ = json.Unmarshal(body, &options)
	}
	m := meta(have)
	if p := options.Preconditions; p != nil && p.UID != nil && string(*p.UID) != m["uid"] {
		return nil, apierrors.NewConflict(t.resource(), t.name, errors.New("the UID differs"))
	}
	spec, _ := have["spec"].(object)
	placed := t.plural == "pods" && spec["nodeName"] != nil && spec["nodeName"] != ""
	graceful := placed && (options.GracePeriodSeconds == nil || *options.GracePeriodSeconds > 0)
	if options.PropagationPolicy != nil && *options.PropagationPolicy == metav1.DeletePropagationForeground && s.Collects && m["deletionTimestamp"] == nil {
		have = copied(have)
		m = meta(have)
		finalizers, _ := m["finalizers"].([]any)
		m["finalizers"] = append(finalizers, metav1.FinalizerDeleteDependents)
	}
	if !graceful && empty(m["finalizers"]) && (t.plural == "pods" || !held(t, have)) {
		return s.put(c, t, copied(have), "DELETED"), nil
	}
	if m["deletionTimestamp"] != nil {
		return have, nil
	}
	obj := copied(have)
	meta(obj)["deletionTimestamp"] = time.Now().UTC().Format(time.RFC3339)
	return s.put(c, t, obj, "MODIFIED"), nil
}

// put is the only place where the store changes.
func (s *fakeAPI) put(c *collection, t target, obj object, kind string) object {
	s.revision++
	meta(obj)["resourceVersion"] = strconv.Itoa(s.revision)
	if kind == "DELETED" {
		delete(c.objects, t.key())
	} else {
		c.objects[t.key()] = obj
	}
	raw, err := json.Marshal(obj)
	if err != nil {
		panic(err)
	}
	c.log = append(c.log, event{s.revision, time.Now(), kind, raw})
	close(c.changed)
	c.changed = make(chan struct{})
	return decode(raw)
}

// watch streams a collection's log from a revision on.
func (s *fakeAPI) watch(r *http.Request, t target) (*http.Response, error) {
	query := r.URL.Query()
	if query.Get("sendInitialEvents") == "true" {
		return respond(r, http.StatusUnprocessableEntity, object{"kind": "Status", "status": "Failure", "reason": "Invalid", "code": 422}), nil
	}
	from, _ := strconv.Atoi(query.Get("resourceVersion"))
	reader, writer := io.Pipe()
	go func() {
		defer writer.Close()
		for {
			s.mu.Lock()
			c := s.collection(t.collection())
			changed, pending, compacted := c.changed, c.log, s.compacted
			s.mu.Unlock()
			if from < compacted {
				fmt.Fprint(writer, `{"type":"ERROR","object":{"kind":"Status","status":"Failure","reason":"Expired","code":410}}`)
				return
			}
			for _, e := range pending {
				if e.revision <= from {
					continue
				}
				if !sleep(r, s.lag(t, e)-time.Since(e.at)) {
					return
				}
				from = e.revision
				if !selects(query.Get("fieldSelector"), decode(e.object)) {
					continue
				}
				for range s.times() {
					if _, err := fmt.Fprintf(writer, "{\"type\":%q,\"object\":%s}\n", e.kind, e.object); err != nil {
						return
					}
				}
			}
			select {
			case <-changed:
			case <-r.Context().Done():
				return
			}
		}
	}()
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: reader, Request: r}, nil
}

func sleep(r *http.Request, d time.Duration) bool {
	if d <= 0 {
		return r.Context().Err() == nil
	}
	select {
	case <-time.After(d):
		return true
	case <-r.Context().Done():
		return false
	}
}

// typed gives the Go types whose tags say how lists merge.
var typed = map[string]any{"pods": corev1.Pod{}, "nodes": corev1.Node{}}

func patched(contentType string, t target, have object, body []byte) (object, error) {
	obj, change := copied(have), decode(body)
	if strings.HasPrefix(contentType, "application/strategic-merge-patch") {
		schema := typed[t.plural]
		if schema == nil {
			schema = metav1.PartialObjectMetadata{}
		}
		merged, err := strategicpatch.StrategicMergeMapPatch(obj, change, schema)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		return merged, nil
	}
	merge(obj, change)
	return obj, nil
}

// merge is RFC 7386.
func merge(into, change object) {
	for key, value := range change {
		inner, isObject := value.(object)
		existing, hasObject := into[key].(object)
		switch {
		case value == nil:
			delete(into, key)
		case isObject && hasObject:
			merge(existing, inner)
		default:
			into[key] = value
		}
	}
}

func decode(raw []byte) object {
	obj := object{}
	if err := json.Unmarshal(raw, &obj); err != nil {
		panic(fmt.Sprintf("not an object: %s", raw))
	}
	return obj
}

func copied(obj object) object {
	raw, err := json.Marshal(obj)
	if err != nil {
		panic(err)
	}
	return decode(raw)
}

func meta(obj object) object {
	m, _ := obj["metadata"].(object)
	if m == nil {
		m = object{}
		obj["metadata"] = m
	}
	return m
}

func equal(a, b any) bool {
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return bytes.Equal(x, y)
}

func empty(list any) bool {
	l, _ := list.([]any)
	return len(l) == 0
}
