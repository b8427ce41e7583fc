// Package hostpath is a CSI driver whose volumes are directories and files of this node: what a driver is, without a
// storage system behind it. It takes the place of upstream's csi-hostpath driver, with its name, flags and objects.
//
//	call                        what it leaves                                undone by
//	CreateVolume                <statedir>/volumes/<id>, a record             DeleteVolume
//	ControllerPublishVolume     a record                                      ControllerUnpublishVolume
//	NodeStageVolume             a record; block: /dev/loopN                   NodeUnstageVolume
//	NodePublishVolume           a record, a bind mount at the target path     NodeUnpublishVolume
//	CreateSnapshot              <statedir>/snapshots/<id>, a record           DeleteSnapshot
//
// What is promised of each call:
//
//   - It may be repeated, and then finds what was done. It may be killed at any instant; repeating it, or undoing it,
//     leads to the same end. See state.go for the order of records and deeds that makes this so.
//   - Two calls for one volume go one after the other (locks.go).
//   - An identifier that could be a path is INVALID_ARGUMENT, before anything is looked at (check.go).
//   - What does not fit is RESOURCE_EXHAUSTED or OUT_OF_RANGE, and leaves nothing.
//   - Secrets are never logged (log.go).
//
// What a size means: a block volume is a file with all its blocks reserved, so it can be filled, and not by a byte more.
// A directory is not limited: its size only counts against --capacity, as upstream's does. Limiting it would take
// project quotas, which few nodes' file systems are mounted with.
//
// What it refuses to do: make file systems (fs_type is accepted and means nothing), serve more than one node, and the
// alpha calls for health and for changed blocks.
//
// Needs: Linux 5.12 (mount_setattr), root, and the kubelet's directories mounted so that mounts propagate to it.
//
// Start reading at node_publish.go, Driver.NodePublishVolume.
//
// Spec: CSI 1.13.
// Upstream: csi-driver-host-path@v1.17.1 pkg/hostpath.
package hostpath
