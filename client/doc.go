// Package client is how every tinykube component talks to the API server, and
// the only way it does. It has four layers, each usable without the next:
//
//	Client      one HTTPS connection pool: requests in, objects or StatusErrors out
//	Resource[T] verbs on one typed resource: Get List Create Update Patch Delete Watch
//	Informer[T] a local copy of a resource, kept current by list-watch (reflector.go)
//	Queue[K]    keys that need work: deduplicated, one worker per key, backoff
//
// A controller is these four in a row:
//
//	API server ──watch──▶ Informer ──key──▶ Queue ──key──▶ reconcile(key)
//	     ▲                    │ read                            │
//	     └────────────────────┴──────────── write ◀─────────────┘
//
// The handlers of an informer only put keys into a queue; reconcile reads the
// informer again and decides from state, never from the event. So an event
// that is lost, repeated or out of order costs time but not correctness.
//
// Beside them: Recorder (events that kubectl describe shows) and Elector (one
// leader among replicas, by Lease).
//
// What it refuses to do: no caching behind a reader's back, no retry of a
// write whose outcome is unknown, no protobuf (JSON can be read with curl).
//
// Start reading at resource.go, then reflector.go.
package client
