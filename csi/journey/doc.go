// Package journey says where a claim stands on its way from a wish to a mount,
// and who has to say what for it to go on.
//
//	claim ─▶ class ─▶ node? ─▶ volume ─▶ bound ─▶ pod's node ─▶ attached ─▶ staged ─▶ mounted
//	          │        │         │        │          │             │           │        │
//	          │    scheduler     │      binder   scheduler         │     NodeStageVolume │
//	     the binder         CreateVolume                ControllerPublishVolume   NodePublishVolume
//
// Nobody keeps such a list: each of the seven who take part sees its own
// stretch only. But each writes down what it has done, since the next one waits
// for that; so the way can be read from the objects, and the first thing that is
// not written down is what is waited for.
//
// It asks the API server and nobody else: no driver, no kubelet. What these two
// say to each other is seen by what comes of it, or from a kubelet's complaints.
//
// Start reading at explain.go.
package journey
