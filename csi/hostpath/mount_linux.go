package hostpath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// mountFlags are the mount options that a bind mount can have of its own; they come from a StorageClass's mountOptions.
var mountFlags = map[string]unix.MountAttr{
	"defaults": {}, "rw": {}, "bind": {},
	"ro":       {Attr_set: unix.MOUNT_ATTR_RDONLY},
	"nosuid":   {Attr_set: unix.MOUNT_ATTR_NOSUID},
	"nodev":    {Attr_set: unix.MOUNT_ATTR_NODEV},
	"noexec":   {Attr_set: unix.MOUNT_ATTR_NOEXEC},
	"noatime":  {Attr_set: unix.MOUNT_ATTR_NOATIME, Attr_clr: unix.MOUNT_ATTR__ATIME},
	"relatime": {Attr_set: unix.MOUNT_ATTR_RELATIME, Attr_clr: unix.MOUNT_ATTR__ATIME},
}

// mountAttributes turns mount options into what the kernel calls them. An option that would be forgotten is refused.
func mountAttributes(flags []string) (unix.MountAttr, error) {
	var attributes unix.MountAttr
	for _, flag := range flags {
		one, ok := mountFlags[flag]
		if !ok {
			name, _, _ := strings.Cut(flag, "=") // behind that there may be a password
			return attributes, invalid("mount option %q is none that a bind mount could have", name)
		}
		attributes.Attr_set |= one.Attr_set
		attributes.Attr_clr |= one.Attr_clr
	}
	return attributes, nil
}

// bind shows source at target as well. The mount is made and given its attributes while it is nowhere, then put in its
// place: no instant at which a read-only volume could be written to. The place is held open, so that nobody can make a
// link of it between looking and mounting.
//
//	mount --bind SOURCE TARGET; mount -o remount,bind,ro TARGET
func bind(source, target string, attributes unix.MountAttr) error {
	place, err := unix.Open(target, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", target, err)
	}
	defer unix.Close(place)
	var inode unix.Stat_t
	if err := unix.Fstat(place, &inode); err != nil {
		return err
	}
	if inode.Mode&unix.S_IFMT == unix.S_IFLNK {
		return invalid("target path %s is a symbolic link", target)
	}
	mount, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return fmt.Errorf("open_tree %s: %w", source, err)
	}
	defer unix.Close(mount)
	if err := unix.MountSetattr(mount, "", unix.AT_EMPTY_PATH, &attributes); err != nil {
		return fmt.Errorf("mount_setattr for %s: %w", target, err)
	}
	if err := unix.MoveMount(mount, "", place, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount %s at %s: %w", source, target, err)
	}
	return nil
}

// unbind takes away what bind put in place, however often. It is an error if something else is mounted there.
func unbind(source, target string) error {
	for {
		mounts, err := mountsUnder(target)
		if err != nil || !slices.Contains(mounts, target) {
			return err
		}
		same, err := sameFile(source, target)
		if errors.Is(err, fs.ErrNotExist) { // the directory or the device is gone, and its mount is not
			same, err = true, nil
		}
		if err != nil || !same {
			return errors.Join(err, status.Errorf(codes.FailedPrecondition, "something else is mounted at %s", target))
		}
		if err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", target, err)
		}
	}
}

// sameFile tells whether two paths are the same directory, or the same device.
func sameFile(a, b string) (bool, error) {
	var one, other unix.Stat_t
	if err := errors.Join(unix.Lstat(a, &one), unix.Lstat(b, &other)); err != nil {
		return false, fmt.Errorf("%s and %s: %w", a, b, err)
	}
	if one.Mode&unix.S_IFMT == unix.S_IFBLK {
		return other.Mode&unix.S_IFMT == unix.S_IFBLK && one.Rdev == other.Rdev, nil
	}
	return one.Dev == other.Dev && one.Ino == other.Ino, nil
}

// mountsUnder lists the mount points at path and below, as the kernel knows them.
func mountsUnder(path string) ([]string, error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var under []string
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		if place := unescape.Replace(fields[4]); place == path || strings.HasPrefix(place, path+"/") {
			under = append(under, place)
		}
	}
	return under, nil
}

// unescape undoes what the kernel does to paths in mountinfo.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// resolve answers a path as the kernel would call it, but for its last element: where something is mounted or will be.
func resolve(path string) (string, error) {
	path = filepath.Clean(path)
	parent, err := filepath.EvalSymlinks(filepath.Dir(path))
	return filepath.Join(parent, filepath.Base(path)), err
}

// mountedAt tells whether anything is mounted exactly at path.
func mountedAt(path string) (bool, error) {
	mounts, err := mountsUnder(path)
	return slices.Contains(mounts, path), err
}
