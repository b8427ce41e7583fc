package cri

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"tinykube/internal/cgroup"
)

// cgroupOf returns a process's path in the hierarchy that counts memory: the
// only one in v2, one of many (which we take to be alike) in v1.
func cgroupOf(pid uint32) string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return ""
	}
	return parseCgroup(string(data))
}

func parseCgroup(text string) string {
	unified := ""
	for line := range strings.Lines(text) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		for controller := range strings.SplitSeq(fields[1], ",") {
			if controller == "memory" {
				return fields[2]
			}
		}
		if fields[0] == "0" {
			unified = fields[2]
		}
	}
	return unified
}

// oomKills is how often the kernel has killed in a group for lack of memory.
func oomKills(path string) uint64 {
	if path == "" {
		return 0
	}
	if isCgroupV2() {
		return cgroup.Table(filepath.Join(cgroup.Mount, path), "memory.events")["oom_kill"]
	}
	return cgroup.Table(filepath.Join(cgroup.Mount, "memory", path), "memory.oom_control")["oom_kill"]
}

// removeCgroup removes a group that should be gone with its task, and is not
// when runc was killed while it made it.
func removeCgroup(path string) {
	groups, _ := filepath.Glob(filepath.Join(cgroup.Mount, "*", path)) // v1
	for _, group := range append(groups, filepath.Join(cgroup.Mount, path)) {
		os.Remove(group) // only ever an empty one
	}
}
