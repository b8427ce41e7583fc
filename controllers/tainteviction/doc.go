// Package tainteviction deletes pods from nodes whose NoExecute taints they do
// not tolerate, or no longer: a toleration may be for a number of seconds.
//
//	taint added ──────── tolerationSeconds ────────▶ delete
//	     └─ taint removed in between: nothing happens
//
// The time counts from the moment that the taint carries, not from when we saw
// it, so a restart neither forgets an eviction nor grants five more minutes.
//
// It only asks for deletion. On a dead node nobody carries that out; the pod
// stays Terminating until the node comes back or is deleted.
//
// Start reading at plan.go.
package tainteviction
