// Package etcd is flannel's other source of leases: an etcd of its own, for
// machines without Kubernetes. Nodes choose their subnets themselves.
//
//	/coreos.com/network/config                  the network configuration, by an administrator
//	/coreos.com/network/subnets/10.5.71.0-24    {"PublicIP":"172.30.9.2","BackendType":"vxlan","BackendData":{…}}
//
// A subnet is taken by a transaction that wants its key not to exist, under an
// etcd lease of a day: a node that is gone gives its subnet back by itself. A key
// without an etcd lease is a reservation: the administrator has promised that
// subnet to the node with that address.
//
// Start reading at Source.Mine.
//
// Upstream: flannel-io/flannel pkg/subnet/etcd: the same keys and values, so nodes
// of both kinds understand each other.
package etcd
