package cri

import (
	"os"
	"path/filepath"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
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
