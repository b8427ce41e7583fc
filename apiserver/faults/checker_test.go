package faults

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// A checker that finds nothing proves nothing: here is a history that is
// right, and what each kind of lie makes of it.

// small is a history of one object: created, patched, deleted, made again.
func small() ([]event, []*operation, []record) {
	v := func(value string) string { return canonical(map[string]string{"v": value}) }
	patched := canonical(map[string]string{"v": "1", "f": "2"})
	events := []event{
		{"ADDED", "a", 10, v("1")},
		{"MODIFIED", "a", 12, patched},
		{"DELETED", "a", 14, patched},
		{"ADDED", "a", 15, v("4")},
		{"MODIFIED", "a", 17, v("5")},
	}
	at := func(start, end int) (time.Duration, time.Duration) {
		return time.Duration(start), time.Duration(end)
	}
	var operations []*operation
	add := func(start, end int, o operation) {
		o.start, o.end = at(start, end)
		operations = append(operations, &o)
	}
	add(0, 10, operation{verb: "create", key: "a", value: "1", outcome: ok, version: 10})
	add(11, 20, operation{verb: "patch", key: "a", field: "f", value: "2", outcome: unknown})
	add(21, 25, operation{verb: "get", key: "a", outcome: ok, version: 12, data: patched})
	add(22, 30, operation{verb: "create", key: "a", value: "3", outcome: refused, reason: "AlreadyExists"})
	add(26, 40, operation{verb: "delete", key: "a", base: 12, outcome: ok})
	add(30, 60, operation{verb: "get", key: "a", outcome: refused, reason: "NotFound"})
	add(41, 50, operation{verb: "create", key: "a", value: "4", outcome: ok, version: 15})
	add(61, 70, operation{verb: "update", key: "a", base: 15, value: "5", outcome: ok, version: 17})
	add(62, 80, operation{verb: "update", key: "a", base: 15, value: "6", outcome: refused, reason: "Conflict"})
	add(81, 90, operation{verb: "list", outcome: ok, version: 18, items: map[string]state{"a": {17, v("5")}}})
	records := []record{
		{event: event{kind: "LIST", version: 11}, list: map[string]state{"a": {10, v("1")}}},
		{event: events[1]},
		{event: events[2]},
		{event: event{kind: "BOOKMARK", version: 14}},
		{event: events[3]},
		{event: events[4]},
	}
	return events, operations, records
}

func check(events []event, operations []*operation, records []record) []string {
	c := newChecker(events)
	c.moments(operations)
	c.attribute(operations)
	c.watched("watcher", records)
	return c.problems
}

func TestCheckerAccepts(t *testing.T) {
	if problems := check(small()); len(problems) > 0 {
		t.Errorf("a right history: %s", strings.Join(problems, "\n"))
	}
}

func TestCheckerFinds(t *testing.T) {
	for lie, tell := range map[string]func(e []event, o []*operation, r []record) ([]event, []*operation, []record){
		"an acknowledged write that is lost": func(e []event, o []*operation, r []record) ([]event, []*operation, []record) {
			return e[:4], o, r[:5]
		},
		"a write that nobody made": func(e []event, o []*operation, r []record) ([]event, []*operation, []record) {
			return e, o[1:], r
		},
		"a refused write that happened": func(e []event, o []*operation, r []record) ([]event, []*operation, []record) {
			o[7].outcome, o[7].reason, o[7].version = refused, "Conflict", 0
			return e, o, r
		},
		"a write of unknown outcome that happened twice": func(e []event, o []*operation, r []record) ([]event, []*operation, []record) {
			again := event{"MODIFIED", "a", 13, e[1].data}
			return slices.Insert(e, 2, again), o, slices.Insert(r, 2, record{event: again})
		},
		"an update that overwrote what it had not seen": func(e []event, o []*operation, r []record) ([]event, []*operation, []record) {
			o[7].base = 10
			return e, o, r
		},
		"a patch that lost another's field": func(e []event, o []*operation, r []record) ([]event, []*operation, []record) {
			e[1].data = canonical(map[string]string{"f": "2"})
			return e, o, r
		},
		"a stale read": func(e []event, o []*operation, r []record) ([]event, []*operation, []record) {
			o[2].version, o[2].data = 10, e[0].data
			o[2].start, o[2].end = 75, 79
			return e, o, r
		},
		"a read of what never was": func(e []event, o []*operation, r []record) ([]event, []*operation, []record) {
			o[2].data = e[4].data
			return e, o, r
		},
		"a read that goes back behind another": func(e []event, o []*operation, r []record) ([]event, []*operation, []record) {
			back := *o[9]
			back.start, back.end, back.version = 91, 92, 17
			return e, append(o, &back), r
		},
		"a list that lacks an object": func(e []event, o []*operation, r []record) ([]event, []*operation, []record) {
			o[9].items = map[string]state{}
			return e, o, r
		},
		"not found, but it was there": func(e []event, o []*operation, r []record) ([]event, []*operation, []record) {
			o[5].start, o[5].end = 71, 75
			return e, o, r
		},
		"a conflict with nobody": func(e []event, o []*operation, r []record) ([]event, []*operation, []record) {
			o[8].base, o[8].start, o[8].end = 17, 71, 75
			return e, o, r
		},
		"a lost event": func(e []event, o []*operation, r []record) ([]event, []*operation, []record) {
			return e, o, slices.Delete(r, 2, 3)
		},
		"a lost last event": func(e []event, o []*operation, r []record) ([]event, []*operation, []record) {
			return e, o, r[:5]
		},
		"a repeated event": func(e []event, o []*operation, r []record) ([]event, []*operation, []record) {
			return e, o, slices.Insert(r, 2, r[1])
		},
		"events in another order": func(e []event, o []*operation, r []record) ([]event, []*operation, []record) {
			r[1], r[2] = r[2], r[1]
			return e, o, r
		},
		"an event of another type": func(e []event, o []*operation, r []record) ([]event, []*operation, []record) {
			r[4].kind = "MODIFIED"
			return e, o, r
		},
		"a bookmark ahead of its events": func(e []event, o []*operation, r []record) ([]event, []*operation, []record) {
			r[3].version = 15
			return e, o, r
		},
		"a list that is older than what was seen": func(e []event, o []*operation, r []record) ([]event, []*operation, []record) {
			return e, o, append(r, r[0])
		},
	} {
		if problems := check(tell(small())); len(problems) == 0 {
			t.Errorf("not found: %s", lie)
		}
	}
}
