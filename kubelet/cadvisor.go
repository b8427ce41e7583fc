package kubelet

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"tinykube/internal/cgroup"
)

// cadvisorCollector is /metrics/cadvisor: what the kernel counts for the node,
// for each pod and for each container, under the names that cAdvisor gave it
// and that dashboards know. There is no cAdvisor in this kubelet, and none is
// needed: a cgroup is a directory, a figure is a line in one of its files.
//
// Simplified: only the groups of pods and the node's own; no pressure, no
// figures per CPU, NUMA node or kind of page fault.
type cadvisorCollector struct{ k *Kubelet }

// source is where a figure stands: a number under a key, or alone in its file.
type source struct{ controller, file, key string }

// kernelFigures are the figures of one group, in v1 and in v2.
//
// Spec: Linux Documentation/admin-guide/cgroup-v1, cgroup-v2.rst.
var kernelFigures = []struct {
	desc   *prometheus.Desc
	kind   prometheus.ValueType
	v1, v2 source
	scale1 float64 // of v1's number, to the unit of the name
	scale2 float64
}{
	{groupDesc("container_cpu_usage_seconds_total", "CPU time", "cpu"), prometheus.CounterValue,
		source{"cpuacct", "cpuacct.usage", ""}, source{"", "cpu.stat", "usage_usec"}, 1e-9, 1e-6},
	{groupDesc("container_cpu_user_seconds_total", "CPU time outside of the kernel"), prometheus.CounterValue,
		source{"cpuacct", "cpuacct.stat", "user"}, source{"", "cpu.stat", "user_usec"}, 1e-2, 1e-6},
	{groupDesc("container_cpu_system_seconds_total", "CPU time in the kernel"), prometheus.CounterValue,
		source{"cpuacct", "cpuacct.stat", "system"}, source{"", "cpu.stat", "system_usec"}, 1e-2, 1e-6},
	{groupDesc("container_cpu_cfs_periods_total", "Periods in which it wanted to run"), prometheus.CounterValue,
		source{"cpu", "cpu.stat", "nr_periods"}, source{"", "cpu.stat", "nr_periods"}, 1, 1},
	{groupDesc("container_cpu_cfs_throttled_periods_total", "Periods in which its quota ran out"), prometheus.CounterValue,
		source{"cpu", "cpu.stat", "nr_throttled"}, source{"", "cpu.stat", "nr_throttled"}, 1, 1},
	{groupDesc("container_cpu_cfs_throttled_seconds_total", "Time that it waited for quota"), prometheus.CounterValue,
		source{"cpu", "cpu.stat", "throttled_time"}, source{"", "cpu.stat", "throttled_usec"}, 1e-9, 1e-6},
	{groupDesc("container_spec_cpu_period", "Length of a period in microseconds"), prometheus.GaugeValue,
		source{"cpu", "cpu.cfs_period_us", ""}, source{"", "cpu.max", "period"}, 1, 1},
	{groupDesc("container_spec_cpu_quota", "CPU time in a period, in microseconds"), prometheus.GaugeValue,
		source{"cpu", "cpu.cfs_quota_us", ""}, source{"", "cpu.max", "quota"}, 1, 1},
	{groupDesc("container_memory_usage_bytes", "All its memory, cache included"), prometheus.GaugeValue,
		source{"memory", "memory.usage_in_bytes", ""}, source{"", "memory.current", ""}, 1, 1},
	{groupDesc("container_memory_max_usage_bytes", "The most memory that it ever had"), prometheus.GaugeValue,
		source{"memory", "memory.max_usage_in_bytes", ""}, source{"", "memory.peak", ""}, 1, 1},
	{groupDesc("container_memory_rss", "Memory that is no file"), prometheus.GaugeValue,
		source{"memory", "memory.stat", "total_rss"}, source{"", "memory.stat", "anon"}, 1, 1},
	{groupDesc("container_memory_cache", "Files in memory"), prometheus.GaugeValue,
		source{"memory", "memory.stat", "total_cache"}, source{"", "memory.stat", "file"}, 1, 1},
	{groupDesc("container_memory_mapped_file", "Files in memory that are mapped"), prometheus.GaugeValue,
		source{"memory", "memory.stat", "total_mapped_file"}, source{"", "memory.stat", "file_mapped"}, 1, 1},
	{groupDesc("container_memory_swap", "Memory that was swapped out"), prometheus.GaugeValue,
		source{"memory", "memory.stat", "total_swap"}, source{"", "memory.swap.current", ""}, 1, 1},
	{groupDesc("container_memory_total_active_file_bytes", "Files in memory that are in use"), prometheus.GaugeValue,
		source{"memory", "memory.stat", "total_active_file"}, source{"", "memory.stat", "active_file"}, 1, 1},
	{groupDesc("container_memory_total_inactive_file_bytes", "Files in memory that nobody touched for long"), prometheus.GaugeValue,
		source{"memory", "memory.stat", "total_inactive_file"}, source{"", "memory.stat", "inactive_file"}, 1, 1},
	{groupDesc("container_memory_failcnt", "Times that it hit its limit"), prometheus.CounterValue,
		source{"memory", "memory.failcnt", ""}, source{"", "memory.events", "max"}, 1, 1},
	{groupDesc("container_spec_memory_limit_bytes", "The limit; 0 for none"), prometheus.GaugeValue,
		source{"memory", "memory.limit_in_bytes", ""}, source{"", "memory.max", ""}, 1, 1},
	{groupDesc("container_oom_events_total", "Processes ended for want of memory"), prometheus.CounterValue,
		source{"memory", "memory.oom_control", "oom_kill"}, source{"", "memory.events", "oom_kill"}, 1, 1},
	{groupDesc("container_threads", "Threads"), prometheus.GaugeValue,
		source{"pids", "pids.current", ""}, source{"", "pids.current", ""}, 1, 1},
	{groupDesc("container_threads_max", "Most threads; 0 for no limit"), prometheus.GaugeValue,
		source{"pids", "pids.max", ""}, source{"", "pids.max", ""}, 1, 1},
}

var (
	groupLabels   = []string{"container", "id", "image", "name", "namespace", "pod"}
	workingSetIs  = groupDesc("container_memory_working_set_bytes", "Memory that the kernel cannot simply take back")
	processesAre  = groupDesc("container_processes", "Processes")
	startedAt     = groupDesc("container_start_time_seconds", "When it started")
	lastSeen      = groupDesc("container_last_seen", "When it was last looked at")
	writableLayer = groupDesc("container_fs_usage_bytes", "What it wrote into its own layer", "device")
	groupsFailed  = desc("container_scrape_error", "1 if something could not be read")
	machineLabels = []string{"boot_id", "machine_id", "system_uuid"}
	machineCores  = desc("machine_cpu_cores", "CPUs of this node", machineLabels...)
	machineBytes  = desc("machine_memory_bytes", "Memory of this node", machineLabels...)
	// interfaceFigures are what an interface counts.
	interfaceFigures = interfaceDescs()
	// diskFigures are what a group read and wrote, by device.
	diskFigures = map[string]*prometheus.Desc{
		"rios":   groupDesc("container_fs_reads_total", "Reads", "device"),
		"wios":   groupDesc("container_fs_writes_total", "Writes", "device"),
		"rbytes": groupDesc("container_fs_reads_bytes_total", "Bytes read", "device"),
		"wbytes": groupDesc("container_fs_writes_bytes_total", "Bytes written", "device"),
	}
)

func groupDesc(name, help string, more ...string) *prometheus.Desc {
	return desc(name, help, append(groupLabels[:len(groupLabels):len(groupLabels)], more...)...)
}

func interfaceDescs() map[string]*prometheus.Desc {
	out := map[string]*prometheus.Desc{}
	for counter, name := range map[string]string{"rx.bytes": "receive_bytes", "rx.packets": "receive_packets", "rx.errors": "receive_errors",
		"rx.dropped": "receive_packets_dropped", "tx.bytes": "transmit_bytes", "tx.packets": "transmit_packets", "tx.errors": "transmit_errors",
		"tx.dropped": "transmit_packets_dropped"} {
		out[counter] = groupDesc("container_network_"+name+"_total", "Network: "+strings.ReplaceAll(name, "_", " "), "interface")
	}
	return out
}

func (cadvisorCollector) Describe(chan<- *prometheus.Desc) {} // unchecked: the tables say it

func (c cadvisorCollector) Collect(out chan<- prometheus.Metric) {
	k := c.k
	info := nodeInfo(corev1.NodeSystemInfo{}, "")
	machine := []string{info.BootID, info.MachineID, info.SystemUUID}
	out <- prometheus.MustNewConstMetric(machineCores, prometheus.GaugeValue, float64(k.capacity.Cpu().MilliValue())/1000, machine...)
	out <- prometheus.MustNewConstMetric(machineBytes, prometheus.GaugeValue, float64(k.capacity.Memory().Value()), machine...)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second) // the interface has no context
	defer cancel()
	stats, err := k.containerUsage(ctx)
	if err != nil {
		k.log.Warn("usage of the containers", "err", message(err))
	}
	out <- prometheus.MustNewConstMetric(groupsFailed, prometheus.GaugeValue, map[bool]float64{true: 1}[err != nil])
	layers := map[string]*runtimeapi.UInt64Value{}
	for _, s := range stats {
		layers[s.GetAttributes().GetId()] = s.GetWritableLayer().GetUsedBytes()
	}
	shown := groupFigures{out: out, tree: &k.cgroups, labels: []string{"", "/", "", "", "", ""}}
	shown.collect("")
	for _, w := range k.allWorkers() {
		pod, seen, _ := w.view()
		if seen == nil || !seen.alive() || !k.cgroups.enabled {
			continue
		}
		group := k.cgroups.directory(pod)
		shown.labels = []string{"", "/" + group, "", "", pod.Namespace, pod.Name}
		shown.collect(group)
		if sandbox := seen.sandbox(); sandbox != nil && !pod.Spec.HostNetwork {
			child := k.cgroups.child(group, sandbox.Id)
			shown.labels = []string{"", "/" + child, "", sandbox.Id, pod.Namespace, pod.Name}
			shown.interfaces(child)
		}
		for _, container := range seen.running() {
			child := k.cgroups.child(group, container.Id)
			shown.labels = []string{container.name(), "/" + child, container.GetImage().GetImage(), container.Id, pod.Namespace, pod.Name}
			shown.send(startedAt, prometheus.GaugeValue, float64(container.StartedAt/1e9))
			if used := layers[container.Id]; used != nil {
				shown.send(writableLayer, prometheus.GaugeValue, float64(used.Value), "")
			}
			shown.collect(child)
		}
	}
}

// directory is the pod's group below the mount: with systemd a slice within the
// slices that its name lists.
func (t *cgroupTree) directory(pod *corev1.Pod) string {
	name := t.parent(pod)
	if !t.systemd() {
		return strings.Trim(name, "/")
	}
	var path []string
	parts := strings.Split(strings.TrimSuffix(name, ".slice"), "-")
	for i := range parts {
		path = append(path, strings.Join(parts[:i+1], "-")+".slice")
	}
	return filepath.Join(path...)
}

// child is the group of a container: whatever the runtime calls it, its ID is
// in the name.
func (t *cgroupTree) child(group, id string) string {
	found, _ := filepath.Glob(filepath.Join(t.files("memory", group), "*"+id+"*")) // the pattern is good
	if len(found) == 0 {
		return filepath.Join(group, id)
	}
	return filepath.Join(group, filepath.Base(found[0]))
}

// files is where the files of a group are.
func (t *cgroupTree) files(controller, group string) string {
	if t.v2 {
		controller = ""
	}
	return filepath.Join(t.mount, controller, group)
}

// groupFigures sends what the kernel knows of one group.
type groupFigures struct {
	out    chan<- prometheus.Metric
	tree   *cgroupTree
	labels []string
}

func (g *groupFigures) send(desc *prometheus.Desc, kind prometheus.ValueType, value float64, more ...string) {
	g.out <- prometheus.MustNewConstMetric(desc, kind, value, append(g.labels[:len(g.labels):len(g.labels)], more...)...)
}

func (g *groupFigures) collect(group string) {
	if group == "" {
		group = strings.Trim(g.tree.root, "/")
	}
	g.send(lastSeen, prometheus.GaugeValue, float64(time.Now().Unix()))
	read := map[string]map[string]uint64{} // each file once
	number := func(s source) (uint64, bool) {
		path := filepath.Join(g.tree.files(s.controller, group), s.file)
		if read[path] == nil {
			raw, err := os.ReadFile(path)
			if err != nil {
				raw = nil // a group that has just gone, a kernel without the file
			}
			read[path] = figuresOf(s.file, raw)
		}
		n, found := read[path][s.key]
		return n, found
	}
	for _, row := range kernelFigures {
		from, scale := row.v1, row.scale1
		if g.tree.v2 {
			from, scale = row.v2, row.scale2
		}
		n, found := number(from)
		if !found {
			continue
		}
		if strings.HasSuffix(from.file, "limit_in_bytes") && n > 1<<62 {
			n = 0 // how v1 writes that there is none
		}
		var more []string
		if row.desc == kernelFigures[0].desc {
			more = []string{"total"}
		}
		g.send(row.desc, row.kind, float64(n)*scale, more...)
	}
	usage, inactive := source{"memory", "memory.usage_in_bytes", ""}, source{"memory", "memory.stat", "total_inactive_file"}
	if g.tree.v2 {
		usage, inactive = source{"", "memory.current", ""}, source{"", "memory.stat", "inactive_file"}
	}
	if used, found := number(usage); found {
		idle, _ := number(inactive)
		g.send(workingSetIs, prometheus.GaugeValue, float64(used-min(used, idle)))
	}
	if raw, err := os.ReadFile(filepath.Join(g.tree.files("memory", group), "cgroup.procs")); err == nil {
		g.send(processesAre, prometheus.GaugeValue, float64(strings.Count(string(raw), "\n")))
	}
	g.disks(group)
}

// figuresOf reads a file of a group: names with numbers, one number, or a limit.
// What is no number, no quota say, is not there.
func figuresOf(file string, text []byte) map[string]uint64 {
	fields := strings.Fields(string(text))
	if file == "cpu.max" && len(fields) == 2 {
		text = []byte("quota " + fields[0] + "\nperiod " + fields[1])
	} else if len(fields) == 1 {
		n, err := strconv.ParseUint(fields[0], 10, 64)
		switch {
		case fields[0] == "max":
			return map[string]uint64{"": 0}
		case err == nil:
			return map[string]uint64{"": n}
		}
	}
	return cgroup.ParseTable(text)
}

// disks sends what a group read and wrote.
func (g *groupFigures) disks(group string) {
	for device, moved := range cgroup.ReadIO(group, g.tree.v2) {
		for name, n := range moved {
			g.disk(device, name, float64(n))
		}
	}
}

func (g *groupFigures) disk(number, name string, value float64) {
	desc := diskFigures[name]
	if desc == nil {
		return
	}
	raw, _ := os.ReadFile("/sys/dev/block/" + number + "/uevent")
	device := ""
	for line := range strings.Lines(string(raw)) {
		if found, ok := strings.CutPrefix(strings.TrimSpace(line), "DEVNAME="); ok {
			device = "/dev/" + found
		}
	}
	g.send(desc, prometheus.CounterValue, value, device)
}

// interfaces sends the figures of the network namespace that the group's
// processes live in.
func (g *groupFigures) interfaces(group string) {
	raw, _ := os.ReadFile(filepath.Join(g.tree.files("memory", group), "cgroup.procs"))
	pid, _, _ := strings.Cut(string(raw), "\n")
	if pid == "" || pid == "0" { // of another PID namespace
		return
	}
	raw, _ = os.ReadFile(filepath.Join("/proc", pid, "net/dev"))
	cgroup.Interfaces(raw, func(name string, counters map[string]uint64) {
		for counter, desc := range interfaceFigures {
			g.send(desc, prometheus.CounterValue, float64(counters[counter]), name)
		}
	})
}
