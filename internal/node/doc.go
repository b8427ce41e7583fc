// Package node makes a machine out of namespaces.
//
// A node of the all-in-one is a process in PID, mount, UTS, IPC and network
// namespaces of its own, under one cgroup. That process is the node's PID 1:
//
//	machine                              node-1 (its own view)
//	──────────────────────               ─────────────────────────────────
//	<state>/nodes/node-1/etc   ──over──▶ /etc        the machine's, with changes kept apart
//	         …/etc/kubernetes  ──bind──▶ the same    and /etc/cni, /etc/containerd: never the machine's
//	<state>/nodes/node-1/var   ──bind──▶ /var        all that the node remembers
//	<state>/nodes/node-1/opt   ──bind──▶ /opt        /opt/cni/bin, /opt/tinykube
//	/usr /bin /lib …           ──ro────▶ the same    iptables, mount, nsenter, …
//	                             tmpfs   /run /tmp   gone when the node is
//	bridge (a netns) ═══ veth ═════════▶ eth0        the only way in or out
//	cgroup /tinykube/node-1              limits what the node says it has
//
//	PID 1 ─┬─ containerd ── shims ── pods
//	       ├─ cri
//	       └─ kubelet
//
// Nothing else is started by hand; everything else is a pod. When PID 1 ends,
// for whatever reason, the kernel ends the rest: no pod can outlive its node,
// and clean-up needs no list of what was started.
//
// Reading order: Start (start.go) is the machine's side; Init (init_linux.go)
// is the node's side up to pivot_root; supervise.go is PID 1's life.
//
// Book: docs/00-a-cluster-in-one-command.md
package node
