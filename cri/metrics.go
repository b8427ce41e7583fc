package cri

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"tinykube/internal/cgroup"
)

// The metrics which the kubelet can pass on as /metrics/cadvisor without
// looking at a container itself. A metric is a row: what it is called, and where
// in a sample its value stands. A row whose value is not there on this kernel
// is left out.
//
// Upstream: containerd@v2.4 internal/cri/server/list_metric_descriptors_linux.go

// sample is everything that is read about one container, by name. The names of
// files in a control group are "controller/file", with ".field" for one of a
// table; those of the two cgroup versions stand side by side.
type sample map[string]uint64

type metric struct {
	name, help string
	// from are names in a sample; the first that is there counts.
	from []string
	// per divides: nanoseconds and microseconds become seconds.
	per uint64
	// label are more labels. Their values are known to whoever reads (which
	// interface, which device), but for those in values: the last labels', for each
	// name in from, and then every one of them is reported.
	label  string
	values []string
}

func (m metric) kind() runtimeapi.MetricType {
	if strings.HasSuffix(m.name, "_total") || m.name == "container_memory_failcnt" {
		return runtimeapi.MetricType_COUNTER
	}
	return runtimeapi.MetricType_GAUGE
}

// metricLabels are every metric's.
var metricLabels = []string{"pod", "namespace", "container", "id", "image"}

var containerMetrics = []metric{
	{name: "container_last_seen", help: "When the container was looked at, in seconds since the epoch.", from: []string{"now"}},
	{name: "container_start_time_seconds", help: "When the container was started, in seconds since the epoch.", from: []string{"started"}},
	{name: "container_processes", help: "Processes in the container.", from: []string{"processes"}},
	{name: "container_threads", help: "Threads in the container.", from: []string{"pids/pids.current"}},
	{name: "container_threads_max", help: "Threads that the container may have; 0 is no limit.", from: []string{"pids/pids.max"}},
	{name: "container_file_descriptors", help: "Open file descriptors of the container.", from: []string{"descriptors"}},
	{name: "container_sockets", help: "Open sockets of the container.", from: []string{"sockets"}},
	{name: "container_spec_cpu_period", help: "Period of the CPU limit in microseconds.", from: []string{"spec.period"}},
	{name: "container_spec_cpu_shares", help: "Share of the CPU.", from: []string{"spec.shares"}},
	{name: "container_spec_memory_limit_bytes", help: "Memory limit in bytes.", from: []string{"spec.memory"}},
	{name: "container_spec_memory_swap_limit_bytes", help: "Limit of memory and swap in bytes.", from: []string{"spec.swap"}},
	{name: "container_cpu_usage_seconds_total", help: "CPU time in seconds.", from: []string{"cpuacct/cpuacct.usage", "cpu/cpu.stat.usage_usec000"}, per: 1e9},
	{name: "container_cpu_user_seconds_total", help: "CPU time in user mode in seconds.", from: []string{"cpuacct/cpuacct.usage_user", "cpu/cpu.stat.user_usec000"}, per: 1e9},
	{name: "container_cpu_system_seconds_total", help: "CPU time in the kernel in seconds.", from: []string{"cpuacct/cpuacct.usage_sys", "cpu/cpu.stat.system_usec000"}, per: 1e9},
	{name: "container_cpu_cfs_periods_total", help: "Periods in which the CPU limit counted.", from: []string{"cpu/cpu.stat.nr_periods"}},
	{name: "container_cpu_cfs_throttled_periods_total", help: "Periods in which the CPU limit was reached.", from: []string{"cpu/cpu.stat.nr_throttled"}},
	{name: "container_cpu_cfs_throttled_seconds_total", help: "Time held back by the CPU limit in seconds.", from: []string{"cpu/cpu.stat.throttled_time", "cpu/cpu.stat.throttled_usec000"}, per: 1e9},
	{name: "container_memory_usage_bytes", help: "Memory in use in bytes.", from: []string{"memory/memory.usage_in_bytes", "memory/memory.current"}},
	{name: "container_memory_max_usage_bytes", help: "The most memory that was in use, in bytes.", from: []string{"memory/memory.max_usage_in_bytes", "memory/memory.peak"}},
	{name: "container_memory_working_set_bytes", help: "Memory in use that cannot simply be dropped, in bytes.", from: []string{"workingSet"}},
	{name: "container_memory_cache", help: "Page cache in bytes.", from: []string{"memory/memory.stat.cache", "memory/memory.stat.file"}},
	{name: "container_memory_rss", help: "Anonymous memory in bytes.", from: []string{"memory/memory.stat.rss", "memory/memory.stat.anon"}},
	{name: "container_memory_mapped_file", help: "Mapped files in bytes.", from: []string{"memory/memory.stat.mapped_file", "memory/memory.stat.file_mapped"}},
	{name: "container_memory_kernel_usage", help: "The kernel's memory for the container in bytes.", from: []string{"memory/memory.kmem.usage_in_bytes", "memory/memory.stat.kernel"}},
	{name: "container_memory_total_active_file_bytes", help: "Page cache in active use, in bytes.", from: []string{"memory/memory.stat.total_active_file", "memory/memory.stat.active_file"}},
	{name: "container_memory_total_inactive_file_bytes", help: "Page cache not in use, in bytes.", from: []string{"memory/memory.stat.total_inactive_file", "memory/memory.stat.inactive_file"}},
	{name: "container_memory_swap", help: "Swap in use in bytes.", from: []string{"memory/memory.stat.swap", "memory/memory.swap.current", "zero"}},
	{name: "container_memory_failcnt", help: "How often the memory limit was reached.", from: []string{"memory/memory.failcnt", "memory/memory.events.max"}},
	{name: "container_memory_failures_total", help: "Page faults.", label: "failure_type,scope",
		from: []string{"memory/memory.stat.pgfault", "memory/memory.stat.pgmajfault"}, values: []string{"pgfault,container", "pgmajfault,container"}},
	{name: "container_oom_events_total", help: "How often the kernel has killed in the container for lack of memory.", from: []string{"memory/memory.oom_control.oom_kill", "memory/memory.events.oom_kill"}},
	{name: "container_fs_usage_bytes", help: "Bytes in the container's writable layer.", label: "device", from: []string{"layer.bytes"}, values: []string{"/"}},
	{name: "container_fs_limit_bytes", help: "Bytes on the file system.", label: "device", from: []string{"fs.bytes"}, values: []string{"/"}},
	{name: "container_fs_inodes_total", help: "Inodes on the file system.", label: "device", from: []string{"fs.inodes"}, values: []string{"/"}},
	{name: "container_fs_inodes_free", help: "Free inodes on the file system.", label: "device", from: []string{"fs.free"}, values: []string{"/"}},
}

// networkMetrics are a pod's, of each interface.
var networkMetrics = []metric{
	{name: "container_network_receive_bytes_total", help: "Bytes received.", label: "interface", from: []string{"rx.bytes"}},
	{name: "container_network_receive_packets_total", help: "Packets received.", label: "interface", from: []string{"rx.packets"}},
	{name: "container_network_receive_errors_total", help: "Errors while receiving.", label: "interface", from: []string{"rx.errors"}},
	{name: "container_network_receive_packets_dropped_total", help: "Packets dropped while receiving.", label: "interface", from: []string{"rx.dropped"}},
	{name: "container_network_transmit_bytes_total", help: "Bytes sent.", label: "interface", from: []string{"tx.bytes"}},
	{name: "container_network_transmit_packets_total", help: "Packets sent.", label: "interface", from: []string{"tx.packets"}},
	{name: "container_network_transmit_errors_total", help: "Errors while sending.", label: "interface", from: []string{"tx.errors"}},
	{name: "container_network_transmit_packets_dropped_total", help: "Packets dropped while sending.", label: "interface", from: []string{"tx.dropped"}},
}

func (s *Server) ListMetricDescriptors(context.Context, *runtimeapi.ListMetricDescriptorsRequest) (*runtimeapi.ListMetricDescriptorsResponse, error) {
	response := &runtimeapi.ListMetricDescriptorsResponse{}
	for _, m := range slices.Concat(containerMetrics, networkMetrics, diskMetrics) {
		labels := slices.Clone(metricLabels)
		if m.label != "" {
			labels = append(labels, strings.Split(m.label, ",")...)
		}
		response.Descriptors = append(response.Descriptors, &runtimeapi.MetricDescriptor{Name: m.name, Help: m.help, LabelKeys: labels})
	}
	return response, nil
}

// of makes the metric out of what a sample has. known are the values of those of
// its labels that the row does not know.
func (m metric) of(read sample, labels []string, known ...string) (list []*runtimeapi.Metric) {
	for i, from := range m.from {
		number, there := read.get(from)
		if !there {
			continue
		}
		values := slices.Concat(labels, known)
		if m.values != nil {
			values = append(values, strings.Split(m.values[i], ",")...)
		}
		list = append(list, &runtimeapi.Metric{Name: m.name, Timestamp: now(), MetricType: m.kind(), LabelValues: values, Value: value(number / max(m.per, 1))})
		if m.values == nil {
			break
		}
	}
	return list
}

func (s *Server) ListPodSandboxMetrics(ctx context.Context, _ *runtimeapi.ListPodSandboxMetricsRequest) (*runtimeapi.ListPodSandboxMetricsResponse, error) {
	response := &runtimeapi.ListPodSandboxMetricsResponse{}
	for _, sb := range s.sandboxes.list() {
		if sb.process() == 0 {
			continue
		}
		pod := &runtimeapi.PodSandboxMetrics{PodSandboxId: sb.ID, Metrics: sb.networkMetrics()}
		for _, c := range s.containersOf(sb.ID) {
			if _, running := c.running(); running {
				pod.ContainerMetrics = append(pod.ContainerMetrics,
					&runtimeapi.ContainerMetrics{ContainerId: c.ID, Metrics: s.containerMetrics(ctx, sb, c)})
			}
		}
		response.PodMetrics = append(response.PodMetrics, pod)
	}
	return response, nil
}

func (sb *sandbox) networkMetrics() (list []*runtimeapi.Metric) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", sb.process()))
	if err != nil || sb.NetNS == "" {
		return nil
	}
	labels := []string{sb.Config.GetMetadata().GetName(), sb.Config.GetMetadata().GetNamespace(), "", sb.ID, ""}
	cgroup.Interfaces(data, func(name string, counters map[string]uint64) {
		for _, m := range networkMetrics {
			list = append(list, m.of(counters, labels, name)...)
		}
	})
	return list
}

func (s *Server) containerMetrics(ctx context.Context, sb *sandbox, c *container) (list []*runtimeapi.Metric) {
	read, meta := s.sample(ctx, c), sb.Config.GetMetadata()
	labels := []string{meta.GetName(), meta.GetNamespace(), c.Config.GetMetadata().GetName(), c.ID, c.Config.GetImage().GetImage()}
	for _, m := range containerMetrics {
		list = append(list, m.of(read, labels)...)
	}
	for device, used := range cgroup.ReadIO(c.snapshot().Cgroup, s.host.CgroupV2) {
		list = append(list, ioMetrics(device, used, labels)...)
	}
	return list
}

// get multiplies a name that ends in 000, which is in microseconds.
func (r sample) get(name string) (uint64, bool) {
	plain, micro := strings.CutSuffix(name, "000")
	number, there := r[plain]
	if micro {
		number *= 1000
	}
	return number, there
}

// sample reads a container's control group file by file, and its processes.
func (s *Server) sample(ctx context.Context, c *container) sample {
	status := c.snapshot()
	read := sample{"zero": 0, "now": uint64(now() / 1e9), "started": uint64(status.StartedAt / 1e9)}
	for _, controller := range []string{"cpu", "cpuacct", "memory", "pids"} {
		dir := filepath.Join(cgroup.Mount, controller, status.Cgroup)
		if s.host.CgroupV2 {
			dir = filepath.Join(cgroup.Mount, status.Cgroup)
		}
		read.readGroup(controller, dir)
		if controller == "pids" {
			read.readProcesses(dir)
		}
	}
	u, _ := cgroup.Read(status.Cgroup, s.host.CgroupV2)
	read["workingSet"] = u.WorkingSet
	for name, limit := range map[string]int64{"spec.period": status.Resources.GetCpuPeriod(), "spec.shares": status.Resources.GetCpuShares(),
		"spec.memory": status.Resources.GetMemoryLimitInBytes(), "spec.swap": status.Resources.GetMemorySwapLimitInBytes()} {
		if limit > 0 {
			read[name] = uint64(limit)
		}
	}
	layer := s.writableLayer(ctx, c)
	read["layer.bytes"] = layer.GetUsedBytes().GetValue()
	var fs unix.Statfs_t
	if unix.Statfs(layer.GetFsId().GetMountpoint(), &fs) == nil {
		read["fs.bytes"], read["fs.inodes"], read["fs.free"] = fs.Blocks*uint64(fs.Bsize), fs.Files, fs.Ffree
	}
	return read
}

// readGroup reads those files of a controller that hold numbers.
func (r sample) readGroup(controller, dir string) {
	files, _ := filepath.Glob(filepath.Join(dir, controller+".*"))
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		name, text := controller+"/"+filepath.Base(file), strings.TrimSpace(string(data))
		if n, err := strconv.ParseUint(text, 10, 64); err == nil {
			r[name] = n
		} else if text == "max" {
			r[name] = 0
		}
		for field, n := range cgroup.ParseTable(data) {
			r[name+"."+field] = n
		}
	}
}

// readProcesses counts what the processes of a group hold.
func (r sample) readProcesses(dir string) {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return
	}
	r["descriptors"], r["sockets"] = 0, 0
	for pid := range strings.FieldsSeq(string(data)) {
		r["processes"]++
		open, _ := filepath.Glob("/proc/" + pid + "/fd/*")
		r["descriptors"] += uint64(len(open))
		for _, file := range open {
			if target, err := os.Readlink(file); err == nil && strings.HasPrefix(target, "socket:") {
				r["sockets"]++
			}
		}
	}
}
