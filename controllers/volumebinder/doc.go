// Package volumebinder brings claims and volumes together, and says what becomes
// of a volume whose claim is gone.
//
//	claim  Pending ──── a volume is found ────▶ Bound ── its volume is gone ──▶ Lost
//	          │ none
//	          ▼
//	   a provisioner is asked; or the scheduler is waited for
//
//	volume Available ── promised to a claim ──▶ Bound ── its claim is gone ──▶ Released
//	          ▲                                                              │
//	          └── the claim has taken another one            Delete: its driver deletes it
//
// To bind takes four writes, in this order: the volume names the claim, the
// volume is Bound, the claim names the volume, the claim is Bound. Whoever dies
// in between leaves a state from which the next look goes on; a volume that
// names a claim is never given to another one.
//
// The volumes themselves are made and deleted by drivers' provisioners.
//
// Start reading at claim.go.
package volumebinder
