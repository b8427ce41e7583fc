// Package controllers is the controller manager: the loops that make the
// cluster's objects true. Each controller is a package below; this one names
// them all and starts those that were asked for.
//
//	                     watch                              write
//	API server ───────────────────▶ controllers ───────────────────────▶ API server
//
//	deployment ──makes──▶ ReplicaSets      endpointslice ──makes──▶ EndpointSlices, Endpoints
//	replicaset ──makes──▶ Pods             nodelifecycle ──marks──▶ Nodes that fell silent
//	daemonset  ──makes──▶ Pods             tainteviction ──deletes▶ Pods on nodes that repel them
//	garbagecollector ──deletes──▶ what has lost its owners
//	namespace  ──empties──▶ Namespaces     nodeipam ──gives──▶ Nodes their pod addresses
//	podgc ──deletes──▶ Pods of lost nodes  serviceaccount, rootca ──furnish──▶ new Namespaces
//
// No controller knows another. A Deployment's rollout is five of them at work,
// each looking at its own kind and writing one other, and it is right because
// each of them is right whatever order they run in. All have one shape:
//
//	plan.go       snapshot → what has to happen, pure: it is where the thinking
//	              is, and where the tests are
//	reconcile.go  key → snapshot → plan → apply → status
//
// and one discipline: an event says only where to look; everything is decided
// from state as it is now; every write can fail, be repeated, or be the last
// thing this process does.
//
// What they refuse to do: no controller talks to a node or to etcd, keeps state
// that a restart would lose (but for timers that a restart may prolong), or
// holds on to its view when the server disagrees.
//
// Start reading at harness, then replicaset.
package controllers
