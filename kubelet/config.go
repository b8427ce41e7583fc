package kubelet

import (
	"cmp"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
)

// Config is a kubelet's configuration as plain values. The fields that a
// KubeletConfiguration file has mean what they mean there.
type Config struct {
	NodeName           string
	NodeIPs            []string
	NodeLabels         map[string]string
	RegisterNode       bool
	RegisterWithTaints []corev1.Taint
	ProviderID         string

	RootDir          string // /var/lib/kubelet
	CertDir          string // <RootDir>/pki
	PodLogsDir       string // /var/log/pods
	ContainerLogsDir string // /var/log/containers

	StaticPodPath      string
	FileCheckFrequency time.Duration
	WatchFiles         bool // inotify beside the periodic scan
	StaticPodURL       string
	StaticPodURLHeader map[string][]string
	HTTPCheckFrequency time.Duration

	RuntimeEndpoint string
	ImageEndpoint   string

	// What this node has to give; zero: all that the machine or its cgroup has.
	NodeCPU, NodeMemory resource.Quantity
	MaxPods             int32
	MaxNodeImages       int // told in the node's status; negative: all
	PodPidsLimit        int64
	KubeReserved        corev1.ResourceList
	SystemReserved      corev1.ResourceList

	Thresholds            []threshold // of eviction, hard and soft
	MaxEvictionGrace      int64       // seconds, for soft thresholds
	PressureTransition    time.Duration
	LocalStorageIsolation bool
	Images                imagePolicy
	Shutdown              []shutdownGroup // by priority; empty: no graceful shutdown

	CgroupRoot    string
	CgroupDriver  string
	CgroupsPerQOS bool
	FailCgroupV1  bool
	CPUCFSQuota   bool
	CPUPeriod     time.Duration // in which a quota is counted; 0: 100 ms
	OOMPerProcess bool          // the kernel ends a process, not its container

	ClusterDNS     []string
	ClusterDomain  string
	ResolvConf     string
	SeccompDefault bool

	PullPolicy            kubeletv1beta1.ImagePullCredentialsVerificationPolicy // of images that are there
	PullAllowlist         []string
	SerializeImagePulls   bool
	MaxParallelPulls      int32
	PullQPS, PullBurst    int // 0: as fast as they come
	CrashLoopMax          time.Duration
	RuntimeTimeout        time.Duration // of a call that does not wait for anything
	ContainerLogMaxSize   int64
	ContainerLogMaxFiles  int
	LogPeriod             time.Duration // between looks at their sizes
	SplitLogStreams       bool          // stdout and stderr may be asked for apart
	AllowedUnsafeSysctls  []string
	StatusUpdateFrequency time.Duration
	StatusReportFrequency time.Duration
	LeaseDuration         time.Duration
	SyncFrequency         time.Duration // between looks at a pod that rests
	EventQPS, EventBurst  int           // 0: no limit

	// Hollow says that the runtime runs nothing: no probe is made, all pass at
	// once.
	Hollow bool

	Server ServerConfig
	// Warnings are settings that have no effect, to be told once.
	Warnings []string
	// Source is the KubeletConfiguration that this was made from, for /configz.
	Source *kubeletv1beta1.KubeletConfiguration
}

// ServerConfig is the node API's part of the configuration.
type ServerConfig struct {
	Enabled                 bool
	Address                 string
	Port                    int32
	CertFile, KeyFile       string // empty: self-signed
	BootstrapTLS            bool   // ask the API server for the certificate
	TLSMinVersion           uint16
	TLSCipherSuites         []uint16
	ClientCAFile            string
	Anonymous               bool
	WebhookAuthentication   bool
	AuthorizationMode       string        // Webhook or AlwaysAllow
	TokenTTL                time.Duration // of what a review said
	AllowedTTL, DeniedTTL   time.Duration
	ReadOnlyPort            int32 // plain HTTP for everybody; 0: none
	HealthzAddress          string
	HealthzPort             int32
	EnableDebuggingHandlers bool // what shows logs and runs commands
	SystemLogs, Profiling   bool // with those: /logs/, /debug/pprof/
}

// NewConfig turns a KubeletConfiguration into a Config for the node.
func NewConfig(c *kubeletv1beta1.KubeletConfiguration, nodeName, rootDir string) (Config, error) {
	out := Config{
		NodeName: nodeName, RootDir: rootDir, CertDir: filepath.Join(rootDir, "pki"), Source: c,
		RegisterNode: isTrue(c.RegisterNode), RegisterWithTaints: c.RegisterWithTaints, ProviderID: c.ProviderID,
		PodLogsDir: c.PodLogsDir, ContainerLogsDir: filepath.Join(filepath.Dir(c.PodLogsDir), "containers"),
		StaticPodPath: c.StaticPodPath, FileCheckFrequency: c.FileCheckFrequency.Duration, WatchFiles: true,
		StaticPodURL: c.StaticPodURL, StaticPodURLHeader: c.StaticPodURLHeader, HTTPCheckFrequency: c.HTTPCheckFrequency.Duration,
		RuntimeEndpoint: c.ContainerRuntimeEndpoint, ImageEndpoint: cmp.Or(c.ImageServiceEndpoint, c.ContainerRuntimeEndpoint),
		MaxPods: c.MaxPods, CgroupRoot: cmp.Or(c.CgroupRoot, "/"), CgroupDriver: c.CgroupDriver,
		CgroupsPerQOS: isTrue(c.CgroupsPerQOS), FailCgroupV1: isTrue(c.FailCgroupV1), CPUCFSQuota: isTrue(c.CPUCFSQuota),
		ClusterDNS: c.ClusterDNS, ClusterDomain: c.ClusterDomain, SeccompDefault: isTrue(c.SeccompDefault),
		PullPolicy: c.ImagePullCredentialsVerificationPolicy, PullAllowlist: c.PreloadedImagesVerificationAllowlist,
		SerializeImagePulls: isTrue(c.SerializeImagePulls), AllowedUnsafeSysctls: c.AllowedUnsafeSysctls,
		ContainerLogMaxFiles: 5, CrashLoopMax: 5 * time.Minute, RuntimeTimeout: c.RuntimeRequestTimeout.Duration,
		StatusUpdateFrequency: c.NodeStatusUpdateFrequency.Duration, StatusReportFrequency: c.NodeStatusReportFrequency.Duration,
		LeaseDuration: time.Duration(c.NodeLeaseDurationSeconds) * time.Second, SyncFrequency: c.SyncFrequency.Duration,
		MaxNodeImages: int(*c.NodeStatusMaxImages), LogPeriod: c.ContainerLogMonitorInterval.Duration,
		CPUPeriod: c.CPUCFSQuotaPeriod.Duration, OOMPerProcess: isTrue(c.SingleProcessOOMKill), SplitLogStreams: c.FeatureGates["PodLogsQuerySplitStreams"],
		PullQPS: int(*c.RegistryPullQPS), PullBurst: int(c.RegistryBurst), EventQPS: int(*c.EventRecordQPS), EventBurst: int(c.EventBurst),
		Server: ServerConfig{
			Enabled: isTrue(c.EnableServer), Address: c.Address, Port: c.Port, CertFile: c.TLSCertFile, KeyFile: c.TLSPrivateKeyFile,
			BootstrapTLS:          c.ServerTLSBootstrap && c.TLSCertFile == "",
			ClientCAFile:          c.Authentication.X509.ClientCAFile,
			Anonymous:             isTrue(c.Authentication.Anonymous.Enabled),
			WebhookAuthentication: isTrue(c.Authentication.Webhook.Enabled), AuthorizationMode: string(c.Authorization.Mode),
			TokenTTL: c.Authentication.Webhook.CacheTTL.Duration, AllowedTTL: c.Authorization.Webhook.CacheAuthorizedTTL.Duration,
			DeniedTTL: c.Authorization.Webhook.CacheUnauthorizedTTL.Duration, ReadOnlyPort: c.ReadOnlyPort,
			HealthzAddress: c.HealthzBindAddress, EnableDebuggingHandlers: isTrue(c.EnableDebuggingHandlers),
			SystemLogs: isTrue(c.EnableSystemLogHandler), Profiling: isTrue(c.EnableProfilingHandler),
		},
	}
	var err error
	if out.Warnings, err = checkConfiguration(c); err != nil {
		return out, err
	}
	if out.Server.TLSMinVersion, out.Server.TLSCipherSuites, err = tlsSettings(c); err != nil {
		return out, err
	}
	if c.PodsPerCore > 0 {
		out.MaxPods = min(out.MaxPods, c.PodsPerCore*int32(runtime.NumCPU()))
	}
	return out, out.addQuantities(c)
}

// addQuantities parses the fields that are numbers with units.
func (out *Config) addQuantities(c *kubeletv1beta1.KubeletConfiguration) error {
	if c.ResolverConfig != nil {
		out.ResolvConf = *c.ResolverConfig
	}
	if c.HealthzPort != nil {
		out.Server.HealthzPort = *c.HealthzPort
	}
	if c.ContainerLogMaxFiles != nil {
		out.ContainerLogMaxFiles = int(*c.ContainerLogMaxFiles)
	}
	if c.MaxParallelImagePulls != nil {
		out.MaxParallelPulls = *c.MaxParallelImagePulls
	}
	if c.PodPidsLimit != nil {
		out.PodPidsLimit = *c.PodPidsLimit
	}
	if d := c.CrashLoopBackOff.MaxContainerRestartPeriod; d != nil {
		out.CrashLoopMax = d.Duration
	}
	size, err := resource.ParseQuantity(c.ContainerLogMaxSize)
	if err != nil {
		return fmt.Errorf("containerLogMaxSize: %w", err)
	}
	out.ContainerLogMaxSize = size.Value()
	if out.KubeReserved, err = resourceList(c.KubeReserved); err != nil {
		return fmt.Errorf("--kube-reserved value failed to parse: %w", err)
	}
	if out.SystemReserved, err = resourceList(c.SystemReserved); err != nil {
		return fmt.Errorf("--system-reserved value failed to parse: %w", err)
	}
	if out.Thresholds, err = parseThresholds(c); err != nil {
		return err
	}
	out.MaxEvictionGrace, out.PressureTransition = int64(c.EvictionMaxPodGracePeriod), c.EvictionPressureTransitionPeriod.Duration
	out.LocalStorageIsolation = c.LocalStorageCapacityIsolation == nil || *c.LocalStorageCapacityIsolation
	if out.Images, err = newImagePolicy(c); err != nil {
		return err
	}
	out.Shutdown, err = parseShutdown(c)
	return err
}

// resourceList reads what is reserved: only what a node has four kinds of.
//
// Upstream: kubernetes@v1.36 cmd/kubelet/app/server.go parseResourceList.
func resourceList(values map[string]string) (corev1.ResourceList, error) {
	out := corev1.ResourceList{}
	for name, text := range values {
		q, err := resource.ParseQuantity(text)
		switch {
		case !slices.Contains([]string{"cpu", "memory", "ephemeral-storage", "pid"}, name):
			return nil, fmt.Errorf("cannot reserve %q resource", name)
		case err != nil:
			return nil, fmt.Errorf("failed to parse quantity %q for %q resource: %w", text, name, err)
		case q.Sign() < 0:
			return nil, fmt.Errorf("resource quantity for %q cannot be negative: %v", name, text)
		}
		out[corev1.ResourceName(name)] = q
	}
	return out, nil
}
