// Package image builds container images from files: no daemon, no Dockerfile, no registry, no root.
//
// An image is less than it seems. A layer is a tar file; a config is a JSON document that names the layers by the
// digest of their tar and says what to run; a manifest is a JSON document that names config and layers by digest and
// size; an index names manifests. An archive is a tar of all of these, each filed under its own digest:
//
//	oci-layout                     {"imageLayoutVersion":"1.0.0"}
//	index.json ──digest──▶ blobs/sha256/<manifest> ──┬─digest─▶ blobs/sha256/<config>
//	 (and the name)                                  └─digest─▶ blobs/sha256/<layer> …
//
// Everything is found by digest from the index down, so whoever imports the archive checks all of it, and two images
// that hold the same layer share it on disk: the shell and its tools are one layer in our tools and podinfo images.
//
// Two choices make builds reproducible and cheap. Entries carry no time but the epoch and no owner but the one asked
// for, so equal files give an equal digest on every machine. Layers are not compressed: an image that never crosses a
// network would only be compressed to be unpacked again, and an uncompressed layer has one digest where a compressed
// one has two (of the tar and of the blob).
//
// # What it refuses to do
//
// It does not run commands to make a layer, does not pull base images, and does not build for another platform than
// the one it runs on: our images hold static programs, and those come out of the Go toolchain.
//
// Start with Spec, then Build; layer.go writes the tars, archive.go the archive, self.go the image of this very
// program.
package image
