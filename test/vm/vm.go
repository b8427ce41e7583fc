package vm

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"tinykube/internal/reference"
)

// Machine is what a virtual machine has and does.
type Machine struct {
	// Programs of this machine, by name or path; they are at the same place there.
	Programs []string
	// Files by their path there: files or folders of this machine.
	Files map[string]string
	// Script is run by sh with everything mounted; how it ends is the result.
	Script string
	// MemoryMiB and CPUs; 2,048 and 2 if 0.
	MemoryMiB, CPUs int
	// Timeout ends a machine that hangs; five minutes if 0.
	Timeout time.Duration
}

// Run boots the machine, answers what its script printed, and fails the test if
// the script did. The kernel's emulation is slow: compiled code takes about ten
// times as long as outside.
func Run(t testing.TB, m Machine) string {
	t.Helper()
	dir := t.TempDir()
	disk, initramfs, console := filepath.Join(dir, "disk.tar"), filepath.Join(dir, "initramfs"), filepath.Join(dir, "console")
	kernel := filepath.Join(reference.Checkout(t), "bin", "vm")
	modules := glob(t, filepath.Join(kernel, "lib/modules/*"))
	if err := writeInitramfs(initramfs, modules); err != nil {
		t.Fatal(err)
	}
	if err := m.writeDisk(disk, modules); err != nil {
		t.Fatal(err)
	}
	timeout := max(m.Timeout, 0)
	if timeout == 0 {
		timeout = 5 * time.Minute
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	// Never KVM: guests crash under it where KVM is itself emulated.
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-display", "none", "-nodefaults", "-no-reboot",
		"-m", strconv.Itoa(orDefault(m.MemoryMiB, 2048)), "-smp", strconv.Itoa(orDefault(m.CPUs, 2)),
		"-kernel", glob(t, filepath.Join(kernel, "boot/vmlinuz-*")), "-initrd", initramfs,
		// Random numbers from the processor, or the first TLS key would wait for minutes.
		"-append", "console=ttyS0 panic=-1 random.trust_cpu=on quiet",
		"-drive", "file="+disk+",format=raw,if=virtio,readonly=on",
		"-serial", "file:"+console, "-serial", "stdio")
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	err := cmd.Run()
	text := strings.ReplaceAll(output.String(), "\r\n", "\n")
	out, status, ended := strings.Cut(text, endMark)
	switch {
	case err != nil || !ended:
		kernelSays, _ := os.ReadFile(console)
		t.Fatalf("the machine did not come to an end: %v, %v\nthe script:\n%s\nthe kernel:\n%s", err, ctx.Err(), out, tail(string(kernelSays)))
	case strings.TrimSpace(status) != "0":
		t.Fatalf("the script ended with %s:\n%s", strings.TrimSpace(status), out)
	}
	return out
}

// endMark comes before the script's exit code.
const endMark = "--- vm: the script ended with "

// init1 is the initramfs' /init: it moves to a tmpfs, since nobody can pivot_root
// away from an initramfs, and containers want to.
const init1 = `#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /new /sbin
/bin/busybox mount -t devtmpfs none /dev
for m in %s; do /bin/busybox insmod /modules/$m; done
/bin/busybox mount -t tmpfs -o mode=755,size=80%% none /new
/bin/busybox tar x -f /dev/vda -C /new
exec /bin/busybox switch_root /new /init
`

// init2 is PID 1 afterwards. %%s: Files and Script are there already.
const init2 = `#!/bin/busybox sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TMPDIR=/tmp
mkdir -p /proc /sys /dev /tmp /run /root /var/lib /var/log /var/run
mount -t devtmpfs none /dev
mkdir -p /dev/pts /dev/shm
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devpts none /dev/pts
mount -t tmpfs none /dev/shm
mount -t tmpfs none /run
mount -t tmpfs none /tmp
chmod 1777 /tmp /dev/shm
mount -t cgroup2 none /sys/fs/cgroup
ip link set lo up
hostname vm
stty -F /dev/ttyS1 raw
sh /script < /dev/null > /dev/ttyS1 2>&1
echo "` + endMark + `$?" > /dev/ttyS1
sync
# The last bytes leave the serial port before the power does.
stty -F /dev/ttyS1 > /dev/null
echo b > /proc/sysrq-trigger
`

// bootModules make the disk visible, in the order in which they need each other.
var bootModules = []string{"virtio", "virtio_ring", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk"}

func writeInitramfs(path, modules string) error {
	staging, err := os.MkdirTemp(filepath.Dir(path), "initramfs")
	if err != nil {
		return err
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	var names []string
	copies := map[string]string{"bin/busybox": busybox}
	err = filepath.WalkDir(modules, func(file string, _ fs.DirEntry, err error) error {
		copies["modules/"+filepath.Base(file)] = file
		return err
	})
	if err != nil {
		return err
	}
	for _, m := range bootModules {
		names = append(names, m+".ko")
	}
	for to, from := range copies {
		if base := filepath.Base(to); base != "busybox" && !contains(names, base) {
			continue
		}
		data, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if err := write(filepath.Join(staging, to), data); err != nil {
			return err
		}
	}
	if err := write(filepath.Join(staging, "init"), fmt.Appendf(nil, init1, strings.Join(names, " "))); err != nil {
		return err
	}
	archive, err := os.Create(path)
	if err != nil {
		return err
	}
	defer archive.Close()
	cpio := exec.Command(busybox, "sh", "-c", "find . | busybox cpio -o -H newc")
	cpio.Dir, cpio.Stdout = staging, archive
	return cpio.Run()
}

// writeDisk writes the tar that becomes the machine's root.
func (m Machine) writeDisk(path, modules string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	buffered := bufio.NewWriterSize(file, 1<<20)
	d := &disk{tar.NewWriter(buffered), map[string]bool{}}
	for _, link := range []string{"bin", "sbin", "lib", "lib64"} {
		d.link(link, "usr/"+link)
		d.folder("usr/" + link)
	}
	files := map[string]string{filepath.Join("/usr/lib/modules", filepath.Base(modules)): modules}
	for to, from := range m.Files {
		files[to] = from
	}
	for to, from := range files {
		if err := d.add(to, from); err != nil {
			return err
		}
	}
	for _, program := range append([]string{"busybox"}, m.Programs...) {
		if err := d.addProgram(program); err != nil {
			return fmt.Errorf("%s: %w", program, err)
		}
	}
	// What no program above has brought is busybox's.
	applets, err := exec.Command("busybox", "--list-full").Output()
	if err != nil {
		return err
	}
	for _, applet := range strings.Fields(string(applets)) {
		if base := filepath.Base(applet); !d.has["usr/bin/"+base] && !d.has["usr/sbin/"+base] {
			d.link("usr/bin/"+base, "busybox")
		}
	}
	// The kernel asks for modules here.
	if !d.has["usr/sbin/modprobe"] {
		d.link("usr/sbin/modprobe", "../bin/busybox")
	}
	for _, name := range []string{"/etc/protocols", "/etc/services"} {
		if err := d.add(name, name); err != nil {
			return fmt.Errorf("%w (Debian: apt-get install netbase)", err)
		}
	}
	d.file("init", []byte(init2))
	d.file("script", []byte(m.Script))
	if err := d.Close(); err != nil {
		return err
	}
	return buffered.Flush()
}

// disk writes each path once. Errors of writing a tar stay: Close tells them.
type disk struct {
	*tar.Writer
	has map[string]bool
}

func (d *disk) once(path string) (string, bool) {
	path = strings.TrimPrefix(path, "/")
	// Debian has moved these into /usr, and so have we.
	if regexp.MustCompile(`^(bin|sbin|lib|lib64)/`).MatchString(path) {
		path = "usr/" + path
	}
	was := d.has[path]
	d.has[path] = true
	return path, !was
}

func (d *disk) link(path, to string) {
	if path, ok := d.once(path); ok {
		_ = d.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: path, Linkname: to, Mode: 0o777})
	}
}

func (d *disk) folder(path string) {
	if path, ok := d.once(path); ok {
		_ = d.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: path, Mode: 0o755})
	}
}

func (d *disk) file(path string, data []byte) {
	if path, ok := d.once(path); ok {
		_ = d.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path, Mode: 0o755, Size: int64(len(data))})
		_, _ = d.Write(data)
	}
}

// add copies a file or a folder; links are followed for files, and kept in folders.
func (d *disk) add(to, from string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		inside, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, inside)
		switch {
		case entry.IsDir():
			d.folder(target)
			return nil
		case entry.Type()&fs.ModeSymlink != 0 && inside != ".":
			link, err := os.Readlink(path)
			d.link(target, link)
			return err
		}
		return d.copy(target, path)
	})
}

func (d *disk) copy(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	path, ok := d.once(to)
	if !ok {
		return nil
	}
	if err := d.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path, Mode: int64(info.Mode().Perm()), Size: info.Size()}); err != nil {
		return err
	}
	_, err = io.Copy(d, in)
	return err
}

var library = regexp.MustCompile(`(/\S+) \(0x`)

// addProgram adds a program under its name, where its links lead, and the
// libraries that it asks for. iptables also loads its matches while it runs.
func (d *disk) addProgram(name string) error {
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + name)
	}
	if err != nil {
		return err
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	if real != path {
		d.link(path, real)
	}
	if err := d.copy(real, real); err != nil {
		return err
	}
	needs := []string{real}
	if strings.Contains(real, "xtables") {
		plugins, err := filepath.Glob("/usr/lib/*/xtables/*.so")
		if err != nil {
			return err
		}
		for _, plugin := range plugins {
			if err := d.copy(plugin, plugin); err != nil {
				return err
			}
		}
		needs = append(needs, plugins...)
	}
	libraries, _ := exec.Command("ldd", needs...).Output() // which calls a static program an error
	for _, match := range library.FindAllStringSubmatch(string(libraries), -1) {
		if err := d.copy(match[1], match[1]); err != nil {
			return err
		}
	}
	return nil
}

func glob(t testing.TB, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: found %v (make vm downloads one)", pattern, found)
	}
	return found[0]
}

func write(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o755)
}

func contains(list []string, word string) bool {
	for _, w := range list {
		if w == word {
			return true
		}
	}
	return false
}

func orDefault(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}

func tail(text string) string { return text[max(0, len(text)-3000):] }
