package apiserver_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"tinykube/client"
	"tinykube/internal/testenv"
)

// safeBuffer is written by one goroutine and read by another.
type safeBuffer struct {
	mu   sync.Mutex
	data bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.data.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.data.String()
}

func (b *safeBuffer) await(t *testing.T, pattern string) {
	t.Helper()
	expression := regexp.MustCompile(pattern)
	eventually(t, pattern, func() bool { return expression.MatchString(b.String()) })
}

// watchEvent is one line of a watch.
type watchEvent struct {
	Type   string
	Object struct {
		metav1.TypeMeta
		Metadata metav1.ObjectMeta
		Code     int
		Reason   string
		Message  string
	}
}

// openWatch starts a watch and returns a function that reads the next event.
func (a api) openWatch(path string) (next func() watchEvent) {
	a.Helper()
	path, query, _ := strings.Cut(path, "?")
	values, _ := url.ParseQuery(query)
	values.Set("watch", "true")
	response, err := a.Do(a.Context(), client.Request{Method: http.MethodGet, Path: path, Query: values})
	if err != nil {
		a.Fatal(err)
	}
	a.Cleanup(func() { response.Body.Close() })
	decoder := json.NewDecoder(response.Body)
	return func() watchEvent {
		a.Helper()
		var e watchEvent
		if err := decoder.Decode(&e); err != nil {
			a.Fatal(err)
		}
		return e
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	a := newAPI(t, testenv.Start(t))
	const maps = "/api/v1/namespaces/default/configmaps"
	version := func(obj map[string]any) string {
		return obj["metadata"].(map[string]any)["resourceVersion"].(string)
	}
	first := version(a.ok("POST", maps, asJSON, `{"metadata":{"name":"a"}}`))

	t.Run("from a version", func(t *testing.T) {
		next := a.openWatch(maps + "?resourceVersion=" + first)
		a.ok("PATCH", maps+"/a", asMerge, `{"metadata":{"labels":{"x":"y"}}}`)
		if e := next(); e.Type != "MODIFIED" || e.Object.Kind != "ConfigMap" || e.Object.Metadata.Labels["x"] != "y" {
			t.Errorf("got %+v", e)
		}
	})
	t.Run("WatchList", func(t *testing.T) {
		next := a.openWatch(maps + "?sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true")
		for {
			e := next()
			if e.Type == "BOOKMARK" {
				if e.Object.Metadata.Annotations[metav1.InitialEventsAnnotationKey] != "true" || e.Object.Metadata.ResourceVersion == "" || e.Object.Kind != "ConfigMap" {
					t.Errorf("the bookmark: %+v", e)
				}
				break
			}
			if e.Type != "ADDED" {
				t.Errorf("got %+v", e)
			}
		}
		made := version(a.ok("POST", maps, asJSON, `{"metadata":{"name":"b"}}`))
		if e := next(); e.Type != "ADDED" || e.Object.Metadata.ResourceVersion != made {
			t.Errorf("got %+v", e)
		}
		a.ok("DELETE", maps+"/b", "", "")
		if e := next(); e.Type != "DELETED" || e.Object.Metadata.ResourceVersion <= made {
			t.Errorf("a deletion has the version of the deletion: %+v", e)
		}
	})
	t.Run("WatchList on a list", func(t *testing.T) {
		if code, _, status := a.send("GET", maps+"?sendInitialEvents=true", "", ""); status == nil || code != 422 {
			t.Errorf("accepted: %d", code)
		}
	})
	t.Run("selector boundary", func(t *testing.T) {
		next := a.openWatch(maps + "?labelSelector=in%3D1&resourceVersion=" + first)
		for _, value := range []string{"1", "2"} {
			a.ok("PATCH", maps+"/a", asMerge, `{"metadata":{"labels":{"in":"`+value+`"}}}`)
		}
		if e := next(); e.Type != "ADDED" {
			t.Errorf("got %+v", e)
		}
		if e := next(); e.Type != "DELETED" || e.Object.Metadata.Labels["in"] != "1" {
			t.Errorf("got %+v", e)
		}
	})
	t.Run("bookmark at the end", func(t *testing.T) {
		next := a.openWatch(maps + "?allowWatchBookmarks=true&timeoutSeconds=1&fieldSelector=metadata.name%3Dnobody&resourceVersion=" + first)
		a.ok("POST", "/api/v1/namespaces/default/secrets", asJSON, `{"metadata":{"name":"s"}}`)
		if e := next(); e.Type != "BOOKMARK" || e.Object.Metadata.ResourceVersion < first {
			t.Errorf("got %+v", e)
		}
	})
	t.Run("metadata only", func(t *testing.T) {
		response, err := a.Do(t.Context(), client.Request{Method: "GET", Path: maps, Accept: "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"})
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		var list metav1.PartialObjectMetadataList
		if err := json.NewDecoder(response.Body).Decode(&list); err != nil || list.Kind != "PartialObjectMetadataList" || len(list.Items) == 0 || list.Items[0].Kind != "PartialObjectMetadata" {
			t.Errorf("%v %+v", err, list)
		}
	})
}

// A client that speaks protobuf gets the same things in another form.
func TestProtobuf(t *testing.T) {
	t.Parallel()
	a := newAPI(t, testenv.Start(t))
	const maps = "/api/v1/namespaces/default/configmaps"
	a.ok("POST", maps, asJSON, `{"metadata":{"name":"a"},"data":{"x":"y"}}`)
	fetch := func(query url.Values) []byte {
		response, err := a.Do(t.Context(), client.Request{Method: "GET", Path: maps, Query: query, Accept: "application/vnd.kubernetes.protobuf,application/json"})
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if query.Has("watch") {
			if got := response.Header.Get("Content-Type"); got != "application/vnd.kubernetes.protobuf;stream=watch" {
				t.Errorf("Content-Type %s", got)
			}
			var size uint32
			reader := bufio.NewReader(response.Body)
			if err := binary.Read(reader, binary.BigEndian, &size); err != nil {
				t.Fatal(err)
			}
			data := make([]byte, size)
			if _, err := io.ReadFull(reader, data); err != nil {
				t.Fatal(err)
			}
			return data
		}
		data, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	open := func(data []byte) *runtime.Unknown {
		var unknown runtime.Unknown
		if !bytes.HasPrefix(data, []byte("k8s\x00")) {
			t.Fatalf("no magic in %q", data)
		}
		if err := unknown.Unmarshal(data[4:]); err != nil {
			t.Fatal(err)
		}
		return &unknown
	}
	list := open(fetch(nil))
	var maplist corev1.ConfigMapList
	if err := maplist.Unmarshal(list.Raw); err != nil || list.Kind != "ConfigMapList" || len(maplist.Items) != 1 || maplist.Items[0].Data["x"] != "y" || maplist.ResourceVersion == "" {
		t.Errorf("%v %v %+v", err, list.TypeMeta, maplist)
	}
	var event metav1.WatchEvent
	if err := event.Unmarshal(fetch(url.Values{"watch": {"true"}})); err != nil || event.Type != "ADDED" {
		t.Fatalf("%v %+v", err, event)
	}
	object := open(event.Object.Raw)
	var one corev1.ConfigMap
	if err := one.Unmarshal(object.Raw); err != nil || object.Kind != "ConfigMap" || one.Data["x"] != "y" || one.ResourceVersion == "" {
		t.Errorf("%v %+v", err, one)
	}
}

// A list that is large and may be compressed is.
func TestGzip(t *testing.T) {
	t.Parallel()
	a := newAPI(t, testenv.Start(t))
	const maps = "/api/v1/namespaces/default/configmaps"
	a.ok("POST", maps, asJSON, `{"metadata":{"name":"big"},"data":{"x":"`+strings.Repeat("y", 200<<10)+`"}}`)
	response, err := a.Do(t.Context(), client.Request{Method: "GET", Path: maps})
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.Header.Get("Content-Encoding") != "" {
		t.Error("compressed for a client that cannot read it")
	}
}

func TestPagesOverHTTP(t *testing.T) {
	t.Parallel()
	a := newAPI(t, testenv.Start(t))
	const maps = "/api/v1/namespaces/default/configmaps"
	for i := range 5 {
		a.ok("POST", maps, asJSON, fmt.Sprintf(`{"metadata":{"name":"a%d"}}`, i))
	}
	page := a.ok("GET", maps+"?limit=2", "", "")
	meta := page["metadata"].(map[string]any)
	if len(page["items"].([]any)) != 2 || meta["remainingItemCount"] != 3.0 {
		t.Errorf("first page: %v", meta)
	}
	item := page["items"].([]any)[0].(map[string]any)
	if item["kind"] != nil || page["kind"] != "ConfigMapList" {
		t.Errorf("items of a list have no kind: %v", item)
	}
	rest := a.ok("GET", maps+"?limit=10&continue="+url.QueryEscape(meta["continue"].(string)), "", "")
	if len(rest["items"].([]any)) != 3 {
		t.Errorf("second page: %v", rest)
	}
	a.ok("DELETE", maps, "", "")
	if left := a.ok("GET", maps, "", ""); len(left["items"].([]any)) != 0 {
		t.Errorf("left after deletecollection: %v", left)
	}
}
