package hostpath

import (
	"context"
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// NodeGetInfo says by which name the CO's other calls mean this node, and how many volumes it can have.
func (d *Driver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	reply := &csi.NodeGetInfoResponse{NodeId: d.config.NodeID, MaxVolumesPerNode: d.config.MaxVolumesPerNode}
	if d.config.AttachLimit > 0 {
		reply.MaxVolumesPerNode = d.config.AttachLimit
	}
	if d.config.Topology {
		reply.AccessibleTopology = d.topologies()[0]
	}
	return reply, nil
}

// NodeStageVolume prepares a volume on this node, once for all pods that will use it. For a block volume that is its
// loop device; a directory needs nothing. (A driver for real disks makes the file system here, and mounts it at the
// staging path.)
func (d *Driver) NodeStageVolume(ctx context.Context, r *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	path, unlock, err := d.begin(ctx, r.GetVolumeId(), "Staging target path", r.GetStagingTargetPath(), r.GetVolumeCapability())
	if err != nil {
		return nil, err
	}
	defer unlock()
	volume, err := d.volumeFor(r.GetVolumeId(), r.GetVolumeCapability())
	if err != nil {
		return nil, err
	}
	usage := Usage{Path: path, Capability: describeCapability(r.GetVolumeCapability())}
	switch {
	case d.config.Attach && volume.Attached == nil:
		return nil, status.Errorf(codes.FailedPrecondition, "ControllerPublishVolume must be called on volume '%s' before staging on node", volume.ID)
	case volume.Staged == nil:
		volume.Staged = &usage
		if err := d.state.put(volume); err != nil {
			return nil, err
		}
	case volume.Staged.Path != path:
		return nil, status.Errorf(codes.FailedPrecondition, "volume %q is already staged at %v", volume.ID, volume.Staged.Path)
	case *volume.Staged != usage:
		return nil, status.Errorf(codes.AlreadyExists, "volume %q is already staged as %s", volume.ID, volume.Staged.Capability)
	}
	// Also when it is recorded as staged: a reboot has taken the device away. If this fails the record stays, and says
	// what NodeUnstageVolume has to undo.
	_, err = d.appearance(volume)
	return &csi.NodeStageVolumeResponse{}, err
}

// begin is how each call about a volume at a path begins: with the checks that need no volume (the capability's, if the
// call has one), and the volume's lock. It answers the path as the kernel calls it.
func (d *Driver) begin(ctx context.Context, id, what, path string, capability ...*csi.VolumeCapability) (string, func(), error) {
	if err := checkID("Volume", id); err != nil {
		return "", nil, err
	}
	if err := checkPath(what, path); err != nil {
		return "", nil, err
	}
	for _, one := range capability {
		if _, err := checkCapability(one); err != nil {
			return "", nil, err
		}
	}
	if resolved, err := resolve(path); err == nil { // else the parent is missing, which is told where it matters
		path = resolved
	}
	unlock, err := d.locks.lock(ctx, id)
	return path, unlock, err
}

// describeCapability is what must be the same when a call is repeated.
func describeCapability(capability *csi.VolumeCapability) string {
	access := "mount"
	if capability.GetBlock() != nil {
		access = "block"
	}
	words := append([]string{access, capability.GetAccessMode().GetMode().String(), capability.GetMount().GetFsType()},
		slices.Sorted(slices.Values(capability.GetMount().GetMountFlags()))...)
	return strings.TrimSpace(strings.Join(words, " "))
}

// appearance answers what of a volume is shown to pods: its directory, or its device, which is attached if need be.
func (d *Driver) appearance(volume Volume) (string, error) {
	path := d.state.volumePath(volume.ID)
	if volume.Block {
		return attachLoop(path)
	}
	return path, nil
}

// NodeUnstageVolume undoes NodeStageVolume.
func (d *Driver) NodeUnstageVolume(ctx context.Context, r *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	path, unlock, err := d.begin(ctx, r.GetVolumeId(), "Staging target path", r.GetStagingTargetPath())
	if err != nil {
		return nil, err
	}
	defer unlock()
	volume, err := d.state.volume(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if volume.Staged == nil || volume.Staged.Path != path {
		return &csi.NodeUnstageVolumeResponse{}, nil
	}
	if len(volume.Published) > 0 {
		volume.Staged, volume.Attached = nil, nil
		return nil, status.Errorf(codes.FailedPrecondition, "volume %q is still %s", volume.ID, volume.inUse())
	}
	if volume.Block {
		if err := detachLoop(d.state.volumePath(volume.ID)); err != nil {
			return nil, err
		}
	}
	volume.Staged = nil
	return &csi.NodeUnstageVolumeResponse{}, d.state.put(volume)
}
