package storage

import (
	"context"
	"fmt"
	"sort"
	"strings"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"

	"tinykube/apiserver/resources"
)

// A watcher has no queue. It is a cursor into its table's history and a bell:
//
//	history:   … 17 18 19 20 21 22        each change is kept once for all
//	                   ▲        ▲
//	              slow watcher  fast watcher
//
// A change rings the bells of those it may concern; each then reads from its
// cursor in its own time. So a slow watcher holds up nobody and costs nothing;
// if the history moves past its cursor it is cut off, alone.
//
// A bell that is not rung means that nothing since the last reading concerned
// the watcher. pending says where the unread part begins, or idle.

const (
	idle = ^uint64(0)
	// takeAtOnce bounds how much a watcher takes in one reading, so that the
	// table's lock is never held for long.
	takeAtOnce = 128
)

// interest is the coarse filter by which bells are rung; the exact selector is
// the watcher's own business.
type interest struct {
	kind  byte   // 'a' all, 'n' namespace, 'k' key, 'h' host (spec.nodeName)
	value string // of the namespace, key or node
}

// WatchOptions says what to watch, and from when.
type WatchOptions struct {
	Row       *resources.Row // the table's, or a view of it
	Namespace string
	Selector  Selector
	// ResourceVersion: "" waits for the freshest state, "0" takes the cache's,
	// a number waits for it at most.
	ResourceVersion string
	// Initial sends the present state first. Without it, the watch starts
	// after ResourceVersion, or now if there is none.
	Initial bool
}

// Event is what a watcher gets. Items are shared: ship their bytes.
type Event struct {
	Type watch.EventType
	Item *Item
}

// Watcher follows a table. It belongs to one goroutine.
type Watcher struct {
	// Initial is the state at InitialRevision, if it was asked for.
	Initial         []*Item
	InitialRevision int64

	table    *Table
	row      *resources.Row
	scope    string // "namespace/" or ""
	since    int64  // nothing up to here is sent
	selector Selector
	interest interest
	bell     chan struct{}

	// pending and ended are guarded by the table's mu: the table writes with
	// the lock held, the watcher while holding it for reading.
	pending uint64
	ended   bool
}

// Watch starts a watcher. Stop must be called.
func (t *Table) Watch(ctx context.Context, o WatchOptions) (*Watcher, error) {
	revision, err := parseVersion(o.ResourceVersion)
	if err != nil {
		return nil, err
	}
	if o.Initial || o.ResourceVersion == "" {
		if err := t.fresh(ctx, o.ResourceVersion); err != nil {
			return nil, err
		}
	}
	w := &Watcher{table: t, row: o.Row, selector: o.Selector, since: revision, bell: make(chan struct{}, 1), pending: idle}
	if o.Namespace != "" {
		w.scope = o.Namespace + "/"
	}
	w.interest = interestOf(t.row, o)
	if w.interest.kind == 'h' {
		t.nodeWatchers.Add(1)
	}
	if err := t.join(w, o, revision); err != nil {
		w.Stop()
		return nil, err
	}
	return w, nil
}

// join registers the watcher and fixes where it starts, in one step: what is
// not in Initial will ring its bell.
//
// LAB 04 join: hold the lock while you look and while you register, or a change
// falls in between. Whoever comes with a revision replays what followed it (see
// replay); whoever wants the present gets all of it, of one moment.
func (t *Table) join(w *Watcher, o WatchOptions, revision int64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return expired("the kind is no longer what it was")
	}
	if !o.Initial && revision > 0 {
		if err := w.replay(&t.events, revision); err != nil {
			return err
		}
	}
	if o.Initial {
		w.InitialRevision = t.revision
		w.Initial = selectItems(t.freeze(), w.row, o.Namespace, o.Selector)
	}
	set := t.watchers[w.interest]
	if set == nil {
		set = map[*Watcher]struct{}{}
		t.watchers[w.interest] = set
	}
	set[w] = struct{}{}
	return nil
}

// replay puts the cursor of a watcher that has seen everything up to revision
// on the first change after it, and rings if there is one. If some of those
// changes are forgotten, it says so: a gap would go unnoticed for ever.
//
// LAB 04 replay: changes are in the order of their revisions, and numbered from
// first on. Everything above floor is there. What is asked for may be newer than
// the newest, which is fine: then there is nothing to replay yet.
func (w *Watcher) replay(past *history, revision int64) error {
	if revision < past.floor {
		return expired(fmt.Sprintf("too old resource version: %d (%d)", revision, past.floor))
	}
	unseen := sort.Search(len(past.changes), func(i int) bool { return past.changes[i].revision > revision })
	if unseen < len(past.changes) {
		w.pending = past.first + uint64(unseen)
		w.ring()
	}
	return nil
}

// interestOf picks the narrowest bell for what is watched.
func interestOf(row *resources.Row, o WatchOptions) interest {
	if o.Selector.Fields != nil {
		if name, ok := o.Selector.Fields.RequiresExactMatch("metadata.name"); ok && (o.Namespace != "" || !row.Namespaced) {
			return interest{'k', Key(o.Namespace, name)}
		}
		if node, ok := o.Selector.Fields.RequiresExactMatch(nodeField); ok && row.Plural == "pods" {
			return interest{'h', node}
		}
	}
	if o.Namespace != "" {
		return interest{'n', o.Namespace}
	}
	return interest{kind: 'a'}
}

// nodeField is what a kubelet selects its pods by: with a thousand nodes, a
// pod's change must not ring a thousand bells.
const nodeField = "spec.nodeName"

// wake rings the bells that a change concerns. The caller holds mu.
func (t *Table) wake(c *change) {
	number := t.events.end() - 1
	t.ring(interest{kind: 'a'}, number)
	t.ring(interest{'k', c.key}, number)
	if namespace, _ := SplitKey(c.key); namespace != "" {
		t.ring(interest{'n', namespace}, number)
	}
	if t.nodeWatchers.Load() == 0 {
		return
	}
	before, after := nodeOf(c.old), nodeOf(c.item)
	t.ring(interest{'h', after}, number)
	if before != after {
		t.ring(interest{'h', before}, number)
	}
}

func nodeOf(item *Item) string {
	if item == nil || item.row.SelectableFields == nil {
		return ""
	}
	obj, err := item.Object()
	if err != nil {
		return ""
	}
	return item.row.SelectableFields(obj)[nodeField]
}

func (t *Table) ring(i interest, number uint64) {
	for w := range t.watchers[i] {
		if w.pending == idle {
			w.pending = number
			w.ring()
		}
	}
}

func (w *Watcher) ring() {
	select {
	case w.bell <- struct{}{}:
	default:
	}
}

// end tells the watcher that its history is over. The caller holds mu.
func (w *Watcher) end() {
	w.ended = true
	w.ring()
}

// Bell rings when there is something to Take.
func (w *Watcher) Bell() <-chan struct{} { return w.bell }

// Take returns the next events and the revision up to which the watcher now
// knows everything. It may return no event: the change was not for this
// selector. An error ends the watch.
func (w *Watcher) Take() ([]Event, int64, error) {
	t := w.table
	t.mu.RLock()
	if w.ended {
		t.mu.RUnlock()
		return nil, 0, expired("the watch cache was reloaded, and the events in between are gone")
	}
	if w.pending == idle {
		defer t.mu.RUnlock()
		return nil, max(t.revision, w.since), nil
	}
	changes, ok := t.events.from(w.pending, takeAtOnce)
	if !ok {
		t.mu.RUnlock()
		return nil, 0, expired("the client reads too slowly: events it has not seen are gone")
	}
	revision := t.revision
	w.pending += uint64(len(changes))
	if w.pending == t.events.end() {
		w.pending = idle
	} else {
		revision = changes[len(changes)-1].revision - 1 // its revision may go on
		w.ring()
	}
	t.mu.RUnlock()
	events := make([]Event, 0, len(changes))
	for _, c := range changes {
		if event, ok := w.see(c); ok {
			events = append(events, event)
		}
	}
	return events, max(revision, w.since), nil
}

// see turns a change into what this watcher's selector makes of it: an object
// that begins to match is ADDED, one that ceases to match is DELETED.
func (w *Watcher) see(c *change) (Event, bool) {
	if c.revision <= w.since || !strings.HasPrefix(c.key, w.scope) {
		return Event{}, false
	}
	now, before := w.shown(c.item), w.shown(c.old)
	is, was := w.selector.matches(now), w.selector.matches(before)
	switch {
	case is && was:
		return Event{watch.Modified, now}, true
	case is:
		return Event{watch.Added, now}, true
	case was:
		gone := w.shown(c.gone())
		return Event{watch.Deleted, gone}, gone != nil
	}
	return Event{}, false
}

func (w *Watcher) shown(item *Item) *Item {
	if item == nil {
		return nil
	}
	view, err := item.As(w.row)
	if err != nil {
		return nil
	}
	return view
}

// Stop unregisters the watcher.
func (w *Watcher) Stop() {
	t := w.table
	t.mu.Lock()
	defer t.mu.Unlock()
	set := t.watchers[w.interest]
	delete(set, w)
	if len(set) == 0 {
		delete(t.watchers, w.interest)
	}
	if w.interest.kind == 'h' {
		t.nodeWatchers.Add(-1)
	}
}

// everything is the selector that chooses everything.
func everything() Selector { return Selector{Fields: fields.Everything()} }
