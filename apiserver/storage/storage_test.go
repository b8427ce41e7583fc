package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"

	"tinykube/apiserver/resources"
	"tinykube/apiserver/storage/embedded"
	"tinykube/internal/etcdtest"
)

func TestMain(m *testing.M) { etcdtest.Main(m) }

// mapsRow and podsRow are rows of the test's own.
var mapsRow = &resources.Row{
	Version: "v1", Kind: "ConfigMap", Plural: "configmaps", Prefix: "configmaps", Namespaced: true,
	New: func() resources.Object { return &corev1.ConfigMap{} }, NewList: func() runtime.Object { return &corev1.ConfigMapList{} },
}

var podsRow = &resources.Row{
	Version: "v1", Kind: "Pod", Plural: "pods", Prefix: "pods", Namespaced: true,
	New: func() resources.Object { return &corev1.Pod{} }, NewList: func() runtime.Object { return &corev1.PodList{} },
	SelectableFields: func(obj resources.Object) fields.Set {
		return fields.Set{nodeField: obj.(*corev1.Pod).Spec.NodeName}
	},
}

// world is an etcd and a store on it.
type world struct {
	*Store
	endpoint string
}

// tempDir is t.TempDir with names short enough for a Unix socket.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func newWorld(t *testing.T, edit ...func(*Config)) *world {
	t.Helper()
	t.Parallel()
	etcd, err := embedded.Start(t.Context(), embedded.Config{Dir: tempDir(t), NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(etcd.Close)
	w := &world{endpoint: etcd.Endpoint}
	w.Store = w.open(t, edit...)
	return w
}

// open runs another store on the same etcd.
func (w *world) open(t *testing.T, edit ...func(*Config)) *Store {
	t.Helper()
	cfg := Config{Endpoints: []string{w.endpoint}}
	for _, e := range edit {
		e(&cfg)
	}
	s, err := New(cfg, []*resources.Row{mapsRow, podsRow}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-s.Ready()
	return s
}

func configMap(name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Data: map[string]string{"v": value}}
}

// set makes an update that writes a value.
func set(value string) func(*Item) (*Change, error) {
	return func(current *Item) (*Change, error) {
		obj, err := current.Object()
		if err != nil {
			return nil, err
		}
		changed := obj.DeepCopyObject().(*corev1.ConfigMap)
		changed.Data["v"] = value
		return &Change{Object: changed}, nil
	}
}

func must[T any](value T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func TestStoredBytesAreUpstreams(t *testing.T) {
	w := newWorld(t)
	maps, ctx := w.Table(mapsRow), t.Context()
	item := must(maps.Create(ctx, "default/a", configMap("a", "1")))(t)
	raw := must(w.client.Get(ctx, "/registry/configmaps/default/a"))(t).Kvs[0]
	if want := `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a","namespace":"default"},"data":{"v":"1"}}` + "\n"; string(raw.Value) != want {
		t.Errorf("stored %q\nwant   %q", raw.Value, want)
	}
	shipped := fmt.Sprintf(`{"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":"%d","name":"a","namespace":"default"},"data":{"v":"1"}}`, raw.ModRevision)
	if string(item.JSON()) != shipped {
		t.Errorf("shipped %q\nwant    %q", item.JSON(), shipped)
	}
	if got := string(item.AppendListJSON(nil)); got != strings.Replace(shipped, `"kind":"ConfigMap","apiVersion":"v1",`, "", 1) {
		t.Errorf("in a list: %q", got)
	}
	got := must(maps.Get(ctx, "default/a", ""))(t)
	if string(got.JSON()) != shipped {
		t.Errorf("read back %q", got.JSON())
	}
}

func TestReadsWhatOthersWrote(t *testing.T) {
	// Protobuf, JSON with the fields in another order, and an empty metadata.
	w := newWorld(t)
	ctx := t.Context()
	protobuf := must(EncodeProtobuf(configMap("p", "1"), mapsRow.GVK()))(t)
	for key, value := range map[string]string{
		"p": string(protobuf),
		"o": `{"data":{"v":"1"},"metadata":{"namespace":"default","name":"o"},"apiVersion":"v1","kind":"ConfigMap"}`,
		"e": `{"kind":"ConfigMap","apiVersion":"v1","metadata":{},"data":{"v":"1"}}`,
		"x": `not an object`,
	} {
		must(w.client.Put(ctx, "/registry/configmaps/default/"+key, value))(t)
	}
	page := must(w.Table(mapsRow).List(ctx, ListOptions{Row: mapsRow}))(t)
	if len(page.Items) != 3 {
		t.Fatalf("%d items, want 3 and the broken one left out", len(page.Items))
	}
	for _, item := range page.Items {
		obj, err := item.Object()
		if err != nil {
			t.Fatal(err)
		}
		if obj.(*corev1.ConfigMap).Data["v"] != "1" || obj.GetResourceVersion() != FormatVersion(item.Revision) || !json.Valid(item.JSON()) {
			t.Errorf("%s: %s", item.Key, item.JSON())
		}
	}
}

func TestProtobufStorage(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MediaType = ProtobufMediaType })
	maps, ctx := w.Table(mapsRow), t.Context()
	first := must(maps.Create(ctx, "default/a", configMap("a", "1")))(t)
	if raw := must(w.client.Get(ctx, "/registry/configmaps/default/a"))(t).Kvs[0].Value; !IsProtobuf(raw) {
		t.Errorf("stored %q", raw)
	}
	same := must(maps.Update(ctx, "default/a", set("1")))(t)
	if same.Revision != first.Revision {
		t.Errorf("an update that changes nothing moved the revision from %d to %d", first.Revision, same.Revision)
	}
}

func TestCreateTwice(t *testing.T) {
	w := newWorld(t)
	maps, ctx := w.Table(mapsRow), t.Context()
	must(maps.Create(ctx, "default/a", configMap("a", "1")))(t)
	if _, err := maps.Create(ctx, "default/a", configMap("a", "2")); !apierrors.IsAlreadyExists(err) {
		t.Errorf("got %v, want AlreadyExists", err)
	}
	if _, err := maps.Get(ctx, "default/b", ""); !apierrors.IsNotFound(err) {
		t.Errorf("got %v, want NotFound", err)
	}
}

// Two API servers and many clients add one to a number, each by
// compare-and-swap; none may be lost.
func TestConcurrentUpdates(t *testing.T) {
	w := newWorld(t)
	stores := []*Store{w.Store, w.open(t)}
	ctx := t.Context()
	must(w.Table(mapsRow).Create(ctx, "default/a", configMap("a", "")))(t)
	const clients, each = 8, 10
	var group sync.WaitGroup
	for i := range clients {
		group.Go(func() {
			for range each {
				_, err := stores[i%2].Table(mapsRow).Update(ctx, "default/a", func(current *Item) (*Change, error) {
					obj, err := current.Object()
					if err != nil {
						return nil, err
					}
					changed := obj.DeepCopyObject().(*corev1.ConfigMap)
					changed.Data["v"] += "x"
					return &Change{Object: changed}, nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	item := must(w.Table(mapsRow).Get(ctx, "default/a", ""))(t)
	obj, _ := item.Object()
	if n := len(obj.(*corev1.ConfigMap).Data["v"]); n != clients*each {
		t.Errorf("%d of %d updates are left", n, clients*each)
	}
}

// What one server acknowledged, a default read at another must show at once.
func TestFreshReads(t *testing.T) {
	w := newWorld(t)
	other, ctx := w.open(t).Table(mapsRow), t.Context()
	for i := range 50 {
		name := fmt.Sprintf("a%d", i)
		made := must(w.Table(mapsRow).Create(ctx, "default/"+name, configMap(name, "1")))(t)
		if i%2 == 0 { // move the revision on by something the table does not see
			must(w.client.Put(ctx, "/other", name))(t)
		}
		got := must(other.Get(ctx, "default/"+name, ""))(t)
		page := must(other.List(ctx, ListOptions{Row: mapsRow}))(t)
		if got.Revision != made.Revision || len(page.Items) != i+1 || page.Revision < made.Revision {
			t.Fatalf("read revision %d of %d, and %d items of %d", got.Revision, made.Revision, len(page.Items), i+1)
		}
	}
}

func TestUpdateRefusedByStaleCache(t *testing.T) {
	w := newWorld(t)
	maps, ctx := w.Table(mapsRow), t.Context()
	must(maps.Create(ctx, "default/a", configMap("a", "1")))(t)
	other := w.open(t).Table(mapsRow)
	second := must(other.Update(ctx, "default/a", set("2")))(t)
	// The caller insists on the second state, which this cache may not have.
	_, err := maps.Update(ctx, "default/a", func(current *Item) (*Change, error) {
		if current.Revision != second.Revision {
			return nil, errors.New("stale")
		}
		return set("3")(current)
	})
	if err != nil {
		t.Error(err)
	}
}

func TestTransactionWithAnother(t *testing.T) {
	w := newWorld(t)
	maps, pods, ctx := w.Table(mapsRow), w.Table(podsRow), t.Context()
	also := Also{Table: maps, Key: "default/taken", Object: configMap("taken", "1")}
	pod := func() *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default"}}
	}
	must(maps.Create(ctx, "default/taken", configMap("taken", "0")))(t)
	if _, err := pods.Create(ctx, "default/p", pod(), also); !errors.Is(err, ErrAlsoConflict) {
		t.Errorf("got %v, want ErrAlsoConflict", err)
	}
	if _, err := pods.Get(ctx, "default/p", ""); !apierrors.IsNotFound(err) {
		t.Errorf("half of a transaction happened: %v", err)
	}
	must(maps.Update(ctx, "default/taken", func(*Item) (*Change, error) { return &Change{}, nil }))(t)
	must(pods.Create(ctx, "default/p", pod(), also))(t)
	must(maps.Get(ctx, "default/taken", ""))(t)
}

func TestCompact(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	first := must(w.Table(mapsRow).Create(ctx, "default/a", configMap("a", "1")))(t)
	var version, revision int64
	for range 3 {
		var err error
		if version, revision, err = w.compactOnce(ctx, version, revision); err != nil {
			t.Fatal(err)
		}
		must(w.Table(mapsRow).Update(ctx, "default/a", set(fmt.Sprint(version))))(t)
	}
	_, err := w.client.Get(ctx, "/registry/configmaps/default/a", clientv3.WithRev(first.Revision))
	if err == nil {
		t.Error("the first revision is still there")
	}
	// Who comes late takes over the other's numbers.
	if v, _, err := w.compactOnce(ctx, 0, 0); err != nil || v != version {
		t.Errorf("a second server is at version %d, %v; want %d", v, err, version)
	}
}

func TestEventsExpire(t *testing.T) {
	eventsRow := &resources.Row{Version: "v1", Kind: "Event", Plural: "events", Prefix: "events", Namespaced: true,
		New: func() resources.Object { return &corev1.Event{} }}
	w := newWorld(t)
	s, err := New(Config{Endpoints: []string{w.endpoint}, EventTTL: time.Hour}, []*resources.Row{eventsRow}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s.client = w.client
	must(s.tables[eventsRow.GVR().GroupResource()].Create(t.Context(), "default/e", &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "e", Namespace: "default"}}))(t)
	kv := must(w.client.Get(t.Context(), "/registry/events/default/e"))(t).Kvs[0]
	lease := must(w.client.TimeToLive(t.Context(), clientv3.LeaseID(kv.Lease)))(t)
	if lease.GrantedTTL != int64((time.Hour + leaseSharing).Seconds()) {
		t.Errorf("the event lives for %d s", lease.GrantedTTL)
	}
}

// What was not refused can be continued at, and is what would be sent again.
func FuzzContinueToken(f *testing.F) {
	f.Add(encodeContinue(7, "default/a"))
	f.Add(encodeContinue(-1, "a"))
	f.Add("!")
	f.Add("eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiIuLi9zZWNyZXRzLyJ9")
	f.Fuzz(func(t *testing.T, token string) {
		revision, start, err := decodeContinue(token)
		if err != nil {
			return
		}
		if revision == 0 || start == "" || strings.HasPrefix(start, "/") || strings.Contains(start, "..") {
			t.Errorf("%q gave %d %q", token, revision, start)
		}
		if r, s, err := decodeContinue(encodeContinue(revision, strings.TrimSuffix(start, "\x00"))); strings.HasSuffix(start, "\x00") && (err != nil || r != revision || s != start) {
			t.Errorf("%d %q came back as %d %q, %v", revision, start, r, s, err)
		}
	})
}

// A value of etcd, whoever wrote it: what is shipped is JSON with the version,
// says what was stored, and makes the same protobuf.
func FuzzStoredValue(f *testing.F) {
	protobuf, _ := EncodeProtobuf(configMap("p", "1"), mapsRow.GVK())
	plain, _ := EncodeJSON(configMap("a", "1"), mapsRow.GVK())
	f.Add(protobuf)
	f.Add(plain)
	f.Add([]byte(`{"kind":"ConfigMap","apiVersion":"v1","metadata":{}}`))
	f.Add([]byte(`{"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":"1"},"data":{"a":"b"}}`))
	f.Add([]byte(`{"data":{"v":"1"},"metadata":{"name":"o"}}`))
	f.Add([]byte("k8s\x00\n\xff"))
	f.Fuzz(func(t *testing.T, value []byte) {
		item, err := newItem(mapsRow, "default/a", value, 7)
		if err != nil {
			return
		}
		obj, err := item.Object()
		if err != nil {
			return // only who looks inside finds out; see Selector.matches
		}
		if !json.Valid(item.JSON()) || !json.Valid(item.AppendListJSON(nil)) {
			t.Errorf("%q became %q", value, item.JSON())
		}
		if obj.GetUID() != "" && obj.GetResourceVersion() == "" {
			t.Errorf("%q has no version", value)
		}
		if gone := item.at(8); !json.Valid(gone.JSON()) {
			t.Errorf("%q is gone as %q", value, gone.JSON())
		}
		item.Protobuf()
	})
}
