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

// diskMetrics are described to whoever asks; deviceIO.metrics fills them in.
var diskMetrics = []struct{ name, help, label string }{
	{"container_fs_reads_bytes_total", "Bytes read.", "device"},
	{"container_fs_reads_total", "Reads completed.", "device"},
	{"container_fs_writes_bytes_total", "Bytes written.", "device"},
	{"container_fs_writes_total", "Writes completed.", "device"},
	{"container_blkio_device_usage_total", "Bytes moved, by device and direction.", "device,major,minor,operation"},
}

// deviceIO is one line of v2's io.stat, by its words: rbytes, wbytes, rios, wios.
type deviceIO map[string]uint64

// readIO reads what a group has moved, by device ("8:0").
func readIO(path string, v2 bool) map[string]deviceIO {
	if v2 {
		data, _ := os.ReadFile(filepath.Join(cgroup.Mount, path, "io.stat")) // absent: nothing is counted
		return parseIO(data, nil)
	}
	devices := map[string]deviceIO{}
	for file, words := range map[string]map[string]string{
		"blkio.throttle.io_service_bytes": {"Read": "rbytes", "Write": "wbytes"},
		"blkio.throttle.io_serviced":      {"Read": "rios", "Write": "wios"},
	} {
		data, _ := os.ReadFile(filepath.Join(cgroup.Mount, "blkio", path, file))
		for device, numbers := range parseIO(data, words) {
			if devices[device] == nil {
				devices[device] = deviceIO{}
			}
			maps.Copy(devices[device], numbers)
		}
	}
	return devices
}

// parseIO reads "8:0 rbytes=1 wbytes=2 …" or, with names for its words, v1's
// "8:0 Read 1".
func parseIO(data []byte, names map[string]string) map[string]deviceIO {
	devices := map[string]deviceIO{}
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
				devices[fields[0]] = deviceIO{}
			}
			devices[fields[0]][word] = n
		}
	}
	return devices
}

// metrics are a device's, with labels that every metric of the container has.
func (d deviceIO) metrics(device string, labels []string) (list []*runtimeapi.Metric) {
	major, minor, _ := strings.Cut(device, ":")
	name := "/dev/" + filepath.Base(readLink("/sys/dev/block/"+device))
	add := func(metric, word string, more ...string) {
		list = append(list, &runtimeapi.Metric{Name: metric, Timestamp: now(), MetricType: runtimeapi.MetricType_COUNTER,
			LabelValues: append(append([]string(nil), labels...), append([]string{name}, more...)...), Value: value(d[word])})
	}
	add("container_fs_reads_bytes_total", "rbytes")
	add("container_fs_reads_total", "rios")
	add("container_fs_writes_bytes_total", "wbytes")
	add("container_fs_writes_total", "wios")
	add("container_blkio_device_usage_total", "rbytes", major, minor, "Read")
	add("container_blkio_device_usage_total", "wbytes", major, minor, "Write")
	return list
}

func readLink(path string) string {
	target, err := os.Readlink(path)
	if err != nil {
		return path
	}
	return target
}
