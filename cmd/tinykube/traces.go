package main

import (
	"bufio"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/vishvananda/netlink"

	"tinykube/internal/node"
)

// traces lists what a cluster could leave on a machine, one thing per line and
// sorted, so that the lists of before and after can be compared with diff.
// What has nothing to do with a cluster, but changes by itself, is left out:
// ordinary processes of the machine, our own ancestors, what others leave in
// /tmp. A process counts if it lives in other namespaces than we do, or in
// a cgroup of ours, or carries one of our names.
//
// Clusters in other directories come and go by themselves, too: what is in
// their cgroups is theirs.

func newTraces() *cobra.Command {
	c := &cluster{}
	command := &cobra.Command{
		Use: "traces", Short: "List everything a cluster could leave behind, for diff", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			var lines []string
			for _, list := range []func() ([]string, error){c.processes, c.namespaces, links, mounts, rules, c.cgroups, files} {
				found, err := list()
				if err != nil {
					return err
				}
				slices.Sort(found)
				lines = append(lines, found...)
			}
			for _, line := range lines {
				fmt.Println(line)
			}
			return nil
		},
	}
	addDirFlag(command.Flags(), &c.Dir)
	return command
}

// another reports whether a cgroup path belongs to a cluster in another
// directory.
func (c *cluster) another(path string) bool {
	_, after, found := strings.Cut(path, node.CgroupParent)
	name, _, _ := strings.Cut(after, "/")
	name, _, _ = strings.Cut(name, "\n")
	return found && node.CgroupParent+name != c.cgroup()
}

// processes lists programs, not pids, leaving out our own ancestors.
func (c *cluster) processes() ([]string, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	ours := map[string]bool{}
	for pid := fmt.Sprint(os.Getpid()); pid != "0" && pid != ""; pid = parent(pid) {
		ours[pid] = true
	}
	var found []string
	for _, entry := range entries {
		cmdline, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		if err != nil || len(cmdline) == 0 || ours[entry.Name()] || ours[parent(entry.Name())] || c.another(cgroupOf(entry.Name())) {
			continue
		}
		program, _, _ := strings.Cut(string(cmdline), "\x00")
		if foreign(entry.Name()) || strings.Contains(program, "tinykube") || strings.Contains(program, "containerd") {
			found = append(found, "process "+program)
		}
	}
	return found, nil
}

func cgroupOf(pid string) string {
	group, _ := os.ReadFile(filepath.Join("/proc", pid, "cgroup")) // gone meanwhile: in none
	return string(group)
}

// foreign reports whether a process lives elsewhere than we do.
func foreign(pid string) bool {
	if strings.Contains(cgroupOf(pid), node.CgroupParent) {
		return true
	}
	for _, kind := range []string{"mnt", "net", "pid"} {
		theirs, err := os.Readlink(filepath.Join("/proc", pid, "ns", kind))
		ours, _ := os.Readlink(filepath.Join("/proc/self/ns", kind))
		if err == nil && theirs != ours {
			return true
		}
	}
	return false
}

func parent(pid string) string {
	raw, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
	if err != nil {
		return ""
	}
	_, after, _ := strings.Cut(string(raw), ") ")
	fields := strings.Fields(after)
	if len(fields) < 2 {
		return ""
	}
	return fields[1]
}

// namespaces counts the distinct ones that any process is in.
func (c *cluster) namespaces() ([]string, error) {
	seen := map[string]bool{}
	for _, kind := range []string{"mnt", "net", "pid", "uts", "ipc"} {
		links, err := filepath.Glob("/proc/[0-9]*/ns/" + kind)
		if err != nil {
			return nil, err
		}
		for _, link := range links {
			// A dead process that nobody has waited for yet still has its links.
			cmdline, _ := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(link)), "cmdline"))
			if target, err := os.Readlink(link); err == nil && len(cmdline) > 0 && !c.another(cgroupOf(filepath.Base(filepath.Dir(filepath.Dir(link))))) {
				seen["namespace "+target] = true
			}
		}
	}
	var found []string
	for line := range seen {
		found = append(found, line)
	}
	return found, nil
}

func links() ([]string, error) {
	list, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	var found []string
	for _, link := range list {
		found = append(found, fmt.Sprintf("link %s %s", link.Attrs().Name, link.Type()))
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	for _, route := range routes {
		found = append(found, "route "+route.String())
	}
	return found, err
}

func mounts() ([]string, error) {
	file, err := os.Open("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var found []string
	for scanner := bufio.NewScanner(file); scanner.Scan(); {
		fields := strings.Fields(scanner.Text())
		found = append(found, "mount "+strings.Join(fields[:min(3, len(fields))], " "))
	}
	return found, nil
}

// rules lists the machine's own packet filter, in every flavour installed.
func rules() ([]string, error) {
	var found []string
	for _, command := range [][]string{{"iptables-save"}, {"ip6tables-save"}, {"iptables-legacy-save"}, {"nft", "list", "ruleset"}, {"ipset", "list"}} {
		if _, err := exec.LookPath(command[0]); err != nil {
			continue
		}
		out, err := exec.Command(command[0], command[1:]...).Output()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", command[0], err)
		}
		for line := range strings.Lines(string(out)) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				found = append(found, "rule "+command[0]+" "+line)
			}
		}
	}
	return found, nil
}

func (c *cluster) cgroups() ([]string, error) {
	var found []string
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && strings.Contains(path, node.CgroupParent) && !c.another(path) {
			found = append(found, "cgroup "+path)
		}
		return nil
	})
	return found, err
}

// files lists where a cluster of any kind writes, and one level of the places
// where programs leave things.
func files() ([]string, error) {
	deep := []string{defaultDir, "/etc/kubernetes", "/etc/cni", "/etc/containerd", "/opt/cni", "/var/lib/kubelet", "/var/lib/cni",
		"/var/lib/containerd", "/var/lib/etcd", "/var/log/pods", "/var/log/containers", "/run/containerd", "/run/flannel", "/run/netns", "/run/tinykube"}
	shallow := []string{"/", "/etc", "/opt", "/root", "/run", "/srv", "/usr/local/bin", "/var", "/var/lib", "/var/log", "/var/cache", "/tmp", os.Getenv("HOME"), filepath.Join(os.Getenv("HOME"), ".kube")}
	seen := map[string]bool{}
	for _, dir := range deep {
		_ = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err == nil {
				seen["file "+path] = true
			}
			return nil
		})
	}
	for _, dir := range shallow {
		entries, _ := os.ReadDir(dir) // absent: nothing is there
		for _, entry := range entries {
			// Every program of the machine leaves things in /tmp.
			if dir == "/tmp" && !strings.Contains(entry.Name(), "kube") && !strings.Contains(entry.Name(), "containerd") && !strings.Contains(entry.Name(), "runc") {
				continue
			}
			seen["file "+filepath.Join(dir, entry.Name())] = true
		}
	}
	var found []string
	for line := range seen {
		found = append(found, line)
	}
	return found, nil
}
