// Package swap puts real Kubernetes programs in the place of ours and watches
// what happens: a real kube-scheduler against our API server, decided against
// our own plugins pod by pod; a real kubectl through its verbs.
//
// The programs are given by path, in $KUBE_SCHEDULER and $KUBECTL, by
// `make smoke-swap`; without them the tests fail and say what is missing.
package swap
