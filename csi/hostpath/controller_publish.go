package hostpath

import (
	"context"
	"maps"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ControllerPublishVolume promises a volume to a node. Here it is there already: what is left of attaching a disk is the
// bookkeeping, and the order of calls that comes with it.
func (d *Driver) ControllerPublishVolume(ctx context.Context, r *csi.ControllerPublishVolumeRequest) (*csi.ControllerPublishVolumeResponse, error) {
	if !d.config.Attach {
		return nil, status.Error(codes.Unimplemented, "ControllerPublishVolume is not supported")
	}
	if err := checkID("Volume", r.GetVolumeId()); err != nil {
		return nil, err
	}
	if r.GetNodeId() == "" {
		return nil, invalid("Node ID missing in request")
	}
	if _, err := checkCapability(r.GetVolumeCapability()); err != nil {
		return nil, err
	}
	if r.GetNodeId() != d.config.NodeID {
		return nil, status.Errorf(codes.NotFound, "Not matching Node ID %s to hostpath Node ID %s", r.GetNodeId(), d.config.NodeID)
	}
	unlock, err := d.locks.lock(ctx, r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	volume, err := d.volumeFor(r.GetVolumeId(), r.GetVolumeCapability())
	if err != nil {
		return nil, err
	}
	attachment := Attachment{Capability: describeCapability(r.GetVolumeCapability()), ReadOnly: r.GetReadonly()}
	switch {
	case volume.Attached == nil:
		volume.Attached = &attachment
	case volume.Attached.ReadOnly != attachment.ReadOnly:
		return nil, status.Error(codes.AlreadyExists, "Volume published but has incompatible readonly flag")
	case *volume.Attached != attachment:
		return nil, status.Errorf(codes.AlreadyExists, "Volume published as %s", volume.Attached.Capability)
	default:
		return &csi.ControllerPublishVolumeResponse{}, nil
	}
	return &csi.ControllerPublishVolumeResponse{}, d.state.update(func(r records) error {
		attached := int64(0)
		for _, other := range r.Volumes {
			if other.Attached != nil {
				attached++
			}
		}
		if d.config.AttachLimit > 0 && attached >= d.config.AttachLimit {
			return status.Errorf(codes.ResourceExhausted, "Cannot attach any more volumes to this node ('%s')", d.config.NodeID)
		}
		r.Volumes[volume.ID] = volume
		return nil
	})
}

// ControllerUnpublishVolume takes the promise back.
func (d *Driver) ControllerUnpublishVolume(ctx context.Context, r *csi.ControllerUnpublishVolumeRequest) (*csi.ControllerUnpublishVolumeResponse, error) {
	if !d.config.Attach {
		return nil, status.Error(codes.Unimplemented, "ControllerUnpublishVolume is not supported")
	}
	if err := checkID("Volume", r.GetVolumeId()); err != nil {
		return nil, err
	}
	// Without a node the volume is taken from all.
	if r.GetNodeId() != "" && r.GetNodeId() != d.config.NodeID {
		return nil, status.Errorf(codes.NotFound, "Node ID %s does not match to expected Node ID %s", r.GetNodeId(), d.config.NodeID)
	}
	unlock, err := d.locks.lock(ctx, r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	volume, err := d.state.volume(r.GetVolumeId())
	if err != nil || volume.Attached == nil {
		return &csi.ControllerUnpublishVolumeResponse{}, nil
	}
	volume.Attached = nil
	if use := volume.inUse(); use != "" {
		if d.config.CheckLifecycle {
			return nil, status.Errorf(codes.FailedPrecondition, "Volume '%s' is still used: %s", volume.ID, use)
		}
		d.log.Warn("Detaching a volume that is still used", "key", volume.ID, "use", use)
	}
	return &csi.ControllerUnpublishVolumeResponse{}, d.state.put(volume)
}

// ControllerExpandVolume makes a volume bigger. What a node has to do about it, NodeExpandVolume does.
func (d *Driver) ControllerExpandVolume(ctx context.Context, r *csi.ControllerExpandVolumeRequest) (*csi.ControllerExpandVolumeResponse, error) {
	if !d.controllerExpands() {
		return nil, status.Error(codes.Unimplemented, "ControllerExpandVolume is not supported")
	}
	if err := checkID("Volume", r.GetVolumeId()); err != nil {
		return nil, err
	}
	if r.GetCapacityRange() == nil {
		return nil, invalid("Capacity range not provided")
	}
	unlock, err := d.locks.lock(ctx, r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	volume, err := d.state.volume(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if volume, err = d.grow(volume, r.GetCapacityRange()); err != nil {
		return nil, err
	}
	return &csi.ControllerExpandVolumeResponse{CapacityBytes: volume.Size, NodeExpansionRequired: d.nodeExpands()}, nil
}

// grow makes a volume as big as asked for, never smaller than it is.
func (d *Driver) grow(volume Volume, asked *csi.CapacityRange) (Volume, error) {
	if err := checkRange(asked); err != nil {
		return volume, err
	}
	size, err := d.chooseSize(asked, volume.Size, volume.Block)
	if err != nil || size == volume.Size {
		return volume, err
	}
	if volume.Block {
		// The file first: if the record cannot be written, a longer file does no harm, and the next call finds it.
		if err := growFile(d.state.volumePath(volume.ID), size); err != nil {
			return volume, err
		}
	}
	volume.Size = size
	return volume, d.state.update(func(r records) error {
		if volume.Kind != "" && size > d.available(volume.Kind, volume.ID, r) {
			return status.Errorf(codes.OutOfRange, "requested capacity %d exceeds remaining capacity for %q", size, volume.Kind)
		}
		r.Volumes[volume.ID] = volume
		return nil
	})
}

// ControllerModifyVolume changes a volume's mutable parameters, those of a VolumeAttributesClass. They are kept and mean
// nothing here.
func (d *Driver) ControllerModifyVolume(ctx context.Context, r *csi.ControllerModifyVolumeRequest) (*csi.ControllerModifyVolumeResponse, error) {
	if err := checkID("Volume", r.GetVolumeId()); err != nil {
		return nil, err
	}
	if len(r.GetMutableParameters()) == 0 {
		return nil, invalid("Mutable parameters cannot be empty")
	}
	if err := d.checkMutable(r.GetMutableParameters()); err != nil {
		return nil, err
	}
	unlock, err := d.locks.lock(ctx, r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	volume, err := d.state.volume(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	mutable := maps.Clone(volume.Mutable)
	if mutable == nil {
		mutable = map[string]string{}
	}
	maps.Copy(mutable, r.GetMutableParameters())
	volume.Mutable = mutable
	return &csi.ControllerModifyVolumeResponse{}, d.state.put(volume)
}

func (d *Driver) checkMutable(parameters map[string]string) error {
	switch {
	case len(parameters) == 0:
		return nil
	case !d.config.Modify:
		return invalid("unsupported capability MODIFY_VOLUME")
	case len(d.config.MutableParameters) == 0:
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(parameters)) {
		if !slices.Contains(d.config.MutableParameters, name) {
			return invalid("invalid parameters: [%s]", name)
		}
	}
	return nil
}
