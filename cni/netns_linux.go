package cni

import (
	"fmt"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	vishnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// netns is a container's network namespace, spoken to without living there: the
// netlink socket is opened inside, and belongs there whoever uses it.
type netns struct {
	*netlink.Handle
	handle vishnetns.NsHandle
}

// openNetns opens CNI_NETNS. Spec: CNI 1.1 §Error: 3 is "container unknown", and
// what Linux calls it is a path that leads to no namespace.
func openNetns(path string) (*netns, error) {
	handle, err := vishnetns.GetFromPath(path)
	if err != nil {
		return nil, types.NewError(types.ErrUnknownContainer, fmt.Sprintf("network namespace %q: %v", path, err), "")
	}
	var stat unix.Statfs_t
	if err := unix.Fstatfs(int(handle), &stat); err != nil || stat.Type != unix.NSFS_MAGIC && stat.Type != unix.PROC_SUPER_MAGIC {
		handle.Close()
		return nil, types.NewError(types.ErrInvalidNetNS, fmt.Sprintf("%q is no network namespace", path), "")
	}
	link, err := netlink.NewHandleAt(handle, unix.NETLINK_ROUTE)
	if err != nil {
		handle.Close()
		return nil, types.NewError(types.ErrInvalidNetNS, fmt.Sprintf("network namespace %q: %v", path, err), "")
	}
	return &netns{link, handle}, nil
}

func (n *netns) close() {
	n.Close()
	n.handle.Close()
}
