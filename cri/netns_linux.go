package cri

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// netnsPrefix marks the namespaces under /run/netns that are ours to remove.
const netnsPrefix = "cri-"

// createNetNS makes a network namespace, with lo up, that lives as long as the
// file: a bind mount of the namespace over it, just as `ip netns add` does, so
// that `ip netns exec` can enter the pod.
func createNetNS(path string) error {
	return pinned(path, func() error { return onNewThread(func() error { return pinNewNetNS(path) }) })
}

// pinNetNS does the same with a namespace that a process is in.
func pinNetNS(path, of string) error {
	return pinned(path, func() error { return unix.Mount(of, path, "none", unix.MS_BIND, "") })
}

// pinned makes the file and removes it again if nothing can be mounted on it.
func pinned(path string, pin func() error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return fmt.Errorf("create network namespace: %w", err)
	}
	file.Close()
	if err := pin(); err != nil {
		os.Remove(path)
		return fmt.Errorf("create network namespace: %w", err)
	}
	return nil
}

func pinNewNetNS(path string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	self := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
	return unix.Mount(self, path, "none", unix.MS_BIND, "")
}

// removeNetNS undoes createNetNS, as often as it is called. Processes that are
// still inside keep the namespace, but not its name.
func removeNetNS(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break // not, or no longer, a mount point
		}
		if err != nil {
			return fmt.Errorf("unmount network namespace %s: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// inNetNS runs f inside a namespace. Sockets that f opens stay there.
func inNetNS(path string, f func() error) error {
	return onNewThread(func() error {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open network namespace %s: %w", path, err)
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", path, err)
		}
		return f()
	})
}

// onNewThread runs f on a thread which ends with it: a thread that changed its
// namespace must never carry another goroutine again. Go ends a thread whose
// goroutine returns while still locked to it.
func onNewThread(f func() error) error {
	result := make(chan error)
	go func() {
		goruntime.LockOSThread()
		result <- f()
	}()
	return <-result
}

// mountShm gives a pod its own /dev/shm, shared by its containers.
func mountShm(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	return unix.Mount("shm", path, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, "mode=1777,size=64m")
}

// unmount takes away whatever is mounted on a path, if anything is.
func unmount(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}
