package harness

import "golang.org/x/sync/errgroup"

// atOnce bounds how many requests one reconcile has under way.
const atOnce = 64

// SlowStart calls f for 0…n-1 in batches of 1, 2, 4, …, each batch at once,
// and stops after the batch in which a call failed: a namespace whose quota is
// used up then costs one request, not n.
//
// Upstream: kubernetes/kubernetes pkg/controller/replicaset slowStartBatch
func SlowStart(n int, f func(i int) error) error {
	for size, done := 1, 0; done < n; size *= 2 {
		batch, first := min(size, n-done), done
		if err := Parallel(batch, func(i int) error { return f(first + i) }); err != nil {
			return err
		}
		done += batch
	}
	return nil
}

// Parallel calls f for 0…n-1, waits for all, and returns the first error.
func Parallel(n int, f func(i int) error) error {
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i := range n {
		g.Go(func() error { return f(i) })
	}
	return g.Wait()
}
