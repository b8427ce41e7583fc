// Package kubelet is a node's agent: it makes the pods that this node shall
// run into containers that run, and tells the API server what became of them.
//
//	manifest files ──┐                                   ┌──▶ CRI: sandboxes, containers
//	(static.go)      ├─▶ sync loop ─▶ one worker per pod ┤
//	API: pods of ────┘   (sync.go)    (worker.go)        ├──▶ volumes, cgroups, /etc/hosts
//	this node                             ▲              └──▶ status writer ──▶ API
//	                                      │ wake
//	                     relist ──────────┤   what the runtime says changed
//	                     probes ──────────┘   what the containers say of themselves
//
// The whole of it is one idea, applied per pod: look at what is wanted, look
// at what is there, do the next step (plan.go), look again. Nothing is decided
// from an event and nothing that matters is only remembered. What is there is
// read from the runtime, from the pod's directory and from the mount table; so
// a kubelet that is killed at any instant and started again finds every
// container and starts none twice.
//
// A kubelet needs no API server. Without one it runs the pods in its manifest
// directory, which is how a control plane starts: etcd and the API server are
// pods of a kubelet that cannot reach them yet. When there is one, those static
// pods are shown there as mirror pods (mirror.go).
//
// A pod's way through the files:
//
//	static.go, sync.go       who wants it
//	worker.go                its life as a state machine: bring up, end, vanish
//	bringup.go, plan.go      the next step towards running
//	sandbox.go, container.go what is asked of the runtime (with env.go, facts.go,
//	                         security.go, resources.go, dns.go, hosts.go, image.go)
//	volume*.go, mount_linux.go, cgroup.go
//	csi.go                   volumes of drivers (csi_record.go: what of them is on disk;
//	                         csi_registry.go, csi_node.go: which drivers there are)
//	probe.go, hooks.go       what is asked of the container
//	terminate.go, gc.go      the end
//	status.go, status_writer.go
//
// and beside the pods: node.go and nodestatus.go (the Node and its Lease),
// server.go, auth.go, stream.go, log.go, stats.go, summary.go (the node API on
// 10250), certificates.go (who the kubelet is), and what keeps the node itself
// alive: measure.go, eviction*.go, imagegc.go, preempt.go, shutdown.go.
//
// What it refuses to do: it never runs CNI (the runtime does), never talks to
// etcd, never schedules, and never ends a pod because the API server is away.
//
// Start reading at worker.go.
//
// Book: docs/13-the-kubelet-alone.md
package kubelet
