// Package replicaset keeps as many pods as a ReplicaSet asks for: no more, no
// fewer, whoever made them.
//
//	ReplicaSet ─┐
//	            ├─▶ claim ─▶ plan: create n | delete these ─▶ apply ─▶ status
//	Pods ───────┘
//
// A pod belongs to the ReplicaSet that its controller reference names, not to
// whoever created it: orphans that fit the selector are adopted, pods whose
// labels were changed are let go (and replaced). Which pods die first when
// there are too many is a ranking (rank.go), chosen so that the least is lost.
//
// It knows nothing of nodes, images or readiness beyond counting, and it does
// not delete what a deleted ReplicaSet leaves behind: that is garbage
// collection's.
//
// Start reading at plan.go.
package replicaset
