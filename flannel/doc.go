// Package flannel gives the pods of every node a way to the pods of every other
// node: three kernel entries per remote node, and a watch that keeps them right.
//
// Each node owns a subnet of the cluster's pod network. A packet for a pod
// elsewhere leaves through flannel.1, a vxlan device, which puts the whole
// Ethernet frame into a UDP packet to the other node:
//
//	pod 10.244.1.7 ── cni0 ── routing ── flannel.1 ══ UDP 8472, VNI 1 ══ flannel.1 ── cni0 ── pod 10.244.2.9
//	                            │            │
//	                            │            └ FDB:  MAC of node 2's flannel.1 → 172.30.9.3
//	                            │              ARP:  10.244.2.0 → that MAC
//	                            └ route: 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink
//
// The address 10.244.2.0 exists only to be looked up: the route leads to it, the
// ARP entry turns it into a MAC, the FDB entry turns the MAC into a machine.
// Nothing is learned from traffic and nothing is asked by broadcast; whoever
// removes one of the three stops exactly that node's packets.
//
// How a node knows of the others:
//
//	flanneld ──PATCH nodes/status──▶ annotations of its own Node: public IP, MAC
//	flanneld ◀──watch nodes───────── everybody's spec.podCIDR and annotations
//	         ──▶ leases ──▶ makePlan (pure) ──▶ diff with the kernel ──▶ netlink
//
// Without Kubernetes an etcd of flannel's own takes the Nodes' place (flannel/etcd),
// or a plain file (FileSource).
//
// The plan is recomputed whenever a Node changes and every few seconds, and only
// differences are written. So a restart disturbs no connection, and whatever
// somebody deletes comes back. Entries that are not ours stay (see readPlan).
//
// It never sees a Pod; nor does it know the plugins that make them. It leaves
// them a file, /run/flannel/subnet.env.
//
// Start reading at Flannel.Run, then makePlan. Wire format: RFC 7348.
//
// Book: docs/19-flannel.md
package flannel
