package heapfloor

import (
	"runtime"
	"runtime/metrics"
	"testing"
	"time"
)

// A small heap may grow to the floor; one that has outgrown it only doubles.
func TestFloor(t *testing.T) {
	t.Setenv("GOGC", "")
	const floor = 64 << 20
	Set(floor)
	expect := func(what string, reached func(percent, goal uint64) bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
			runtime.GC()
			read := []metrics.Sample{{Name: "/gc/gogc:percent"}, {Name: "/gc/heap/goal:bytes"}}
			metrics.Read(read)
			percent, goal := read[0].Value.Uint64(), read[1].Value.Uint64()
			if reached(percent, goal) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: GOGC %d, next collection at %d MB", what, percent, goal>>20)
			}
		}
	}
	expect("small", func(percent, goal uint64) bool {
		return percent > standard && goal > floor*3/4 && goal < floor*5/4
	})
	kept := make([][]byte, 80)
	for i := range kept {
		kept[i] = make([]byte, 1<<20)
	}
	expect("large", func(percent, _ uint64) bool { return percent == standard })
	runtime.KeepAlive(kept)
	kept = nil
	expect("small again", func(percent, goal uint64) bool { return percent > standard && goal < floor*5/4 })
}
