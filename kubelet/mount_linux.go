package kubelet

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ensureTmpfs mounts a tmpfs at path unless one is there already, from before
// a restart perhaps.
func ensureTmpfs(path string, bytes int64) error {
	if err := os.MkdirAll(path, 0o777); err != nil {
		return err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return err
	}
	// The whole node may live on a tmpfs: only one of its own counts.
	var here, above unix.Stat_t
	if err := errors.Join(unix.Stat(path, &here), unix.Stat(filepath.Dir(path), &above)); err != nil {
		return err
	}
	if fs.Type == unix.TMPFS_MAGIC && here.Dev != above.Dev {
		return nil
	}
	options := "size=" + strconv.FormatInt(bytes, 10) // 0: no limit
	err := unix.Mount("tmpfs", path, "tmpfs", unix.MS_NODEV|unix.MS_NOSUID, options+",noswap")
	if errors.Is(err, unix.EINVAL) { // an older kernel may write it to its swap
		err = unix.Mount("tmpfs", path, "tmpfs", unix.MS_NODEV|unix.MS_NOSUID, options)
	}
	if err != nil {
		return fmt.Errorf("mount tmpfs at %s: %w", path, err)
	}
	return os.Chmod(path, 0o777)
}

// mountsBelow lists the mount points at or below a directory.
//
// Spec: proc(5), /proc/[pid]/mountinfo: the fifth field, spaces as \040.
func mountsBelow(dir string) ([]string, error) {
	// The thread, not the process: a thread may have a mount namespace of its own.
	file, err := os.Open("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var out []string
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20) // an overlay's options can be long
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 {
			continue
		}
		point := unescape.Replace(fields[4])
		if point == dir || strings.HasPrefix(point, dir+"/") {
			out = append(out, point)
		}
	}
	return out, lines.Err()
}

func unmount(path string) error {
	err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) { // somebody's shell is in it: let it go when it goes
		err = unix.Unmount(path, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // gone already
		return nil
	}
	return err
}

// bindSubPath binds a path inside a volume to target, so that the container
// sees exactly what was resolved here. The volume's owner may swap symlinks
// while we look: every step is resolved by the kernel beneath the volume's
// root or fails, and what was opened is mounted by its file descriptor, never
// by its name.
//
// Upstream: kubernetes@v1.36 pkg/volume/util/subpath doBindSubPath.
func bindSubPath(volumeRoot, subPath, target string) error {
	if !filepath.IsLocal(subPath) {
		return fmt.Errorf("subPath %q leads out of its volume", subPath)
	}
	root, err := unix.Open(volumeRoot, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open volume %s: %w", volumeRoot, err)
	}
	defer unix.Close(root)
	found, err := openBeneath(root, subPath)
	if errors.Is(err, unix.ENOENT) {
		if err := mkdirBeneath(root, subPath); err != nil {
			return fmt.Errorf("create subPath %q: %w", subPath, err)
		}
		found, err = openBeneath(root, subPath)
	}
	if err != nil {
		return fmt.Errorf("resolve subPath %q: %w", subPath, err)
	}
	defer unix.Close(found)
	var stat unix.Stat_t
	if err := unix.Fstat(found, &stat); err != nil {
		return err
	}
	if err := prepareTarget(target, stat.Mode&unix.S_IFMT == unix.S_IFDIR); err != nil {
		return err
	}
	return unix.Mount(fmt.Sprintf("/proc/self/fd/%d", found), target, "", unix.MS_BIND|unix.MS_REC, "")
}

func openBeneath(root int, path string) (int, error) {
	return unix.Openat2(root, path, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
	})
}

// mkdirBeneath makes the missing directories of path one by one.
func mkdirBeneath(root int, path string) error {
	parent := root
	defer func() {
		if parent != root {
			unix.Close(parent)
		}
	}()
	for _, name := range strings.Split(filepath.Clean(path), "/") {
		if err := unix.Mkdirat(parent, name, 0o750); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		// One component at a time: an absolute or climbing link fails here.
		next, err := openBeneath(parent, name)
		if err != nil {
			return err
		}
		if parent != root {
			unix.Close(parent)
		}
		parent = next
	}
	return nil
}

// prepareTarget makes the mount point, clearing what an earlier container left.
func prepareTarget(target string, directory bool) error {
	mounts, err := mountsBelow(target)
	if err != nil {
		return err
	}
	for range mounts {
		if err := unmount(target); err != nil {
			return err
		}
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if directory {
		return os.MkdirAll(target, 0o750)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return err
	}
	file, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	return file.Close()
}
