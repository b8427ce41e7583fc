// Package payload is what bin/tinykube carries in itself besides its own code: containerd, its runc shim, runc, the
// CNI plugins, and the programs of the images that the cluster runs. Nothing is downloaded when a cluster starts.
//
//	payload/<name>/go.mod   pinned modules, each with its own go.sum: the main module never sees their dependencies
//	        │ go build                                                      (Makefile, "Payload")
//	        ▼
//	bin/payload/<file>      static programs
//	        │ internal/payload/pack: tar, zstd, sha256
//	        ▼
//	internal/payload/data/<group>.tar.zst + <group>.json, manifests/        git-ignored, go:embed
//	        │ Unpack, at run time, only what is missing or wrong
//	        ▼
//	DIR/<file>  ──▶  Images: programs + spec → OCI archives (internal/image)
//
// # Groups
//
// Go programs share much of their code (the runtime, the standard library, gRPC, the Kubernetes types), so a group of
// them compressed as one stream with a long window is a quarter smaller than its members compressed one by one. Two
// groups balance that against building time: "upstream" changes when a pin changes, "ours" (pause, the CNI plugins)
// when we do.
//
// # Trust
//
// A group's JSON lists each file's SHA-256. Unpack compares it with what lies on disk, and with what came out of the
// stream before the file gets its name: a truncated, altered or half-written file is replaced, a right one is left
// alone, whoever else runs, and whenever the last one was killed.
//
// Images are not stored as images. Their programs are in the payload once, and the archive that a node imports is
// composed from them when first needed; programs that two images hold are one layer in both.
//
// # What it refuses to do
//
// It downloads nothing, starts nothing, and does not choose where files go: the caller names the folder. Without a
// built payload the package still compiles, and every call answers ErrNotBuilt: `go vet ./...` and `go test ./...`
// work in a clean clone.
//
// Start with Unpack; images.go lists the images, pack is the building side.
package payload
