// Package heapfloor says when a heap is collected: a small one later than Go
// would, or any one earlier (Tight).
//
// Go collects when the heap has doubled. For a server that keeps 5 MB that is
// after every few megabytes of garbage, and each time the collector looks
// through the program's variables and all stacks as well, which are more than
// the 5 MB. With a floor it waits until the heap has that size; a heap that
// needs more is collected as ever, so that a full server is no larger for it.
//
//	without   5 ──▶ 15 MB, collect, 5 ──▶ 15 MB, collect, …
//	with      5 ─────────▶ 32 MB, collect, …
//
// GOMEMLIMIT cannot say this: it is a ceiling, near which Go collects more
// often. A larger GOGC would: but it would let large heaps grow as well.
package heapfloor

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

const (
	// standard is Go's own setting: the heap may double.
	standard = 100
	// least is a floor that Go has itself, at the standard setting; it grows
	// with the percentage.
	least = 4 << 20
)

// Tight lets the heap grow by so many percent instead of to double its size, for
// the whole process: for programs whose memory is caches that others fill, and
// who have time. The variable GOGC comes first here as well.
func Tight(percent int) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
}

// Set sets the floor, in bytes, for the whole process and for good. The
// variable GOGC, by which a person says the same thing, comes first.
func Set(floor uint64) {
	if os.Getenv("GOGC") == "" {
		(&setting{floor: floor, percent: standard}).adjust()
	}
}

// setting is what is in force, owned by Set and then by the runtime's
// goroutine for cleanups.
type setting struct {
	floor   uint64
	percent int
}

// adjust lets the heap grow to the floor, and comes again after the next
// collection, when what it kept is known anew.
func (s *setting) adjust() {
	if percent := s.wanted(); percent < s.percent*9/10 || percent > s.percent*11/10 {
		s.percent = percent
		debug.SetGCPercent(percent)
	}
	// Nobody but the collector will ever notice this object.
	runtime.AddCleanup(new([16]byte), (*setting).adjust, s)
}

// wanted is how much the heap may grow, in percent of what a collection looks
// through.
func (s *setting) wanted() int {
	read := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"}}
	metrics.Read(read)
	live := read[0].Value.Uint64()
	all := live + read[1].Value.Uint64() + read[2].Value.Uint64()
	if live >= s.floor || all == 0 {
		return standard
	}
	return int(max(standard, min(100*(s.floor-live)/all, 100*s.floor/least)))
}
