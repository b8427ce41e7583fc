package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
)

// CgroupParent holds the groups of all our nodes.
const CgroupParent = "/tinykube"

const (
	cgroupMount = "/sys/fs/cgroup"
	// cfsPeriod is the length, in microseconds, of a CPU quota's window.
	cfsPeriod = 100000
	// initGroup holds PID 1 and its children: in cgroup v2 a group has either
	// processes or groups, never both.
	initGroup = "init"
)

// CgroupV2 reports whether the machine has the unified hierarchy alone.
func CgroupV2() bool {
	_, err := os.Stat(filepath.Join(cgroupMount, "cgroup.controllers"))
	return err == nil
}

// hierarchies are the mount points below which groups exist: one in v2, one
// per controller in v1.
func hierarchies() []string {
	if CgroupV2() {
		return []string{cgroupMount}
	}
	entries, _ := os.ReadDir(cgroupMount)
	var found []string
	for _, entry := range entries {
		dir := filepath.Join(cgroupMount, entry.Name())
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil && entry.IsDir() {
			found = append(found, dir)
		}
	}
	return found
}

// joined are the v1 controllers that a node's own processes are put under.
// cpuset is left out: an empty group of it accepts no process.
var joined = []string{"cpu", "cpuacct", "cpu,cpuacct", "memory", "pids"}

func joins(hierarchy string) bool {
	return hierarchy == cgroupMount || slices.Contains(joined, filepath.Base(hierarchy))
}

// CreateCgroup makes a node's group with its limits.
func CreateCgroup(root, cpu string, memory int64) error {
	for _, h := range hierarchies() {
		if !joins(h) {
			continue
		}
		if err := os.MkdirAll(filepath.Join(h, root, initGroup), 0o755); err != nil {
			return fmt.Errorf("cgroup: %w", err)
		}
	}
	if CgroupV2() {
		if err := delegateControllers(root); err != nil {
			return err
		}
	}
	return limit(root, cpu, memory)
}

// delegateControllers turns on, from the top down to root, what pods need.
func delegateControllers(root string) error {
	dir := cgroupMount
	for _, part := range append([]string{""}, strings.Split(strings.Trim(root, "/"), "/")...) {
		dir = filepath.Join(dir, part)
		available, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
		if err != nil {
			return fmt.Errorf("cgroup: %w", err)
		}
		for _, controller := range strings.Fields(string(available)) {
			if slices.Contains([]string{"cpu", "cpuset", "io", "memory", "pids", "hugetlb"}, controller) {
				if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0); err != nil {
					return fmt.Errorf("cgroup: delegate %s below %s: %w", controller, dir, err)
				}
			}
		}
	}
	return nil
}

func limit(root, cpu string, memory int64) error {
	set := func(controller, file, value string) error {
		dir := cgroupMount
		if !CgroupV2() {
			dir = filepath.Join(cgroupMount, controller)
		}
		if err := os.WriteFile(filepath.Join(dir, root, file), []byte(value), 0); err != nil {
			return fmt.Errorf("cgroup: limit %s: %w", controller, err)
		}
		return nil
	}
	if cpu != "" {
		q, err := resource.ParseQuantity(cpu)
		if err != nil {
			return fmt.Errorf("node CPU %q: %w", cpu, err)
		}
		quota := strconv.FormatInt(q.MilliValue()*cfsPeriod/1000, 10)
		if CgroupV2() {
			err = set("cpu", "cpu.max", quota+" "+strconv.Itoa(cfsPeriod))
		} else {
			err = set("cpu", "cpu.cfs_quota_us", quota)
		}
		if err != nil {
			return err
		}
	}
	if memory > 0 {
		file := "memory.limit_in_bytes"
		if CgroupV2() {
			file = "memory.max"
		}
		return set("memory", file, strconv.FormatInt(memory, 10))
	}
	return nil
}

// JoinCgroup moves a process into a group; everything it starts follows.
func JoinCgroup(group string, pid int) error {
	for _, h := range hierarchies() {
		if !joins(h) {
			continue
		}
		if err := os.MkdirAll(filepath.Join(h, group), 0o755); err != nil {
			return fmt.Errorf("cgroup: %w", err)
		}
		if err := os.WriteFile(filepath.Join(h, group, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			return fmt.Errorf("cgroup: %w", err)
		}
	}
	return nil
}

// Processes lists every process in a group and below, in any hierarchy.
func Processes(group string) []int {
	found := map[int]bool{}
	for _, h := range hierarchies() {
		_ = filepath.WalkDir(filepath.Join(h, group), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.Name() != "cgroup.procs" {
				return nil
			}
			raw, _ := os.ReadFile(path)
			for _, line := range strings.Fields(string(raw)) {
				if pid, err := strconv.Atoi(line); err == nil && pid > 0 {
					found[pid] = true
				}
			}
			return nil
		})
	}
	var pids []int
	for pid := range found {
		pids = append(pids, pid)
	}
	slices.Sort(pids)
	return pids
}

// RemoveCgroup removes a group and all below it, deepest first.
func RemoveCgroup(group string) error {
	var failed error
	for _, h := range hierarchies() {
		var dirs []string
		_ = filepath.WalkDir(filepath.Join(h, group), func(path string, entry fs.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		slices.Reverse(dirs)
		for _, dir := range dirs {
			if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				failed = err
			}
		}
	}
	return failed
}
