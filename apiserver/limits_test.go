package apiserver

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func newLevel(seats, queueLimit int) *level {
	return &level{name: "test", seats: seats, queueLimit: queueLimit, queues: map[string][]*waitingRequest{}}
}

// Who asks often waits behind himself.
func TestLevelIsFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLevel(1, 10)
		var order []string
		ask := func(flow string) {
			go func() {
				seat, why := l.enter(t.Context(), flow, 1, time.Hour, nil)
				if why != "" {
					t.Errorf("%s: %s", flow, why)
					return
				}
				order = append(order, flow) // one seat: one at a time
				time.Sleep(time.Second)
				seat.leave()
			}()
			synctest.Wait()
		}
		for range 4 {
			ask("greedy")
		}
		ask("modest")
		time.Sleep(time.Minute)
		if want := []string{"greedy", "greedy", "modest", "greedy", "greedy"}; !slices.Equal(order, want) {
			t.Errorf("%v, want %v", order, want)
		}
		if l.used != 0 || len(l.queues) != 0 || len(l.turns) != 0 {
			t.Errorf("left behind: %d seats, %v, %v", l.used, l.queues, l.turns)
		}
	})
}

// A queue is bounded, waiting is bounded, and who gives up is not in the way.
func TestLevelRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLevel(2, 1)
		holder, _ := l.enter(t.Context(), "a", 2, time.Hour, nil)
		results := make(chan string, 3)
		wait := func(flow string, width int, patience time.Duration) {
			go func() {
				seat, why := l.enter(t.Context(), flow, width, patience, nil)
				results <- fmt.Sprint(flow, width, why)
				seat.leave()
			}()
			synctest.Wait()
		}
		wait("b", 2, time.Second) // needs all, and stands before c
		wait("b", 1, time.Hour)
		wait("c", 1, time.Hour)
		if got := <-results; got != "b1"+refusedFull {
			t.Error(got)
		}
		if got := <-results; got != "b2"+refusedLate {
			t.Error(got)
		}
		holder.leave()
		holder.leave() // twice is once
		if got := <-results; got != "c1" {
			t.Error(got)
		}
		synctest.Wait()
		if l.used != 0 || len(l.queues) != 0 || len(l.turns) != 0 {
			t.Errorf("left behind: %d seats, %v, %v", l.used, l.queues, l.turns)
		}
		l.reject = true
		l.resize(1, 0)
		l.enter(t.Context(), "d", 1, time.Hour, nil)
		if _, why := l.enter(t.Context(), "d", 1, time.Hour, nil); why != refusedLimit {
			t.Error(why)
		}
	})
}
