// Package flannel puts upstream's flanneld beside ours and in its place: machines
// of namespaces on one wire, some with the one and some with the other, that
// learn of each other from Node objects or from an etcd.
//
// The program is given by path in $FLANNELD, by `make smoke-swap`.
package flannel
