// Package nodelifecycle notices when a node has fallen silent, says so in the
// node's conditions, and turns conditions into taints.
//
//	Lease renewed / status posted        nothing for 50 s
//	        │                                  │
//	   Ready=True|False (kubelet's)       Ready=Unknown (ours), pods not ready
//	        │                                  │
//	        ▼                                  ▼
//	taint not-ready if False            taint unreachable
//	:NoSchedule keeps pods away, :NoExecute drives them off (tainteviction)
//
// Silence is measured with our own clock, from the moment we saw a heartbeat
// change: the clocks of nodes may be wrong. So it starts again from zero when
// this process starts, which errs on the side of waiting.
//
// When no node at all is ready, it is far more likely that we are cut off than
// that the whole cluster died; then nobody is driven off. And nodes are given
// up one by one (zones.go), so that a failing switch does not restart half the
// cluster's pods on the other half.
//
// It never deletes a node or a pod.
//
// Start reading at plan.go.
package nodelifecycle
