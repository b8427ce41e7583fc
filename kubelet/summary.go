package kubelet

import (
	"context"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"tinykube/internal/cgroup"
)

// rates turns counters of CPU time into rates: what was used since the last
// time somebody asked, over a second at least.
type rates struct {
	mu   sync.Mutex // guards last
	last map[string]cpuSample
}

type cpuSample struct {
	at   time.Time
	used uint64 // nanoseconds
	rate uint64 // nanocores
}

func (r *rates) of(id string, at time.Time, used uint64) *uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == nil || len(r.last) > 10_000 { // forgetting costs one answer
		r.last = map[string]cpuSample{}
	}
	before, known := r.last[id]
	passed := at.Sub(before.at)
	switch {
	case known && passed < time.Second:
		return &before.rate
	case !known || used < before.used:
		r.last[id] = cpuSample{at: at, used: used}
		return nil
	}
	now := cpuSample{at: at, used: used, rate: uint64(float64(used-before.used) / passed.Seconds())}
	r.last[id] = now
	return &now.rate
}

// serveSummary answers /stats/summary. Who wants only CPU and memory spares us
// the counting of files.
func (k *Kubelet) serveSummary(w http.ResponseWriter, r *http.Request) {
	answer, err := k.runtime.runtime.ListPodSandboxStats(r.Context(), &runtimeapi.ListPodSandboxStatsRequest{})
	if err != nil {
		fail(w, err)
		return
	}
	brief := r.FormValue("only_cpu_and_memory") == "true"
	summary := statsapi.Summary{Node: k.nodeStats(r.Context()), Pods: []statsapi.PodStats{}}
	for _, s := range answer.Stats {
		if worker := k.worker(types.UID(s.GetAttributes().GetLabels()[labelPodUID])); worker != nil {
			summary.Pods = append(summary.Pods, k.podStats(r.Context(), worker, s, brief))
		}
	}
	if brief {
		n := summary.Node
		summary.Node = statsapi.NodeStats{NodeName: n.NodeName, StartTime: n.StartTime, CPU: n.CPU, Memory: n.Memory}
	}
	writeJSON(w, summary)
}

// nodeStats is the node as a whole: its cgroup, its disks, its processes.
//
// Simplified: no figures of the system's own groups, nor of the node's network.
func (k *Kubelet) nodeStats(ctx context.Context) statsapi.NodeStats {
	now := metav1.Now()
	out := statsapi.NodeStats{NodeName: k.cfg.NodeName, StartTime: metav1.NewTime(k.started), Fs: fsStats(k.cfg.RootDir),
		Runtime: &statsapi.RuntimeStats{ImageFs: fsStats(k.imageFs(ctx)), ContainerFs: fsStats(k.imageFs(ctx))}}
	if used, err := k.cgroups.cpuNanoseconds(); err == nil {
		out.CPU = &statsapi.CPUStats{Time: now, UsageCoreNanoSeconds: &used, UsageNanoCores: k.rates.of("node", now.Time, used)}
	}
	if used, err := k.cgroups.workingSet(""); err == nil {
		working, free := uint64(used), uint64(max(k.capacity.Memory().Value()-used, 0))
		out.Memory = &statsapi.MemoryStats{Time: now, WorkingSetBytes: &working, AvailableBytes: &free}
	}
	if running, most, err := processes(); err == nil {
		out.Rlimit = &statsapi.RlimitStats{Time: now, MaxPID: &most, NumOfRunningProcesses: &running}
	}
	return out
}

// podStats sums up what the runtime measured of a pod, and counts its files.
func (k *Kubelet) podStats(ctx context.Context, worker *worker, s *runtimeapi.PodSandboxStats, brief bool) statsapi.PodStats {
	pod, _, status := worker.view()
	now := metav1.Now()
	out := statsapi.PodStats{PodRef: statsapi.PodReference{Name: pod.Name, Namespace: pod.Namespace, UID: string(pod.UID)},
		StartTime: now, CPU: &statsapi.CPUStats{Time: now}, Memory: &statsapi.MemoryStats{Time: now},
		Containers: []statsapi.ContainerStats{}}
	if status.StartTime != nil {
		out.StartTime = *status.StartTime
	}
	use := podUsage{known: true}
	for _, c := range s.GetLinux().GetContainers() {
		one := containerSummary(c.GetAttributes().GetLabels()[labelContainerName], c)
		if one.CPU.UsageNanoCores == nil && one.CPU.UsageCoreNanoSeconds != nil {
			one.CPU.UsageNanoCores = k.rates.of(c.GetAttributes().GetId(), now.Time, *one.CPU.UsageCoreNanoSeconds)
		}
		addTo(&out.CPU.UsageNanoCores, one.CPU.UsageNanoCores)
		addTo(&out.CPU.UsageCoreNanoSeconds, one.CPU.UsageCoreNanoSeconds)
		addTo(&out.Memory.UsageBytes, one.Memory.UsageBytes)
		addTo(&out.Memory.WorkingSetBytes, one.Memory.WorkingSetBytes)
		addTo(&out.Memory.RSSBytes, one.Memory.RSSBytes)
		if one.Swap != nil {
			if out.Swap == nil {
				out.Swap = &statsapi.SwapStats{Time: one.Swap.Time}
			}
			addTo(&out.Swap.SwapUsageBytes, one.Swap.SwapUsageBytes)
		}
		addTo(&out.Memory.PageFaults, one.Memory.PageFaults)
		addTo(&out.Memory.MajorPageFaults, one.Memory.MajorPageFaults)
		out.Containers = append(out.Containers, one)
		use.containers = append(use.containers, containerUse{name: one.Name})
	}
	if brief {
		for i, c := range out.Containers {
			out.Containers[i] = statsapi.ContainerStats{Name: c.Name, StartTime: c.StartTime, CPU: c.CPU, Memory: c.Memory, Swap: c.Swap}
		}
		return out
	}
	if n := s.GetLinux().GetNetwork().GetDefaultInterface(); n != nil {
		out.Network = &statsapi.NetworkStats{Time: now, InterfaceStats: statsapi.InterfaceStats{Name: n.Name,
			RxBytes: number(n.RxBytes), RxErrors: number(n.RxErrors), TxBytes: number(n.TxBytes), TxErrors: number(n.TxErrors)}}
	}
	if n := number(s.GetLinux().GetProcess().GetProcessCount()); n != nil {
		out.ProcessStats = &statsapi.ProcessStats{ProcessCount: n}
	}
	k.addFiles(pod, &use)
	total, inodes, disk := uint64(0), uint64(0), fsStats(k.cfg.RootDir)
	for i := range out.Containers {
		logs := fsOf(use.containers[i].logs, disk)
		out.Containers[i].Logs = &logs
		if root := out.Containers[i].Rootfs; root != nil {
			*root = roomOn(disk, *root)
		}
		for _, part := range []*statsapi.FsStats{&logs, out.Containers[i].Rootfs} {
			if part != nil && part.UsedBytes != nil && part.InodesUsed != nil {
				total, inodes = total+*part.UsedBytes, inodes+*part.InodesUsed
			}
		}
	}
	for name, v := range use.volumes {
		out.VolumeStats = append(out.VolumeStats, statsapi.VolumeStats{Name: name, FsStats: fsOf(v, disk)})
		total, inodes = total+uint64(v.bytes), inodes+uint64(v.inodes)
	}
	out.VolumeStats = append(out.VolumeStats, k.volumes.csi.volumeStats(ctx, pod)...)
	all := roomOn(disk, statsapi.FsStats{Time: now, UsedBytes: &total, InodesUsed: &inodes})
	out.EphemeralStorage = &all
	return out
}

func fsOf(use fsUse, disk *statsapi.FsStats) statsapi.FsStats {
	bytes, inodes := uint64(use.bytes), uint64(use.inodes)
	return roomOn(disk, statsapi.FsStats{Time: metav1.Now(), UsedBytes: &bytes, InodesUsed: &inodes})
}

// roomOn adds to what something uses how much there is for all.
func roomOn(disk *statsapi.FsStats, use statsapi.FsStats) statsapi.FsStats {
	if disk != nil {
		use.CapacityBytes, use.AvailableBytes, use.Inodes, use.InodesFree = disk.CapacityBytes, disk.AvailableBytes, disk.Inodes, disk.InodesFree
	}
	return use
}

func fsStats(path string) *statsapi.FsStats {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return nil
	}
	size, available := fs.Blocks*uint64(fs.Bsize), fs.Bavail*uint64(fs.Bsize)
	used, inodes := (fs.Blocks-fs.Bfree)*uint64(fs.Bsize), fs.Files-fs.Ffree
	return &statsapi.FsStats{Time: metav1.Now(), CapacityBytes: &size, AvailableBytes: &available, UsedBytes: &used,
		Inodes: &fs.Files, InodesFree: &fs.Ffree, InodesUsed: &inodes}
}

// cpuNanoseconds is the CPU time of the node's group since it was made.
func (t *cgroupTree) cpuNanoseconds() (uint64, error) {
	if t.root != "/" {
		if used, err := cgroup.Read(t.root, t.v2); err == nil || t.v2 {
			return used.CPUNanoseconds, err
		}
	}
	// The machine: user, nice and system time in hundredths of a second.
	raw, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	total := uint64(0)
	for i, field := range strings.Fields(line) {
		n, _ := strconv.ParseUint(field, 10, 64) // the first is the name
		if i != 4 && i != 5 && i < 9 {           // idle, and waiting for disks
			total += n
		}
	}
	return total * uint64(10*time.Millisecond), nil
}
