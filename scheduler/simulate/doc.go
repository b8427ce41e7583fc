// Package simulate is the scheduler without a cluster: nodes and pods come
// from files, decisions go to the terminal with all their reasons.
//
//	kube-scheduler simulate -f nodes.yaml -f pods.yaml [--config scheduler.yaml]
//
// Services, ReplicaSets, StatefulSets, ReplicationControllers and Namespaces may
// be given too: they say which pods are alike.
//
// Pods that name their node occupy it. The others are decided one after
// another in the queue's order, each seeing those before it, by the same
// plugins, cache and profiles that the real scheduler runs. Where several
// nodes are equally good the scheduler chooses at random; here the first by
// name is taken, so that a run can be repeated.
package simulate
