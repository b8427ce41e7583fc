// Package proxy makes Services work on one node. A Service address belongs to no
// interface and no process; it is a rule that every node has, which rewrites the
// packet's destination before it is routed.
//
//	Services, EndpointSlices, our Node ──watch──▶ NewState (pure) ──▶ State
//	                                                                   │ render (pure)
//	                            kernel ◀──one iptables-restore── diff ◀┘
//
// The state says what should be, for one node and one address family; a backend
// says how. Here: iptables, with upstream's chains:
//
//	nat  PREROUTING, OUTPUT ─▶ KUBE-SERVICES
//	       10.96.0.10:53/udp  ─▶ KUBE-SVC-…                     a Service port
//	                               from outside the pod network ─▶ KUBE-MARK-MASQ
//	                               1/2 ─▶ KUBE-SEP-… ─▶ DNAT to 10.244.1.4:53
//	                               else ─▶ KUBE-SEP-… ─▶ DNAT to 10.244.2.9:53
//	       to an address of this node (last!) ─▶ KUBE-NODEPORTS
//	           port 30080 ─▶ KUBE-EXT-… ─▶ KUBE-SVC-… or, for policy Local, KUBE-SVL-…
//	     POSTROUTING ─▶ KUBE-POSTROUTING     marked packets leave under our address
//	filter  no endpoints: REJECT, rather than a client that waits
//
// Only the first packet of a connection walks these chains; the kernel's
// connection tracking remembers the verdict. That is also why a removed endpoint
// of a UDP Service needs help (conntrack_linux.go): UDP has no end of connection.
//
// What must hold: one restore is one transaction, so no packet ever sees half of
// it; chains that did not change are not written; chains of others are not
// touched; whoever flushes the tables finds the rules back within seconds.
//
// The proxy never sees a Pod, and it reaches the API server by its real address:
// a Service address would need the rules that it is about to write.
//
// Start reading at NewState, then renderPort. Try: kube-proxy render -f x.yaml.
//
// Book: docs/20-a-service-is-a-rule.md
package proxy
