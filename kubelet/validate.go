package kubelet

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	corev1 "k8s.io/api/core/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/validation"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
)

// What upstream refuses in a KubeletConfiguration is refused here in its words,
// all of it at once. Whether a value that could be meant has an effect is
// another question (config_check.go).
//
// Upstream: kubernetes@v1.36 pkg/kubelet/apis/config/validation.
func validate(c *kubeletv1beta1.KubeletConfiguration, open gates) error {
	v := &validator{KubeletConfiguration: c, open: open}
	v.ranges()
	v.percents()
	v.times()
	v.taints()
	v.choices()
	v.enforcements()
	v.swapAndCgroups()
	v.logs()
	return utilerrors.NewAggregate(v.errs)
}

type validator struct {
	*kubeletv1beta1.KubeletConfiguration
	open gates
	errs []error
}

func (v *validator) refuse(broken bool, format string, args ...any) {
	if broken {
		v.errs = append(v.errs, fmt.Errorf("invalid configuration: "+format, args...))
	}
}

// atLeast0 and between take the name as upstream gives it, flag included.
func (v *validator) atLeast0(name string, value int64) {
	v.refuse(value < 0, "%s %v must not be a negative number", name, value)
}

func (v *validator) between(name string, value, least, most int32) {
	v.refuse(value < least || value > most, "%s %v must be between %d and %d, inclusive", name, value, least, most)
}

func (v *validator) ranges() {
	v.refuse(v.NodeLeaseDurationSeconds <= 0, "nodeLeaseDurationSeconds must be greater than 0")
	v.atLeast0("eventBurst (--event-burst)", int64(v.EventBurst))
	v.atLeast0("eventRecordQPS (--event-qps)", int64(*v.EventRecordQPS))
	v.atLeast0("kubeAPIBurst (--kube-api-burst)", int64(v.KubeAPIBurst))
	v.atLeast0("kubeAPIQPS (--kube-api-qps)", int64(*v.KubeAPIQPS))
	v.atLeast0("maxOpenFiles (--max-open-files)", v.MaxOpenFiles)
	v.atLeast0("maxPods (--max-pods)", int64(v.MaxPods))
	v.atLeast0("podsPerCore (--pods-per-core)", int64(v.PodsPerCore))
	v.atLeast0("registryBurst (--registry-burst)", int64(v.RegistryBurst))
	v.atLeast0("registryPullQPS (--registry-qps)", int64(*v.RegistryPullQPS))
	if *v.HealthzPort != 0 {
		v.between("healthzPort (--healthz-port)", *v.HealthzPort, 1, 65535)
	}
	v.between("port (--port)", v.Port, 1, 65535)
	v.between("readOnlyPort (--read-only-port)", v.ReadOnlyPort, 0, 65535)
	v.between("iptablesDropBit (--iptables-drop-bit)", *v.IPTablesDropBit, 0, 31)
	v.between("iptablesMasqueradeBit (--iptables-masquerade-bit)", *v.IPTablesMasqueradeBit, 0, 31)
	v.between("oomScoreAdj (--oom-score-adj)", *v.OOMScoreAdj, -1000, 1000)
	v.refuse(*v.NodeStatusMaxImages < -1, "nodeStatusMaxImages (--node-status-max-images) %v must be -1 or greater", *v.NodeStatusMaxImages)
	if n := v.MaxParallelImagePulls; n != nil {
		v.refuse(*n < 1, "maxParallelImagePulls %v must be a positive number", *n)
		v.refuse(isTrue(v.SerializeImagePulls) && *n > 1,
			"maxParallelImagePulls cannot be larger than 1 unless SerializeImagePulls (--serialize-image-pulls) is set to false")
	}
}

func (v *validator) percents() {
	high, low := *v.ImageGCHighThresholdPercent, *v.ImageGCLowThresholdPercent
	v.between("imageGCHighThresholdPercent (--image-gc-high-threshold)", high, 0, 100)
	v.between("imageGCLowThresholdPercent (--image-gc-low-threshold)", low, 0, 100)
	v.refuse(low >= high, "imageGCLowThresholdPercent (--image-gc-low-threshold) %v must be less than imageGCHighThresholdPercent (--image-gc-high-threshold) %v", low, high)
	factor := *v.MemoryThrottlingFactor
	v.refuse(factor <= 0 || factor > 1, "memoryThrottlingFactor %v must be greater than 0 and less than or equal to 1.0", factor)
}

func (v *validator) times() {
	period := v.CPUCFSQuotaPeriod.Duration
	if v.open["CustomCPUCFSQuotaPeriod"] {
		v.refuse(period < time.Millisecond || period > time.Second, "cpuCFSQuotaPeriod (--cpu-cfs-quota-period) %v must be between 1ms and 1sec, inclusive", period)
	} else {
		v.refuse(period != 100*time.Millisecond, "cpuCFSQuotaPeriod (--cpu-cfs-quota-period) %v requires feature gate CustomCPUCFSQuotaPeriod", period)
	}
	least, most := v.ImageMinimumGCAge.Duration, v.ImageMaximumGCAge.Duration
	v.refuse(least < 0, "imageMinimumGCAge %v must not be negative", least)
	v.refuse(most < 0, "imageMaximumGCAge %v must not be negative", most)
	v.refuse(most > 0 && most <= least, "imageMaximumGCAge %v must be greater than imageMinimumGCAge %v", most, least)

	all, critical, byPriority := v.ShutdownGracePeriod.Duration, v.ShutdownGracePeriodCriticalPods.Duration, len(v.ShutdownGracePeriodByPodPriority) > 0
	if v.open["GracefulNodeShutdown"] {
		v.refuse(critical > all, "shutdownGracePeriodCriticalPods %v must be <= shutdownGracePeriod %v", critical, all)
		v.refuse(all != 0 && all < time.Second, "shutdownGracePeriod %v must be either zero or otherwise >= 1 sec", all)
		v.refuse(critical != 0 && critical < time.Second, "shutdownGracePeriodCriticalPods %v must be either zero or otherwise >= 1 sec", critical)
	} else {
		v.refuse(all > 0 || critical > 0, "specifying shutdownGracePeriod or shutdownGracePeriodCriticalPods requires feature gate GracefulNodeShutdown")
	}
	if v.open["GracefulNodeShutdownBasedOnPodPriority"] {
		v.refuse(byPriority && (all > 0 || critical > 0), "Cannot specify both shutdownGracePeriodByPodPriority and shutdownGracePeriod at the same time")
	} else {
		v.refuse(byPriority, "Specifying shutdownGracePeriodByPodPriority requires feature gate GracefulNodeShutdownBasedOnPodPriority")
	}
	if restart := v.CrashLoopBackOff.MaxContainerRestartPeriod; restart != nil {
		v.refuse(restart.Duration < time.Second || restart.Duration > 5*time.Minute,
			"CrashLoopBackOff.MaxContainerRestartPeriod (got: %v seconds) must be set between 1s and 300s", restart.Seconds())
	}
}

func (v *validator) taints() {
	for _, taint := range v.RegisterWithTaints {
		effects := []corev1.TaintEffect{"", corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute}
		if len(validation.IsQualifiedName(taint.Key))+len(validation.IsValidLabelValue(taint.Value)) > 0 || !slices.Contains(effects, taint.Effect) {
			v.errs = append(v.errs, fmt.Errorf("invalid taint: %v", taint))
		}
		v.refuse(taint.TimeAdded != nil, "taint.TimeAdded is not nil")
	}
}

// choices are the fields that have a few words to choose from.
func (v *validator) choices() {
	v.refuse(!slices.Contains([]string{"none", "best-effort", "restricted", "single-numa-node"}, v.TopologyManagerPolicy),
		`topologyManagerPolicy (--topology-manager-policy) %q must be one of: ["none" "best-effort" "restricted" "single-numa-node"]`, v.TopologyManagerPolicy)
	v.refuse(!slices.Contains([]string{"container", "pod"}, v.TopologyManagerScope),
		`topologyManagerScope (--topology-manager-scope) %q must be one of: "container", or "pod"`, v.TopologyManagerScope)
	v.refuse(!slices.Contains([]string{"", "LimitedSwap", "NoSwap"}, v.MemorySwap.SwapBehavior),
		`memorySwap.swapBehavior %q must be one of: "", "LimitedSwap" or "NoSwap"`, v.MemorySwap.SwapBehavior)
	v.refuse(!slices.Contains([]string{"none", "hairpin-veth", "promiscuous-bridge"}, v.HairpinMode),
		`option %q specified for hairpinMode (--hairpin-mode). Valid options are "none", "hairpin-veth" or "promiscuous-bridge"`, v.HairpinMode)
	policy := string(v.ImagePullCredentialsVerificationPolicy)
	v.refuse(!slices.Contains([]string{"NeverVerify", "NeverVerifyPreloadedImages", "NeverVerifyAllowlistedImages", "AlwaysVerify"}, policy),
		`option %q specified for imagePullCredentialsVerificationPolicy. Valid options are "NeverVerify", "NeverVerifyPreloadedImages", "NeverVerifyAllowlistedImages" or "AlwaysVerify"`, policy)
	v.refuse(len(v.PreloadedImagesVerificationAllowlist) > 0 && policy != "NeverVerifyAllowlistedImages",
		"can't set `preloadedImagesVerificationAllowlist` if `imagePullCredentialsVertificationPolicy` is not \"NeverVerifyAllowlistedImages\"")
	for _, pattern := range v.PreloadedImagesVerificationAllowlist {
		text := badPattern(pattern)
		v.refuse(text != "", "invalid image pattern in `preloadedImagesVerificationAllowlist`: %s", text)
	}
	reservation := string(v.MemoryReservationPolicy)
	v.refuse(reservation == "TieredReservation" && !v.open["MemoryQoS"], "memoryReservationPolicy %q requires MemoryQoS feature gate to be enabled", reservation)
	v.refuse(!slices.Contains([]string{"None", "TieredReservation"}, reservation),
		`option %q specified for memoryReservationPolicy. Valid options are "None" or "TieredReservation"`, reservation)
	v.refuse(v.RunOnce, "runOnce (--runOnce) %v, Runonce mode has been deprecated and should not be set", v.RunOnce)
	v.refuse(v.ServerTLSBootstrap && !v.open["RotateKubeletServerCertificate"], "serverTLSBootstrap %v requires feature gate RotateKubeletServerCertificate", v.ServerTLSBootstrap)
	v.refuse(isTrue(v.EnableSystemLogQuery) && !isTrue(v.EnableSystemLogHandler), "enableSystemLogHandler is required for enableSystemLogQuery")
	if v.Logging.Format != "text" && v.Logging.Format != "json" {
		v.errs = append(v.errs, fmt.Errorf("logging.format: Invalid value: %q: Unsupported log format", v.Logging.Format))
	}
}

// enforcements checks which groups are to be bounded, and that they are named.
func (v *validator) enforcements() {
	const field = "enforceNodeAllocatable (--enforce-node-allocatable)"
	given := v.EnforceNodeAllocatable
	for _, group := range []struct{ key, name, cgroup string }{
		{"system-reserved", "systemReservedCgroup (--system-reserved-cgroup)", v.SystemReservedCgroup},
		{"kube-reserved", "kubeReservedCgroup (--kube-reserved-cgroup)", v.KubeReservedCgroup}} {
		all, part := slices.Contains(given, group.key), slices.Contains(given, group.key+"-compressible")
		v.refuse(all && part, "both %q and %q cannot be specified together in %s", group.key, group.key+"-compressible", field)
		v.refuse((all || part) && group.cgroup == "", "%s must be specified when %q or %q included in %s", group.name, group.key, group.key+"-compressible", field)
	}
	known := []string{"pods", "system-reserved", "system-reserved-compressible", "kube-reserved", "kube-reserved-compressible"}
	for i, word := range given {
		switch {
		case slices.Contains(given[:i], word):
			v.refuse(true, "duplicated enforcements %q in %s", word, field)
		case word == "none":
			v.refuse(len(given) > 1, "%s may not contain additional enforcements when %q is specified", field, word)
		case !slices.Contains(known, word):
			v.refuse(true, `option %q specified for %s. Valid options are "pods", "system-reserved", "system-reserved-compressible", "kube-reserved", "kube-reserved-compressible" or "none"`, word, field)
		default:
			v.refuse(!isTrue(v.CgroupsPerQOS), "cgroupsPerQOS (--cgroups-per-qos) must be set to true when %q contained in %s", word, field)
		}
	}
}

func (v *validator) swapAndCgroups() {
	v.refuse(v.SystemCgroups != "" && v.CgroupRoot == "",
		"systemCgroups (--system-cgroups) was specified and cgroupRoot (--cgroup-root) was not specified")
	v.refuse(v.ReservedSystemCPUs != "" && (v.SystemReservedCgroup != "" || v.KubeReservedCgroup != ""),
		"can't use reservedSystemCPUs (--reserved-cpus) with systemReservedCgroup (--system-reserved-cgroup) or kubeReservedCgroup (--kube-reserved-cgroup)")
	v.refuse(v.ContainerRuntimeEndpoint == "", "the containerRuntimeEndpoint was not specified or empty")
	if v.UserNamespaces == nil || v.UserNamespaces.IDsPerPod == nil {
		return
	}
	ids := *v.UserNamespaces.IDsPerPod
	v.refuse(ids < usernsLength, "userNamespaces.idsPerPod must not be less than %d", usernsLength)
	v.refuse(ids%usernsLength != 0, "userNamespaces.idsPerPod must be a multiple of %d", usernsLength)
}

func (v *validator) logs() {
	v.refuse(*v.ContainerLogMaxWorkers < 1, "containerLogMaxWorkers must be greater than or equal to 1")
	v.refuse(v.ContainerLogMonitorInterval.Duration < 3*time.Second, "containerLogMonitorInterval must be a positive time duration greater than or equal to 3s")
	v.refuse(*v.ContainerLogMaxFiles <= 1, "containerLogMaxFiles must be greater than 1")
	dir := v.PodLogsDir
	v.refuse(!filepath.IsAbs(dir), "pod logs path %q must be absolute path", dir)
	v.refuse(filepath.Clean(dir) != dir, "pod logs path %q must be normalized", dir)
	v.refuse(strings.ContainsFunc(dir, func(r rune) bool { return r > unicode.MaxASCII }), "pod logs path %q mut contains ASCII characters only", dir)
}
