// Package cni holds the node's network plugins: bridge, host-local, loopback,
// portmap and flannel. They are one small program under five names.
//
// A CNI plugin is the plainest kind of program. It is executed, once, for one
// verb on one container; it finds the verb in its environment and the network's
// configuration on standard input, changes the kernel, prints JSON and ends.
// No daemon, no API server, no memory but files and the kernel itself.
//
//	cri                            (the kubelet never runs a plugin)
//	 │ CNI_COMMAND=ADD CNI_NETNS=/run/netns/x CNI_IFNAME=eth0   {"type":"flannel",…}
//	 ▼
//	flannel ──▶ bridge ──▶ host-local        each arrow: exec, JSON in, JSON out
//	   │           │            └─ /var/lib/cni/networks/cbr0/10.244.1.7
//	   │           └─ cni0, veth, routes
//	   └─ reads /run/flannel/subnet.env, written by flanneld
//	 │ result becomes prevResult
//	 ▼
//	portmap ──▶ iptables (only for pods that ask for a host port)
//
// The packet path they build, on one node:
//
//	pod A              node                        pod B
//	eth0 ── vethA ──▶ cni0 (bridge, 10.244.1.1) ──▶ vethB ── eth0
//	                   └─▶ routing ──▶ flannel.1 or eth0 ──▶ other nodes
//
// What must hold whatever dies in between: an address is given to one container
// at a time; ADD after a crashed ADD starts clean; DEL succeeds twice, and with
// the container's namespace long gone.
//
// They refuse to guess: an option that would change what a container can reach
// and that is not built (VLANs, say) is an error, not a silence.
//
// Start reading at Main, then bridgeAdd. Specification: CNI 1.1 (SPEC.md).
//
// Book: docs/18-cni.md
package cni
