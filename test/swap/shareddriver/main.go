// Command shareddriver is a CSI driver for tests: its volumes are directories
// of one folder that all nodes have, as a file server's would be. It keeps no
// state but in that folder, and lets a volume be on one node at a time only.
//
// As long as there is a file FOLDER/hold-METHOD, calls of that method are not
// begun; FOLDER/held-METHOD says that one is there.
//
//	shareddriver FOLDER SOCKET NODE
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path"
	"path/filepath"
	"time"

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
	d := &driver{folder: os.Args[1], node: os.Args[3]}
	server := grpc.NewServer(grpc.UnaryInterceptor(
		func(ctx context.Context, in any, info *grpc.UnaryServerInfo, do grpc.UnaryHandler) (any, error) {
			if err := d.hold(ctx, path.Base(info.FullMethod)); err != nil {
				return nil, err
			}
			out, err := do(ctx, in)
			fmt.Println(info.FullMethod, err)
			return out, err
		}))
	csi.RegisterIdentityServer(server, d)
	csi.RegisterControllerServer(server, d)
	csi.RegisterNodeServer(server, d)
	_ = server.Serve(listener)
}

func (d *driver) hold(ctx context.Context, method string) error {
	for {
		if _, err := os.Stat(filepath.Join(d.folder, "hold-"+method)); err != nil {
			return nil
		}
		if err := os.WriteFile(filepath.Join(d.folder, "held-"+method), []byte(d.node), 0o644); err != nil {
			return err
		}
		select {
		case <-ctx.Done(): // whoever called has gone
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
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
	return &csi.NodeGetCapabilitiesResponse{Capabilities: []*csi.NodeServiceCapability{{Type: &csi.NodeServiceCapability_Rpc{
		Rpc: &csi.NodeServiceCapability_RPC{Type: csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME}}}}}, nil
}

func (d *driver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: d.node}, nil
}

func (d *driver) NodeStageVolume(_ context.Context, r *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	if has, _ := os.Readlink(d.owner(r.VolumeId)); has != d.node {
		return nil, status.Errorf(codes.FailedPrecondition, "volume %s is attached to %q, not to %s", r.VolumeId, has, d.node)
	}
	return &csi.NodeStageVolumeResponse{}, bind(d.data(r.VolumeId), r.StagingTargetPath)
}

func (d *driver) NodePublishVolume(_ context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	if !same(d.data(r.VolumeId), r.StagingTargetPath) {
		return nil, status.Errorf(codes.FailedPrecondition, "volume %s is not staged", r.VolumeId)
	}
	return &csi.NodePublishVolumeResponse{}, bind(r.StagingTargetPath, r.TargetPath)
}

func (d *driver) NodeUnpublishVolume(_ context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	if err := unbind(r.TargetPath); err != nil {
		return nil, err
	}
	if err := os.Remove(r.TargetPath); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

func (d *driver) NodeUnstageVolume(_ context.Context, r *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	return &csi.NodeUnstageVolumeResponse{}, unbind(r.StagingTargetPath)
}

// same says that one folder is seen at both paths.
func same(a, b string) bool {
	var here, there unix.Stat_t
	return unix.Stat(a, &here) == nil && unix.Stat(b, &there) == nil && here.Dev == there.Dev && here.Ino == there.Ino
}

func bind(from, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil || same(from, to) {
		return err
	}
	return unix.Mount(from, to, "", unix.MS_BIND, "")
}

func unbind(path string) error {
	if err := unix.Unmount(path, 0); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return err
	}
	return nil
}
