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
// read from the runtime, from the pod's directory and from the mount table, and
// what was promised from a file (allocation.go); so a kubelet that is killed at
// any instant and started again finds every container and starts none twice.
//
// A kubelet needs no API server. Without one it runs the pods in its manifest
// directory, which is how a control plane starts: etcd and the API server are
// pods of a kubelet that cannot reach them yet. When there is one, those static
// pods are shown there as mirror pods (mirror.go).
//
// A pod's way through the files:
//
//	static*.go, sync.go        who wants it
//	worker.go                  its life: bring up, end, vanish
//	admit.go, preempt.go       whether it may run here, and who makes room for it
//	bringup.go, plan.go        the next step towards running (backoff.go: or not yet)
//	runtime.go, relist.go      what there is, and how we hear that it changed
//	sandbox.go, container.go   what is asked of the runtime, made of
//	    env*.go, expand.go, facts.go       variables, and what a pod may know of itself
//	    security.go, userns.go             who it is, and what it may
//	    resources.go, cgroup*.go           what it gets (allocation.go: has been promised;
//	                                       resize.go: gets instead, while it runs)
//	    dns.go, hosts.go                   its names
//	    image.go, pulled.go                its image, and who may use it
//	    volume*.go, mount_linux.go         its files (objects.go: read from the API)
//	    csi*.go                            those that drivers bring: csi.go says the order
//	probe*.go, hooks.go        what is asked of a container, and told to it
//	restartall.go              one end that is the end of all containers
//	terminate.go, gc.go        the end, and what is left
//	status.go, status_writer.go, mirror.go what the API is told
//
// and beside the pods:
//
//	kubelet.go, config*.go     the parts and how they are joined; its settings
//	validate.go, gates.go      and what they may be
//	node.go, nodestatus.go     the Node and its Lease
//	server.go, routes.go, auth.go, stream.go, log.go              the node API on 10250
//	stats.go, summary.go, metrics.go, cadvisor.go, runtime_calls.go   what is measured and counted
//	certificates.go            who the kubelet is
//	measure.go, eviction*.go, imagegc.go, shutdown.go   what keeps the node itself alive
//
// What it refuses to do: it never runs CNI (the runtime does), never talks to
// etcd, never schedules, and never ends a pod because the API server is away.
//
// Start reading at worker.go, then plan.go, then bringup.go.
//
// Book: docs/13-the-kubelet-alone.md, and 14 (mirror.go), 15 (probe.go), 16 (cgroup.go, eviction.go)
package kubelet
