// Package scheduler gives every pod the node that suits it best.
//
// The problem is a cycle: a decision needs to know what runs where, takes a
// while to become true (the API server must accept the binding, the watch must
// bring it back), and the next decision cannot wait for that. So there is one
// loop which decides, alone and without I/O, on a picture of the cluster that
// already contains its own latest decisions; and there are many goroutines
// which make decisions true, and take them back if that fails.
//
//	        watch nodes, pods
//	API server ═══════════════╗
//	    ▲                     ▼ events.go
//	    │          ┌──────────┴──────────┐
//	    │          ▼                     ▼
//	    │        Queue                 Cache ◀── Assume / Forget
//	    │  who is next, who waits   what runs where, and
//	    │  for what (queue.go)      what will (cache.go)
//	    │          │ Pop                 │ Snapshot
//	    │          ▼                     ▼
//	    │   ┌──────────────────────────────────┐
//	    │   │ scheduleOne          scheduler.go│  one pod at a time
//	    │   │   filter ─▶ score ─▶ pick        │  choose.go
//	    │   └───────┬───────────────────┬──────┘
//	    │      node │                   │ none
//	    │           ▼                   ▼
//	    └── bind: POST binding      report: event, condition,    at most 64
//	        fails: Forget, retry    back into the queue          at a time
//
// What "suits" means is not decided here but in plugins, at the extension
// points of package framework; which plugins run, and with what weight, is
// read by package config. Explain runs the same plugins for show.
//
// Invariants:
//   - A node's room is counted as taken from Assume until the watch shows the
//     pod gone or Forget takes it back; never twice, and never not at all.
//   - A pod is in exactly one place of the queue, or bound, or deleted.
//   - Nothing is true because the scheduler thinks so: the API server refuses
//     a second binding, so two schedulers can at worst waste work.
//
// What it refuses to do: it never talks to a kubelet, never starts a pod, never
// moves one that runs.
//
// Start reading at Scheduler.scheduleOne.
package scheduler
