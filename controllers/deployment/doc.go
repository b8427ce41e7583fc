// Package deployment replaces one set of pods by another without anybody
// noticing. It owns ReplicaSets, one per pod template it has ever had, and
// moves replicas from the old ones to the new one in steps that keep enough
// pods available and do not make too many.
//
//	Deployment: template v2, 4 replicas, maxSurge 1, maxUnavailable 1
//
//	time ──▶          1    2    3    4    5
//	ReplicaSet v1     4    3    2    1    0      kept, empty, for undo
//	ReplicaSet v2     0    2    3    4    4      the "new" one
//	available       ≥ 3 at all times, together ≤ 5 at all times
//
// Which ReplicaSet is the new one is decided by comparing pod templates, so a
// rollback is nothing special: an old ReplicaSet becomes the new one again and
// gets the next revision number. Every step follows from the ReplicaSets' spec
// and status alone; nothing is remembered between two reconciles, which is why
// a restart in the middle of a rollout costs nothing.
//
// It never sees a pod: how many are ready, available or on their way out is
// what the ReplicaSets' status says.
//
// Simplified: without progressDeadlineSeconds (which the API server sets by
// default) there is no condition Progressing, as upstream; the annotation of
// API v1beta1 that asked for a rollback is not looked at.
//
// Start reading at plan.go, then rolling.go.
package deployment
