// Package garbagecollector deletes objects whose owners are gone. It is how
// deleting a Deployment deletes its ReplicaSets, and they their pods, though
// none of those controllers deletes anything then.
//
//	metadata of every kind (discovery) ──▶ graph: who owns whom, by UID
//	                                         │ something changed near X
//	                                         ▼
//	reconcile(X): owners all gone? ── certain? ──▶ delete X
//	              being deleted in the foreground? ──▶ dependents first
//	              to be orphaned? ──▶ take its name off its dependents
//
// How an object's deletion spreads is the deleter's choice, and is written on
// the object as a finalizer before it disappears:
//
//	background  the object goes at once; its dependents are noticed to be without owner
//	foreground  the object stays, deleting, until the dependents that block it are gone
//	orphan      the object stays until its dependents no longer name it
//
// The graph is a copy and may be behind. It serves to decide quickly that
// there is nothing to do, which is nearly always. Before anything is deleted,
// the object and its owners are read from the server; an owner whose kind is
// unknown, or whose absence cannot be established, counts as present. And every
// deletion names the UID and resourceVersion that were judged.
//
// Start reading at plan.go, then reconcile.go.
package garbagecollector
