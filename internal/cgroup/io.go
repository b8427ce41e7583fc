package cgroup

import (
	"bufio"
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// ReadIO reads what a group has moved, by device ("8:0") and by the words of v2's
// io.stat: rbytes, wbytes, rios, wios.
func ReadIO(path string, v2 bool) map[string]map[string]uint64 {
	if v2 {
		data, _ := os.ReadFile(filepath.Join(Mount, path, "io.stat")) // absent: nothing is counted
		return ParseIO(data, nil)
	}
	devices := map[string]map[string]uint64{}
	for file, words := range map[string]map[string]string{
		"blkio.throttle.io_service_bytes": {"Read": "rbytes", "Write": "wbytes"},
		"blkio.throttle.io_serviced":      {"Read": "rios", "Write": "wios"},
	} {
		data, _ := os.ReadFile(filepath.Join(Mount, "blkio", path, file))
		for device, numbers := range ParseIO(data, words) {
			if devices[device] == nil {
				devices[device] = map[string]uint64{}
			}
			maps.Copy(devices[device], numbers)
		}
	}
	return devices
}

// ParseIO reads "8:0 rbytes=1 wbytes=2 …" or, with names for its words, v1's
// "8:0 Read 1".
func ParseIO(data []byte, names map[string]string) map[string]map[string]uint64 {
	devices := map[string]map[string]uint64{}
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || !strings.Contains(fields[0], ":") {
			continue
		}
		if names != nil && len(fields) == 3 {
			fields = []string{fields[0], names[fields[1]] + "=" + fields[2]}
		}
		for _, pair := range fields[1:] {
			word, text, _ := strings.Cut(pair, "=")
			n, err := strconv.ParseUint(text, 10, 64)
			if err != nil || word == "" {
				continue
			}
			if devices[fields[0]] == nil {
				devices[fields[0]] = map[string]uint64{}
			}
			devices[fields[0]][word] = n
		}
	}
	return devices
}

// Interfaces reads /proc/PID/net/dev, which is of no group but of a network
// namespace: of each interface but lo rx.bytes, rx.packets, rx.errors and
// rx.dropped, and the same with tx.
func Interfaces(data []byte, yield func(name string, counters map[string]uint64)) {
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		name, numbers, found := strings.Cut(lines.Text(), ":")
		columns := strings.Fields(numbers)
		if name = strings.TrimSpace(name); !found || len(columns) < 16 || name == "lo" {
			continue
		}
		counters := map[string]uint64{}
		for i, word := range []string{"bytes", "packets", "errors", "dropped"} {
			counters["rx."+word], _ = strconv.ParseUint(columns[i], 10, 64)
			counters["tx."+word], _ = strconv.ParseUint(columns[i+8], 10, 64)
		}
		yield(name, counters)
	}
}
