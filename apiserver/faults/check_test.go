package faults

import (
	"cmp"
	"container/heap"
	"fmt"
	"maps"
	"slices"
	"sort"
	"time"
)

// The checker. etcd has put all writes in one order, their revisions, and says
// which write had which. So nothing need be searched for: every answer that a
// client got must be right at some moment, those moments must be in the order
// in which requests followed each other, and the moment of a write is its
// revision. If they can be chosen so, the history is linearizable.
//
//	revision   40    41    42    43    44
//	            │     │     │     │     │
//	client 1    [ put ok 41 ]     │     │     moment 41
//	client 2                   [ get 41 ]     wrong: a get whose request came after the answer "42"
//	client 3          [ put ok 42 ]           moment 42           must show 42 or later
//
// Each moment is chosen as early as the answers before it allow, which leaves
// the most room for those that come after.

// checker holds the truth in the forms that questions need.
type checker struct {
	events   []event            // in order
	versions map[string][]event // of each key, in order
	problems []string
}

func newChecker(events []event) *checker {
	c := &checker{events: events, versions: map[string][]event{}}
	for _, e := range events {
		c.versions[e.key] = append(c.versions[e.key], e)
	}
	return c
}

func (c *checker) problem(format string, args ...any) {
	c.problems = append(c.problems, fmt.Sprintf(format, args...))
}

// at is the index in a key's versions of the one that was current at a
// revision; -1 is before the first.
func (c *checker) at(key string, revision int64) int {
	list := c.versions[key]
	return sort.Search(len(list), func(i int) bool { return list[i].version > revision }) - 1
}

// exists reports whether a version, by index, is one that exists.
func (c *checker) exists(key string, i int) bool {
	return i >= 0 && c.versions[key][i].kind != "DELETED"
}

// earliest is the first revision from a revision on at which what holds says
// of a key's current version is true; 0 if there is none.
func (c *checker) earliest(key string, from int64, holds func(i int) bool) int64 {
	for i := c.at(key, from); i < len(c.versions[key]); i++ {
		if holds(i) {
			if i < 0 {
				return from
			}
			return max(from, c.versions[key][i].version)
		}
	}
	return 0
}

// moments checks the operations' answers against the truth and each other.
func (c *checker) moments(operations []*operation) {
	operations = slices.Clone(operations)
	slices.SortFunc(operations, func(a, b *operation) int { return cmp.Compare(a.start, b.start) })
	var ended endings // of operations that are not known to be over yet
	floor := int64(1) // the latest moment of those that are
	for _, o := range operations {
		for len(ended) > 0 && ended[0].end < o.start {
			floor = max(floor, heap.Pop(&ended).(ending).moment)
		}
		if o.outcome == unknown {
			continue // what it did, if it did, is attribute's business
		}
		moment := c.moment(o, floor)
		if moment == 0 {
			c.problem("%s: not true at any moment since revision %d, which was known when it was sent", o, floor)
			continue
		}
		heap.Push(&ended, ending{o.end, moment})
	}
}

type ending struct {
	end    time.Duration
	moment int64
}

// endings is a heap: the earliest end first.
type endings []ending

func (e endings) Len() int           { return len(e) }
func (e endings) Less(i, j int) bool { return e[i].end < e[j].end }
func (e endings) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *endings) Push(x any)        { *e = append(*e, x.(ending)) }
func (e *endings) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

// moment is the earliest revision, not before floor, at which an operation's
// answer is true; 0 if there is none.
func (c *checker) moment(o *operation, floor int64) int64 {
	list := c.versions[o.key]
	switch {
	case o.outcome == refused && o.reason == "AlreadyExists":
		return c.earliest(o.key, floor, func(i int) bool { return c.exists(o.key, i) })
	case o.outcome == refused && o.reason == "NotFound":
		return c.earliest(o.key, floor, func(i int) bool { return !c.exists(o.key, i) })
	case o.outcome == refused:
		return c.earliest(o.key, floor, func(i int) bool { return c.exists(o.key, i) && list[i].version != o.base })
	case o.verb == "list":
		if o.version < floor || !maps.Equal(c.snapshot(o.version), o.items) {
			return 0
		}
		return o.version
	case o.verb == "get":
		return c.earliest(o.key, floor, func(i int) bool {
			return c.exists(o.key, i) && list[i].version == o.version && list[i].data == o.data
		})
	}
	for i, e := range list { // a write: its own revision, and nothing else
		if c.wrote(o, e, i) && e.version > floor {
			return e.version
		}
	}
	return 0
}

// wrote reports whether a version of a key can be what an operation wrote.
func (c *checker) wrote(o *operation, e event, i int) bool {
	before := event{}
	if c.exists(o.key, i-1) {
		before = c.versions[o.key][i-1]
	}
	if o.outcome == ok && o.verb != "delete" && o.version != e.version {
		return false
	}
	switch o.verb {
	case "create":
		return e.kind == "ADDED" && e.data == canonical(map[string]string{"v": o.value})
	case "update":
		return e.kind == "MODIFIED" && before.version == o.base && e.data == canonical(map[string]string{"v": o.value})
	case "patch": // a read-modify-write: what others wrote must still be there
		want := fields(before.data)
		want[o.field] = o.value
		return e.kind == "MODIFIED" && e.data == canonical(want)
	case "delete":
		return e.kind == "DELETED" && before.version == o.base
	}
	return false
}

// attribute checks that everything that happened was asked for, by one who was
// not told otherwise, and only once.
func (c *checker) attribute(operations []*operation) {
	byKey := map[string][]*operation{}
	for _, o := range operations {
		byKey[o.key] = append(byKey[o.key], o)
	}
	for key, list := range c.versions {
		done := map[*operation]bool{}
		for i, e := range list {
			o := c.author(byKey[key], done, e, i)
			if o == nil {
				c.problem("%s of %s at revision %d, %s: nobody did that, or was told that it failed, or did it twice", e.kind, key, e.version, e.data)
				continue
			}
			done[o] = true
		}
	}
}

// author finds who wrote a version; one who knows comes before one who may.
func (c *checker) author(candidates []*operation, done map[*operation]bool, e event, i int) *operation {
	var perhaps *operation
	for _, o := range candidates {
		if o.outcome == refused || done[o] || !c.wrote(o, e, i) {
			continue
		}
		if o.outcome == ok {
			return o
		}
		perhaps = o
	}
	return perhaps
}

// snapshot is all objects at a revision.
func (c *checker) snapshot(revision int64) map[string]state {
	out := map[string]state{}
	for key, list := range c.versions {
		if i := c.at(key, revision); c.exists(key, i) {
			out[key] = state{list[i].version, list[i].data}
		}
	}
	return out
}

// watched checks what one watcher saw: after a list, every event, once, in
// order, up to the end.
func (c *checker) watched(name string, records []record) {
	position := int64(-1)
	for _, r := range records {
		if r.version < position {
			c.problem("%s: %s at revision %d after revision %d", name, r.kind, r.version, position)
			return
		}
		switch r.kind {
		case "LIST":
			if want := c.snapshot(r.version); !maps.Equal(want, r.list) {
				c.problem("%s: the list at revision %d is %v, want %v", name, r.version, r.list, want)
				return
			}
		case "BOOKMARK":
			if next := c.next(position); next != nil && next.version <= r.version {
				c.problem("%s: a bookmark of revision %d, but the event of %d was never seen", name, r.version, next.version)
				return
			}
		default:
			next := c.next(position)
			if next == nil || *next != r.event {
				c.problem("%s: after revision %d came %+v, want %+v", name, position, r.event, next)
				return
			}
		}
		position = r.version
	}
	if next := c.next(position); next != nil {
		c.problem("%s: it ends at revision %d, and the event of %d was never seen", name, position, next.version)
	}
}

// next is the first event after a revision.
func (c *checker) next(revision int64) *event {
	i := sort.Search(len(c.events), func(i int) bool { return c.events[i].version > revision })
	if i == len(c.events) {
		return nil
	}
	return &c.events[i]
}
