// Package attachdetach says which volume is to be attached to which node: those
// that the node's pods use, of drivers that have to attach at all.
//
//	pod on node ─▶ claim ─▶ volume of a driver
//	     │ wanted and not there              │ there and not wanted
//	     ▼                                   ▼
//	 VolumeAttachment made            not mounted any more? (node.status.volumesInUse)
//	     │ the driver's attacher            │
//	     ▼                                   ▼
//	 status.attached: true            taken off node.status.volumesAttached, then deleted
//	     │
//	     ▼
//	 node.status.volumesAttached: now the kubelet may mount
//
// The two lists of the node's status are a handshake. A kubelet does not mount
// what is not in the one, and nothing is detached that it has in the other: a
// disk that is pulled out under a file system loses data. Only of a node that
// has been declared out of service, or has said nothing for six minutes, is it
// assumed that it will not ask again.
//
// Start reading at plan.go.
package attachdetach
