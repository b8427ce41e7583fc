package hostpath

import (
	"context"
	"slices"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// groupController is CSI's GroupController service: snapshots of several volumes, recorded together or not at all.
type groupController struct {
	csi.UnimplementedGroupControllerServer
	d *Driver
}

// GroupControllerGetCapabilities says that group snapshots can be made.
func (groupController) GroupControllerGetCapabilities(context.Context, *csi.GroupControllerGetCapabilitiesRequest) (*csi.GroupControllerGetCapabilitiesResponse, error) {
	return &csi.GroupControllerGetCapabilitiesResponse{Capabilities: []*csi.GroupControllerServiceCapability{{
		Type: &csi.GroupControllerServiceCapability_Rpc{Rpc: &csi.GroupControllerServiceCapability_RPC{
			Type: csi.GroupControllerServiceCapability_RPC_CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT}}}}}, nil
}

// CreateVolumeGroupSnapshot copies several volumes while no other call may touch one of them.
func (g groupController) CreateVolumeGroupSnapshot(ctx context.Context, r *csi.CreateVolumeGroupSnapshotRequest) (*csi.CreateVolumeGroupSnapshotResponse, error) {
	if err := checkName(r.GetName()); err != nil {
		return nil, err
	}
	sources := slices.Compact(slices.Sorted(slices.Values(r.GetSourceVolumeIds())))
	if len(sources) == 0 {
		return nil, invalid("SourceVolumeIds missing in request")
	}
	for _, id := range sources {
		if err := checkID("Source volume", id); err != nil {
			return nil, err
		}
	}
	unlock, err := g.d.locks.lock(ctx, append([]string{"group name " + r.GetName()}, sources...)...)
	if err != nil {
		return nil, err
	}
	defer unlock()
	for _, group := range g.d.state.read().Groups {
		if group.Name != r.GetName() {
			continue
		}
		described, volumes := g.describe(group)
		if !slices.Equal(volumes, sources) {
			return nil, status.Errorf(codes.AlreadyExists, "group snapshot with the same name: %s but with different SourceVolumeIds already exist", r.GetName())
		}
		return &csi.CreateVolumeGroupSnapshotResponse{GroupSnapshot: described}, nil
	}
	group := Group{ID: newID(), Name: r.GetName(), Created: time.Now()}
	var snapshots []Snapshot
	for _, id := range sources {
		snapshot, err := g.d.copyVolume(ctx, id)
		if err != nil {
			g.d.discard(snapshots...)
			return nil, err
		}
		snapshot.Name, snapshot.Group = group.ID+"-"+id, group.ID
		snapshots, group.Snapshots = append(snapshots, snapshot), append(group.Snapshots, snapshot.ID)
	}
	if err := g.d.recordSnapshots(group, snapshots...); err != nil {
		return nil, err
	}
	described, _ := g.describe(group)
	return &csi.CreateVolumeGroupSnapshotResponse{GroupSnapshot: described}, nil
}

// describe answers a group, and the IDs of the volumes that it is of.
func (g groupController) describe(group Group) (described *csi.VolumeGroupSnapshot, volumes []string) {
	described = &csi.VolumeGroupSnapshot{GroupSnapshotId: group.ID, CreationTime: timestamppb.New(group.Created), ReadyToUse: true}
	snapshots := g.d.state.read().Snapshots
	for _, id := range group.Snapshots {
		described.Snapshots = append(described.Snapshots, describeSnapshot(snapshots[id]))
		volumes = append(volumes, snapshots[id].SourceVolume)
	}
	slices.Sort(volumes)
	return described, volumes
}

// DeleteVolumeGroupSnapshot removes a group with its snapshots.
func (g groupController) DeleteVolumeGroupSnapshot(ctx context.Context, r *csi.DeleteVolumeGroupSnapshotRequest) (*csi.DeleteVolumeGroupSnapshotResponse, error) {
	if err := checkID("Group snapshot", r.GetGroupSnapshotId()); err != nil {
		return nil, err
	}
	unlock, err := g.d.locks.lock(ctx, r.GetGroupSnapshotId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	group, found := g.d.state.read().Groups[r.GetGroupSnapshotId()]
	if !found {
		return &csi.DeleteVolumeGroupSnapshotResponse{}, nil
	}
	var paths []string
	for _, id := range group.Snapshots {
		paths = append(paths, g.d.state.snapshotPath(id))
	}
	return &csi.DeleteVolumeGroupSnapshotResponse{}, g.d.state.forget(func(r records) error {
		for _, id := range group.Snapshots {
			delete(r.Snapshots, id)
		}
		delete(r.Groups, group.ID)
		return nil
	}, paths...)
}

// GetVolumeGroupSnapshot describes one group.
func (g groupController) GetVolumeGroupSnapshot(_ context.Context, r *csi.GetVolumeGroupSnapshotRequest) (*csi.GetVolumeGroupSnapshotResponse, error) {
	if err := checkID("Group snapshot", r.GetGroupSnapshotId()); err != nil {
		return nil, err
	}
	group, found := g.d.state.read().Groups[r.GetGroupSnapshotId()]
	if !found {
		return nil, status.Errorf(codes.NotFound, "Group snapshot with ID %q not found", r.GetGroupSnapshotId())
	}
	described, _ := g.describe(group)
	return &csi.GetVolumeGroupSnapshotResponse{GroupSnapshot: described}, nil
}
