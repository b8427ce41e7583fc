// Package proxy runs a real kube-proxy beside ours: two machines that are alike,
// each with pods, a neighbour and a client outside, and one API server for both.
// What a client meets must be the same through either: which endpoints, whom they
// see, who is refused and who is left waiting.
//
// The program is given by path in $KUBE_PROXY, by `make smoke-swap`.
package proxy
