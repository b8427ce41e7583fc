package kubelet

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// What containers use is measured by the runtime; the kubelet only asks when
// it is asked.

// containerUsage reads the usage of every running container, by container ID.
func (k *Kubelet) containerUsage(ctx context.Context) ([]*runtimeapi.ContainerStats, error) {
	answer, err := k.runtime.runtime.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{})
	if err != nil {
		return nil, err
	}
	return answer.Stats, nil
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
	out.Memory.PageFaults, out.Memory.MajorPageFaults = number(s.GetMemory().GetPageFaults()), number(s.GetMemory().GetMajorPageFaults())
	if available := number(s.GetMemory().GetAvailableBytes()); available != nil && *available > 0 { // 0: there is no limit
		out.Memory.AvailableBytes = available
	}
	if swap := s.GetSwap(); swap != nil {
		out.Swap = &statsapi.SwapStats{Time: at(swap.Timestamp), SwapUsageBytes: number(swap.SwapUsageBytes), SwapAvailableBytes: number(swap.SwapAvailableBytes)}
	}
	if fs := s.GetWritableLayer(); fs != nil {
		out.Rootfs = &statsapi.FsStats{Time: at(fs.Timestamp), UsedBytes: number(fs.UsedBytes), InodesUsed: number(fs.InodesUsed)}
	}
	return out
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

// metricHandlers are the pages that Prometheus and metrics-server read.
type metricHandlers struct{ kubelet, resource, probes, cadvisor http.Handler }

func (k *Kubelet) metricPages() metricHandlers {
	page := func(c ...prometheus.Collector) http.Handler {
		r := prometheus.NewRegistry()
		r.MustRegister(c...)
		return promhttp.HandlerFor(r, promhttp.HandlerOpts{})
	}
	return metricHandlers{
		kubelet:  promhttp.HandlerFor(k.metrics.registry, promhttp.HandlerOpts{}),
		resource: page(resourceCollector{k}), probes: page(k.probes.total, k.probes.took, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "process_start_time_seconds", Help: "When this process began"}, func() float64 { return float64(k.started.Unix()) })), cadvisor: page(cadvisorCollector{k}),
	}
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
	nodeCPU         = prometheus.NewDesc("node_cpu_usage_seconds_total", "Cumulative cpu time consumed by the node in core-seconds", nil, nil)
	nodeMemory      = prometheus.NewDesc("node_memory_working_set_bytes", "Current working set of the node in bytes", nil, nil)
	containerSwap   = prometheus.NewDesc("container_swap_usage_bytes", "Current amount of the container swap usage in bytes. Reported only on non-windows systems", containerLabels, nil)
	containerSwaps  = prometheus.NewDesc("container_swap_limit_bytes", "Current amount of the container swap limit in bytes. Reported only on non-windows systems", containerLabels, nil)
	podSwap         = prometheus.NewDesc("pod_swap_usage_bytes", "Current amount of the pod swap usage in bytes. Reported only on non-windows systems", containerLabels[1:], nil)
	startTime       = prometheus.NewDesc("container_start_time_seconds", "Start time of the container since unix epoch in seconds", containerLabels, nil)
	scrapeError     = prometheus.NewDesc("resource_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise", nil, nil)
)

func (resourceCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{containerCPU, containerMemory, containerSwap, containerSwaps, podSwap, podCPU, podMemory, nodeCPU, nodeMemory, startTime, scrapeError} {
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
	if used, err := c.k.cgroups.cpuNanoseconds(); err == nil {
		out <- prometheus.MustNewConstMetric(nodeCPU, prometheus.CounterValue, float64(used)/1e9)
	}
	if used, err := c.k.cgroups.workingSet(""); err == nil {
		out <- prometheus.MustNewConstMetric(nodeMemory, prometheus.GaugeValue, float64(used))
	}
	c.collectStarts(out)
	type key struct{ namespace, pod string }
	cpu, memory, swap := map[key]float64{}, map[key]float64{}, map[key]float64{}
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
		if s.GetSwap() != nil {
			used, free := float64(s.Swap.GetSwapUsageBytes().GetValue()), float64(s.Swap.GetSwapAvailableBytes().GetValue())
			out <- prometheus.MustNewConstMetric(containerSwap, prometheus.GaugeValue, used, names...)
			out <- prometheus.MustNewConstMetric(containerSwaps, prometheus.GaugeValue, used+free, names...)
			swap[pod] += used
		}
		cpu[pod] += seconds
		memory[pod] += bytes
	}
	for pod := range cpu {
		out <- prometheus.MustNewConstMetric(podCPU, prometheus.CounterValue, cpu[pod], pod.namespace, pod.pod)
		out <- prometheus.MustNewConstMetric(podMemory, prometheus.GaugeValue, memory[pod], pod.namespace, pod.pod)
		if used, known := swap[pod]; known {
			out <- prometheus.MustNewConstMetric(podSwap, prometheus.GaugeValue, used, pod.namespace, pod.pod)
		}
	}
}

// collectStarts tells when each running container started: a counter that is
// smaller than it was belongs to a new life.
func (c resourceCollector) collectStarts(out chan<- prometheus.Metric) {
	for _, w := range c.k.allWorkers() {
		pod, seen, _ := w.view()
		if seen == nil {
			continue
		}
		for _, spec := range allContainers(pod) {
			if latest := seen.latest(spec.Name); latest != nil && latest.running() {
				out <- prometheus.MustNewConstMetric(startTime, prometheus.GaugeValue, float64(latest.StartedAt)/1e9, spec.Name, pod.Namespace, pod.Name)
			}
		}
	}
}
