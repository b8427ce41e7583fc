package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// faultyServer serves ConfigMaps from memory, and misbehaves as told: real
// servers do all of this, but not when asked.
type faultyServer struct {
	*httptest.Server

	mu          sync.Mutex
	revision    int
	objects     map[string]int // name → revision
	history     []string       // events as JSON lines
	oldest      int            // history before this revision is gone
	noWatchList bool
	lists       int
	cut         chan struct{} // closed to end all watches
	changed     chan struct{} // closed at every change
}

func newFaultyServer(t *testing.T) *faultyServer {
	s := &faultyServer{objects: map[string]int{}, cut: make(chan struct{}), changed: make(chan struct{})}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	t.Cleanup(s.cutWatches)
	return s
}

func object(name string, revision int) string {
	return fmt.Sprintf(`{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":%q,"namespace":"d","uid":"%s-u","resourceVersion":"%d"}}`, name, name, revision)
}

// change writes (or deletes) an object and records the event.
func (s *faultyServer) change(name string, remove bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision++
	kind := "MODIFIED"
	if _, exists := s.objects[name]; !exists {
		kind = "ADDED"
	}
	s.objects[name] = s.revision
	if remove {
		kind = "DELETED"
		delete(s.objects, name)
	}
	s.history = append(s.history, fmt.Sprintf(`{"type":%q,"object":%s}`, kind, object(name, s.revision)))
	close(s.changed)
	s.changed = make(chan struct{})
}

// compact forgets the history, as etcd does after a while.
func (s *faultyServer) compact() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.oldest = s.revision
}

func (s *faultyServer) cutWatches() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.cut)
	s.cut = make(chan struct{})
}

func (s *faultyServer) serve(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	switch {
	case q.Get("watch") == "":
		s.mu.Lock()
		defer s.mu.Unlock()
		s.lists++
		var items []json.RawMessage
		for name, revision := range s.objects {
			items = append(items, json.RawMessage(object(name, revision)))
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"kind": "ConfigMapList", "apiVersion": "v1",
			"metadata": map[string]string{"resourceVersion": strconv.Itoa(s.revision)}, "items": items})
	case q.Get("sendInitialEvents") == "true" && s.noWatchList:
		fail(w, http.StatusUnprocessableEntity, "Invalid")
	default:
		s.watch(w, r, q.Get("sendInitialEvents") == "true", q.Get("resourceVersion"))
	}
}

func fail(w http.ResponseWriter, code int, reason string) {
	w.WriteHeader(code)
	fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":%q,"code":%d}`, reason, code)
}

func (s *faultyServer) watch(w http.ResponseWriter, r *http.Request, initial bool, from string) {
	s.mu.Lock()
	cut := s.cut
	position, _ := strconv.Atoi(from)
	if initial {
		for name, revision := range s.objects {
			fmt.Fprintf(w, `{"type":"ADDED","object":%s}`+"\n", object(name, revision))
		}
		fmt.Fprintf(w, `{"type":"BOOKMARK","object":{"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":"%d","annotations":{"k8s.io/initial-events-end":"true"}}}}`+"\n", s.revision)
		position = s.revision
	} else if position < s.oldest {
		s.mu.Unlock()
		fail(w, http.StatusGone, "Expired")
		return
	}
	s.mu.Unlock()
	for {
		s.mu.Lock()
		pending, changed := s.history[min(position, len(s.history)):], s.changed
		position = len(s.history)
		s.mu.Unlock()
		for _, line := range pending {
			fmt.Fprintln(w, line)
		}
		w.(http.Flusher).Flush()
		select {
		case <-cut:
			return
		case <-r.Context().Done():
			return
		case <-changed:
		}
	}
}

func (s *faultyServer) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for name, revision := range s.objects {
		names = append(names, fmt.Sprintf("%s@%d", name, revision))
	}
	slices.Sort(names)
	return names
}

// follow runs an informer whose handlers keep a copy of their own: it must
// equal the informer's, or an event was lost or repeated wrongly.
func follow(t *testing.T, s *faultyServer, options InformerOptions[*corev1.ConfigMap]) (*Informer[*corev1.ConfigMap], func() []string) {
	c, err := New(&Config{Host: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	informer := NewInformer(For(c, ConfigMaps), options)
	var mu sync.Mutex
	seen := map[string]string{}
	informer.OnChange(func(old, new *corev1.ConfigMap) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case new == nil:
			delete(seen, old.Name)
		default:
			if _, known := seen[new.Name]; known != (old != nil) {
				t.Errorf("handler was told old=%v of %s, which it knew: %v", old != nil, new.Name, known)
			}
			seen[new.Name] = new.ResourceVersion
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = informer.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return informer, func() []string {
		mu.Lock()
		defer mu.Unlock()
		var names []string
		for name, version := range seen {
			names = append(names, name+"@"+version)
		}
		slices.Sort(names)
		return names
	}
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatalf("not in time: %s", what)
}

// The copy stays equal to the store under cut watches, compaction and changes
// nobody was told of.
func TestInformerConverges(t *testing.T) {
	for _, noWatchList := range []bool{false, true} {
		t.Run(fmt.Sprintf("noWatchList=%v", noWatchList), func(t *testing.T) {
			s := newFaultyServer(t)
			s.noWatchList = noWatchList
			s.change("before", false)
			informer, seen := follow(t, s, InformerOptions[*corev1.ConfigMap]{})
			if !WaitSynced(t.Context(), informer.Synced()) {
				t.Fatal("not synced")
			}
			equal := func() bool { return slices.Equal(seen(), s.names()) && len(informer.List()) == len(s.names()) }
			eventually(t, "first list", equal)
			s.change("a", false)
			s.change("a", false)
			eventually(t, "events", equal)
			s.cutWatches()
			s.change("b", false)
			s.change("before", true)
			eventually(t, "events across a cut", equal)
			s.cutWatches()
			s.change("a", true)
			s.change("c", false)
			s.compact()
			eventually(t, "a deletion that was compacted away", equal)
			if _, ok := informer.Get("d/a"); ok {
				t.Error("a deleted object is still there")
			}
		})
	}
}

// Handlers hear of a first list in the server's order.
func TestFirstListKeepsItsOrder(t *testing.T) {
	var items []*corev1.ConfigMap
	for i, name := range []string{"a", "b", "c", "d", "e", "f", "g", "b"} {
		items = append(items, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name, ResourceVersion: strconv.Itoa(i)}})
	}
	var got []string
	for _, item := range latest(items) {
		got = append(got, item.Name+item.ResourceVersion)
	}
	if want := []string{"a0", "b7", "c2", "d3", "e4", "f5", "g6"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestInformerIndexesAndResyncs(t *testing.T) {
	s := newFaultyServer(t)
	s.change("a1", false)
	s.change("a2", false)
	s.change("b1", false)
	informer, _ := follow(t, s, InformerOptions[*corev1.ConfigMap]{
		Indexers: map[string]func(*corev1.ConfigMap) []string{"letter": func(c *corev1.ConfigMap) []string { return []string{c.Name[:1]} }},
	})
	WaitSynced(t.Context(), informer.Synced())
	if got := len(informer.ByIndex("letter", "a")); got != 2 {
		t.Errorf("%d objects with a, want 2", got)
	}
	s.change("a1", true)
	eventually(t, "index follows a deletion", func() bool { return len(informer.ByIndex("letter", "a")) == 1 })
	if got := informer.ByIndex("letter", "z"); len(got) != 0 {
		t.Errorf("%d objects with z", len(got))
	}
	if gvk := informer.List()[0].GroupVersionKind(); gvk.Kind != "ConfigMap" {
		t.Errorf("a cached object has kind %q", gvk.Kind)
	}
}

func TestRequestsErrorsAndRetries(t *testing.T) {
	var calls int
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls++
		switch {
		case r.URL.Path == "/api/v1/namespaces/d/configmaps/busy" && calls == 1:
			w.Header().Set("Retry-After", "1")
			fail(w, http.StatusTooManyRequests, "TooManyRequests")
		case r.URL.Path == "/api/v1/namespaces/d/configmaps/proxy":
			http.Error(w, "<html>bad gateway", http.StatusBadGateway)
		default:
			fmt.Fprint(w, object("busy", 1))
		}
	}))
	defer server.Close()
	c, err := New(&Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	maps := For(c, ConfigMaps)
	if got, err := maps.Get(t.Context(), "d", "busy"); err != nil || got.Name != "busy" || calls != 2 {
		t.Errorf("after a 429: %v, %v, %d calls", got, err, calls)
	}
	if _, err := maps.Get(t.Context(), "d", "proxy"); err == nil {
		t.Error("a proxy's error page was taken for an object")
	}
	if _, err := maps.Get(t.Context(), "d", ""); err == nil {
		t.Error("get without a name read the collection")
	}
	if err := maps.Delete(t.Context(), "d", "", metav1.DeleteOptions{}); err == nil {
		t.Error("delete without a name would have deleted the collection")
	}
	if _, err := New(&Config{Host: "not a url"}); err == nil {
		t.Error("a Host that is no URL was accepted")
	}
}
