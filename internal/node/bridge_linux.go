package node

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The nodes' links meet in a bridge, like machines at a switch. The bridge has
// a network namespace of its own, because in the machine's namespace whatever
// firewall lives there would filter it. A file keeps that namespace alive, so
// no process has to.
//
//	node-0 eth0 ══ veth ══╗
//	node-1 eth0 ══ veth ══╬═ bridge (172.30.9.254, for the relay)
//	node-2 eth0 ══ veth ══╝   no gateway: nothing leaves the machine

const bridgeName = "bridge"

// CreateBridge makes the namespace at file with a bridge that has address. It
// does nothing if that exists.
func CreateBridge(file string, address netip.Prefix) error {
	if handle, err := netns.GetFromPath(file); err == nil {
		defer handle.Close()
		var stat unix.Statfs_t
		if unix.Statfs(file, &stat) == nil && stat.Type == unix.NSFS_MAGIC {
			return nil
		}
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return err
	}
	return OnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("bridge namespace: %w", err)
		}
		if err := unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), file, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("keep bridge namespace: %w", err)
		}
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName}}
		if err := netlink.LinkAdd(bridge); err != nil {
			return fmt.Errorf("bridge: %w", err)
		}
		return errors.Join(setAddress(bridge, address), setUp("lo"))
	})
}

// RemoveBridge lets go of the namespace; with its last link it is gone.
func RemoveBridge(file string) error {
	if err := unix.Unmount(file, unix.MNT_DETACH); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return fmt.Errorf("bridge namespace: %w", err)
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// plug connects the namespace of a process to the bridge: a veth pair of which
// one end is eth0 there. An end that an earlier node of that name left is
// replaced.
func plug(file, name string, pid int) error {
	peer, err := netns.GetFromPid(pid)
	if err != nil {
		return fmt.Errorf("namespace of node %s: %w", name, err)
	}
	defer peer.Close()
	return InNamespace(file, func() error {
		bridge, err := netlink.LinkByName(bridgeName)
		if err != nil {
			return fmt.Errorf("bridge: %w", err)
		}
		if old, err := netlink.LinkByName(name); err == nil {
			if err := netlink.LinkDel(old); err != nil {
				return fmt.Errorf("unplug node %s: %w", name, err)
			}
		}
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, MasterIndex: bridge.Attrs().Index},
			PeerName: "eth0", PeerNamespace: netlink.NsFd(peer)}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("plug node %s: %w", name, err)
		}
		return setUp(name)
	})
}

// InNamespace runs f on a thread in the network namespace at file. The thread
// is not used for anything else afterwards.
func InNamespace(file string, f func() error) error {
	return OnThread(func() error {
		handle, err := netns.GetFromPath(file)
		if err != nil {
			return fmt.Errorf("network namespace %s: %w", file, err)
		}
		defer handle.Close()
		if err := netns.Set(handle); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", file, err)
		}
		return f()
	})
}

// OnThread runs f on an OS thread that ends with it, so that no other
// goroutine ever runs in the namespaces f has entered.
func OnThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread dies with the goroutine
		result <- f()
	}()
	return <-result
}

func setAddress(link netlink.Link, address netip.Prefix) error {
	parsed, err := netlink.ParseAddr(address.String())
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, parsed); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("address %s: %w", address, err)
	}
	return netlink.LinkSetUp(link)
}

func setUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	return netlink.LinkSetUp(link)
}

// sysctl sets a kernel parameter of the calling process's network namespace.
func sysctl(name, value string) error {
	return os.WriteFile("/proc/sys/"+strings.ReplaceAll(name, ".", "/"), []byte(value), 0)
}
