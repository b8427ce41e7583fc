package hostpath

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"regexp"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// ephemeralKey is how the kubelet says that a volume is of one pod: nobody created it, nobody will delete it.
	ephemeralKey = "csi.storage.k8s.io/ephemeral"
	// ephemeralSize is the size of such a volume in bytes, which only counts against a capacity.
	ephemeralSize = 100 << 20
)

// ofOnePod are the IDs that kubelets make up for such volumes.
//
// Upstream: kubernetes@v1.36 pkg/volume/csi makeVolumeHandle.
var ofOnePod = regexp.MustCompile(`^csi-[0-9a-f]{64}$`)

// NodePublishVolume shows a volume to a pod: a bind mount at the target path, of which the CO made only the parent.
//
// The call is repeated whenever somebody is not sure that it was made: after a timeout, a restart of the kubelet, a kill
// of the driver at any line of this function. So it asks what is there, instead of remembering what was done.
func (d *Driver) NodePublishVolume(ctx context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	target, unlock, err := d.begin(ctx, r.GetVolumeId(), "Target path", r.GetTargetPath(), r.GetVolumeCapability())
	if err != nil {
		return nil, err
	}
	defer unlock()
	volume, err := d.volumeOf(ctx, r)
	if err != nil {
		return nil, err
	}
	if err := d.publishAt(volume, target, r); err != nil {
		return nil, errors.Join(err, d.dropUnused(volume.ID))
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

func (d *Driver) publishAt(volume Volume, target string, r *csi.NodePublishVolumeRequest) error {
	if err := d.checkPublish(volume, target, r); err != nil {
		return err
	}
	attributes, err := mountAttributes(r.GetVolumeCapability().GetMount().GetMountFlags())
	if err != nil {
		return err
	}
	if readOnly(volume, r) {
		attributes.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	source, err := d.appearance(volume)
	if err != nil {
		return err
	}
	publication := Publication{Capability: describeCapability(r.GetVolumeCapability()), ReadOnly: attributes.Attr_set&unix.MOUNT_ATTR_RDONLY != 0}
	if done, err := alreadyPublished(volume, publication, source, target); err != nil || done {
		return err
	}
	return d.publish(volume, publication, source, target, attributes)
}

// volumeOf finds the volume that is to be published; one of a single pod it makes.
func (d *Driver) volumeOf(ctx context.Context, r *csi.NodePublishVolumeRequest) (Volume, error) {
	ephemeral := r.GetVolumeContext()[ephemeralKey] == "true"
	volume, err := d.state.volume(r.GetVolumeId())
	if err == nil && ephemeral != volume.Ephemeral {
		return volume, invalid("volume %q exists, and is of another lifecycle", volume.ID)
	}
	if err == nil || !ephemeral {
		return volume, err
	}
	if r.GetVolumeCapability().GetMount() == nil {
		return volume, invalid("an ephemeral volume must be mounted")
	}
	volume = Volume{ID: r.GetVolumeId(), Name: "ephemeral-" + r.GetVolumeId(), Size: ephemeralSize, Ephemeral: true, Kind: r.GetVolumeContext()[kindParameter]}
	if volume, err = d.chooseKind(volume, d.state.read()); err == nil {
		err = d.store(ctx, volume, "")
	}
	return volume, err
}

// checkPublish checks that it is the volume's turn to be published like this.
func (d *Driver) checkPublish(volume Volume, target string, r *csi.NodePublishVolumeRequest) error {
	if err := checkFits(volume, r.GetVolumeCapability()); err != nil {
		return err
	}
	if !volume.Ephemeral {
		staging, err := resolve(r.GetStagingTargetPath())
		switch {
		case r.GetStagingTargetPath() == "":
			return status.Error(codes.FailedPrecondition, "Staging target path missing in request")
		case volume.Staged == nil:
			return status.Errorf(codes.FailedPrecondition, "volume %q must be staged before publishing", volume.ID)
		case err != nil || volume.Staged.Path != staging:
			return invalid("volume %q was staged at %v, not %q", volume.ID, volume.Staged.Path, r.GetStagingTargetPath())
		}
	}
	if r.GetVolumeCapability().GetAccessMode().GetMode() == csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER {
		for other := range volume.Published {
			if other != target {
				return status.Errorf(codes.FailedPrecondition, "volume uses SINGLE_NODE_SINGLE_WRITER access mode and is already mounted at a different target path, %s", other)
			}
		}
	}
	return nil
}

// readOnly tells whether a pod must not write: it is asked for so, attached so, or of a mode without writers.
//
// Simplified: of a block volume only the directory entry becomes read-only, which does not keep a process with the right
// to the device from writing to it.
func readOnly(volume Volume, r *csi.NodePublishVolumeRequest) bool {
	mode := r.GetVolumeCapability().GetAccessMode().GetMode()
	return r.GetReadonly() || volume.Attached != nil && volume.Attached.ReadOnly ||
		mode == csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY || mode == csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
}

// alreadyPublished tells whether an earlier call has done what is asked for: whether source is what is mounted at target.
// If it has not, target must be a place where it can be done: missing, or left empty by a call that was interrupted.
// Anything else is somebody's, and refused.
//
// LAB 23 publish: ask the kernel, not the record. os.Lstat, since a link is never followed (invalid); mountedAt, and
// sameFile for what is mounted; volume.Published knows how it was published (codes.AlreadyExists if otherwise), and
// checkEmpty what a mount would hide.
func alreadyPublished(volume Volume, publication Publication, source, target string) (bool, error) {
	if recorded, ok := volume.Published[target]; ok && recorded != publication {
		return false, status.Errorf(codes.AlreadyExists, "volume %q is published at %s as %+v", volume.ID, target, recorded)
	}
	info, err := os.Lstat(target)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case info.Mode()&os.ModeSymlink != 0:
		return false, invalid("target path %s is a symbolic link", target)
	}
	mounted, err := mountedAt(target)
	if err != nil {
		return false, err
	}
	if mounted {
		same, err := sameFile(source, target)
		if err == nil && !same {
			err = status.Errorf(codes.FailedPrecondition, "something else is mounted at %s", target)
		}
		return same, err
	}
	return false, checkEmpty(target, info, volume.Block)
}

// checkEmpty checks that nothing is hidden by mounting at a path.
func checkEmpty(path string, info fs.FileInfo, block bool) error {
	switch {
	case block && !info.Mode().IsRegular() || !block && !info.IsDir():
		return invalid("target path %s exists and is a %v", path, info.Mode().Type())
	case block && info.Size() > 0:
		return status.Errorf(codes.FailedPrecondition, "target path %s is a file with something in it", path)
	case block:
		return nil
	}
	directory, err := os.Open(path)
	if err != nil {
		return err
	}
	defer directory.Close()
	if names, err := directory.Readdirnames(1); !errors.Is(err, io.EOF) {
		return errors.Join(err, status.Errorf(codes.FailedPrecondition, "target path %s is a directory with something in it: %v", path, names))
	}
	return nil
}

// publish records, then mounts: what is killed in between leaves a record, by which NodeUnpublishVolume knows what to
// look for.
//
// Invariant: a target path is recorded for one volume at most, so that undoing one never meets another's mount.
func (d *Driver) publish(volume Volume, publication Publication, source, target string, attributes unix.MountAttr) error {
	recorded := volume
	recorded.Published = maps.Clone(volume.Published)
	if recorded.Published == nil {
		recorded.Published = map[string]Publication{}
	}
	recorded.Published[target] = publication
	err := d.state.update(func(r records) error {
		for _, other := range r.Volumes {
			if _, taken := other.Published[target]; taken && other.ID != volume.ID {
				return status.Errorf(codes.FailedPrecondition, "target path %s is volume %q's", target, other.ID)
			}
		}
		r.Volumes[volume.ID] = recorded
		return nil
	})
	if err != nil {
		return err
	}
	err = makeTarget(target, volume.Block)
	if err == nil {
		err = bind(source, target, attributes)
	}
	if err != nil { // it is as if nothing had been asked for
		err = errors.Join(err, removeTarget(target), d.state.put(volume))
	}
	return err
}

// makeTarget makes the file or directory to mount at, if it is not there.
func makeTarget(target string, block bool) error {
	if !block {
		if err := os.Mkdir(target, 0o750); !errors.Is(err, fs.ErrExist) {
			return err
		}
		return nil
	}
	file, err := os.OpenFile(target, os.O_CREATE|os.O_WRONLY|unix.O_NOFOLLOW, 0o640)
	if err != nil {
		return err
	}
	return file.Close()
}

// removeTarget removes what makeTarget made. A directory with something in it stays, and is an error: whatever that is,
// it is not the volume's.
func removeTarget(target string) error {
	if err := os.Remove(target); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// NodeUnpublishVolume undoes NodePublishVolume. A volume of one pod goes with it.
func (d *Driver) NodeUnpublishVolume(ctx context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	target, unlock, err := d.begin(ctx, r.GetVolumeId(), "Target path", r.GetTargetPath())
	if err != nil {
		return nil, err
	}
	defer unlock()
	volume, err := d.state.volume(r.GetVolumeId())
	if err != nil {
		// The answer to an earlier call may have been lost with the driver. A volume of one pod is gone by then, and
		// its target with it.
		if _, missing := os.Lstat(target); errors.Is(missing, fs.ErrNotExist) && ofOnePod.MatchString(r.GetVolumeId()) {
			err = nil
		}
		return &csi.NodeUnpublishVolumeResponse{}, err
	}
	if _, published := volume.Published[target]; published {
		source := d.state.volumePath(volume.ID)
		if volume.Block {
			if source, err = findLoop(source); err != nil {
				return nil, err
			}
		}
		if err := unbind(source, target); err != nil {
			return nil, err
		}
		if err := removeTarget(target); err != nil {
			return nil, err
		}
		volume.Published = maps.Clone(volume.Published)
		delete(volume.Published, target)
		if err := d.state.put(volume); err != nil {
			return nil, err
		}
	}
	return &csi.NodeUnpublishVolumeResponse{}, d.dropUnused(volume.ID)
}

// dropUnused removes a volume of one pod that is published nowhere.
func (d *Driver) dropUnused(id string) error {
	volume, err := d.state.volume(id)
	if err != nil || !volume.Ephemeral || len(volume.Published) > 0 {
		return nil
	}
	return d.state.forget(func(r records) error { delete(r.Volumes, id); return nil }, d.state.volumePath(id))
}
