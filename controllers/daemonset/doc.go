// Package daemonset keeps one pod of a DaemonSet on every node that should
// have one.
//
//	nodes ──▶ should run? may stay? ──┐
//	pods by node ─────────────────────┼─▶ plan: create on these nodes, delete these pods
//	current revision's hash ──────────┘
//
// A pod is tied to its node by node affinity to the node's name, not by
// spec.nodeName: the scheduler still places it, so that priority, preemption
// and resources hold for it as for any other pod. What keeps ordinary pods off
// a sick node must not keep its DaemonSet pods off, so they tolerate it
// (pod.go).
//
// Every template that a DaemonSet has had is kept as a ControllerRevision,
// named by its hash; a pod's label says which one it was made of. A rolling
// update deletes pods of other revisions, a few at a time, and lets the plan
// above fill the holes. kubectl rollout undo reads the revisions.
//
// Start reading at plan.go, then roll.go.
package daemonset
