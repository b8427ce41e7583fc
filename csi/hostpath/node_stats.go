package hostpath

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// NodeGetVolumeStats says how full a volume is.
//
// Simplified: of a directory these are the figures of the file system that it is on, as nothing else limits it.
func (d *Driver) NodeGetVolumeStats(_ context.Context, r *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	volume, err := d.volumeAt(r.GetVolumeId(), r.GetVolumePath())
	if err != nil {
		return nil, err
	}
	if volume.Block {
		return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{{Unit: csi.VolumeUsage_BYTES, Total: volume.Size}}}, nil
	}
	var s unix.Statfs_t
	if err := unix.Statfs(r.GetVolumePath(), &s); err != nil {
		return nil, err
	}
	return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{
		{Unit: csi.VolumeUsage_BYTES, Total: int64(s.Blocks) * s.Bsize, Used: int64(s.Blocks-s.Bfree) * s.Bsize, Available: int64(s.Bavail) * s.Bsize},
		{Unit: csi.VolumeUsage_INODES, Total: int64(s.Files), Used: int64(s.Files - s.Ffree), Available: int64(s.Ffree)},
	}}, nil
}

// volumeAt finds a volume that is at a path: published or staged there.
func (d *Driver) volumeAt(id, path string) (Volume, error) {
	if err := checkID("Volume", id); err != nil {
		return Volume{}, err
	}
	if path == "" {
		return Volume{}, invalid("Volume path not provided")
	}
	volume, err := d.state.volume(id)
	if err != nil {
		return volume, err
	}
	resolved, err := resolve(path)
	if err == nil {
		_, err = os.Lstat(resolved)
	}
	_, published := volume.Published[resolved]
	if staged := volume.Staged != nil && volume.Staged.Path == resolved; errors.Is(err, fs.ErrNotExist) || !published && !staged {
		return volume, status.Errorf(codes.NotFound, "volume %q is neither published nor staged at %q", id, path)
	}
	return volume, err
}

// NodeExpandVolume makes the node see that a volume has grown: a loop device remembers how big its file was. Where only
// nodes expand volumes (--disable-controller-expansion), it grows here.
func (d *Driver) NodeExpandVolume(ctx context.Context, r *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	if !d.nodeExpands() {
		return nil, status.Error(codes.Unimplemented, "NodeExpandVolume is not supported")
	}
	if err := checkID("Volume", r.GetVolumeId()); err != nil {
		return nil, err
	}
	unlock, err := d.locks.lock(ctx, r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	volume, err := d.volumeAt(r.GetVolumeId(), r.GetVolumePath())
	if err != nil {
		return nil, err
	}
	if asked := r.GetCapacityRange().GetRequiredBytes(); asked > d.config.MaxVolumeSizeNode {
		return nil, status.Errorf(codes.OutOfRange, "Requested capacity %d exceeds maximum allowed %d", asked, d.config.MaxVolumeSizeNode)
	}
	if volume, err = d.grow(volume, r.GetCapacityRange()); err != nil {
		return nil, err
	}
	if volume.Block {
		if err := resizeLoop(d.state.volumePath(volume.ID)); err != nil {
			return nil, err
		}
	}
	return &csi.NodeExpandVolumeResponse{CapacityBytes: volume.Size}, nil
}
