// Package disruption computes how many pods of a PodDisruptionBudget may be
// evicted now. It only counts: whoever evicts (kubectl drain, a preempting
// scheduler) asks the API server, which takes one from disruptionsAllowed.
//
//	pods that the selector finds ──▶ expected, healthy ──▶ status.disruptionsAllowed
//
// How many pods there should be is asked of their owners' scale, since a pod
// that does not exist yet cannot be counted.
//
// Start reading at plan.go.
package disruption
