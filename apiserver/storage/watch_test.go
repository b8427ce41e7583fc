package storage

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/watch"

	"tinykube/internal/etcdtest"
)

// events reads a watcher until it has seen n events.
func events(t *testing.T, w *Watcher, n int) []string {
	t.Helper()
	var out []string
	for len(out) < n {
		select {
		case <-w.Bell():
		case <-time.After(20 * time.Second):
			t.Fatalf("only %v", out)
		}
		batch, _, err := w.Take()
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range batch {
			out = append(out, fmt.Sprintf("%s %s %d", e.Type, e.Item.Key, e.Item.Revision))
		}
	}
	return out
}

func TestWatchFromRevision(t *testing.T) {
	w := newWorld(t)
	maps, ctx := w.Table(mapsRow), t.Context()
	start := must(maps.Create(ctx, "default/a", configMap("a", "1")))(t)
	second := must(maps.Update(ctx, "default/a", set("2")))(t)
	gone := must(maps.Update(ctx, "default/a", func(*Item) (*Change, error) { return &Change{}, nil }))(t)
	watcher := must(maps.Watch(ctx, WatchOptions{Row: mapsRow, ResourceVersion: FormatVersion(start.Revision)}))(t)
	defer watcher.Stop()
	got := events(t, watcher, 2)
	want := []string{
		fmt.Sprintf("%s default/a %d", watch.Modified, second.Revision),
		fmt.Sprintf("%s default/a %d", watch.Deleted, gone.Revision),
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestSelectorBoundary(t *testing.T) {
	w := newWorld(t)
	pods, ctx := w.Table(podsRow), t.Context()
	selector := Selector{Fields: fields.OneTermEqualSelector(nodeField, "n1")}
	watcher := must(pods.Watch(ctx, WatchOptions{Row: podsRow, Selector: selector, ResourceVersion: "", Initial: true}))(t)
	defer watcher.Stop()
	move := func(node string) *Item {
		return must(pods.Update(ctx, "default/p", func(current *Item) (*Change, error) {
			obj, _ := current.Object()
			pod := obj.DeepCopyObject().(*corev1.Pod)
			pod.Spec.NodeName = node
			return &Change{Object: pod}, nil
		}))(t)
	}
	must(pods.Create(ctx, "default/p", &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default"}}))(t)
	in, out := move("n1"), move("n2")
	move("n3")
	got := events(t, watcher, 2)
	want := []string{fmt.Sprintf("ADDED default/p %d", in.Revision), fmt.Sprintf("DELETED default/p %d", out.Revision)}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	// The object of the DELETED event is what it was when it still matched.
	labelled := Selector{Labels: labels.SelectorFromSet(labels.Set{"x": "y"})}
	if page := must(pods.List(ctx, ListOptions{Row: podsRow, Selector: labelled}))(t); len(page.Items) != 0 {
		t.Errorf("%d pods match a label nobody has", len(page.Items))
	}
}

func TestOldAndFutureRevisions(t *testing.T) {
	w := newWorld(t)
	maps, ctx := w.Table(mapsRow), t.Context()
	first := must(maps.Create(ctx, "default/a", configMap("a", "")))(t)
	for i := range minEvents + 20 {
		must(maps.Update(ctx, "default/a", set(fmt.Sprint(i))))(t)
	}
	must(maps.Get(ctx, "default/a", ""))(t)
	// Age the history: what is old goes when something happens.
	maps.mu.Lock()
	for _, c := range maps.events.changes {
		c.at = c.at.Add(-2 * keepFor)
	}
	maps.mu.Unlock()
	must(maps.Update(ctx, "default/a", set("last")))(t)
	last := must(maps.Get(ctx, "default/a", ""))(t)
	if _, err := maps.Watch(ctx, WatchOptions{Row: mapsRow, ResourceVersion: FormatVersion(first.Revision)}); !apierrors.IsResourceExpired(err) {
		t.Errorf("watch from long ago: %v, want Expired", err)
	}
	began := time.Now()
	_, err := maps.Get(ctx, "default/a", FormatVersion(last.Revision+1000))
	if !apierrors.IsTimeout(err) || !strings.Contains(err.Error(), "Too large resource version") || time.Since(began) < futureWait {
		t.Errorf("read from the future: %v after %v", err, time.Since(began))
	}
}

func TestPagesShowOneMoment(t *testing.T) {
	w := newWorld(t)
	maps, ctx := w.Table(mapsRow), t.Context()
	for i := range 10 {
		must(maps.Create(ctx, fmt.Sprintf("default/a%d", i), configMap(fmt.Sprintf("a%d", i), "1")))(t)
	}
	read := func(table *Table) (names []string) {
		o := ListOptions{Row: mapsRow, Limit: 4}
		for {
			page := must(table.List(ctx, o))(t)
			for _, item := range page.Items {
				names = append(names, item.Key)
			}
			if page.Continue == "" {
				return names
			}
			if want := int64(10 - len(names)); page.Remaining == nil || *page.Remaining != want {
				t.Errorf("remaining %v, want %d", page.Remaining, want)
			}
			o.Continue = page.Continue
			// Somebody deletes what is still to come.
			last := fmt.Sprintf("default/a%d", 9-len(names)/4)
			must(table.Update(ctx, last, func(*Item) (*Change, error) { return &Change{}, nil }))(t)
		}
	}
	if names := read(maps); len(names) != 10 {
		t.Errorf("the pages show %v", names)
	}
	// A token of a server that is gone is served from etcd, until compaction.
	page := must(maps.List(ctx, ListOptions{Row: mapsRow, Limit: 4}))(t)
	must(maps.Create(ctx, "default/b", configMap("b", "1")))(t)
	other := w.open(t).Table(mapsRow)
	rest := must(other.List(ctx, ListOptions{Row: mapsRow, Limit: 100, Continue: page.Continue}))(t)
	if len(page.Items)+len(rest.Items) != 8 {
		t.Errorf("%d + %d items, want 8", len(page.Items), len(rest.Items))
	}
	must(other.Create(ctx, "default/c", configMap("c", "1")))(t)
	last := must(other.Get(ctx, "default/c", ""))(t)
	must(w.client.Compact(ctx, last.Revision))(t)
	third := w.open(t).Table(mapsRow)
	_, err := third.List(ctx, ListOptions{Row: mapsRow, Limit: 100, Continue: page.Continue})
	if !apierrors.IsResourceExpired(err) {
		t.Fatalf("after compaction: %v, want Expired", err)
	}
	token := err.(apierrors.APIStatus).Status().ListMeta.Continue
	if rest, err := third.List(ctx, ListOptions{Row: mapsRow, Limit: 100, Continue: token}); err != nil || len(rest.Items) != 6 {
		t.Errorf("inconsistent continuation: %v, %v", rest, err)
	}
}

func TestSlowWatcherIsCutOffAlone(t *testing.T) {
	w := newWorld(t)
	maps, ctx := w.Table(mapsRow), t.Context()
	item := must(maps.Create(ctx, "default/a", configMap("a", "")))(t)
	o := WatchOptions{Row: mapsRow, ResourceVersion: FormatVersion(item.Revision)}
	slow, quick, elsewhere := must(maps.Watch(ctx, o))(t), must(maps.Watch(ctx, o))(t), must(maps.Watch(ctx, WatchOptions{Row: mapsRow, Namespace: "x", ResourceVersion: o.ResourceVersion}))(t)
	defer slow.Stop()
	defer quick.Stop()
	defer elsewhere.Stop()
	for i := range minEvents + 1 {
		must(maps.Update(ctx, "default/a", set(fmt.Sprint(i))))(t)
	}
	events(t, quick, minEvents+1)
	maps.mu.Lock()
	for _, c := range maps.events.changes {
		c.at = c.at.Add(-2 * keepFor)
	}
	maps.mu.Unlock()
	must(maps.Update(ctx, "default/a", set("last")))(t)
	events(t, quick, 1)
	if _, _, err := slow.Take(); !apierrors.IsResourceExpired(err) {
		t.Errorf("the slow watcher: %v, want Expired", err)
	}
	// One whom nothing concerned has missed nothing.
	if _, revision, err := elsewhere.Take(); err != nil || revision <= item.Revision {
		t.Errorf("the idle watcher is at %d, %v", revision, err)
	}
}

// The watch goes on where it was when etcd comes back.
func TestEtcdKilled(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	etcd := etcdtest.Start(t, dir)
	w := &world{endpoint: etcd.Endpoint}
	w.Store = w.open(t, func(c *Config) { c.Timeout = time.Second })
	maps, ctx := w.Table(mapsRow), t.Context()
	item := must(maps.Create(ctx, "default/a", configMap("a", "1")))(t)
	watcher := must(maps.Watch(ctx, WatchOptions{Row: mapsRow, ResourceVersion: FormatVersion(item.Revision)}))(t)
	defer watcher.Stop()
	// Reads of "any version" answer from what has arrived: let the object arrive before etcd goes.
	must(maps.Get(ctx, "default/a", FormatVersion(item.Revision)))(t)
	etcd.Kill()
	if _, err := maps.Update(ctx, "default/a", set("2")); !apierrors.IsTimeout(err) {
		t.Errorf("a write without etcd: %v, want Timeout", err)
	}
	if _, err := maps.Get(ctx, "default/a", ""); !apierrors.IsTimeout(err) {
		t.Errorf("a fresh read without etcd: %v, want Timeout", err)
	}
	if _, err := maps.Get(ctx, "default/a", "0"); err != nil {
		t.Errorf("a read from the cache needs no etcd: %v", err)
	}
	etcdtest.Start(t, dir)
	var after *Item
	for deadline := time.Now().Add(30 * time.Second); ; {
		var err error
		if after, err = maps.Update(ctx, "default/a", set("3")); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	got := events(t, watcher, 1)
	for !strings.HasSuffix(got[len(got)-1], fmt.Sprint(after.Revision)) {
		got = append(got, events(t, watcher, 1)...)
	}
}

// A table that has missed events which are compacted away starts anew, and
// says so to its watchers.
func TestCompactionUnderWatch(t *testing.T) {
	w := newWorld(t)
	maps, ctx := w.Table(mapsRow), t.Context()
	item := must(maps.Create(ctx, "default/a", configMap("a", "1")))(t)
	watcher := must(maps.Watch(ctx, WatchOptions{Row: mapsRow, ResourceVersion: FormatVersion(item.Revision)}))(t)
	defer watcher.Stop()
	maps.replace(newTree(), item.Revision+1000)
	if _, _, err := watcher.Take(); !apierrors.IsResourceExpired(err) {
		t.Errorf("got %v, want Expired", err)
	}
	if _, err := maps.Watch(ctx, WatchOptions{Row: mapsRow, ResourceVersion: FormatVersion(item.Revision)}); !apierrors.IsResourceExpired(err) {
		t.Errorf("got %v, want Expired", err)
	}
}
