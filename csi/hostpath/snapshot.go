package hostpath

import (
	"context"
	"maps"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// CreateSnapshot copies a volume, or finds the copy that an earlier call with this name made.
//
// Simplified: the copy is not of one instant. Files that a pod writes meanwhile may be copied half; a real driver asks
// its storage, or freezes the file system.
func (d *Driver) CreateSnapshot(ctx context.Context, r *csi.CreateSnapshotRequest) (*csi.CreateSnapshotResponse, error) {
	if err := checkName(r.GetName()); err != nil {
		return nil, err
	}
	if err := checkID("Source volume", r.GetSourceVolumeId()); err != nil {
		return nil, err
	}
	unlock, err := d.locks.lock(ctx, "snapshot name "+r.GetName(), r.GetSourceVolumeId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	for _, snapshot := range d.state.read().Snapshots {
		switch {
		case snapshot.Name != r.GetName():
		case snapshot.SourceVolume != r.GetSourceVolumeId():
			return nil, status.Errorf(codes.AlreadyExists, "snapshot with the same name: %s but with different SourceVolumeId already exist", r.GetName())
		default:
			return &csi.CreateSnapshotResponse{Snapshot: describeSnapshot(snapshot)}, nil
		}
	}
	snapshot, err := d.copyVolume(ctx, r.GetSourceVolumeId())
	if err != nil {
		return nil, err
	}
	snapshot.Name = r.GetName()
	if err := d.recordSnapshots(Group{}, snapshot); err != nil {
		return nil, err
	}
	return &csi.CreateSnapshotResponse{Snapshot: describeSnapshot(snapshot)}, nil
}

// copyVolume makes the data of a snapshot, or leaves nothing.
func (d *Driver) copyVolume(ctx context.Context, volumeID string) (Snapshot, error) {
	volume, err := d.state.volume(volumeID)
	if err != nil {
		return Snapshot{}, err
	}
	snapshot := Snapshot{ID: newID(), SourceVolume: volume.ID, Size: volume.Size, Block: volume.Block, Created: time.Now()}
	path := d.state.snapshotPath(snapshot.ID)
	if err := copyData(ctx, d.state.volumePath(volume.ID), path, volume.Block); err != nil {
		d.discard(snapshot)
		return Snapshot{}, err
	}
	return snapshot, nil
}

// recordSnapshots makes copies known, all or none, with the group they are of, if any.
func (d *Driver) recordSnapshots(group Group, snapshots ...Snapshot) error {
	err := d.state.update(func(r records) error {
		for _, snapshot := range snapshots {
			r.Snapshots[snapshot.ID] = snapshot
		}
		if group.ID != "" {
			r.Groups[group.ID] = group
		}
		return nil
	})
	if err != nil {
		d.discard(snapshots...)
	}
	return err
}

// discard removes copies that nobody knows of yet.
func (d *Driver) discard(snapshots ...Snapshot) {
	for _, snapshot := range snapshots {
		if err := removeData(d.state.snapshotPath(snapshot.ID)); err != nil {
			d.log.Warn("What was not finished stays until the next start", "key", snapshot.ID, "err", err)
		}
	}
}

// DeleteSnapshot removes a snapshot. One that is not there was deleted by an earlier call.
func (d *Driver) DeleteSnapshot(ctx context.Context, r *csi.DeleteSnapshotRequest) (*csi.DeleteSnapshotResponse, error) {
	if err := checkID("Snapshot", r.GetSnapshotId()); err != nil {
		return nil, err
	}
	unlock, err := d.locks.lock(ctx, r.GetSnapshotId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	snapshot, found := d.state.read().Snapshots[r.GetSnapshotId()]
	switch {
	case !found:
		return &csi.DeleteSnapshotResponse{}, nil
	case snapshot.Group != "":
		return nil, invalid("Snapshot with ID %s is part of groupsnapshot %s", snapshot.ID, snapshot.Group)
	}
	return &csi.DeleteSnapshotResponse{}, d.state.forget(func(r records) error { delete(r.Snapshots, snapshot.ID); return nil }, d.state.snapshotPath(snapshot.ID))
}

// ListSnapshots lists all snapshots, those of one volume, or one.
func (d *Driver) ListSnapshots(_ context.Context, r *csi.ListSnapshotsRequest) (*csi.ListSnapshotsResponse, error) {
	if !d.config.ListSnapshots {
		return nil, status.Error(codes.Unimplemented, "ListSnapshots is not supported")
	}
	snapshots := maps.Clone(d.state.read().Snapshots)
	maps.DeleteFunc(snapshots, func(id string, snapshot Snapshot) bool {
		return r.GetSnapshotId() != "" && r.GetSnapshotId() != id || r.GetSourceVolumeId() != "" && r.GetSourceVolumeId() != snapshot.SourceVolume
	})
	page, next, err := page(snapshots, r.GetStartingToken(), r.GetMaxEntries())
	reply := &csi.ListSnapshotsResponse{NextToken: next}
	for _, snapshot := range page {
		reply.Entries = append(reply.Entries, &csi.ListSnapshotsResponse_Entry{Snapshot: describeSnapshot(snapshot)})
	}
	return reply, err
}

// GetSnapshot describes one snapshot.
func (d *Driver) GetSnapshot(_ context.Context, r *csi.GetSnapshotRequest) (*csi.GetSnapshotResponse, error) {
	if err := checkID("Snapshot", r.GetSnapshotId()); err != nil {
		return nil, err
	}
	snapshot, found := d.state.read().Snapshots[r.GetSnapshotId()]
	if !found {
		return nil, status.Errorf(codes.NotFound, "Snapshot with ID %q not found", r.GetSnapshotId())
	}
	return &csi.GetSnapshotResponse{Snapshot: describeSnapshot(snapshot)}, nil
}

func describeSnapshot(snapshot Snapshot) *csi.Snapshot {
	return &csi.Snapshot{SnapshotId: snapshot.ID, SourceVolumeId: snapshot.SourceVolume, SizeBytes: snapshot.Size,
		CreationTime: timestamppb.New(snapshot.Created), ReadyToUse: true, GroupSnapshotId: snapshot.Group}
}
