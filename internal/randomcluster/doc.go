// Package randomcluster makes up small clusters for two schedulers to decide
// about: the real one and ours. A cluster is determined by its seed, so that
// what the real one decided once can be compared with ours forever after (see
// tinykube/scheduler/simulate, Judge).
//
//	World()    what all clusters have in common: classes, budgets, volumes
//	New(seed)  nodes, pods that run there, and pods that wait for a node
//
// The numbers come from math/rand/v2's PCG, whose output is specified. Who
// changes anything here must record the real decisions anew:
//
//	make compare-scheduler KUBE_SCHEDULER=path RECORD=1
package randomcluster
