package client

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestQueueKeepsAKeyOnce(t *testing.T) {
	q := NewQueue[string](QueueOptions{})
	q.Add("a")
	q.Add("a")
	q.Add("b")
	if q.Len() != 2 {
		t.Fatalf("%d keys wait, want 2", q.Len())
	}
	key, _ := q.Get()
	q.Add(key) // while it is worked on
	if q.Len() != 1 {
		t.Errorf("a key in work was handed out a second time")
	}
	q.Done(key)
	if q.Len() != 2 {
		t.Errorf("a key added during its work was forgotten")
	}
}

// No key is ever in two hands, however many workers and writers there are.
func TestQueueNeverHandsAKeyToTwo(t *testing.T) {
	q := NewQueue[int](QueueOptions{})
	var mu sync.Mutex
	busy := map[int]bool{}
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for {
				key, ok := q.Get()
				if !ok {
					return
				}
				mu.Lock()
				if busy[key] {
					t.Errorf("key %d is in two hands", key)
				}
				busy[key] = true
				mu.Unlock()
				mu.Lock()
				busy[key] = false
				mu.Unlock()
				q.Done(key)
			}
		})
	}
	for i := range 5000 {
		q.Add(i % 7)
	}
	q.ShutDown()
	workers.Wait()
}

func TestQueueBackoffDoublesAndIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue[string](QueueOptions{Base: time.Second, Max: 5 * time.Second})
		defer q.ShutDown()
		for _, want := range []time.Duration{1, 2, 4, 5, 5} {
			began := time.Now()
			q.AddRateLimited("a")
			key, _ := q.Get()
			if waited := time.Since(began); waited != want*time.Second {
				t.Errorf("waited %s, want %ds", waited, want)
			}
			q.Done(key)
		}
		q.Forget("a")
		began := time.Now()
		q.AddRateLimited("a")
		q.Get()
		if waited := time.Since(began); waited != time.Second {
			t.Errorf("after Forget: waited %s, want 1s", waited)
		}
	})
}

func TestQueueTheShortestDelayCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue[string](QueueOptions{})
		defer q.ShutDown()
		began := time.Now()
		q.AddAfter("a", time.Minute)
		q.AddAfter("a", time.Second)
		q.AddAfter("a", time.Hour)
		key, _ := q.Get()
		if waited := time.Since(began); waited != time.Second {
			t.Errorf("waited %s, want 1s", waited)
		}
		q.Done(key)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if q.Len() != 0 {
			t.Error("a delay that a shorter one replaced still fired")
		}
	})
}
