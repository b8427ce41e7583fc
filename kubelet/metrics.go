package kubelet

import (
	"context"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	corev1 "k8s.io/api/core/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"tinykube/api/version"
)

// What the kubelet tells of itself on /metrics: those of upstream's names that
// dashboards and alerts ask for, and that mean something here. What happens is
// counted as it happens; what is, is looked at when somebody asks.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/metrics/metrics.go.
type metrics struct {
	registry *prometheus.Registry

	operations, operationErrors *prometheus.CounterVec // calls of the runtime
	operationTime               *prometheus.HistogramVec
	startedPods, failedPods     prometheus.Counter
	startedContainers           *prometheus.CounterVec
	failedContainers            *prometheus.CounterVec
	startTime                   prometheus.Histogram // since the kubelet saw the pod
	startTimeSLI, startTimeAll  *prometheus.HistogramVec
	workerTime                  *prometheus.HistogramVec
	relistTime, relistInterval  prometheus.Histogram
	relistSeen                  prometheus.Gauge
	cgroupTime                  *prometheus.HistogramVec
	volumeTime                  *prometheus.HistogramVec
	evictions                   *prometheus.CounterVec
	requests                    *prometheus.CounterVec // of the node API
	requestTime                 *prometheus.HistogramVec
	inflight                    *prometheus.GaugeVec
	apiRequests                 *prometheus.CounterVec // to the API server
}

// podStartBuckets are upstream's: seconds, and then minutes.
var podStartBuckets = []float64{0.5, 1, 2, 3, 4, 5, 6, 8, 10, 20, 30, 45, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600}

func newMetrics() *metrics {
	m := &metrics{registry: prometheus.NewRegistry()}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return register(m, prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels))
	}
	times := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return register(m, prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels))
	}
	counter := func(name, help string) prometheus.Counter {
		return register(m, prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help}))
	}
	duration := func(name, help string, buckets []float64) prometheus.Histogram {
		return register(m, prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}))
	}
	usual := prometheus.DefBuckets
	m.operations = counters("kubelet_runtime_operations_total", "Calls of the container runtime", "operation_type")
	m.operationErrors = counters("kubelet_runtime_operations_errors_total", "Calls of the container runtime that failed", "operation_type")
	m.operationTime = times("kubelet_runtime_operations_duration_seconds", "How long calls of the container runtime took", prometheus.ExponentialBuckets(.005, 2.5, 14), "operation_type")
	m.startedPods = counter("kubelet_started_pods_total", "Pod sandboxes that were started")
	m.failedPods = counter("kubelet_started_pods_errors_total", "Pod sandboxes that could not be started")
	m.startedContainers = counters("kubelet_started_containers_total", "Containers that were started", "container_type")
	m.failedContainers = counters("kubelet_started_containers_errors_total", "Containers that could not be started", "container_type", "code")
	m.startTime = duration("kubelet_pod_start_duration_seconds", "From seeing a pod for the first time until it runs", podStartBuckets)
	m.startTimeSLI = times("kubelet_pod_start_sli_duration_seconds", "From a pod's creation until it runs, without the pulling of images", podStartBuckets)
	m.startTimeAll = times("kubelet_pod_start_total_duration_seconds", "From a pod's creation until it runs", podStartBuckets)
	m.workerTime = times("kubelet_pod_worker_duration_seconds", "How long one look at a pod took", usual, "operation_type")
	m.relistTime = duration("kubelet_pleg_relist_duration_seconds", "How long it took to list what the runtime has", usual)
	m.relistInterval = duration("kubelet_pleg_relist_interval_seconds", "Time between the beginnings of two relists", usual)
	m.relistSeen = register(m, prometheus.NewGauge(prometheus.GaugeOpts{Name: "kubelet_pleg_last_seen_seconds", Help: "When the last relist succeeded"}))
	m.cgroupTime = times("kubelet_cgroup_manager_duration_seconds", "How long it took to make or remove a pod's cgroup", usual, "operation_type")
	m.volumeTime = times("storage_operation_duration_seconds", "How long it took to make or to remove a volume", []float64{.1, .25, .5, 1, 2.5, 5, 10, 15, 25, 50, 120, 300, 600},
		"migrated", "operation_name", "status", "volume_plugin")
	m.evictions = counters("kubelet_evictions", "Pods that were evicted, by what ran short", "eviction_signal")
	call := []string{"method", "path", "server_type", "long_running"}
	m.requests = counters("kubelet_http_requests_total", "Requests to the node API", call...)
	m.requestTime = times("kubelet_http_requests_duration_seconds", "How long requests to the node API took", usual, call...)
	m.inflight = register(m, prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "kubelet_http_inflight_requests", Help: "Requests to the node API that are being served"}, call))
	m.apiRequests = counters("rest_client_requests_total", "Requests to the API server, by what it answered", "code", "method", "host")
	return m
}

func register[C prometheus.Collector](m *metrics, c C) C {
	m.registry.MustRegister(c)
	return c
}

// since observes how long something took that began then.
func since(o prometheus.Observer, began time.Time) { o.Observe(time.Since(began).Seconds()) }

// containerStarted counts an attempt to start a container. One that had to wait
// is none.
func (m *metrics) containerStarted(pod *corev1.Pod, name string, err error) {
	kind := "container"
	if isInit(pod, name) {
		kind = "init_container"
	} else if isEphemeral(pod, name) {
		kind = "ephemeral_container"
	}
	why, _ := err.(*waitError)
	if why != nil && (why.reason == reasonCrashLoop || why.reason == reasonImageBackOff) {
		return
	}
	m.startedContainers.WithLabelValues(kind).Inc()
	if why != nil {
		m.failedContainers.WithLabelValues(kind, why.reason).Inc()
	}
}

// podStarted takes the time of a pod that runs for the first time.
func (m *metrics) podStarted(pod *corev1.Pod, firstSeen time.Time, pulling time.Duration) {
	since(m.startTime, firstSeen)
	if created := pod.CreationTimestamp.Time; !isStatic(pod) {
		since(m.startTimeAll.WithLabelValues(), created)
		since(m.startTimeSLI.WithLabelValues(), created.Add(pulling))
	}
}

// Paths and methods of requests are kept to those that there are: a stranger
// shall not fill the memory with names.
var (
	countedPaths = []string{"healthz", "pods", "stats", "metrics", "metrics/cadvisor", "metrics/probes", "metrics/resource", "run", "exec", "attach",
		"portForward", "containerLogs", "configz", "runningpods", "checkpoint", "logs", "debug"}
	countedMethods = []string{"OPTIONS", "GET", "HEAD", "POST", "PUT", "DELETE", "TRACE", "CONNECT"}
)

// count watches the requests to one of the node API's ports.
func (m *metrics) count(port string) func(http.Handler) http.Handler {
	oneOf := func(known []string, word string) string {
		if slices.Contains(known, word) {
			return word
		}
		return "other"
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			parts := strings.SplitN(strings.TrimPrefix(r.URL.Path, "/"), "/", 3)
			if parts[0] == "metrics" && len(parts) > 1 {
				parts[0] += "/" + parts[1]
			}
			path := oneOf(countedPaths, parts[0])
			long := path == "exec" || path == "attach" || path == "debug"
			labels := []string{oneOf(countedMethods, r.Method), path, port, strconv.FormatBool(long)}
			m.requests.WithLabelValues(labels...).Inc()
			m.inflight.WithLabelValues(labels...).Inc()
			defer m.inflight.WithLabelValues(labels...).Dec()
			defer since(m.requestTime.WithLabelValues(labels...), time.Now())
			next.ServeHTTP(w, r)
		})
	}
}

// stateCollector is what can be seen when somebody asks.
type stateCollector struct{ k *Kubelet }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var (
	runningPods       = desc("kubelet_running_pods", "Pods that have a running sandbox")
	runningContainers = desc("kubelet_running_containers", "Containers by state", "container_state")
	desiredPods       = desc("kubelet_desired_pods", "Pods that this node is told to run", "static")
	mirrorPods        = desc("kubelet_mirror_pods", "Static pods that the API is to show")
	cgroupVersion     = desc("kubelet_cgroup_version", "Which cgroups this machine has")
	nodeNameIs        = desc("kubelet_node_name", "The node's name; always 1", "node")
	buildInfo         = desc("kubernetes_build_info", "What was built, by what; always 1",
		"build_date", "compiler", "git_commit", "git_tree_state", "git_version", "go_version", "major", "minor", "platform")
	volumesOf          = desc("volume_manager_total_volumes", "Volumes of pods, wanted and made", "plugin_name", "state")
	clientTTL          = desc("kubelet_certificate_manager_client_ttl_seconds", "How long the client certificate is good; +Inf without one")
	servingTTL         = desc("kubelet_certificate_manager_server_ttl_seconds", "How long the serving certificate is good; +Inf without one")
	clientRenewErrors  = desc("kubelet_certificate_manager_client_expiration_renew_errors", "Times that the client certificate could not be renewed")
	servingRenewErrors = desc("kubelet_server_expiration_renew_errors", "Times that the serving certificate could not be renewed")
	volumeStats        = []struct {
		name *prometheus.Desc
		of   func(*statsapi.FsStats) *uint64
	}{
		{volumeDesc("capacity_bytes", "Size in bytes"), func(f *statsapi.FsStats) *uint64 { return f.CapacityBytes }},
		{volumeDesc("available_bytes", "Free bytes"), func(f *statsapi.FsStats) *uint64 { return f.AvailableBytes }},
		{volumeDesc("used_bytes", "Used bytes"), func(f *statsapi.FsStats) *uint64 { return f.UsedBytes }},
		{volumeDesc("inodes", "All inodes"), func(f *statsapi.FsStats) *uint64 { return f.Inodes }},
		{volumeDesc("inodes_free", "Free inodes"), func(f *statsapi.FsStats) *uint64 { return f.InodesFree }},
		{volumeDesc("inodes_used", "Used inodes"), func(f *statsapi.FsStats) *uint64 { return f.InodesUsed }},
	}
)

func volumeDesc(name, help string) *prometheus.Desc {
	return desc("kubelet_volume_stats_"+name, help+" of a claim's volume", "namespace", "persistentvolumeclaim")
}

func (stateCollector) Describe(chan<- *prometheus.Desc) {} // unchecked: how many there are is not known before

func (c stateCollector) Collect(out chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	count := func(desc *prometheus.Desc, value int64) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(value))
	}
	k, v := c.k, version.Info()
	gauge(nodeNameIs, 1, k.cfg.NodeName)
	gauge(buildInfo, 1, v.BuildDate, v.Compiler, v.GitCommit, v.GitTreeState, v.GitVersion, v.GoVersion, v.Major, v.Minor, v.Platform)
	if k.identity != nil {
		gauge(clientTTL, k.identity.secondsLeft())
		count(clientRenewErrors, k.identity.renewErrors.Load())
	}
	if k.serving != nil {
		gauge(servingTTL, k.serving.secondsLeft())
		count(servingRenewErrors, k.serving.renewErrors.Load())
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second) // the interface has no context
	defer cancel()
	pods, states, desired, volumes := 0, map[string]int{}, map[string]int{}, map[[2]string]int{}
	for _, w := range k.allWorkers() {
		pod, seen, _ := w.view()
		desired[map[bool]string{true: "true", false: ""}[isStatic(pod)]]++
		alive := seen != nil && seen.alive()
		for i := range pod.Spec.Volumes {
			plugin := volumePlugin(&pod.Spec.Volumes[i])
			volumes[[2]string{plugin, "desired_state_of_world"}]++
			if alive {
				volumes[[2]string{plugin, "actual_state_of_world"}]++
			}
		}
		if !alive {
			continue
		}
		pods++
		for _, container := range seen.containers {
			states[strings.ToLower(strings.TrimPrefix(container.State.String(), "CONTAINER_"))]++
		}
		for _, one := range k.volumes.csi.volumeStats(ctx, pod) {
			for _, row := range volumeStats {
				if n := row.of(&one.FsStats); n != nil && one.PVCRef != nil {
					gauge(row.name, float64(*n), one.PVCRef.Namespace, one.PVCRef.Name)
				}
			}
		}
	}
	gauge(runningPods, float64(pods))
	gauge(mirrorPods, float64(desired["true"]))
	gauge(cgroupVersion, map[bool]float64{true: 2, false: 1}[k.cgroups.unified()])
	for state, n := range states {
		gauge(runningContainers, float64(n), state)
	}
	for static, n := range desired {
		gauge(desiredPods, float64(n), static)
	}
	for key, n := range volumes {
		gauge(volumesOf, float64(n), key[0], key[1])
	}
}

// volumePlugin is what upstream calls the code behind a kind of volume:
// kubernetes.io/empty-dir for emptyDir.
func volumePlugin(v *corev1.Volume) string {
	source := reflect.ValueOf(v.VolumeSource)
	for i := range source.NumField() {
		if source.Field(i).IsNil() {
			continue
		}
		switch name, _, _ := strings.Cut(source.Type().Field(i).Tag.Get("json"), ","); name {
		case "persistentVolumeClaim", "ephemeral":
			return "kubernetes.io/csi"
		case "configMap":
			return "kubernetes.io/configmap"
		case "downwardAPI":
			return "kubernetes.io/downward-api"
		case "emptyDir":
			return "kubernetes.io/empty-dir"
		case "hostPath":
			return "kubernetes.io/host-path"
		default:
			return "kubernetes.io/" + strings.ToLower(name)
		}
	}
	return "kubernetes.io/empty-dir"
}
