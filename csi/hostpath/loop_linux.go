package hostpath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// loopTries is how often another program may be faster in taking a free loop device.
const loopTries = 32

// findLoop answers the loop device behind which a volume's file is, or "". The kernel says it: there is nothing to
// remember, and nothing to be wrong after a kill. A file is known by its name, the volume's random ID; its path may look
// different from another mount namespace.
func findLoop(file string) (string, error) {
	backings, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return "", err
	}
	for _, backing := range backings {
		name, err := os.ReadFile(backing)
		if err != nil {
			continue // detached while we look
		}
		if strings.HasSuffix(strings.TrimSpace(string(name)), "/"+filepath.Base(file)) {
			return "/dev/" + strings.Split(backing, "/")[3], nil
		}
	}
	return "", nil
}

// attachLoop makes a file a block device, unless it is one already.
//
//	losetup --find --show FILE
func attachLoop(file string) (device string, err error) {
	if device, err = findLoop(file); err != nil || device != "" {
		return device, err
	}
	backing, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer backing.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer control.Close()
	for range loopTries {
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return "", fmt.Errorf("find a free loop device: %w", err)
		}
		device = fmt.Sprintf("/dev/loop%d", number)
		if err = configureLoop(device, number, backing); err == nil {
			return device, nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return "", err
		}
	}
	return "", fmt.Errorf("attach %s to a loop device: %w", file, err)
}

func configureLoop(device string, number int, backing *os.File) error {
	// Where /dev is not the kernel's own, nobody makes the node of a new device.
	if err := unix.Mknod(device, unix.S_IFBLK|0o600, int(unix.Mkdev(7, uint32(number)))); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make %s: %w", device, err)
	}
	loop, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer loop.Close()
	config := unix.LoopConfig{Fd: uint32(backing.Fd())}
	copy(config.Info.File_name[:], filepath.Base(backing.Name())) // for losetup --list
	if err := unix.IoctlLoopConfigure(int(loop.Fd()), &config); err != nil {
		return fmt.Errorf("configure %s: %w", device, err)
	}
	return nil
}

// detachLoop makes a file's block device go, if there is one.
//
//	losetup --detach DEVICE
func detachLoop(file string) error {
	return withLoop(file, unix.LOOP_CLR_FD)
}

// resizeLoop tells a file's block device that the file has grown.
//
//	losetup --set-capacity DEVICE
func resizeLoop(file string) error {
	return withLoop(file, unix.LOOP_SET_CAPACITY)
}

func withLoop(file string, request uint) error {
	device, err := findLoop(file)
	if err != nil || device == "" {
		return err
	}
	loop, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer loop.Close()
	if err := unix.IoctlSetInt(int(loop.Fd()), request, 0); err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("%s: %w", device, err)
	}
	return nil
}
