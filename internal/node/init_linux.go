package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Init is the life of a node's PID 1, from the first instruction in its new
// namespaces to its end.
func Init(ctx context.Context, specFile string) error {
	if os.Getpid() != 1 {
		return errors.New("node init runs as PID 1 of a node; use tinykube up, or tinykube node start")
	}
	if err := awaitRelease(); err != nil {
		return err
	}
	s, err := LoadSpec(specFile)
	if err != nil {
		return err
	}
	if err := s.buildRoot(); err != nil {
		return fmt.Errorf("root file system: %w", err)
	}
	if err := s.configure(); err != nil {
		return err
	}
	return supervise(ctx, s)
}

// awaitRelease blocks until Start has put us into our cgroup and plugged us in.
func awaitRelease() error {
	pipe := os.NewFile(3, "release")
	defer pipe.Close()
	if n, _ := pipe.Read(make([]byte, 1)); n != 1 {
		return errors.New("the process that started this node is gone")
	}
	return nil
}

// mount is one line of the table below.
type mount struct {
	source, target, kind string
	flags                uintptr
	data                 string
}

// buildRoot assembles the node's file system in a new tmpfs and moves into it.
// What is not listed here does not exist for the node.
func (s *Spec) buildRoot() error {
	// Invariant: from here on no mount of ours reaches the machine.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	root := s.Path("root")
	for _, dir := range []string{root, s.Path("etc.work"), s.Path("etc/kubernetes"), s.Path("etc/cni"), s.Path("etc/containerd"), s.Path("var/lib"),
		s.Path("var/log"), s.Path("var/tmp"), s.Path("opt/tinykube"), s.Path("opt/cni/bin")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	mounts := []mount{
		{"tmpfs", "", "tmpfs", 0, "mode=755"},
		{"overlay", "etc", "overlay", 0, fmt.Sprintf("lowerdir=/etc,upperdir=%s,workdir=%s", s.Path("etc"), s.Path("etc.work"))},
		// Only the node's own, whatever the machine itself may have of another
		// cluster. Not of the overlay, so that what is edited from the machine,
		// a manifest say, is heard of.
		{s.Path("etc/kubernetes"), "etc/kubernetes", "", unix.MS_BIND, ""},
		{s.Path("etc/cni"), "etc/cni", "", unix.MS_BIND, ""},
		{s.Path("etc/containerd"), "etc/containerd", "", unix.MS_BIND, ""},
		{s.Path("var"), "var", "", unix.MS_BIND, ""},
		{s.Path("opt"), "opt", "", unix.MS_BIND, ""},
		{s.Payload, "opt/tinykube", "", unix.MS_BIND, ""},
		{"tmpfs", "run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
		{"tmpfs", "tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"tmpfs", "root", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=700"},
		{"proc", "proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		// A new sysfs shows the links of our network namespace, not the machine's.
		{"sysfs", "sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{cgroupMount, "sys/fs/cgroup", "", unix.MS_BIND | unix.MS_REC, ""},
		{"/dev", "dev", "", unix.MS_BIND | unix.MS_REC, ""},
		{"tmpfs", "dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	}
	for _, m := range mounts {
		target := filepath.Join(root, m.target)
		if err := os.MkdirAll(target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.source, target, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.source, m.target, err)
		}
	}
	if err := bindSystem(root); err != nil {
		return err
	}
	if err := os.Symlink("/run", filepath.Join(root, "var/run")); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return pivot(root)
}

// bindSystem shows the machine's programs and libraries, read-only.
func bindSystem(root string) error {
	entries, err := os.ReadDir("/")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		name := entry.Name()
		if name != "usr" && name != "bin" && name != "sbin" && !strings.HasPrefix(name, "lib") {
			continue
		}
		source, target := "/"+name, filepath.Join(root, name)
		if entry.Type()&fs.ModeSymlink != 0 {
			link, err := os.Readlink(source)
			if err != nil {
				return err
			}
			if err := os.Symlink(link, target); err != nil {
				return err
			}
			continue
		}
		if err := os.MkdirAll(target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("mount %s: %w", source, err)
		}
		if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("mount %s read-only: %w", source, err)
		}
	}
	return nil
}

// pivot makes root the root and forgets the machine's.
func pivot(root string) error {
	old := filepath.Join(root, ".old")
	if err := os.Mkdir(old, 0o700); err != nil {
		return err
	}
	if err := unix.PivotRoot(root, old); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := unix.Unmount("/.old", unix.MNT_DETACH); err != nil {
		return err
	}
	if err := os.Remove("/.old"); err != nil {
		return err
	}
	// Mounts that a pod asks to propagate must be able to.
	return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "")
}

// configure gives the node its name, address and files.
func (s *Spec) configure() error {
	if err := unix.Sethostname([]byte(s.Name)); err != nil {
		return fmt.Errorf("hostname: %w", err)
	}
	if err := setUp("lo"); err != nil {
		return err
	}
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("eth0: %w", err)
	}
	if err := setAddress(eth0, s.Address); err != nil {
		return err
	}
	// The node's own programs (flanneld, say) reach Services too, and the kernel
	// looks for a route before it lets iptables rewrite the destination. So there
	// must be one for any address, even though nothing at its end forwards.
	everywhere := &netlink.Route{LinkIndex: eth0.Attrs().Index, Scope: netlink.SCOPE_LINK,
		Dst: &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}}
	if err := netlink.RouteReplace(everywhere); err != nil {
		return fmt.Errorf("default route: %w", err)
	}
	for name, value := range map[string]string{
		"net.ipv4.ip_forward":                "1",
		"net.ipv4.conf.all.rp_filter":        "0",
		"net.ipv4.conf.default.rp_filter":    "0",
		"net.bridge.bridge-nf-call-iptables": "1",
	} {
		// br_netfilter may be absent; then pods of one node talk through the
		// bridge without passing iptables, which Services between them need.
		if err := sysctl(name, value); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("sysctl %s: %w", name, err)
		}
	}
	for name, content := range map[string]string{
		"/etc/hostname": s.Name + "\n",
		"/etc/hosts":    fmt.Sprintf("127.0.0.1 localhost\n::1 localhost\n%s %s\n", s.Address.Addr(), s.Name),
		// No resolver: nothing that a node could ask is on this machine. The file names the node itself, where nobody
		// answers, so that who must have a server (CoreDNS, to forward to) has one that is not his own loopback.
		"/etc/resolv.conf": fmt.Sprintf("nameserver %s\n", s.Address.Addr()),
		// For a reader with crictl at hand: it then asks the runtime that this node's kubelet asks.
		"/etc/crictl.yaml":            "runtime-endpoint: " + s.RuntimeEndpoint + "\nimage-endpoint: " + s.RuntimeEndpoint + "\n",
		"/etc/containerd/config.toml": s.containerdConfig(),
	} {
		if err := writeFile(name, []byte(content), 0o644); err != nil {
			return err
		}
	}
	for _, plugin := range []string{"bridge", "host-local", "loopback", "portmap", "flannel"} {
		link := filepath.Join("/opt/cni/bin", plugin)
		if err := os.Symlink(ToolsDir+"/bin/cni", link); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// containerdConfig leaves containerd its snapshotter, content store and tasks.
// Its CRI plugin is off unless the kubelet is to use it.
func (s *Spec) containerdConfig() string {
	if !s.ContainerdCRI() {
		return `version = 3
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri"]
`
	}
	return fmt.Sprintf(`version = 3
disabled_plugins = ["io.containerd.nri.v1.nri"]

[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = %q

[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = %t
enable_selinux = false

[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["/opt/cni/bin"]
conf_dir = "/etc/cni/net.d"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
`, s.PauseImage, !canRaisePriority())
}

// canRaisePriority reports CAP_SYS_RESOURCE, without which no oom_score_adj
// can be lowered.
func canRaisePriority() bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return false
	}
	return data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}
