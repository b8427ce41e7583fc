package storage

import (
	"sync"
	"time"
)

// Bounds of a table's history: as long as upstream's, and never longer than
// what a client that reconnects could reasonably have missed.
// Upstream: kubernetes@v1.36 k8s.io/apiserver/pkg/storage/cacher/watch_cache.go
const (
	minEvents = 100
	maxEvents = 100 * 1024
	keepFor   = 75 * time.Second
)

// change is one thing that happened to one key.
type change struct {
	key       string
	revision  int64
	item, old *Item // after and before; nil where there was nothing
	at        time.Time

	goneOnce sync.Once
	goneItem *Item
}

// gone is the last state with the revision of the change: what a watcher gets
// with DELETED, when the object went away or ceased to match its selector.
func (c *change) gone() *Item {
	c.goneOnce.Do(func() { c.goneItem = c.old.at(c.revision) })
	return c.goneItem
}

// history is a bounded list of changes, numbered from the table's beginning.
// A watcher is just a number in it.
//
// Invariant: every change with a revision above floor is in changes.
type history struct {
	changes []*change
	first   uint64 // number of changes[0]
	floor   int64
}

// end is the number of the change that has not happened yet.
func (h *history) end() uint64 { return h.first + uint64(len(h.changes)) }

func (h *history) append(c *change) {
	h.changes = append(h.changes, c)
	for len(h.changes) > minEvents && (len(h.changes) > maxEvents || c.at.Sub(h.changes[0].at) > keepFor) {
		h.floor = h.changes[0].revision
		h.changes[0] = nil // the array lives on until append outgrows it
		h.changes = h.changes[1:]
		h.first++
	}
}

// reset forgets everything up to revision. Numbers go on, so that a watcher of
// before cannot mistake new changes for its own.
func (h *history) reset(revision int64) {
	h.first, h.changes, h.floor = h.end()+1, nil, revision
}

// from returns up to limit changes beginning with number.
func (h *history) from(number uint64, limit int) ([]*change, bool) {
	if number < h.first {
		return nil, false
	}
	rest := h.changes[number-h.first:]
	return rest[:min(len(rest), limit)], true
}
