package kubelet

import (
	"fmt"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// blockDevices lists the volumes that a container gets as devices.
//
// Upstream: kubernetes@v1.36 pkg/kubelet kubelet_pods.go makeBlockVolumes.
func blockDevices(in containerInput) (out []*runtimeapi.Device, err error) {
	for _, d := range in.container.VolumeDevices {
		volume, found := in.volumes[d.Name]
		switch {
		case !found:
			return nil, fmt.Errorf("volume device %q names a volume that the pod does not have", d.Name)
		case !volume.block:
			return nil, fmt.Errorf("volume %s has volumeMode Filesystem, but is specified in volumeDevices", d.Name)
		}
		permissions := "mrw"
		if volume.readOnly {
			permissions = "r"
		}
		out = append(out, &runtimeapi.Device{HostPath: volume.path, ContainerPath: d.DevicePath, Permissions: permissions})
	}
	return out, nil
}
