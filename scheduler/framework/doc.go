// Package framework is the vocabulary that the scheduler and its plugins
// share: what a node looks like to a decision (NodeInfo), what one attempt to
// place one pod knows (Cycle), what a plugin may answer (Status), and where in
// an attempt it is asked (the interfaces of plugin.go).
//
//	PreEnqueue   may this pod be tried at all?                       queue
//	QueueSort    which pod is tried first?                           queue
//	─────────────────────────────────────────────────────── one pod leaves it
//	PreFilter    look at the pod once; perhaps name the only nodes   │
//	Filter       may it run on this node?          for each node     │ one
//	PostFilter   no node: can room be made?                          │ goroutine,
//	PreScore     look at the feasible nodes once                     │ no I/O
//	Score        0..100, how good is this node?    for each node     │
//	Normalize    bring one plugin's scores to 0..100                 │
//	Reserve      claim things in memory (and Unreserve)              │
//	Permit       a last word                                         │
//	─────────────────────────────────────────────────────── asynchronous
//	PreBind      prepare outside things, e.g. volumes                │ many at
//	Bind         POST pods/binding                                   │ a time
//	PostBind     tell whom it may concern                            │
//
// The names and their meaning are upstream's, so that its documentation holds
// for us. A plugin implements as many of the interfaces as it needs; a Profile
// is the result of sorting plugins into these points.
//
// Filter and Score must be pure: they see the Cycle and one NodeInfo, and no
// clock, no network, no other pod's attempt. That is what lets `simulate` and
// `explain` run the very same code offline.
package framework
