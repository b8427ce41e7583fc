package kubelet

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// What containers use is measured by the runtime; the kubelet only asks when
// it is asked.
//
// Simplified: no node-wide CPU and network, no volume usage.

// containerUsage reads the usage of every running container, by container ID.
func (k *Kubelet) containerUsage(ctx context.Context) ([]*runtimeapi.ContainerStats, error) {
	answer, err := k.runtime.runtime.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{})
	if err != nil {
		return nil, err
	}
	return answer.Stats, nil
}

// serveSummary answers /stats/summary.
func (k *Kubelet) serveSummary(w http.ResponseWriter, r *http.Request) {
	stats, err := k.containerUsage(r.Context())
	if err != nil {
		fail(w, err)
		return
	}
	now := metav1.Now()
	summary := statsapi.Summary{Node: statsapi.NodeStats{NodeName: k.cfg.NodeName, StartTime: now, Fs: k.nodeFs()}, Pods: []statsapi.PodStats{}}
	byUID := map[string]int{}
	for _, s := range stats {
		labels := s.GetAttributes().GetLabels()
		uid := labels[labelPodUID]
		if uid == "" {
			continue
		}
		i, found := byUID[uid]
		if !found {
			i = len(summary.Pods)
			byUID[uid] = i
			summary.Pods = append(summary.Pods, statsapi.PodStats{StartTime: now, CPU: &statsapi.CPUStats{Time: now}, Memory: &statsapi.MemoryStats{Time: now},
				PodRef: statsapi.PodReference{Name: labels[labelPodName], Namespace: labels[labelPodNamespace], UID: uid}})
		}
		c := containerSummary(labels[labelContainerName], s)
		pod := &summary.Pods[i]
		pod.Containers = append(pod.Containers, c)
		addTo(&pod.CPU.UsageNanoCores, c.CPU.UsageNanoCores)
		addTo(&pod.CPU.UsageCoreNanoSeconds, c.CPU.UsageCoreNanoSeconds)
		addTo(&pod.Memory.UsageBytes, c.Memory.UsageBytes)
		addTo(&pod.Memory.WorkingSetBytes, c.Memory.WorkingSetBytes)
	}
	writeJSON(w, summary)
}

func containerSummary(name string, s *runtimeapi.ContainerStats) statsapi.ContainerStats {
	at := func(nanos int64) metav1.Time { return metav1.NewTime(time.Unix(0, nanos)) }
	out := statsapi.ContainerStats{Name: name, StartTime: at(s.GetCpu().GetTimestamp()),
		CPU: &statsapi.CPUStats{Time: at(s.GetCpu().GetTimestamp())}, Memory: &statsapi.MemoryStats{Time: at(s.GetMemory().GetTimestamp())}}
	out.CPU.UsageCoreNanoSeconds = number(s.GetCpu().GetUsageCoreNanoSeconds())
	out.CPU.UsageNanoCores = number(s.GetCpu().GetUsageNanoCores())
	out.Memory.WorkingSetBytes = number(s.GetMemory().GetWorkingSetBytes())
	out.Memory.UsageBytes = number(s.GetMemory().GetUsageBytes())
	out.Memory.RSSBytes = number(s.GetMemory().GetRssBytes())
	if fs := s.GetWritableLayer(); fs != nil {
		out.Rootfs = &statsapi.FsStats{Time: at(fs.Timestamp), UsedBytes: number(fs.UsedBytes), InodesUsed: number(fs.InodesUsed)}
	}
	return out
}

func (k *Kubelet) nodeFs() *statsapi.FsStats {
	var fs unix.Statfs_t
	if err := unix.Statfs(k.cfg.RootDir, &fs); err != nil {
		return nil
	}
	size, available := fs.Blocks*uint64(fs.Bsize), fs.Bavail*uint64(fs.Bsize)
	used := (fs.Blocks - fs.Bfree) * uint64(fs.Bsize)
	return &statsapi.FsStats{Time: metav1.Now(), CapacityBytes: &size, AvailableBytes: &available, UsedBytes: &used, Inodes: &fs.Files, InodesFree: &fs.Ffree}
}

func number(v *runtimeapi.UInt64Value) *uint64 {
	if v == nil {
		return nil
	}
	n := v.Value
	return &n
}

func addTo(total **uint64, v *uint64) {
	if v == nil {
		return
	}
	sum := *v
	if *total != nil {
		sum += **total
	}
	*total = &sum
}

// metricHandlers are the two pages that Prometheus and metrics-server read.
type metricHandlers struct{ kubelet, resource http.Handler }

func (k *Kubelet) metrics() metricHandlers {
	own := prometheus.NewRegistry()
	own.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "kubelet_running_pods", Help: "Number of pods that have a running pod sandbox"},
			func() float64 { pods, _ := k.runningCounts(); return float64(pods) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "kubelet_running_containers", Help: "Number of containers currently running",
			ConstLabels: prometheus.Labels{"container_state": "running"}},
			func() float64 { _, containers := k.runningCounts(); return float64(containers) }))
	resource := prometheus.NewRegistry()
	resource.MustRegister(resourceCollector{k})
	return metricHandlers{promhttp.HandlerFor(own, promhttp.HandlerOpts{}), promhttp.HandlerFor(resource, promhttp.HandlerOpts{})}
}

func (k *Kubelet) runningCounts() (pods, containers int) {
	for _, w := range k.allWorkers() {
		if _, seen, _ := w.view(); seen != nil && seen.alive() {
			pods++
			containers += len(seen.running())
		}
	}
	return pods, containers
}

// resourceCollector is /metrics/resource, made of the runtime's numbers at the
// time of asking.
type resourceCollector struct{ k *Kubelet }

var (
	containerLabels = []string{"container", "namespace", "pod"}
	containerCPU    = prometheus.NewDesc("container_cpu_usage_seconds_total", "Cumulative cpu time consumed by the container in core-seconds", containerLabels, nil)
	containerMemory = prometheus.NewDesc("container_memory_working_set_bytes", "Current working set of the container in bytes", containerLabels, nil)
	podCPU          = prometheus.NewDesc("pod_cpu_usage_seconds_total", "Cumulative cpu time consumed by the pod in core-seconds", containerLabels[1:], nil)
	podMemory       = prometheus.NewDesc("pod_memory_working_set_bytes", "Current working set of the pod in bytes", containerLabels[1:], nil)
	scrapeError     = prometheus.NewDesc("resource_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise", nil, nil)
)

func (resourceCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{containerCPU, containerMemory, podCPU, podMemory, scrapeError} {
		out <- d
	}
}

func (c resourceCollector) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second) // the interface has no context
	defer cancel()
	stats, err := c.k.containerUsage(ctx)
	if err != nil {
		out <- prometheus.MustNewConstMetric(scrapeError, prometheus.GaugeValue, 1)
		return
	}
	out <- prometheus.MustNewConstMetric(scrapeError, prometheus.GaugeValue, 0)
	type key struct{ namespace, pod string }
	cpu, memory := map[key]float64{}, map[key]float64{}
	done := map[string]bool{} // a restarting container may be there twice
	for _, s := range stats {
		l := s.GetAttributes().GetLabels()
		id := l[labelPodUID] + "/" + l[labelContainerName]
		if l[labelPodUID] == "" || done[id] {
			continue
		}
		done[id] = true
		seconds := float64(s.GetCpu().GetUsageCoreNanoSeconds().GetValue()) / 1e9
		bytes := float64(s.GetMemory().GetWorkingSetBytes().GetValue())
		names := []string{l[labelContainerName], l[labelPodNamespace], l[labelPodName]}
		out <- prometheus.MustNewConstMetric(containerCPU, prometheus.CounterValue, seconds, names...)
		out <- prometheus.MustNewConstMetric(containerMemory, prometheus.GaugeValue, bytes, names...)
		pod := key{l[labelPodNamespace], l[labelPodName]}
		cpu[pod] += seconds
		memory[pod] += bytes
	}
	for pod := range cpu {
		out <- prometheus.MustNewConstMetric(podCPU, prometheus.CounterValue, cpu[pod], pod.namespace, pod.pod)
		out <- prometheus.MustNewConstMetric(podMemory, prometheus.GaugeValue, memory[pod], pod.namespace, pod.pod)
	}
}
