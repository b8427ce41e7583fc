// Package harness is what every controller stands on, and all of it: a place
// to read (Store), a loop that calls reconcile (Loop), and the manager that
// starts both once the caches are full (Manager).
//
//	             one informer per kind, for all controllers
//	API server ──watch──▶ Store[T] ───change──▶ keys ──▶ Loop[K]
//	     ▲                  │ ▲                            │
//	     │           reads  │ │ own writes                 │ reconcile(key)
//	     │                  ▼ │                            ▼
//	     └──── writes ──── Store[T] ◀──── apply ◀──── plan(snapshot)
//
// The one hard problem of this design is that a watch lags. A controller that
// creates a pod and looks again may not see it yet, and creates another.
// Upstream counts "expectations" per key. We do something simpler: a Store
// remembers what the server answered to our own writes and lays it over the
// informer's view until the informer has caught up (store.go). So a controller
// always reads its own writes, there is nothing to count and nothing that
// expires, and a plan is a pure function of what the Store shows.
//
// What harness refuses to do: it knows no controller, it does not retry a
// write in place (a conflict means: look again), and it starts no goroutine
// outside Manager.Run.
//
// Start reading at loop.go, then store.go.
package harness
