package cri

import (
	"bufio"
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"tinykube/internal/cgroup"
)

// What a container reads from and writes to block devices, which the kernel
// counts by device: the metrics whose labels are not known beforehand.

// diskMetrics are read from one line of v2's io.stat, by its words.
var diskMetrics = []metric{
	{name: "container_fs_reads_bytes_total", help: "Bytes read.", label: "device", from: []string{"rbytes"}},
	{name: "container_fs_reads_total", help: "Reads completed.", label: "device", from: []string{"rios"}},
	{name: "container_fs_writes_bytes_total", help: "Bytes written.", label: "device", from: []string{"wbytes"}},
	{name: "container_fs_writes_total", help: "Writes completed.", label: "device", from: []string{"wios"}},
	{name: "container_blkio_device_usage_total", help: "Bytes moved, by device and direction.", label: "device,major,minor,operation",
		from: []string{"rbytes", "wbytes"}, values: []string{"Read", "Write"}},
}

// readIO reads what a group has moved, by device ("8:0").
func readIO(path string, v2 bool) map[string]sample {
	if v2 {
		data, _ := os.ReadFile(filepath.Join(cgroup.Mount, path, "io.stat")) // absent: nothing is counted
		return parseIO(data, nil)
	}
	devices := map[string]sample{}
	for file, words := range map[string]map[string]string{
		"blkio.throttle.io_service_bytes": {"Read": "rbytes", "Write": "wbytes"},
		"blkio.throttle.io_serviced":      {"Read": "rios", "Write": "wios"},
	} {
		data, _ := os.ReadFile(filepath.Join(cgroup.Mount, "blkio", path, file))
		for device, numbers := range parseIO(data, words) {
			if devices[device] == nil {
				devices[device] = sample{}
			}
			maps.Copy(devices[device], numbers)
		}
	}
	return devices
}

// parseIO reads "8:0 rbytes=1 wbytes=2 …" or, with names for its words, v1's
// "8:0 Read 1".
func parseIO(data []byte, names map[string]string) map[string]sample {
	devices := map[string]sample{}
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
				devices[fields[0]] = sample{}
			}
			devices[fields[0]][word] = n
		}
	}
	return devices
}

// ioMetrics are a device's, with labels that every metric of the container has.
func ioMetrics(device string, used sample, labels []string) (list []*runtimeapi.Metric) {
	major, minor, _ := strings.Cut(device, ":")
	name := "/dev/" + filepath.Base(readLink("/sys/dev/block/"+device))
	for _, m := range diskMetrics {
		known := []string{name}
		if m.values != nil {
			known = append(known, major, minor)
		}
		list = append(list, m.of(used, labels, known...)...)
	}
	return list
}

func readLink(path string) string {
	target, err := os.Readlink(path)
	if err != nil {
		return path
	}
	return target
}
