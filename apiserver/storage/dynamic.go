package storage

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"tinykube/apiserver/resources"
)

// Tables come and go with the kinds that are declared while we run. A changed
// declaration replaces its table: what is cached was pruned and defaulted by
// the old one. So the life of such a table is
//
//	Attach: load, then take the place of the one before
//	Detach: end its watchers; a while later, when nobody can still be reading
//	        it, stop following etcd

// detachAfter is how long requests that began with a table may still need it.
const detachAfter = time.Minute

// attachment asks Run to follow a table.
type attachment struct {
	table   *Table
	started chan context.CancelFunc
}

// Attach makes a table for a row, returns when it has been read, and gives it
// the place of the resource's table before, which it returns, or nil.
func (s *Store) Attach(ctx context.Context, row *resources.Row) (before *Detached, err error) {
	a := attachment{newTable(s, row), make(chan context.CancelFunc, 1)}
	select {
	case s.attach <- a:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	a.table.stop = <-a.started
	select {
	case <-a.table.synced:
	case <-ctx.Done():
		a.table.stop()
		return nil, ctx.Err()
	}
	return s.swapTable(row, a.table), nil
}

// Detach takes a row's table away.
func (s *Store) Detach(row *resources.Row) *Detached { return s.swapTable(row, nil) }

// Detached is a table that nobody can find any more. Its watchers go on until
// End: first the rows that replace its row must be in place.
type Detached struct{ table *Table }

func (s *Store) swapTable(row *resources.Row, table *Table) *Detached {
	name := row.GVR().GroupResource()
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.tables[name]
	if table == nil {
		delete(s.tables, name)
	} else {
		s.tables[name] = table
	}
	if before == nil {
		return nil
	}
	return &Detached{before}
}

// End ends the table's watchers, who come back to its successor, and lets it
// stop when what was begun with it must be over.
func (d *Detached) End() {
	if d == nil {
		return
	}
	d.table.endWatchers(false)
	time.AfterFunc(detachAfter, d.table.stop)
}

// attachTables follows tables that are attached, until ctx ends.
func (s *Store) attachTables(ctx context.Context, group *errgroup.Group) error {
	for {
		select {
		case a := <-s.attach:
			ctx, cancel := context.WithCancel(ctx)
			a.started <- cancel
			group.Go(func() error {
				defer cancel()
				defer a.table.endWatchers(true)
				return a.table.follow(ctx)
			})
		case <-ctx.Done():
			return nil
		}
	}
}

// endWatchers tells all watchers that their history is over, and, if this is
// for good, refuses new ones.
func (t *Table) endWatchers(over bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = t.over || over
	t.endAll()
}

// endAll ends all watchers. The caller holds mu.
func (t *Table) endAll() {
	for _, set := range t.watchers {
		for w := range set {
			w.end()
		}
	}
}
