// Package namespace empties a namespace that is being deleted, and then lets
// it go.
//
//	delete ──▶ Terminating ──▶ every kind that discovery knows: list, delete ──▶ empty ──▶ finalize ──▶ gone
//	                                     ▲                        │
//	                                     └────── look again ──────┘
//
// Pods go first, and everything else only after the last of them: a pod that
// still runs must not find its Secrets, or the NetworkPolicy that confines it,
// gone before it is.
//
// When it cannot know what is in the namespace, because a group's server does
// not answer, the namespace stays, and its conditions say why.
//
// Start reading at reconcile.go.
package namespace
