// Package cgroup reads the kernel's own counters from the files of a control
// group, in cgroup v1 and in v2. That costs a few microseconds, where asking a
// runtime for the same numbers costs a round trip through its daemons; and it
// works for every group, whoever made it.
package cgroup

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Mount is where the hierarchies are: the only one of v2, those of v1 below it
// by their controllers' names.
const Mount = "/sys/fs/cgroup"

// Usage is what a control group has consumed and may consume.
type Usage struct {
	CPUNanoseconds              uint64
	Memory, WorkingSet, RSS     uint64 // the working set is what cannot simply be taken back
	PageFaults, MajorPageFaults uint64
	MemoryLimit                 uint64 // 0: none
	Swap, SwapLimit             uint64
	Processes                   uint64
}

// Read reads a group's counters; what a kernel does not count stays zero.
func Read(path string, v2 bool) (u Usage, err error) {
	dir := func(controller string) string {
		if v2 {
			return filepath.Join(Mount, path)
		}
		return filepath.Join(Mount, controller, path)
	}
	memory := dir("memory")
	if _, err := os.Stat(memory); err != nil {
		return u, err
	}
	stat, inactive := Table(memory, "memory.stat"), "total_inactive_file"
	if v2 {
		inactive = "inactive_file"
		u.CPUNanoseconds = Table(memory, "cpu.stat")["usage_usec"] * 1000
		u.Memory, u.MemoryLimit = Number(memory, "memory.current"), Number(memory, "memory.max")
		u.RSS, u.PageFaults, u.MajorPageFaults = stat["anon"], stat["pgfault"], stat["pgmajfault"]
		u.Swap, u.SwapLimit = Number(memory, "memory.swap.current"), Number(memory, "memory.swap.max")
	} else {
		u.CPUNanoseconds = Number(dir("cpuacct"), "cpuacct.usage")
		u.Memory, u.MemoryLimit = Number(memory, "memory.usage_in_bytes"), Number(memory, "memory.limit_in_bytes")
		u.RSS, u.PageFaults, u.MajorPageFaults = stat["total_rss"], stat["total_pgfault"], stat["total_pgmajfault"]
		u.Swap = stat["total_swap"]
		if u.MemoryLimit >= 1<<62 {
			u.MemoryLimit = 0 // v1 spells "no limit" as a very large number
		}
	}
	u.Processes = Number(dir("pids"), "pids.current")
	u.WorkingSet = u.Memory - min(u.Memory, stat[inactive])
	return u, nil
}

// Number reads a file with one number; "max" and a missing file are 0.
func Number(dir, file string) uint64 {
	data, _ := os.ReadFile(filepath.Join(dir, file))
	n, _ := strconv.ParseUint(string(bytes.TrimSpace(data)), 10, 64)
	return n
}

// Table reads a file of lines "name number"; a missing file has none.
func Table(dir, file string) map[string]uint64 {
	data, _ := os.ReadFile(filepath.Join(dir, file))
	return ParseTable(data)
}

// ParseTable reads such lines. What stands behind the number, a unit say, does
// not count.
func ParseTable(data []byte) map[string]uint64 {
	values := map[string]uint64{}
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) >= 2 {
			if n, err := strconv.ParseUint(fields[1], 10, 64); err == nil {
				values[fields[0]] = n
			}
		}
	}
	return values
}
