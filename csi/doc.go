// Package csi is storage that follows a pod, seen from the side of those who have it: drivers of the Container Storage
// Interface, and what stands between them and the Kubernetes API.
//
//	 PersistentVolumeClaim                 Pod
//	        │                               │
//	   controllers ──Controller──▶ ┌────────┴───────┐ ◀──Node── kubelet
//	                               │  csi/hostpath  │
//	                               └────────────────┘
//	CreateVolume ─▶ ControllerPublishVolume ─▶ NodeStageVolume ─▶ NodePublishVolume ─▶ the pod runs
//	DeleteVolume ◀─ ControllerUnpublishVolume ◀─ NodeUnstageVolume ◀─ NodeUnpublishVolume ◀─ it ended
//
// A driver knows nothing of Kubernetes: no API, no pod, no claim. It answers gRPC calls on a Unix socket, each of which
// may come twice, late, or at once with another; that is most of what writing a driver is about.
//
// csi/hostpath is a driver whose volumes are directories and files of the node, csi/sidecar what turns the API's
// objects into calls. Start reading there.
package csi
