// Package statefulset keeps pods that have a name of their own, each with
// storage of its own: web-0, web-1, web-2.
//
//	StatefulSet ──▶ ordinals that should be ──┐
//	pods by ordinal ──────────────────────────┼─▶ plan: the next steps ─▶ apply ─▶ status
//	revisions: current, update ───────────────┘
//
// A Deployment's pods are alike and die in any order. Here a pod that is gone
// comes back under its name, with its claims, and only after its predecessor
// is really gone: two pods of one name would write to one disk. So a lost
// node's pod stays until someone says that it is dead.
//
// With podManagementPolicy OrderedReady the plan has one step at a time: pod n
// is made when all before it are available, and the highest goes first. With
// Parallel all steps are taken at once. A rolling update deletes pods of the
// old revision from the highest ordinal down to the partition, and the plan
// makes them again of the new one.
//
// It does not delete claims: it says, by owner references, with whom a claim
// should die (claims.go), and garbage collection does it.
//
// Start reading at plan.go.
package statefulset
