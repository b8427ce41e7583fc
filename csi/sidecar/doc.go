// Package sidecar is what stands between the Kubernetes API and a CSI driver's
// Controller service: it turns objects into calls, and answers into status.
//
//	PersistentVolumeClaim that asks for the driver   CreateVolume                a PersistentVolume
//	PersistentVolume Released, policy Delete         DeleteVolume                is gone
//	VolumeAttachment                                 ControllerPublishVolume     status.attached
//	VolumeAttachment that is being deleted           ControllerUnpublishVolume   is gone
//	claim whose request has grown                    ControllerExpandVolume      capacity, or the node has to go on
//	VolumeSnapshot                                   CreateSnapshot              status.readyToUse
//	StorageClass, for each place with nodes          GetCapacity                 a CSIStorageCapacity
//
// Who calls may die after the call and before its answer is written down. So
// each call is such that it may come again: its name is made of the object's UID,
// and a finalizer keeps the object until the call that undoes it has succeeded.
//
// Two more parts stand between a driver and a node: Registrar tells the kubelet of
// it, Health answers the kubelet how it is.
//
// Each of the four runs beside a driver, and serves that one only: whose name
// it answers to it asks the driver.
//
// Start reading at provision.go.
//
// Upstream: kubernetes-csi external-provisioner, external-attacher, external-resizer
package sidecar
