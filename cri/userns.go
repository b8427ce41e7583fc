package cri

import (
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A pod in a user namespace of its own is root there and nobody here. Three
// things follow from the kernel's rules:
//
//	namespaces  those of the pod must belong to its user namespace, or its root
//	            could not mount /sys: runc makes the network's too, and we pin it
//	            from pause's process, before the plugins see it
//	files       on disk belong to the host's users; the mounts of the root file
//	            system and of the pod's own files translate (ID-mapped mounts)
//	pipes       for the output belong to the pod's root
//
// Upstream: containerd@v2.3 internal/cri/server sandbox_run_linux.go, container_create_linux.go
type userNamespace struct{ uids, gids []specs.LinuxIDMapping }

// userNamespace is nil for a pod that has the host's.
func (r *sandboxRecord) userNamespace() *userNamespace {
	asked := r.Config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetUsernsOptions()
	if asked == nil || asked.GetMode() != runtimeapi.NamespaceMode_POD {
		return nil
	}
	return &userNamespace{idMappings(asked.GetUids()), idMappings(asked.GetGids())}
}

func idMappings(list []*runtimeapi.IDMapping) (out []specs.LinuxIDMapping) {
	for _, m := range list {
		out = append(out, specs.LinuxIDMapping{ContainerID: m.GetContainerId(), HostID: m.GetHostId(), Size: m.GetLength()})
	}
	return out
}

// validateUserns refuses what cannot be done or, worse, could be done halfway.
func validateUserns(options *runtimeapi.NamespaceOption) error {
	asked := options.GetUsernsOptions()
	switch {
	case asked == nil:
		return nil
	case asked.GetMode() == runtimeapi.NamespaceMode_NODE:
		if len(asked.GetUids())+len(asked.GetGids()) > 0 {
			return errors.New("ID mappings without a user namespace")
		}
		return nil
	case asked.GetMode() != runtimeapi.NamespaceMode_POD:
		return fmt.Errorf("unsupported user namespace mode %s", asked.GetMode())
	case options.GetNetwork() == runtimeapi.NamespaceMode_NODE || options.GetPid() == runtimeapi.NamespaceMode_NODE || options.GetIpc() == runtimeapi.NamespaceMode_NODE:
		return errors.New("a pod in a user namespace cannot have the host's network, process or IPC namespace")
	case !idMappedMounts():
		return errors.New("user namespaces need a kernel with ID-mapped overlay and tmpfs mounts (6.3 or newer)")
	}
	for _, list := range [][]*runtimeapi.IDMapping{asked.GetUids(), asked.GetGids()} {
		if len(list) != 1 || list[0].GetContainerId() != 0 || list[0].GetLength() == 0 {
			return errors.New("a user namespace needs one mapping of users and one of groups, both from ID 0 on")
		}
	}
	return nil
}

// sameUserns: a container lives in its pod's user namespace, whatever it says.
func sameUserns(cfg *runtimeapi.ContainerConfig, sb *sandbox) bool {
	asked := cfg.GetLinux().GetSecurityContext().GetNamespaceOptions().GetUsernsOptions()
	return asked == nil || proto.Equal(asked, sb.namespaces().GetUsernsOptions()) ||
		sb.userNamespace() == nil && asked.GetMode() == runtimeapi.NamespaceMode_NODE
}

// idMappedMounts tells whether the kernel has what it takes.
func idMappedMounts() bool {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return false
	}
	var major, minor int
	_, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor)
	return err == nil && slices.Compare([]int{major, minor}, []int{6, 3}) >= 0
}

// enter puts a spec into the namespace: a new one, or that of a path. Mounts of
// the pod's own files are translated; those of volumes say themselves whether.
func (u *userNamespace) enter(spec *specs.Spec, path string, own ...string) {
	if u == nil {
		return
	}
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: path})
	spec.Linux.UIDMappings, spec.Linux.GIDMappings = u.uids, u.gids
	for i := range spec.Mounts {
		if m := &spec.Mounts[i]; m.Type == "bind" && slices.Contains(own, m.Source) {
			m.UIDMappings, m.GIDMappings = u.uids, u.gids
		}
	}
}

// root is who the pod's root is on the host.
func (u *userNamespace) root() (uid, gid uint32) {
	if u == nil {
		return 0, 0
	}
	return u.uids[0].HostID, u.gids[0].HostID
}

// snapshot makes the snapshotter translate a root file system.
func (u *userNamespace) snapshot() []snapshots.Opt {
	if u == nil {
		return nil
	}
	text := func(m specs.LinuxIDMapping) string { return fmt.Sprintf("%d:%d:%d", m.ContainerID, m.HostID, m.Size) }
	return []snapshots.Opt{snapshots.WithLabels(map[string]string{
		snapshots.LabelSnapshotUIDMapping: text(u.uids[0]), snapshots.LabelSnapshotGIDMapping: text(u.gids[0])})}
}
