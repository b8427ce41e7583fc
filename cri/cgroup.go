package cri

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// The kernel's own counters, read from the files of a control group. That
// costs a few microseconds, where asking the shim for the same numbers costs a
// round trip through two daemons; and it works for the pod's group as well,
// which the kubelet made and no shim knows.

const cgroupMount = "/sys/fs/cgroup"

// usage is what a control group has consumed and may consume.
type usage struct {
	cpuNanoseconds              uint64
	memory, workingSet, rss     uint64
	pageFaults, majorPageFaults uint64
	memoryLimit                 uint64 // 0: none
	swap, swapLimit             uint64
	processes                   uint64
}

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

// readUsage reads a group's counters; what a kernel does not count stays zero.
func readUsage(path string, v2 bool) (usage, error) {
	if v2 {
		return readUsageV2(filepath.Join(cgroupMount, path))
	}
	return readUsageV1(path)
}

func readUsageV2(dir string) (usage, error) {
	if _, err := os.Stat(dir); err != nil {
		return usage{}, err
	}
	stat := table(dir, "memory.stat")
	u := usage{
		cpuNanoseconds: table(dir, "cpu.stat")["usage_usec"] * 1000,
		memory:         number(dir, "memory.current"), memoryLimit: number(dir, "memory.max"),
		rss: stat["anon"], pageFaults: stat["pgfault"], majorPageFaults: stat["pgmajfault"],
		swap: number(dir, "memory.swap.current"), swapLimit: number(dir, "memory.swap.max"),
		processes: number(dir, "pids.current"),
	}
	u.workingSet = u.memory - min(u.memory, stat["inactive_file"])
	return u, nil
}

func readUsageV1(path string) (usage, error) {
	memory := filepath.Join(cgroupMount, "memory", path)
	if _, err := os.Stat(memory); err != nil {
		return usage{}, err
	}
	stat := table(memory, "memory.stat")
	u := usage{
		cpuNanoseconds: number(filepath.Join(cgroupMount, "cpuacct", path), "cpuacct.usage"),
		memory:         number(memory, "memory.usage_in_bytes"), memoryLimit: number(memory, "memory.limit_in_bytes"),
		rss: stat["total_rss"], pageFaults: stat["total_pgfault"], majorPageFaults: stat["total_pgmajfault"],
		swap:      stat["total_swap"],
		processes: number(filepath.Join(cgroupMount, "pids", path), "pids.current"),
	}
	if u.memoryLimit >= 1<<62 {
		u.memoryLimit = 0 // v1 spells "no limit" as a very large number
	}
	u.workingSet = u.memory - min(u.memory, stat["total_inactive_file"])
	return u, nil
}

// oomKills is how often the kernel has killed in a group for lack of memory.
func oomKills(path string) uint64 {
	if path == "" {
		return 0
	}
	if isCgroupV2() {
		return table(filepath.Join(cgroupMount, path), "memory.events")["oom_kill"]
	}
	return table(filepath.Join(cgroupMount, "memory", path), "memory.oom_control")["oom_kill"]
}

// removeCgroup removes a group that should be gone with its task, and is not
// when runc was killed while it made it.
func removeCgroup(path string) {
	groups, _ := filepath.Glob(filepath.Join(cgroupMount, "*", path)) // v1
	for _, group := range append(groups, filepath.Join(cgroupMount, path)) {
		os.Remove(group) // only ever an empty one
	}
}

// number reads a file with one number; "max" and a missing file are 0.
func number(dir, file string) uint64 {
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(string(bytes.TrimSpace(data)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// table reads a file of lines "name number".
func table(dir, file string) map[string]uint64 {
	data, _ := os.ReadFile(filepath.Join(dir, file)) // absent: nothing is counted
	return parseTable(data)
}

func parseTable(data []byte) map[string]uint64 {
	values := map[string]uint64{}
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if n, err := strconv.ParseUint(value, 10, 64); err == nil {
			values[name] = n
		}
	}
	return values
}
