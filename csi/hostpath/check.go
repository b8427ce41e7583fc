package hostpath

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxName is the length of names and IDs in bytes.
//
// Spec: CSI 1.13 §Size Limits
const maxName = 128

func invalid(format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, format, args...)
}

// checkID checks an ID that came with a request. IDs become file names, so one that could be a path leads out of the
// driver's directory: `../../etc` as the ID of a volume to delete. The handlers ask here before anything else.
//
// Upstream: csi-driver-host-path@v1.17.1 pkg/hostpath/hostpath.go getVolumePath: joins what it is given.
func checkID(what, id string) error {
	if id == "." || id == ".." || strings.Contains(id, "/") {
		return invalid("%s ID %q could be a path", what, id)
	}
	return checkWord(what+" ID", id)
}

// checkName checks the name of something to be made. A name never becomes a path here, and may have a slash in it; one
// that would lead somewhere as a path is refused because nobody who asks for it means well.
func checkName(name string) error {
	if strings.HasPrefix(name, "/") || name == "." || slices.Contains(strings.Split(name, "/"), "..") {
		return invalid("Name %q could be a path", name)
	}
	return checkWord("Name", name)
}

// checkWord checks what names and IDs have in common.
//
// Spec: CSI 1.13 CreateVolumeRequest.name: the control characters that are banned, which tab and line ends are not.
func checkWord(what, word string) error {
	switch {
	case word == "":
		return invalid("%s missing in request", what)
	case len(word) > maxName:
		return invalid("%s is longer than %d bytes", what, maxName)
	case strings.ContainsFunc(word, func(r rune) bool {
		return r < ' ' && !strings.ContainsRune("\t\n\r", r) || r >= 0x7f && r <= 0x9f
	}):
		return invalid("%s %q contains control characters", what, word)
	}
	return nil
}

// checkPath checks a path on this node that the CO chose: it must say plainly where it is.
func checkPath(what, path string) error {
	switch {
	case path == "":
		return invalid("%s missing in request", what)
	case !filepath.IsAbs(path) || slices.Contains(strings.Split(path, "/"), "..") || filepath.Clean(path) == "/":
		return invalid("%s %q is not an absolute path without \"..\"", what, path)
	case strings.ContainsRune(path, 0) || len(path) >= syscall.PathMax:
		return invalid("%s is too long, or contains a NUL", what)
	}
	return nil
}

// checkCapability checks how a volume is to be used, and answers whether as a block device.
func checkCapability(capability *csi.VolumeCapability) (block bool, err error) {
	if capability == nil {
		return false, invalid("Volume capability missing in request")
	}
	mode := capability.GetAccessMode().GetMode()
	if _, known := csi.VolumeCapability_AccessMode_Mode_name[int32(mode)]; !known || mode == csi.VolumeCapability_AccessMode_UNKNOWN {
		return false, invalid("Volume capability with access mode %s", mode)
	}
	switch access := capability.GetAccessType().(type) {
	case *csi.VolumeCapability_Block:
		return true, nil
	case *csi.VolumeCapability_Mount:
		_, err := mountAttributes(access.Mount.GetMountFlags())
		return false, err
	}
	return false, invalid("cannot have both mount and block access type be undefined")
}

// checkCapabilities checks all that a volume must be able to; they agree about what it is.
func checkCapabilities(capabilities []*csi.VolumeCapability) (block bool, err error) {
	if len(capabilities) == 0 {
		return false, invalid("Volume Capabilities missing in request")
	}
	for i, capability := range capabilities {
		one, err := checkCapability(capability)
		if err != nil {
			return false, err
		}
		if i > 0 && one != block {
			return false, invalid("cannot have both block and mount access type")
		}
		block = one
	}
	return block, nil
}

// volumeFor is a volume that can be used as the caller wants to.
func (d *Driver) volumeFor(id string, capability *csi.VolumeCapability) (Volume, error) {
	volume, err := d.state.volume(id)
	if err == nil {
		err = checkFits(volume, capability)
	}
	return volume, err
}

// checkFits checks that a capability suits a volume that exists.
func checkFits(volume Volume, capability *csi.VolumeCapability) error {
	block, err := checkCapability(capability)
	switch {
	case err != nil:
		return err
	case block && !volume.Block:
		return invalid("cannot publish a non-block volume as block volume")
	case !block && volume.Block:
		return invalid("cannot publish a non-mount volume as mount volume")
	}
	return nil
}

// blockUnit is the granularity of block volumes: a page, so that any sector size divides it.
const blockUnit = 4096

// checkRange checks that a range of sizes is one.
func checkRange(asked *csi.CapacityRange) error {
	switch required, limit := asked.GetRequiredBytes(), asked.GetLimitBytes(); {
	case required < 0 || limit < 0:
		return invalid("cannot have negative capacity")
	case limit > 0 && required > limit:
		return invalid("capacity cannot exceed limit")
	}
	return nil
}

// chooseSize is the size of a volume that is at least minimum and within the range asked for.
func (d *Driver) chooseSize(asked *csi.CapacityRange, minimum int64, block bool) (int64, error) {
	required, limit := asked.GetRequiredBytes(), asked.GetLimitBytes()
	size := max(required, minimum)
	if size == 0 && !block {
		size = limit
	}
	if block && size > d.config.MaxVolumeSize-blockUnit { // rounding up must not overflow
		size = max(size, d.config.MaxVolumeSize)
	} else if block {
		size = max((size+blockUnit-1)/blockUnit*blockUnit, blockUnit)
	}
	switch {
	case size > d.config.MaxVolumeSize:
		return 0, status.Errorf(codes.OutOfRange, "Requested capacity %d exceeds maximum allowed %d", size, d.config.MaxVolumeSize)
	case limit > 0 && size > limit:
		return 0, status.Errorf(codes.OutOfRange, "the volume needs %d bytes, more than the limit of %d", size, limit)
	}
	return size, nil
}

// checkTopology tells whether a volume on this node would be where it is wanted.
func (d *Driver) checkTopology(wanted *csi.TopologyRequirement) error {
	if !d.config.Topology || len(wanted.GetRequisite()) == 0 {
		return nil
	}
	for _, topology := range wanted.GetRequisite() {
		if maps.Equal(topology.GetSegments(), d.segments()) {
			return nil
		}
	}
	return status.Errorf(codes.ResourceExhausted, "volumes are on node %s only, which is not among the requisite topologies", d.config.NodeID)
}

func (d *Driver) segments() map[string]string { return map[string]string{TopologyKey: d.config.NodeID} }

// topologies says where volumes of this driver can be reached.
func (d *Driver) topologies() []*csi.Topology {
	if !d.config.Topology {
		return nil
	}
	return []*csi.Topology{{Segments: d.segments()}}
}

// statusOf maps any error to the status that a caller gets.
func statusOf(err error) error {
	var own interface {
		error
		GRPCStatus() *status.Status
	}
	switch {
	case err == nil:
		return nil
	case errors.As(err, &own): // perhaps with something before or after it
		return status.Error(own.GRPCStatus().Code(), strings.ReplaceAll(err.Error(), own.Error(), own.GRPCStatus().Message()))
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return status.Error(codes.ResourceExhausted, err.Error())
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	}
	return status.Error(codes.Internal, err.Error())
}
