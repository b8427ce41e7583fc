package faults

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/json"
)

// outcome is what a client was told.
type outcome string

const (
	ok      outcome = "ok"
	refused outcome = "refused" // for sure: reason says why
	unknown outcome = "unknown" // no answer, or one that says so
)

// operation is one request, as its client saw it. What a field means depends
// on the verb.
type operation struct {
	client     int
	verb       string // create, update, patch, delete, get, list
	key        string
	base       int64  // update, delete: the version that it insists on
	field      string // patch: the field that it sets; the others stay
	value      string // what it writes, different from all others
	start, end time.Duration

	outcome outcome
	reason  string           // AlreadyExists, NotFound or Conflict
	version int64            // what the answer says; of a list, the list's
	data    string           // get: what it read, canonical
	items   map[string]state // list
}

func (o *operation) String() string {
	return fmt.Sprintf("client %d's %s of %s at %s (base %d, value %q), %s %s version %d", o.client, o.verb, o.key,
		o.start.Round(time.Millisecond), o.base, o.value, o.outcome, o.reason, o.version)
}

// state is one version of one object. Data is canonical JSON; "" is none.
type state struct {
	version int64
	data    string
}

// event is one change: in the truth, as etcd had it, or as a watcher saw it.
type event struct {
	kind    string // ADDED, MODIFIED, DELETED
	key     string
	version int64
	data    string // DELETED: the last
}

// record is what a watcher notes: a list, an event or a bookmark.
type record struct {
	event
	list     map[string]state // kind LIST; version is the list's
	sessions int              // how many watches it took to get here
}

// canonical is an object's data as one string: JSON with sorted keys.
func canonical(data map[string]string) string {
	if data == nil {
		data = map[string]string{}
	}
	text, _ := json.Marshal(data)
	return string(text)
}

func fields(data string) map[string]string {
	out := map[string]string{}
	_ = json.Unmarshal([]byte(data), &out)
	return out
}

// history is all that clients did and saw.
type history struct {
	began time.Time

	mu         sync.Mutex // guards operations
	operations []*operation
}

func (h *history) now() time.Duration { return time.Since(h.began) }

func (h *history) add(o *operation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.operations = append(h.operations, o)
}

// successes counts the writes that were acknowledged.
func (h *history) successes() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, o := range h.operations {
		if o.outcome == ok && o.verb != "get" && o.verb != "list" {
			n++
		}
	}
	return n
}

// truth is what really happened: etcd's own account. Nothing is compacted
// before it is in here.
type truth struct {
	mu     sync.Mutex // guards the fields below
	events []event
	latest map[string]state
	seen   int64
}

// follow writes down what etcd says, until ctx ends.
func (tr *truth) follow(ctx context.Context, t *testing.T, client *clientv3.Client, prefix string, from int64) {
	for response := range client.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(from), clientv3.WithProgressNotify()) {
		if err := response.Err(); err != nil {
			if ctx.Err() == nil {
				t.Errorf("the truth is lost: %v", err)
			}
			return
		}
		tr.mu.Lock()
		for _, e := range response.Events {
			tr.append(e, prefix)
		}
		tr.seen = max(tr.seen, response.Header.Revision)
		tr.mu.Unlock()
	}
}

func (tr *truth) append(e *clientv3.Event, prefix string) {
	out := event{kind: "MODIFIED", key: string(e.Kv.Key[len(prefix):]), version: e.Kv.ModRevision}
	switch {
	case e.Type == clientv3.EventTypeDelete:
		out.kind, out.data = "DELETED", tr.latest[out.key].data
		delete(tr.latest, out.key)
	default:
		if e.IsCreate() {
			out.kind = "ADDED"
		}
		var object corev1.ConfigMap
		_ = json.Unmarshal(e.Kv.Value, &object)
		out.data = canonical(object.Data)
		tr.latest[out.key] = state{out.version, out.data}
	}
	tr.events = append(tr.events, out)
}

// revision is up to where the truth is known.
func (tr *truth) revision() int64 {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.seen
}
