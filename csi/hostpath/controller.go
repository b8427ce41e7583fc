package hostpath

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"maps"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// kindParameter is the parameter that says from which capacity a volume is taken.
const kindParameter = "kind"

// newID makes the ID of a volume or a snapshot. It says nothing about the name: names may contain what paths may not.
func newID() string {
	id := make([]byte, 16)
	rand.Read(id) // never fails
	return hex.EncodeToString(id)
}

// CreateVolume makes a volume, or finds the one that an earlier call with this name made.
func (d *Driver) CreateVolume(ctx context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	if err := checkName(r.GetName()); err != nil {
		return nil, err
	}
	block, err := checkCapabilities(r.GetVolumeCapabilities())
	if err != nil {
		return nil, err
	}
	if err := checkRange(r.GetCapacityRange()); err != nil {
		return nil, err
	}
	if err := d.checkMutable(r.GetMutableParameters()); err != nil {
		return nil, err
	}
	wanted := Volume{Name: r.GetName(), Block: block, Parameters: r.GetParameters(), Mutable: r.GetMutableParameters(), Kind: r.GetParameters()[kindParameter]}
	if wanted.SourceVolume, wanted.SourceSnapshot, err = checkSource(r.GetVolumeContentSource()); err != nil {
		return nil, err
	}
	unlock, err := d.locks.lock(ctx, "name "+wanted.Name, wanted.SourceVolume, wanted.SourceSnapshot)
	if err != nil {
		return nil, err
	}
	defer unlock()
	volume, found := d.volumeByName(wanted.Name)
	if found {
		err = d.checkSame(volume, wanted, r.GetCapacityRange())
	} else {
		volume, err = d.create(ctx, wanted, r)
	}
	if err != nil {
		return nil, err
	}
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{
		VolumeId: volume.ID, CapacityBytes: volume.Size, VolumeContext: volume.Parameters,
		ContentSource: r.GetVolumeContentSource(), AccessibleTopology: d.topologies(),
	}}, nil
}

// checkSource answers the IDs of what a volume is to be a copy of.
func checkSource(source *csi.VolumeContentSource) (volume, snapshot string, err error) {
	switch source := source.GetType().(type) {
	case *csi.VolumeContentSource_Volume:
		volume = source.Volume.GetVolumeId()
		return volume, "", checkID("Source volume", volume)
	case *csi.VolumeContentSource_Snapshot:
		snapshot = source.Snapshot.GetSnapshotId()
		return "", snapshot, checkID("Source snapshot", snapshot)
	}
	if source != nil {
		return "", "", invalid("%v not a proper volume source", source)
	}
	return "", "", nil
}

func (d *Driver) volumeByName(name string) (Volume, bool) {
	for _, volume := range d.state.read().Volumes {
		if volume.Name == name && !volume.Ephemeral {
			return volume, true
		}
	}
	return Volume{}, false
}

// checkSame tells a repeated request from another one under the same name.
func (d *Driver) checkSame(volume, wanted Volume, asked *csi.CapacityRange) error {
	what := ""
	switch limit := asked.GetLimitBytes(); {
	case volume.Size < asked.GetRequiredBytes() || limit > 0 && volume.Size > limit:
		what = "size"
	case volume.Block != wanted.Block:
		what = "access type"
	case volume.SourceVolume != wanted.SourceVolume || volume.SourceSnapshot != wanted.SourceSnapshot:
		what = "source"
	case !maps.Equal(volume.Parameters, wanted.Parameters):
		what = "parameters"
	default:
		return nil
	}
	return status.Errorf(codes.AlreadyExists, "Volume with the same name: %s but with different %s already exist", wanted.Name, what)
}

// create makes the data, then the record: see state.go for why in this order.
func (d *Driver) create(ctx context.Context, volume Volume, r *csi.CreateVolumeRequest) (Volume, error) {
	if err := d.checkTopology(r.GetAccessibilityRequirements()); err != nil {
		return volume, err
	}
	from, minimum, err := d.source(volume)
	if err != nil {
		return volume, err
	}
	if volume.Size, err = d.chooseSize(r.GetCapacityRange(), minimum, volume.Block); err != nil {
		return volume, err
	}
	if asked := r.GetCapacityRange().GetRequiredBytes(); asked > 0 && asked < minimum {
		return volume, status.Errorf(codes.OutOfRange, "the source has %d bytes, more than the %d asked for", minimum, asked)
	}
	volume.ID = newID()
	if volume, err = d.chooseKind(volume, d.state.read()); err != nil { // before the work; what counts is when it is recorded
		return volume, err
	}
	return volume, d.store(ctx, volume, from)
}

// source answers where the data of what volume is made from lies, and how much it is.
func (d *Driver) source(volume Volume) (path string, size int64, err error) {
	var block bool
	switch {
	case volume.SourceVolume != "":
		source, err := d.state.volume(volume.SourceVolume)
		if err != nil {
			return "", 0, err
		}
		path, size, block = d.state.volumePath(source.ID), source.Size, source.Block
	case volume.SourceSnapshot != "":
		source, ok := d.state.read().Snapshots[volume.SourceSnapshot]
		if !ok {
			return "", 0, status.Errorf(codes.NotFound, "snapshot id %s does not exist in the snapshots list", volume.SourceSnapshot)
		}
		path, size, block = d.state.snapshotPath(source.ID), source.Size, source.Block
	default:
		return "", 0, nil
	}
	if block != volume.Block {
		return "", 0, invalid("the source's access type is not the one requested")
	}
	return path, size, nil
}

// store makes a volume's data and records it, or leaves nothing.
func (d *Driver) store(ctx context.Context, volume Volume, from string) error {
	path := d.state.volumePath(volume.ID)
	err := makeData(ctx, path, from, volume)
	if err == nil {
		err = d.state.update(func(r records) error {
			if _, err := d.chooseKind(volume, r); err != nil {
				return err
			}
			r.Volumes[volume.ID] = volume
			return nil
		})
	}
	if err != nil {
		if removing := removeData(path); removing != nil {
			d.log.Warn("What was not finished stays until the next start", "key", path, "err", removing)
		}
	}
	return err
}

// chooseKind finds capacity for a volume among what others have left.
func (d *Driver) chooseKind(volume Volume, r records) (Volume, error) {
	if len(d.config.Capacity) == 0 {
		if volume.Kind != "" {
			return volume, invalid("capacity tracking disabled, specifying kind %q is invalid", volume.Kind)
		}
		return volume, nil
	}
	kinds := slices.Sorted(maps.Keys(d.config.Capacity))
	if volume.Kind != "" {
		kinds = []string{volume.Kind}
	}
	for _, kind := range kinds {
		if volume.Size <= d.available(kind, volume.ID, r) {
			volume.Kind = kind
			return volume, nil
		}
	}
	return volume, status.Errorf(codes.ResourceExhausted, "requested capacity %d exceeds remaining capacity of %v", volume.Size, kinds)
}

// available is what is left of a kind for one volume.
func (d *Driver) available(kind, id string, r records) int64 {
	quantity := d.config.Capacity[kind]
	left := quantity.Value()
	for _, volume := range r.Volumes {
		if volume.Kind == kind && volume.ID != id {
			left -= volume.Size
		}
	}
	return left
}

// DeleteVolume removes a volume that nobody uses. One that is not there was deleted by an earlier call.
func (d *Driver) DeleteVolume(ctx context.Context, r *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	if err := checkID("Volume", r.GetVolumeId()); err != nil {
		return nil, err
	}
	unlock, err := d.locks.lock(ctx, r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	volume, err := d.state.volume(r.GetVolumeId())
	if err != nil {
		return &csi.DeleteVolumeResponse{}, nil
	}
	if use := volume.inUse(); use != "" {
		return nil, status.Errorf(codes.FailedPrecondition, "Volume '%s' is still used: %s", volume.ID, use)
	}
	return &csi.DeleteVolumeResponse{}, d.state.forget(func(r records) error { delete(r.Volumes, volume.ID); return nil }, d.state.volumePath(volume.ID))
}

// ValidateVolumeCapabilities tells whether a volume can be used in all the ways asked about.
func (d *Driver) ValidateVolumeCapabilities(_ context.Context, r *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	if err := checkID("Volume", r.GetVolumeId()); err != nil {
		return nil, err
	}
	if _, err := checkCapabilities(r.GetVolumeCapabilities()); err != nil {
		return nil, err
	}
	volume, err := d.state.volume(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	for _, capability := range r.GetVolumeCapabilities() {
		if err := checkFits(volume, capability); err != nil {
			return &csi.ValidateVolumeCapabilitiesResponse{Message: status.Convert(err).Message()}, nil
		}
	}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{
		VolumeContext: r.GetVolumeContext(), VolumeCapabilities: r.GetVolumeCapabilities(), Parameters: r.GetParameters(),
	}}, nil
}

// GetCapacity says how much room there is for volumes of a kind.
//
// Simplified: the room on the disk is not looked at. A directory takes nothing until it is written to; a block volume
// that does not fit is refused when it is made.
func (d *Driver) GetCapacity(_ context.Context, r *csi.GetCapacityRequest) (*csi.GetCapacityResponse, error) {
	available := d.config.MaxVolumeSize
	if len(d.config.Capacity) > 0 {
		available = max(0, d.available(r.GetParameters()[kindParameter], "", d.state.read()))
	}
	if topology := r.GetAccessibleTopology(); d.config.Topology && topology != nil && !maps.Equal(topology.GetSegments(), d.segments()) {
		available = 0
	}
	return &csi.GetCapacityResponse{AvailableCapacity: available,
		MaximumVolumeSize: wrapperspb.Int64(min(available, d.config.MaxVolumeSize)), MinimumVolumeSize: wrapperspb.Int64(0)}, nil
}

// ControllerGetVolume describes one volume.
func (d *Driver) ControllerGetVolume(_ context.Context, r *csi.ControllerGetVolumeRequest) (*csi.ControllerGetVolumeResponse, error) {
	if err := checkID("Volume", r.GetVolumeId()); err != nil {
		return nil, err
	}
	volume, err := d.state.volume(r.GetVolumeId())
	if err != nil {
		return nil, err
	}
	return &csi.ControllerGetVolumeResponse{Volume: d.describe(volume),
		Status: &csi.ControllerGetVolumeResponse_VolumeStatus{PublishedNodeIds: d.publishedNodes(volume)}}, nil
}

// ListVolumes lists all volumes but those that belong to a pod.
func (d *Driver) ListVolumes(_ context.Context, r *csi.ListVolumesRequest) (*csi.ListVolumesResponse, error) {
	volumes := maps.Clone(d.state.read().Volumes)
	maps.DeleteFunc(volumes, func(_ string, volume Volume) bool { return volume.Ephemeral })
	page, next, err := page(volumes, r.GetStartingToken(), r.GetMaxEntries())
	reply := &csi.ListVolumesResponse{NextToken: next}
	for _, volume := range page {
		reply.Entries = append(reply.Entries, &csi.ListVolumesResponse_Entry{Volume: d.describe(volume),
			Status: &csi.ListVolumesResponse_VolumeStatus{PublishedNodeIds: d.publishedNodes(volume)}})
	}
	return reply, err
}

func (d *Driver) describe(volume Volume) *csi.Volume {
	described := &csi.Volume{VolumeId: volume.ID, CapacityBytes: volume.Size, VolumeContext: volume.Parameters, AccessibleTopology: d.topologies()}
	switch {
	case volume.SourceVolume != "":
		described.ContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
			Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: volume.SourceVolume}}}
	case volume.SourceSnapshot != "":
		described.ContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
			Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: volume.SourceSnapshot}}}
	}
	return described
}

func (d *Driver) publishedNodes(volume Volume) []string {
	if volume.Attached == nil {
		return nil
	}
	return []string{d.config.NodeID}
}

// tokenPrefix makes a token something that is recognized. What follows is the ID of the last entry of the page before:
// the next page begins behind it, whether or not it is still there.
const tokenPrefix = "after:"

// page cuts one page, in order of IDs, out of a list.
//
// Spec: CSI 1.13 §ListVolumes: an unknown starting_token is ABORTED
func page[T any](all map[string]T, token string, limit int32) (entries []T, next string, err error) {
	after := ""
	if token != "" {
		if len(token) <= len(tokenPrefix) || token[:len(tokenPrefix)] != tokenPrefix {
			return nil, "", status.Errorf(codes.Aborted, "starting_token %q is none of ours", token)
		}
		after = token[len(tokenPrefix):]
	}
	if limit < 0 {
		return nil, "", invalid("max_entries is negative")
	}
	last := after
	for _, id := range slices.Sorted(maps.Keys(all)) {
		if id <= after && after != "" {
			continue
		}
		if limit > 0 && len(entries) == int(limit) {
			return entries, tokenPrefix + last, nil
		}
		entries, last = append(entries, all[id]), id
	}
	return entries, "", nil
}
