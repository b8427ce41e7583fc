package cri

import (
	"context"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"tinykube/internal/cgroup"
)

// diskSample keeps the result of walking a container's writable layer, which
// is the one figure that is not cheap.
type diskSample struct {
	at            time.Time
	bytes, inodes uint64
}

const diskSampleAge = 15 * time.Second

func (s *Server) ContainerStats(ctx context.Context, r *runtimeapi.ContainerStatsRequest) (*runtimeapi.ContainerStatsResponse, error) {
	c, err := s.containers.get(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ContainerStatsResponse{Stats: s.containerStats(ctx, c)}, nil
}

func (s *Server) ListContainerStats(ctx context.Context, r *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	filter, response := r.GetFilter(), &runtimeapi.ListContainerStatsResponse{}
	for _, c := range s.containers.list() {
		if strings.HasPrefix(c.ID, filter.GetId()) && strings.HasPrefix(c.SandboxID, filter.GetPodSandboxId()) &&
			matches(c.Config.GetLabels(), filter.GetLabelSelector()) && c.snapshot().FinishedAt == 0 {
			response.Stats = append(response.Stats, s.containerStats(ctx, c))
		}
	}
	return response, nil
}

// containerStats reports zeroes for a container that does not run, as the
// kubelet expects of one that is being replaced.
func (s *Server) containerStats(ctx context.Context, c *container) *runtimeapi.ContainerStats {
	u, _ := cgroup.Read(c.snapshot().Cgroup, s.host.CgroupV2)
	if _, running := c.running(); !running {
		u = cgroup.Usage{}
	}
	at := now()
	return &runtimeapi.ContainerStats{
		Attributes: &runtimeapi.ContainerAttributes{Id: c.ID, Metadata: c.Config.GetMetadata(),
			Labels: c.Config.GetLabels(), Annotations: c.Config.GetAnnotations()},
		Cpu: cpuUsage(at, u), Memory: memoryUsage(at, u), WritableLayer: s.writableLayer(ctx, c),
		Swap: &runtimeapi.SwapUsage{Timestamp: at, SwapUsageBytes: value(u.Swap), SwapAvailableBytes: value(u.SwapLimit - min(u.SwapLimit, u.Swap))},
	}
}

// cpuUsage leaves the rate to the caller, who knows over which time he wants it.
func cpuUsage(at int64, u cgroup.Usage) *runtimeapi.CpuUsage {
	return &runtimeapi.CpuUsage{Timestamp: at, UsageCoreNanoSeconds: value(u.CPUNanoseconds)}
}

func memoryUsage(at int64, u cgroup.Usage) *runtimeapi.MemoryUsage {
	m := &runtimeapi.MemoryUsage{
		Timestamp: at, WorkingSetBytes: value(u.WorkingSet), UsageBytes: value(u.Memory), RssBytes: value(u.RSS),
		PageFaults: value(u.PageFaults), MajorPageFaults: value(u.MajorPageFaults), AvailableBytes: value(0),
	}
	if u.MemoryLimit > u.WorkingSet {
		m.AvailableBytes = value(u.MemoryLimit - u.WorkingSet)
	}
	return m
}

func (s *Server) writableLayer(ctx context.Context, c *container) *runtimeapi.FilesystemUsage {
	c.mu.Lock()
	sample := c.disk
	c.mu.Unlock()
	if time.Since(sample.at) > diskSampleAge {
		if used, err := s.daemon.diskUsage(ctx, c.ID); err == nil {
			sample = diskSample{at: time.Now(), bytes: uint64(used.Size), inodes: uint64(used.Inodes)}
			c.mu.Lock()
			c.disk = sample
			c.mu.Unlock()
		}
	}
	return &runtimeapi.FilesystemUsage{
		Timestamp: max(sample.at.UnixNano(), 1), FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: s.images.mountpoint(ctx)},
		UsedBytes: value(sample.bytes), InodesUsed: value(sample.inodes),
	}
}

func (s *Server) PodSandboxStats(ctx context.Context, r *runtimeapi.PodSandboxStatsRequest) (*runtimeapi.PodSandboxStatsResponse, error) {
	sb, err := s.sandboxes.get(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.PodSandboxStatsResponse{Stats: s.podStats(ctx, sb)}, nil
}

func (s *Server) ListPodSandboxStats(ctx context.Context, r *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	filter, response := r.GetFilter(), &runtimeapi.ListPodSandboxStatsResponse{}
	for _, sb := range s.sandboxes.list() {
		if strings.HasPrefix(sb.ID, filter.GetId()) && matches(sb.Config.GetLabels(), filter.GetLabelSelector()) && sb.process() != 0 {
			response.Stats = append(response.Stats, s.podStats(ctx, sb))
		}
	}
	return response, nil
}

// podStats counts the pod's cgroup, which also holds what is charged to no
// container, and the network as pause sees it.
func (s *Server) podStats(ctx context.Context, sb *sandbox) *runtimeapi.PodSandboxStats {
	pid, at := sb.process(), now()
	linux := &runtimeapi.LinuxPodSandboxStats{}
	for _, c := range s.containersOf(sb.ID) {
		if _, running := c.running(); running {
			linux.Containers = append(linux.Containers, s.containerStats(ctx, c))
		}
	}
	if pid != 0 {
		group := cgroupOf(pid)
		if sb.Config.GetLinux().GetCgroupParent() != "" {
			group = path.Dir(group) // else the parent is everyone's
		}
		u, _ := cgroup.Read(group, s.host.CgroupV2)
		linux.Cpu, linux.Memory = cpuUsage(at, u), memoryUsage(at, u)
		linux.Process = &runtimeapi.ProcessUsage{Timestamp: at, ProcessCount: value(u.Processes)}
		if data, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", pid)); err == nil && sb.NetNS != "" {
			linux.Network = networkUsage(at, data)
		}
	}
	return &runtimeapi.PodSandboxStats{
		Attributes: &runtimeapi.PodSandboxAttributes{Id: sb.ID, Metadata: sb.Config.GetMetadata(),
			Labels: sb.Config.GetLabels(), Annotations: sb.Config.GetAnnotations()},
		Linux: linux,
	}
}

// networkUsage lists every interface, the pod's own first of all.
func networkUsage(at int64, data []byte) *runtimeapi.NetworkUsage {
	usage := &runtimeapi.NetworkUsage{Timestamp: at}
	cgroup.Interfaces(data, func(name string, counters map[string]uint64) {
		i := &runtimeapi.NetworkInterfaceUsage{Name: name, RxBytes: value(counters["rx.bytes"]), RxErrors: value(counters["rx.errors"]),
			TxBytes: value(counters["tx.bytes"]), TxErrors: value(counters["tx.errors"])}
		if name == podInterface {
			usage.DefaultInterface = i
		}
		usage.Interfaces = append(usage.Interfaces, i)
	})
	return usage
}

func value(n uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: n} }
