package controllers

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// The fault-pattern matrix: every controller under every pattern of failure.
// In each cell the end state must be the right one, then nothing may be
// written any more, and what the controllers created may not exceed what the
// same life costs without faults.
//
// The patterns are those of Sieve (Sun et al., OSDI 2022): intermediate states
// (dying between two writes), unobserved states (events that never arrive) and
// stale states (a view of the past), and two that every client meets:
// duplicates and conflicts.

// scenario is one controller's short life.
type scenario struct {
	name        string // the controller
	controllers []string
	nodes       int
	config      func(t *testing.T, cfg *Config) // may be nil
	start       func(c *cluster)                // what a user asks for
	change      func(c *cluster)                // and what changes later; may be nil
	// wrong says what is not as it should be, at the end.
	wrong func(c *cluster) string
	// creates bounds the objects that controllers make, by resource.
	creates map[string]int
	// within is how long the end may take, if that is long.
	within time.Duration
	// changing keeps on changing by itself, such as a node's heartbeat.
	restless bool
}

// pattern is one sort of trouble. apply orders it for a cluster.
type pattern struct {
	name  string
	apply func(c *cluster)
	// factor bounds the writes, as a multiple of what they are without faults.
	factor int
}

var patterns = []pattern{
	{"duplicated events", func(c *cluster) { c.api.Twice = true }, 2},
	{"reordered events", func(c *cluster) {
		// Each kind's watch is late by its own, changing time: a pod is seen
		// before its ReplicaSet, an owner's deletion before its last change.
		c.api.LagOf = func(plural string, revision int) time.Duration {
			r := rand.New(rand.NewPCG(uint64(len(plural)*7+int(plural[0])), uint64(revision/5)))
			return time.Duration(r.IntN(4000)) * time.Millisecond
		}
	}, 2},
	{"dropped events", func(c *cluster) {
		c.api.Lag = 2 * time.Second
		c.background(func() bool {
			time.Sleep(7 * time.Second)
			c.api.Compact() // every watch ends, with what it had not delivered
			return true
		}, 2*time.Minute)
	}, 2},
	{"stale cache", func(c *cluster) { c.api.Lag = 3 * time.Second }, 2},
	{"conflicting writers", func(c *cluster) {
		var n atomic.Int64
		c.api.Meddle = func(t target) bool { return t.plural != "leases" && n.Add(1)%2 == 0 }
	}, 4},
}

// background runs f again and again for a while.
func (c *cluster) background(f func() bool, limit time.Duration) {
	start := time.Now()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for time.Since(start) < limit && f() {
		}
	}()
	stop := c.stopNodes
	c.stopNodes = func() { <-done; stop() }
}

func (s scenario) cluster(t *testing.T) *cluster {
	cfg := quick
	cfg.Controllers = s.controllers
	if s.config != nil {
		s.config(t, &cfg)
	}
	var nodes []string
	for i := range max(s.nodes, 1) {
		nodes = append(nodes, fmt.Sprintf("node-%d", i))
	}
	return newCluster(t, cfg, nodes...)
}

// settle waits until nothing is wrong, and makes sure that it stays so.
func (s scenario) settle(c *cluster, cell string) {
	limit := max(s.within, 10*time.Minute)
	start := time.Now()
	for s.wrong(c) != "" {
		if time.Since(start) > limit {
			c.t.Errorf("%s: after %s: %s", cell, limit, s.wrong(c))
			return
		}
		time.Sleep(2 * time.Second)
	}
	if !s.restless {
		c.quiet()
	}
	if wrong := s.wrong(c); wrong != "" {
		c.t.Errorf("%s: it was right, and then: %s", cell, wrong)
	}
}

// made counts what the controllers have created and written.
func (c *cluster) made() (creates map[string]int, writes int) {
	creates = map[string]int{}
	all := c.api.managerWrites()
	for _, write := range all {
		if fields := strings.Fields(write); fields[0] == http.MethodPost {
			creates[fields[1]]++
		}
	}
	return creates, len(all)
}

// TestMatrixHasEveryController: a controller without a row is untried.
func TestMatrixHasEveryController(t *testing.T) {
	tried := map[string]bool{}
	for _, s := range scenarios {
		for _, name := range must(Select(s.controllers)).Run {
			tried[name] = true
		}
	}
	for _, name := range Names() {
		if !tried[name] {
			t.Errorf("no scenario runs %s", name)
		}
	}
}

// TestMatrix prints what each cell cost.
func TestMatrix(t *testing.T) {
	rows := make([]string, len(scenarios))
	t.Run("all", func(t *testing.T) {
		for i, s := range scenarios {
			t.Run(strings.ReplaceAll(s.name, " ", "-"), func(t *testing.T) {
				t.Parallel() // outside of the bubbles
				calm := s.run(t, "no fault", nil)
				rows[i] = fmt.Sprintf("%-42s %9d", s.name, calm)
				for _, p := range patterns {
					rows[i] += fmt.Sprintf(" %11d", s.runPattern(t, p, calm))
				}
				rows[i] += fmt.Sprintf(" %9d", s.runKilled(t))
			})
		}
	})
	t.Logf("the controllers' writes until the end state was reached, by pattern; in the last column, after how many writes they were killed\n"+
		"%-42s %9s %11s %11s %11s %11s %11s %9s\n%s", "controller", "no fault", "duplicated", "reordered", "dropped", "stale", "conflicts", "killed", strings.Join(rows, "\n"))
}

// run lives a scenario once and returns how many writes it took.
func (s scenario) run(t *testing.T, cell string, apply func(c *cluster)) (writes int) {
	synctest.Test(t, func(t *testing.T) {
		c := s.cluster(t)
		defer c.stop()
		if apply != nil {
			apply(c)
		}
		s.live(c, cell)
		var creates map[string]int
		creates, writes = c.made()
		for resource, most := range s.creates {
			if creates[resource] > most {
				t.Errorf("%s: %s: %d %s were created, want at most %d", s.name, cell, creates[resource], resource, most)
			}
		}
	})
	return writes
}

func (s scenario) live(c *cluster, cell string) {
	c.start()
	s.start(c)
	if s.change != nil {
		time.Sleep(20 * time.Second)
		s.change(c)
	}
	s.settle(c, s.name+": "+cell)
}

func (s scenario) runPattern(t *testing.T, p pattern, calm int) (writes int) {
	writes = s.run(t, p.name, p.apply)
	// Late news may cost a status that is written in two steps instead of one,
	// not a write per event; a conflict costs the write again.
	if writes > p.factor*calm+10 {
		t.Errorf("%s: %s: %d writes, %d without faults", s.name, p.name, writes, calm)
	}
	return writes
}

var everyWrite = flag.Bool("every-write", false, "TestMatrix: kill after every write, not only after some")

// runKilled kills the manager right after its n-th write, with the answer
// lost, for n = 1, 2, 3, 5, 8 … (or each n) until there is none, and starts
// another. It returns how often that was.
func (s scenario) runKilled(t *testing.T) (deaths int) {
	for n, last := int64(1), int64(1); ; n, last = n+last, n {
		if *everyWrite {
			last = 1
		}
		reached := false
		cell := fmt.Sprintf("killed after write %d", n)
		synctest.Test(t, func(t *testing.T) {
			c := s.cluster(t)
			defer c.stop()
			killed := make(chan struct{})
			var writes atomic.Int64
			c.api.FromManager = func(method, path string) (before, after error) {
				switch i := writes.Add(1); {
				case i == n:
					close(killed)
					return nil, errors.New("killed")
				case i > n:
					return errors.New("killed"), nil // the dead write nothing
				}
				return nil, nil
			}
			c.start()
			s.start(c)
			changed := time.After(20 * time.Second)
			for over, calm := false, 0; !over; {
				select {
				case <-killed:
					reached, over = true, true
				case <-changed:
					if s.change != nil {
						s.change(c)
					}
					changed = nil
				case <-time.After(2 * time.Second):
					if calm++; s.change != nil && changed != nil || s.wrong(c) != "" {
						calm = 0
					}
					over = calm == 30 // there is no n-th write
				}
			}
			c.stopManager()
			c.api.FromManager = nil
			c.start()
			if changed != nil && s.change != nil {
				time.Sleep(20 * time.Second)
				s.change(c)
			}
			s.settle(c, s.name+": "+cell)
			creates, _ := c.made()
			for resource, most := range s.creates {
				if creates[resource] > most+1 { // one whose answer was lost may be asked for again
					t.Errorf("%s: %s: %d %s were created, want at most %d", s.name, cell, creates[resource], resource, most)
				}
			}
		})
		if !reached || t.Failed() {
			return deaths
		}
		deaths++
	}
}

// names lists objects by name, for messages.
func names[T interface{ GetName() string }](items []T) []string {
	seen := map[string]bool{}
	for _, item := range items {
		seen[item.GetName()] = true
	}
	return slices.Sorted(maps.Keys(seen))
}
