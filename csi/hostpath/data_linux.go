package hostpath

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// copyChunk is how much of a file is copied before looking whether anybody still waits.
const copyChunk = 16 << 20

// makeData makes a volume's data at path: empty, or a copy of what lies at from.
func makeData(ctx context.Context, path, from string, volume Volume) error {
	var err error
	switch {
	case from != "":
		err = copyData(ctx, from, path, volume.Block)
	case volume.Block:
		err = os.WriteFile(path, nil, 0o600)
	default:
		if err = os.Mkdir(path, 0o700); err == nil {
			err = os.Chmod(path, 0o777) // any pod may write, whatever our umask
		}
	}
	if err == nil && volume.Block {
		err = growFile(path, volume.Size)
	}
	return err
}

// growFile makes a file at least size bytes long, with every block of it reserved: who was given a disk can fill it.
func growFile(path string, size int64) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	before, err := file.Stat()
	if err != nil {
		return err
	}
	err = unix.Fallocate(int(file.Fd()), 0, 0, size)
	if errors.Is(err, unix.EOPNOTSUPP) { // a file system that cannot reserve
		return file.Truncate(max(size, before.Size()))
	}
	if err != nil { // what it reserved before it failed goes back
		return errors.Join(fmt.Errorf("reserve %d bytes: %w", size, err), file.Truncate(before.Size()))
	}
	return nil
}

// copyData copies a volume or a snapshot: a file, or a directory with everything in it.
func copyData(ctx context.Context, from, to string, block bool) error {
	if !block {
		return copyTree(ctx, from, to)
	}
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	return copyFile(ctx, source, to)
}

// copyTree copies a directory. Pods may be changing it meanwhile, and may mean harm: a name that was a directory when it
// was listed can be a link to /etc when it is opened. So the source is only ever seen through os.Root, out of which
// nothing leads. The copy is nobody's yet, and needs no such care.
//
// Simplified: extended attributes (ACLs, capabilities) are not copied.
func copyTree(ctx context.Context, from, to string) error {
	root, err := os.OpenRoot(from)
	if err != nil {
		return err
	}
	defer root.Close()
	type directory struct {
		path string
		info fs.FileInfo
	}
	var directories []directory
	links := map[uint64]string{} // where a file with several names was copied to, by inode
	err = fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		var info fs.FileInfo
		if err == nil {
			info, err = entry.Info()
		}
		if errors.Is(err, fs.ErrNotExist) && name != "." {
			return nil // removed while we look
		}
		if err != nil {
			return err
		}
		target := filepath.Join(to, name)
		if info.IsDir() {
			directories = append(directories, directory{target, info})
			return os.Mkdir(target, 0o700)
		}
		inode := info.Sys().(*syscall.Stat_t)
		if other, ok := links[inode.Ino]; ok {
			return os.Link(other, target)
		}
		if err := copyOne(ctx, root, name, target, info); err != nil {
			return err
		}
		if inode.Nlink > 1 {
			links[inode.Ino] = target
		}
		return nil
	})
	// From the inside out, since each entry that is made changes its directory's time.
	for _, one := range slices.Backward(directories) {
		if err != nil {
			return err
		}
		err = copyAttributes(one.path, one.info)
	}
	return err
}

// copyOne copies anything but a directory.
func copyOne(ctx context.Context, root *os.Root, name, target string, info fs.FileInfo) error {
	var err error
	switch inode := info.Sys().(*syscall.Stat_t); {
	case info.Mode().IsRegular():
		var source *os.File
		// It may be a FIFO by now, and wait for a writer forever.
		if source, err = root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0); err != nil {
			break
		}
		defer source.Close()
		if info, err = source.Stat(); err == nil && info.Mode().IsRegular() {
			err = copyFile(ctx, source, target)
		} else if err == nil {
			return nil
		}
	case info.Mode()&os.ModeSymlink != 0:
		var to string
		if to, err = root.Readlink(name); err == nil {
			err = os.Symlink(to, target)
		}
	default: // devices, FIFOs, sockets
		err = unix.Mknod(target, inode.Mode, int(inode.Rdev))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed while we look
	}
	if err != nil {
		return err
	}
	return copyAttributes(target, info)
}

// copyFile copies what is written of a file, and keeps its holes.
func copyFile(ctx context.Context, source *os.File, path string) error {
	info, err := source.Stat()
	if err != nil {
		return err
	}
	target, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer target.Close()
	if err := target.Truncate(info.Size()); err != nil {
		return err
	}
	for at := int64(0); at < info.Size(); {
		if at, err = source.Seek(at, unix.SEEK_DATA); errors.Is(err, unix.ENXIO) {
			break // nothing but a hole is left
		}
		if err != nil {
			return err
		}
		hole, err := source.Seek(at, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if at, err = copyRange(ctx, source, target, at, min(hole, at+copyChunk)); err != nil {
			return err
		}
	}
	return target.Sync()
}

// copyRange copies the bytes from one offset to another, and answers where the next begin.
func copyRange(ctx context.Context, source, target *os.File, from, to int64) (int64, error) {
	if err := ctx.Err(); err != nil {
		return from, err
	}
	if _, err := source.Seek(from, io.SeekStart); err != nil {
		return from, err
	}
	if _, err := target.Seek(from, io.SeekStart); err != nil {
		return from, err
	}
	_, err := io.CopyN(target, source, to-from)
	if errors.Is(err, io.EOF) { // it was cut off meanwhile
		err = nil
	}
	return to, err
}

// copyAttributes gives a copy its owner, mode and times.
func copyAttributes(path string, info fs.FileInfo) error {
	inode := info.Sys().(*syscall.Stat_t)
	if err := os.Lchown(path, int(inode.Uid), int(inode.Gid)); err != nil {
		return err
	}
	if info.Mode()&os.ModeSymlink == 0 {
		if err := os.Chmod(path, info.Mode()); err != nil {
			return err
		}
	}
	times := []unix.Timespec{{Sec: inode.Atim.Sec, Nsec: inode.Atim.Nsec}, {Sec: inode.Mtim.Sec, Nsec: inode.Mtim.Nsec}}
	return unix.UtimesNanoAt(unix.AT_FDCWD, path, times, unix.AT_SYMLINK_NOFOLLOW)
}

// syncPath forces a file, or the names in a directory, to disk.
func syncPath(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	return file.Sync()
}
