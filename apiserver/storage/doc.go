// Package storage keeps objects in etcd and serves them from memory.
//
//	        Create, Update: compare-and-swap             Get, List, Watch
//	                  │                                        ▲
//	                  ▼                                        │ bytes
//	etcd ◀──── transactions                     ┌──────────────┴───────────┐
//	 │                                          │ Table: one per resource  │
//	 └──── one watch per Table ────────────────▶│  tree     the present    │
//	                                            │  history  the past 75 s  │
//	       "which revision is it?" ◀─ barrier ──│  pages    kept moments   │
//	                                            └──────────────────────────┘
//
// # Store bytes, ship bytes
//
// An object is decoded and encoded when it is written. What comes back from
// etcd is the encoded form; into it the resourceVersion, which is the etcd
// revision and could not be known before, is spliced once, and the result is
// what GET, LIST and every watcher ship. An Item decodes itself only if
// somebody asks (a selector, a table, a writer), once for all who ask; its
// protobuf form, too, is made once, when first wanted. So an event costs one
// splice, whether one watcher sees it or a thousand.
//
// # Fresh, unless asked otherwise
//
// A reader who says nothing gets everything that was committed before the
// question. The cache may lag behind etcd by a moment, so the reader waits
// until it has caught up with a revision that etcd gave out after the question
// (barrier.go); all who wait share one question. A table that is idle learns
// how far it is by asking etcd for progress on its watch. A reader who says
// resourceVersion=0 waits for nothing.
//
// # What can go wrong
//
//	etcd is away            reads of the cache go on; fresh reads and writes
//	                        end in bounded time, as 504
//	a write's answer lost   504 that says so: the outcome is unknown, and never
//	                        called a success or a failure
//	watch broken            resumed at the next revision; nobody notices
//	history compacted       the table is loaded anew, its watchers are told 410
//	slow watcher            loses its place in the history, alone, with 410
//	two API servers         each write is a compare-and-swap; there is no lock
//
// # Invariants
//
//   - An Item never changes. What Object returns is shared: copy before writing.
//   - A Table shows each key in etcd's order, and its revision never goes back.
//   - Stored bytes carry no resourceVersion, and are what a kube-apiserver of
//     the same version would store: either can take over from the other.
//   - Nothing but this package (and flannel's own lease store) knows etcd.
//
// Start reading at Item, then Table, Table.follow and Watcher.
package storage
