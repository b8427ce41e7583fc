// Package cri is a container runtime for Kubernetes: a gRPC server that the
// kubelet tells what to run, on top of containerd, which knows how.
//
//	        kubelet, crictl
//	             │ gRPC: RuntimeService, ImageService      HTTP: exec, attach, port-forward
//	             ▼                                             ▼
//	┌──────────────────────────── cri ─────────────────────────────────┐
//	│ sandbox.go  container.go  image.go            stream.go  exec.go │
//	│     │            │        pull.go                     io.go      │
//	│  cni.go       spec.go ◀── user.go, confine.go, userns.go  log.go │
//	│  netns_linux.go  (pure)                                          │
//	└─────┼────────────┼────────────┼──────────────────────────▲───────┘
//	      ▼ exec       ▼ gRPC: records, snapshots, tasks       │ FIFOs
//	 CNI plugins   containerd ──▶ shim (one per pod) ──▶ runc ──▶ processes
//
// # What a pod is
//
// A pod is a process that does nothing, pause, and the namespaces which it
// keeps open. RunPodSandbox makes a network namespace, has the CNI plugins
// plug a cable into it, and starts pause inside. Each container is then a
// process tree that joins pause's network, IPC and UTS namespaces (and its PID
// namespace, if the pod shares one) but has a filesystem of its own, the
// image's with a writable layer on top. What a container will be is computed
// by one pure function, containerSpec; everything else here is finding its
// arguments and carrying out its result.
//
// # Who remembers
//
// This server has no database. What it must not forget is JSON in containerd's
// own records (containerd.go), written before it is acted upon; what runs is
// asked of the shims, which outlive both containerd and us; output passes
// through FIFOs, which wait for whoever reads them next. So kill -9 of this
// process, or of containerd, costs nothing but time: recover.go reads the
// records, compares them with the tasks, opens the FIFOs again and removes what
// was left half done. Every method may be repeated.
//
// Invariant: a record exists before, and until after, anything it describes.
//
// # What it refuses
//
// CDI devices, AppArmor profiles, checkpoints: each is answered with an error
// that says so, since a pod that runs without what it asked for is worse than
// one that does not. Of an image only what is bounded is read, as if the image
// were the root: user.go, fillVolumes, imagevolume.go.
// It does not know pods beyond their sandbox, does not restart anything, does
// not rotate logs and does not probe: all that is the kubelet's.
//
// The rest is what kubelets ask beside that: stats.go, metrics.go and diskio.go
// (out of cgroup.go's counters), events.go, status.go.
//
// Start reading at RunPodSandbox, then containerSpec, then recover.
//
// Upstream: containerd@v2.3 internal/cri; Spec: cri-api v1, OCI runtime-spec
// 1.2, CNI 1.1.
// Book: docs/12-cri-from-sandbox-to-process.md
package cri
