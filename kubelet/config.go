package kubelet

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
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
	PodLogsDir       string // /var/log/pods
	ContainerLogsDir string // /var/log/containers

	StaticPodPath      string
	FileCheckFrequency time.Duration
	WatchFiles         bool // inotify beside the periodic scan

	RuntimeEndpoint string
	ImageEndpoint   string

	// What this node has to give; zero: all that the machine or its cgroup has.
	NodeCPU, NodeMemory resource.Quantity
	MaxPods             int32
	PodPidsLimit        int64
	KubeReserved        corev1.ResourceList
	SystemReserved      corev1.ResourceList
	EvictionMemory      resource.Quantity // evictionHard memory.available

	CgroupRoot    string
	CgroupDriver  string
	CgroupsPerQOS bool
	FailCgroupV1  bool
	CPUCFSQuota   bool

	ClusterDNS     []string
	ClusterDomain  string
	ResolvConf     string
	SeccompDefault bool

	SerializeImagePulls   bool
	MaxParallelPulls      int32
	CrashLoopMax          time.Duration
	ContainerLogMaxSize   int64
	ContainerLogMaxFiles  int
	AllowedUnsafeSysctls  []string
	StatusUpdateFrequency time.Duration
	StatusReportFrequency time.Duration
	LeaseDuration         time.Duration

	// Hollow says that the runtime runs nothing: no probe is made, all pass at
	// once.
	Hollow bool

	Server ServerConfig
	// Source is the KubeletConfiguration that this was made from, for /configz.
	Source *kubeletv1beta1.KubeletConfiguration
}

// ServerConfig is the node API's part of the configuration.
type ServerConfig struct {
	Enabled                 bool
	Address                 string
	Port                    int32
	CertFile, KeyFile       string // empty: self-signed
	ClientCAFile            string
	WebhookAuthentication   bool
	AuthorizationMode       string
	HealthzAddress          string
	HealthzPort             int32
	StreamingIdleTimeout    time.Duration
	EnableDebuggingHandlers bool
}

// DefaultConfiguration is upstream's defaults for the fields that we act on.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/apis/config/v1beta1/defaults.go.
func DefaultConfiguration() *kubeletv1beta1.KubeletConfiguration {
	yes, no := true, false
	c := &kubeletv1beta1.KubeletConfiguration{
		EnableServer:              &yes,
		Address:                   "0.0.0.0",
		Port:                      10250,
		HealthzBindAddress:        "127.0.0.1",
		ClusterDomain:             "",
		CgroupDriver:              "cgroupfs",
		CgroupsPerQOS:             &yes,
		MaxPods:                   110,
		SerializeImagePulls:       &yes,
		CPUCFSQuota:               &yes,
		ContainerLogMaxSize:       "10Mi",
		RegisterNode:              &yes,
		FailSwapOn:                &no, // upstream: true; a machine's swap is none of our business
		FailCgroupV1:              &no, // upstream: true; we run on v1, with a warning
		PodLogsDir:                "/var/log/pods",
		ContainerRuntimeEndpoint:  "unix:///run/tinykube/cri.sock",
		EvictionHard:              map[string]string{"memory.available": "100Mi", "nodefs.available": "10%", "nodefs.inodesFree": "5%", "imagefs.available": "15%"},
		EnableDebuggingHandlers:   &yes,
		NodeLeaseDurationSeconds:  40,
		NodeStatusUpdateFrequency: metav1.Duration{Duration: 10 * time.Second},
		NodeStatusReportFrequency: metav1.Duration{Duration: 5 * time.Minute},
		FileCheckFrequency:        metav1.Duration{Duration: 20 * time.Second},
	}
	c.Authentication.Anonymous.Enabled = &no
	c.Authentication.Webhook.Enabled = &yes
	c.Authorization.Mode = kubeletv1beta1.KubeletAuthorizationModeWebhook
	c.StreamingConnectionIdleTimeout = metav1.Duration{Duration: 4 * time.Hour}
	resolver, healthz, files, pids := "/etc/resolv.conf", int32(10248), int32(5), int64(-1)
	c.ResolverConfig, c.HealthzPort, c.ContainerLogMaxFiles, c.PodPidsLimit = &resolver, &healthz, &files, &pids
	return c
}

// LoadConfiguration reads a KubeletConfiguration file over the defaults. It is
// as strict as upstream: an unknown or repeated field is an error, since a
// misspelt limit that silently does not apply is worse than no start.
func LoadConfiguration(path string) (*kubeletv1beta1.KubeletConfiguration, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if raw, err = yaml.YAMLToJSONStrict(raw); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	defaults := DefaultConfiguration()
	file := &kubeletv1beta1.KubeletConfiguration{}
	strict, err := kjson.UnmarshalStrict(raw, file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(strict) > 0 {
		return nil, fmt.Errorf("%s: %w", path, strict[0])
	}
	if file.Kind != "KubeletConfiguration" || file.APIVersion != kubeletv1beta1.SchemeGroupVersion.String() {
		return nil, fmt.Errorf("%s: it is %s %s, not %s KubeletConfiguration", path, file.APIVersion, file.Kind, kubeletv1beta1.SchemeGroupVersion)
	}
	if _, err := kjson.UnmarshalStrict(raw, defaults); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	// The zero of these means "default", not "never" (kubeadm writes them so).
	base := DefaultConfiguration()
	for _, d := range []struct{ value, otherwise *metav1.Duration }{
		{&defaults.FileCheckFrequency, &base.FileCheckFrequency},
		{&defaults.NodeStatusUpdateFrequency, &base.NodeStatusUpdateFrequency},
		{&defaults.NodeStatusReportFrequency, &base.NodeStatusReportFrequency},
		{&defaults.StreamingConnectionIdleTimeout, &base.StreamingConnectionIdleTimeout},
	} {
		if d.value.Duration == 0 {
			*d.value = *d.otherwise
		}
	}
	defaults.ContainerRuntimeEndpoint = or(defaults.ContainerRuntimeEndpoint, base.ContainerRuntimeEndpoint)
	return defaults, nil
}

// NewConfig turns a KubeletConfiguration into a Config for the node.
func NewConfig(c *kubeletv1beta1.KubeletConfiguration, nodeName, rootDir string) (Config, error) {
	out := Config{
		NodeName: nodeName, RootDir: rootDir, Source: c,
		RegisterNode: isTrue(c.RegisterNode), RegisterWithTaints: c.RegisterWithTaints, ProviderID: c.ProviderID,
		PodLogsDir: c.PodLogsDir, ContainerLogsDir: filepath.Join(filepath.Dir(c.PodLogsDir), "containers"),
		StaticPodPath: c.StaticPodPath, FileCheckFrequency: c.FileCheckFrequency.Duration, WatchFiles: true,
		RuntimeEndpoint: c.ContainerRuntimeEndpoint, ImageEndpoint: or(c.ImageServiceEndpoint, c.ContainerRuntimeEndpoint),
		MaxPods: c.MaxPods, CgroupRoot: or(c.CgroupRoot, "/"), CgroupDriver: c.CgroupDriver,
		CgroupsPerQOS: isTrue(c.CgroupsPerQOS), FailCgroupV1: isTrue(c.FailCgroupV1), CPUCFSQuota: isTrue(c.CPUCFSQuota),
		ClusterDNS: c.ClusterDNS, ClusterDomain: c.ClusterDomain, SeccompDefault: isTrue(c.SeccompDefault),
		SerializeImagePulls: isTrue(c.SerializeImagePulls), AllowedUnsafeSysctls: c.AllowedUnsafeSysctls,
		ContainerLogMaxFiles: 5, CrashLoopMax: 5 * time.Minute,
		StatusUpdateFrequency: c.NodeStatusUpdateFrequency.Duration, StatusReportFrequency: c.NodeStatusReportFrequency.Duration,
		LeaseDuration: time.Duration(c.NodeLeaseDurationSeconds) * time.Second,
		Server: ServerConfig{
			Enabled: isTrue(c.EnableServer), Address: c.Address, Port: c.Port, CertFile: c.TLSCertFile, KeyFile: c.TLSPrivateKeyFile,
			ClientCAFile:          c.Authentication.X509.ClientCAFile,
			WebhookAuthentication: isTrue(c.Authentication.Webhook.Enabled), AuthorizationMode: string(c.Authorization.Mode),
			HealthzAddress: c.HealthzBindAddress, StreamingIdleTimeout: c.StreamingConnectionIdleTimeout.Duration,
			EnableDebuggingHandlers: isTrue(c.EnableDebuggingHandlers),
		},
	}
	if isTrue(c.Authentication.Anonymous.Enabled) {
		return out, fmt.Errorf("authentication.anonymous.enabled is refused: this kubelet answers nobody it does not know")
	}
	if mode := c.Authorization.Mode; mode != kubeletv1beta1.KubeletAuthorizationModeWebhook {
		return out, fmt.Errorf("authorization.mode %q is refused: only Webhook is safe", mode)
	}
	if c.ReadOnlyPort != 0 {
		return out, fmt.Errorf("readOnlyPort is refused: there is no port without authentication")
	}
	if isTrue(c.FailSwapOn) {
		if swaps, err := os.ReadFile("/proc/swaps"); err == nil && strings.Count(string(swaps), "\n") > 1 {
			return out, fmt.Errorf("running with swap on is not supported, please disable swap or set failSwapOn to false")
		}
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
		return fmt.Errorf("kubeReserved: %w", err)
	}
	if out.SystemReserved, err = resourceList(c.SystemReserved); err != nil {
		return fmt.Errorf("systemReserved: %w", err)
	}
	if text := c.EvictionHard["memory.available"]; text != "" && !strings.HasSuffix(text, "%") {
		if out.EvictionMemory, err = resource.ParseQuantity(text); err != nil {
			return fmt.Errorf("evictionHard memory.available: %w", err)
		}
	}
	return nil
}

func resourceList(values map[string]string) (corev1.ResourceList, error) {
	out := corev1.ResourceList{}
	for name, text := range values {
		q, err := resource.ParseQuantity(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out[corev1.ResourceName(name)] = q
	}
	return out, nil
}
