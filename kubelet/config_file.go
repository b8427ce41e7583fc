package kubelet

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// DefaultConfiguration is upstream's defaults. Three differ, and say why.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/apis/config/v1beta1/defaults.go.
func DefaultConfiguration() *kubeletv1beta1.KubeletConfiguration {
	after := func(d time.Duration) metav1.Duration { return metav1.Duration{Duration: d} }
	c := &kubeletv1beta1.KubeletConfiguration{
		FailSwapOn:               to(false), // upstream: true; a machine's swap is none of our business
		FailCgroupV1:             to(false), // upstream: true; we run on v1, with a warning
		ContainerRuntimeEndpoint: "unix:///run/tinykube/cri.sock",

		EnableServer: to(true), Address: "0.0.0.0", Port: 10250, EnableDebuggingHandlers: to(true),
		HealthzPort: to[int32](10248), HealthzBindAddress: "127.0.0.1", StreamingConnectionIdleTimeout: after(4 * time.Hour),
		SyncFrequency: after(time.Minute), FileCheckFrequency: after(20 * time.Second), HTTPCheckFrequency: after(20 * time.Second),
		RegisterNode: to(true), NodeLeaseDurationSeconds: 40, NodeStatusUpdateFrequency: after(10 * time.Second),
		NodeStatusReportFrequency: after(5 * time.Minute), NodeStatusMaxImages: to[int32](50),
		RegistryPullQPS: to[int32](5), RegistryBurst: 10, EventRecordQPS: to[int32](50), EventBurst: 100,
		KubeAPIQPS: to[int32](50), KubeAPIBurst: 100, ContentType: "application/vnd.kubernetes.protobuf",
		SerializeImagePulls: to(true), RuntimeRequestTimeout: after(2 * time.Minute),
		ImageMinimumGCAge: after(2 * time.Minute), ImageGCHighThresholdPercent: to[int32](85), ImageGCLowThresholdPercent: to[int32](80),
		ImagePullCredentialsVerificationPolicy: kubeletv1beta1.NeverVerifyPreloadedImages,

		CgroupDriver: "cgroupfs", CgroupsPerQOS: to(true), CPUCFSQuota: to(true), CPUCFSQuotaPeriod: to(after(100 * time.Millisecond)),
		CPUManagerPolicy: "none", CPUManagerReconcilePeriod: after(10 * time.Second),
		MemoryManagerPolicy: kubeletv1beta1.NoneMemoryManagerPolicy, TopologyManagerPolicy: kubeletv1beta1.NoneTopologyManagerPolicy,
		TopologyManagerScope: kubeletv1beta1.ContainerTopologyManagerScope, MemoryThrottlingFactor: to(0.9),
		MaxPods: 110, PodPidsLimit: to[int64](-1), MaxOpenFiles: 1_000_000, OOMScoreAdj: to[int32](-999),
		EnforceNodeAllocatable: []string{"pods"}, LocalStorageCapacityIsolation: to(true), VolumeStatsAggPeriod: after(time.Minute),
		EvictionHard: defaultEvictionHard(), EvictionPressureTransitionPeriod: after(5 * time.Minute), MergeDefaultEvictionSettings: to(false),

		PodLogsDir: "/var/log/pods", ContainerLogMaxSize: "10Mi", ContainerLogMaxFiles: to[int32](5), ContainerLogMaxWorkers: to[int32](1),
		ContainerLogMonitorInterval: to(after(10 * time.Second)),
		ResolverConfig:              to("/etc/resolv.conf"), HairpinMode: kubeletv1beta1.PromiscuousBridge,
		MakeIPTablesUtilChains: to(true), IPTablesMasqueradeBit: to[int32](14), IPTablesDropBit: to[int32](15),
		ConfigMapAndSecretChangeDetectionStrategy: kubeletv1beta1.WatchChangeDetectionStrategy,
		EnableControllerAttachDetach:              to(true), VolumePluginDir: "/usr/libexec/kubernetes/kubelet-plugins/volume/exec/",
		SeccompDefault: to(false), EnableSystemLogHandler: to(true), EnableSystemLogQuery: to(false), EnableProfilingHandler: to(true), EnableDebugFlagsHandler: to(true),
	}
	c.Authentication.Anonymous.Enabled = to(false)
	c.Authentication.Webhook.Enabled, c.Authentication.Webhook.CacheTTL = to(true), after(2*time.Minute)
	c.Authorization.Mode = kubeletv1beta1.KubeletAuthorizationModeWebhook
	c.Authorization.Webhook.CacheAuthorizedTTL = after(5 * time.Minute)
	c.Authorization.Webhook.CacheUnauthorizedTTL = after(30 * time.Second)
	c.MemoryReservationPolicy = kubeletv1beta1.NoneMemoryReservationPolicy
	c.Logging.Format, c.Logging.FlushFrequency.Duration, c.Logging.FlushFrequency.SerializeAsString = "text", after(5*time.Second), true
	c.CrashLoopBackOff.MaxContainerRestartPeriod = to(after(5 * time.Minute))
	return c
}

func to[T any](value T) *T { return &value }

// Upstream: kubernetes@v1.36 pkg/kubelet/eviction/defaults_linux.go.
func defaultEvictionHard() map[string]string {
	return map[string]string{"memory.available": "100Mi", "nodefs.available": "10%", "nodefs.inodesFree": "5%",
		"imagefs.available": "15%", "imagefs.inodesFree": "5%"}
}

// LoadConfiguration reads a KubeletConfiguration file, lays the *.conf files of
// a directory over it in the order of their names, and fills in the defaults.
// Either may be empty. A field that is unknown, or there twice, is a warning and
// no more, as it is upstream: a file may be older or newer than its kubelet.
//
// Upstream: kubernetes@v1.36 cmd/kubelet/app/server.go loadConfigFile, mergeKubeletConfigurations.
func LoadConfiguration(file, dropIns string) (c *kubeletv1beta1.KubeletConfiguration, warnings []string, err error) {
	var files []string
	if file != "" {
		files = append(files, file)
	}
	if dropIns != "" {
		err := filepath.WalkDir(dropIns, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && !entry.IsDir() && filepath.Ext(path) == ".conf" {
				files = append(files, path)
			}
			return err
		})
		if err != nil {
			return nil, nil, fmt.Errorf("failed to merge kubelet configs: failed to walk through kubelet dropin directory %q: %w", dropIns, err)
		}
	}
	all := map[string]any{}
	for _, path := range files {
		one, loose, err := readConfiguration(path)
		if err != nil {
			return nil, nil, fmt.Errorf("failed to load kubelet config file, path: %s, error: failed to load Kubelet config file %s, error %w", path, path, err)
		}
		for _, wrong := range loose {
			warnings = append(warnings, fmt.Sprintf("%s: %v: it is passed over", path, wrong))
		}
		if path == file {
			one = withPaths(one, filepath.Dir(path))
		}
		mergePatch(all, one)
	}
	raw, err := json.Marshal(all)
	if err != nil {
		return nil, nil, err
	}
	c = &kubeletv1beta1.KubeletConfiguration{}
	if err := json.Unmarshal(raw, c); err != nil {
		return nil, nil, err
	}
	fillDefaults(c)
	return c, warnings, nil
}

// readConfiguration reads one file and checks it by itself, so that a mistake
// is told with the name of its file. loose are those that do not matter.
func readConfiguration(path string) (values map[string]any, loose []error, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("failed to read kubelet config file %q, error: %w", path, err)
	}
	if len(text) == 0 {
		return nil, nil, fmt.Errorf("kubelet config file %q was empty", path)
	}
	if _, strict := yaml.YAMLToJSONStrict(text); strict != nil {
		loose = append(loose, strict)
	}
	raw, err := yaml.YAMLToJSON(text)
	if err != nil {
		return nil, nil, fmt.Errorf("failed to decode: %w", err)
	}
	c, known := &kubeletv1beta1.KubeletConfiguration{}, kubeletv1beta1.SchemeGroupVersion.String()
	var meta metav1.TypeMeta
	switch err := json.Unmarshal(raw, &meta); {
	case err != nil:
		return nil, nil, fmt.Errorf("failed to decode: couldn't get version/kind; json parse error: %w", err)
	case meta.Kind == "":
		return nil, nil, fmt.Errorf("failed to decode: Object 'Kind' is missing in '%s'", text)
	case meta.APIVersion == "":
		return nil, nil, fmt.Errorf("failed to decode: Object 'apiVersion' is missing in '%s'", text)
	case meta.Kind != "KubeletConfiguration" || meta.APIVersion != known:
		return nil, nil, fmt.Errorf("failed to decode: no kind %q is registered for version %q", meta.Kind, meta.APIVersion)
	}
	unknown, err := kjson.UnmarshalStrict(raw, c)
	if err != nil {
		return nil, nil, fmt.Errorf("failed to decode: %w", err)
	}
	if err := json.Unmarshal(raw, &values); err != nil {
		return nil, nil, err
	}
	return values, append(loose, unknown...), nil
}

// withPaths makes paths that are relative begin at the file's directory.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/apis/config/helpers.go KubeletConfigurationPathRefs.
func withPaths(values map[string]any, dir string) map[string]any {
	for _, name := range []string{"staticPodPath", "tlsCertFile", "tlsPrivateKeyFile", "resolvConf", "podLogsDir"} {
		if path, given := values[name].(string); given && path != "" && !filepath.IsAbs(path) {
			values[name] = filepath.Join(dir, path)
		}
	}
	authentication, _ := values["authentication"].(map[string]any)
	if x509, _ := authentication["x509"].(map[string]any); x509 != nil {
		if path, given := x509["clientCAFile"].(string); given && path != "" && !filepath.IsAbs(path) {
			x509["clientCAFile"] = filepath.Join(dir, path)
		}
	}
	return values
}

// mergePatch lays one document over another. Lists are replaced as a whole.
//
// Spec: RFC 7386 §2.
func mergePatch(into, patch map[string]any) {
	for name, value := range patch {
		switch inner := value.(type) {
		case nil:
			delete(into, name)
		case map[string]any:
			if _, isMap := into[name].(map[string]any); !isMap {
				into[name] = map[string]any{}
			}
			mergePatch(into[name].(map[string]any), inner)
		default:
			into[name] = value
		}
	}
}

// fillDefaults gives every field that says nothing its default. The zero of a
// plain field says nothing: kubeadm writes files full of "0s".
func fillDefaults(c *kubeletv1beta1.KubeletConfiguration) {
	defaults := DefaultConfiguration()
	if c.EvictionHard != nil && isTrue(c.MergeDefaultEvictionSettings) {
		merged := defaultEvictionHard()
		maps.Copy(merged, c.EvictionHard)
		c.EvictionHard = merged
	}
	if c.NodeStatusUpdateFrequency.Duration != 0 && c.NodeStatusReportFrequency.Duration == 0 {
		c.NodeStatusReportFrequency = c.NodeStatusUpdateFrequency // upstream: who sets one means both
	}
	if c.SerializeImagePulls == nil && c.MaxParallelImagePulls != nil && *c.MaxParallelImagePulls > 1 {
		c.SerializeImagePulls = to(false)
	}
	fill(reflect.ValueOf(c).Elem(), reflect.ValueOf(defaults).Elem())
}

func fill(value, otherwise reflect.Value) {
	for i := range value.NumField() {
		field, instead := value.Field(i), otherwise.Field(i)
		switch {
		case field.Kind() == reflect.Struct:
			fill(field, instead)
		case field.CanSet() && field.IsZero(): // quantities have insides of their own
			field.Set(instead)
		}
	}
}
