// Package podgc removes the pods that nobody else will: those on nodes that no
// longer exist, those being deleted that never got a node, those on nodes that
// someone declared out of service, and the oldest finished ones when there are
// too many.
//
// No kubelet will ever confirm these deletions, so they are forced: grace
// period zero. A node must have been missing for a while, and be missing when
// the server is asked itself, before its pods are given up.
//
// Start reading at plan.go.
package podgc
