// Package job runs pods until enough of them have succeeded.
//
//	Job ───┐
//	       ├─▶ tally: who runs, who succeeded, who failed
//	Pods ──┘        │
//	                ├─▶ verdict: is it decided, and how
//	                └─▶ plan: create n | delete these ─▶ apply ─▶ status ─▶ let counted pods go
//
// The hard part is to count. A pod that succeeded must count once, even if it
// is deleted a second later, the answer to our write is lost, or we die in
// between. So each pod carries the finalizer batch.kubernetes.io/job-tracking
// and is counted in three steps, each of which may be repeated:
//
//  1. its UID is written into status.uncountedTerminatedPods;
//  2. its finalizer is removed, and it may vanish;
//  3. the UID leaves the list and the counter goes up, in one write.
//
// An Indexed Job needs no UIDs for success: status.completedIndexes says which
// numbers are done, and a number cannot be done twice.
//
// A Job ends in two steps as well: SuccessCriteriaMet or FailureTarget says
// that it is decided, Complete or Failed that no pod is left.
//
// Start reading at tally.go, then verdict.go, plan.go, status.go.
package job
