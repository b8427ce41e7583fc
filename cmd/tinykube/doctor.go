package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tinykube/internal/node"
	"tinykube/internal/payload"
)

// check is one thing a cluster needs. Wherever possible it does the thing
// instead of looking for a file that promises it.
type check struct {
	what   string
	do     func() error
	remedy string
}

const (
	// Each node's kubelet, CRI server and containerd watch files.
	minInotifyInstances = 128
)

func (c *cluster) checks() []check {
	return []check{
		{"root", func() error {
			if os.Geteuid() != 0 {
				return fmt.Errorf("running as user %d", os.Geteuid())
			}
			return nil
		}, "run it with sudo"},
		{"payload", func() error { _, err := payload.Embedded(); return err }, "build with `make`, not with `go build` alone"},
		{"iptables", func() error { _, err := exec.LookPath("iptables-restore"); return err }, "apt-get install iptables"},
		{"nsenter and mount", func() error {
			_, err := exec.LookPath("nsenter")
			_, other := exec.LookPath("mount")
			return errors.Join(err, other)
		}, "apt-get install util-linux mount"},
		{"cgroups: cpu, memory, pids", checkCgroups, "boot with these controllers (kernel parameter cgroup_enable=memory on some boards)"},
		{"namespaces and links: veth, bridge, vxlan", checkLinks, "load the modules: modprobe -a veth bridge vxlan br_netfilter"},
		{"iptables in a namespace", checkIptables, "load the modules: modprobe -a nf_tables iptable_nat xt_MASQUERADE xt_comment xt_conntrack xt_mark xt_statistic"},
		{"overlayfs below " + c.Dir, func() error { return checkOverlay(c.Dir) }, "choose a place on ext4 or xfs with --dir"},
		{"inotify instances", checkInotify, "sysctl fs.inotify.max_user_instances=512"},
		{"ports on 127.0.0.1", c.checkPorts, "end what listens there, or choose others with --api-port and --publish"},
	}
}

// preflight runs all checks before anything is started, and reports all that
// is missing at once.
func (c *cluster) preflight() error {
	if checks := c.checks(); checks[0].do() != nil {
		return fmt.Errorf("%s: %w\n    remedy: %s", checks[0].what, checks[0].do(), checks[0].remedy)
	}
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return err
	}
	var missing []string
	for _, check := range c.checks() {
		if err := check.do(); err != nil {
			missing = append(missing, fmt.Sprintf("  %s: %v\n    remedy: %s", check.what, err, check.remedy))
		}
	}
	if len(missing) > 0 {
		_ = os.Remove(c.Dir) // only if we made it just now and it is empty
		return fmt.Errorf("this machine lacks something:\n%s", strings.Join(missing, "\n"))
	}
	return nil
}

func newDoctor() *cobra.Command {
	c := &cluster{APIPort: 6443}
	command := &cobra.Command{
		Use: "doctor", Short: "Check what this machine lacks for a cluster", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if there, exists, err := loadCluster(c.Dir); err != nil {
				return err
			} else if exists {
				c = there
			}
			failed := 0
			for _, check := range c.checks() {
				if err := check.do(); err != nil {
					failed++
					fmt.Printf("✗ %s: %v\n    remedy: %s\n", check.what, err, check.remedy)
				} else {
					fmt.Printf("✓ %s\n", check.what)
				}
			}
			version := "v1 (users have v2 today; ours runs on both)"
			if node.CgroupV2() {
				version = "v2"
			}
			fmt.Printf("cgroup %s, kernel %s\n", version, kernel())
			if failed > 0 {
				return fmt.Errorf("%s failed", plural(failed, "check"))
			}
			return nil
		},
	}
	addDirFlag(command.Flags(), &c.Dir)
	return command
}

func kernel() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return err.Error()
	}
	return unix.ByteSliceToString(name.Release[:])
}

func checkCgroups() error {
	group := fmt.Sprintf("%s-doctor-%d", node.CgroupParent, os.Getpid())
	err := node.CreateCgroup(group, "1", 64<<20)
	return errors.Join(err, node.RemoveCgroup(group))
}

// inScratchNamespace runs f in a network namespace that ends with it.
func inScratchNamespace(f func() error) error {
	return node.OnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("network namespace: %w", err)
		}
		return f()
	})
}

func checkLinks() error {
	return inScratchNamespace(func() error {
		for _, link := range []netlink.Link{
			&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "b"}},
			&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "v"}, PeerName: "w"},
			&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "x"}, VxlanId: 1, Port: 8472},
		} {
			if err := netlink.LinkAdd(link); err != nil {
				return fmt.Errorf("%s: %w", link.Type(), err)
			}
		}
		return nil
	})
}

func checkIptables() error {
	return inScratchNamespace(func() error {
		rules := "*nat\n:DOCTOR - [0:0]\n-A DOCTOR -m comment --comment x -m mark --mark 0x1 -m statistic --mode random --probability 0.5 -j MASQUERADE\nCOMMIT\n" +
			"*filter\n:DOCTOR - [0:0]\n-A DOCTOR -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\nCOMMIT\n"
		restore := exec.Command("iptables-restore", "--noflush")
		restore.Stdin = strings.NewReader(rules)
		if out, err := restore.CombinedOutput(); err != nil {
			return fmt.Errorf("iptables-restore: %w: %s", err, strings.TrimSpace(string(out)))
		}
		return nil
	})
}

// checkOverlay mounts an overlay in a mount namespace that ends with it.
func checkOverlay(dir string) error {
	for dir != "/" && !exists(dir) {
		dir = filepath.Dir(dir)
	}
	scratch, err := os.MkdirTemp(dir, ".doctor-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(scratch, name), 0o755); err != nil {
			return err
		}
	}
	return node.OnThread(func() error {
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			return err
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		options := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", scratch)
		if err := unix.Mount("overlay", scratch+"/merged", "overlay", 0, options); err != nil {
			return fmt.Errorf("mount: %w", err)
		}
		return unix.Unmount(scratch+"/merged", unix.MNT_DETACH)
	})
}

func checkInotify() error {
	raw, err := os.ReadFile("/proc/sys/fs/inotify/max_user_instances")
	if err != nil {
		return err
	}
	if n, err := strconv.Atoi(strings.TrimSpace(string(raw))); err != nil || n < minInotifyInstances {
		return fmt.Errorf("fs.inotify.max_user_instances is %d, too few (%d at least)", n, minInotifyInstances)
	}
	return nil
}

// checkPorts finds ports in use, unless it is our own relay that uses them.
func (c *cluster) checkPorts() error {
	if c.relayPID() > 0 {
		return nil
	}
	var failed []error
	ports := []string{strconv.Itoa(c.APIPort)}
	for port := range c.Publish {
		ports = append(ports, port)
	}
	for _, port := range ports {
		listener, err := net.Listen("tcp", loopback(port))
		if err != nil {
			failed = append(failed, err)
			continue
		}
		failed = append(failed, listener.Close())
	}
	return errors.Join(failed...)
}
