// Package nodeipam gives every node a range of pod addresses of its own, cut
// from the cluster's: 10.244.0.0/16 into 256 times /24, say.
//
//	nodes as they are ──▶ taken ranges ──▶ first free one after the last given ──▶ node.spec.podCIDR(s)
//
// The set of taken ranges is not kept anywhere: it is what the nodes say. One
// worker, and a store that shows our own writes at once, are what makes an
// overlap impossible. A range of a node that was deleted is used again last,
// since somewhere in the cluster a route to the old node may live on.
//
// A node's range never changes while the node exists; the server refuses that,
// and so do we.
//
// Start reading at plan.go.
package nodeipam
