// Command shareddriver is a CSI driver for tests: its volumes are directories
// of one folder that all nodes have, as a file server's would be. It keeps no
// state but in that folder, and lets a volume be on one node at a time only.
//
//	shareddriver FOLDER SOCKET NODE
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type driver struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedControllerServer
	csi.UnimplementedNodeServer
	folder, node string
}

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: shareddriver FOLDER SOCKET NODE")
		os.Exit(2)
	}
	_ = os.Remove(os.Args[2]) // of one that was killed
	listener, err := net.Listen("unix", os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	d, server := &driver{folder: os.Args[1], node: os.Args[3]}, grpc.NewServer(grpc.UnaryInterceptor(
		func(ctx context.Context, in any, info *grpc.UnaryServerInfo, do grpc.UnaryHandler) (any, error) {
			out, err := do(ctx, in)
			fmt.Println(info.FullMethod, err)
			return out, err
		}))
	csi.RegisterIdentityServer(server, d)
	csi.RegisterControllerServer(server, d)
	csi.RegisterNodeServer(server, d)
	_ = server.Serve(listener)
}

func (d *driver) data(id string) string { return filepath.Join(d.folder, "volumes", filepath.Base(id)) }
func (d *driver) owner(id string) string {
	return filepath.Join(d.folder, "attached", filepath.Base(id))
}

func (d *driver) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: "shared.example.com", VendorVersion: "1"}, nil
}

func (d *driver) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	return &csi.GetPluginCapabilitiesResponse{Capabilities: []*csi.PluginCapability{{Type: &csi.PluginCapability_Service_{
		Service: &csi.PluginCapability_Service{Type: csi.PluginCapability_Service_CONTROLLER_SERVICE}}}}}, nil
}

func (d *driver) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{}, nil
}

func (d *driver) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	out := &csi.ControllerGetCapabilitiesResponse{}
	for _, what := range []csi.ControllerServiceCapability_RPC_Type{csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME, csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME} {
		out.Capabilities = append(out.Capabilities, &csi.ControllerServiceCapability{Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: what}}})
	}
	return out, nil
}

func (d *driver) CreateVolume(_ context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{VolumeId: r.Name, CapacityBytes: r.GetCapacityRange().GetRequiredBytes()}}, os.MkdirAll(d.data(r.Name), 0o777)
}

func (d *driver) DeleteVolume(_ context.Context, r *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	return &csi.DeleteVolumeResponse{}, os.RemoveAll(d.data(r.VolumeId))
}

// ControllerPublishVolume is the only thing that keeps two nodes from writing at once.
func (d *driver) ControllerPublishVolume(_ context.Context, r *csi.ControllerPublishVolumeRequest) (*csi.ControllerPublishVolumeResponse, error) {
	if err := os.MkdirAll(filepath.Dir(d.owner(r.VolumeId)), 0o755); err != nil {
		return nil, err
	}
	if err := os.Symlink(r.NodeId, d.owner(r.VolumeId)); err != nil { // which is made at once or not at all
		if has, _ := os.Readlink(d.owner(r.VolumeId)); has != r.NodeId {
			return nil, status.Errorf(codes.FailedPrecondition, "volume %s is attached to %s", r.VolumeId, has)
		}
	}
	return &csi.ControllerPublishVolumeResponse{}, nil
}

func (d *driver) ControllerUnpublishVolume(_ context.Context, r *csi.ControllerUnpublishVolumeRequest) (*csi.ControllerUnpublishVolumeResponse, error) {
	if has, _ := os.Readlink(d.owner(r.VolumeId)); has == r.NodeId {
		return &csi.ControllerUnpublishVolumeResponse{}, os.Remove(d.owner(r.VolumeId))
	}
	return &csi.ControllerUnpublishVolumeResponse{}, nil
}

func (d *driver) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	return &csi.NodeGetCapabilitiesResponse{}, nil
}

func (d *driver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: d.node}, nil
}

func (d *driver) NodePublishVolume(_ context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	if has, _ := os.Readlink(d.owner(r.VolumeId)); has != d.node {
		return nil, status.Errorf(codes.FailedPrecondition, "volume %s is attached to %q, not to %s", r.VolumeId, has, d.node)
	}
	if err := os.MkdirAll(r.TargetPath, 0o755); err != nil {
		return nil, err
	}
	var here, there unix.Stat_t
	if unix.Stat(r.TargetPath, &here) == nil && unix.Stat(d.data(r.VolumeId), &there) == nil && here.Dev == there.Dev && here.Ino == there.Ino {
		return &csi.NodePublishVolumeResponse{}, nil // it is mounted
	}
	return &csi.NodePublishVolumeResponse{}, unix.Mount(d.data(r.VolumeId), r.TargetPath, "", unix.MS_BIND, "")
}

func (d *driver) NodeUnpublishVolume(_ context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	if err := unix.Unmount(r.TargetPath, 0); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return nil, err
	}
	if err := os.Remove(r.TargetPath); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}
