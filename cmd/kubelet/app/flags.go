package app

import (
	"fmt"
	"reflect"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"

	"tinykube/internal/flags"
)

// Most of a kubelet's flags are another way to write a field of
// KubeletConfiguration, and win over the file. So there is one table, and what
// a field's type is says how its flag is read. Whether a value has an effect,
// none, or must be refused is judged in one place, for file and flag alike:
// kubelet.NewConfig.
//
// Upstream: kubernetes@v1.36 cmd/kubelet/app/options/options.go AddKubeletConfigFlags.
var configFlags = map[string]string{
	"address": "Address", "port": "Port", "read-only-port": "ReadOnlyPort", "enable-server": "EnableServer",
	"enable-debugging-handlers": "EnableDebuggingHandlers", "contention-profiling": "EnableContentionProfiling",
	"healthz-port": "HealthzPort", "healthz-bind-address": "HealthzBindAddress",
	"streaming-connection-idle-timeout": "StreamingConnectionIdleTimeout",
	"anonymous-auth":                    "Authentication.Anonymous.Enabled", "client-ca-file": "Authentication.X509.ClientCAFile",
	"authentication-token-webhook":                 "Authentication.Webhook.Enabled",
	"authentication-token-webhook-cache-ttl":       "Authentication.Webhook.CacheTTL",
	"authorization-mode":                           "Authorization.Mode",
	"authorization-webhook-cache-authorized-ttl":   "Authorization.Webhook.CacheAuthorizedTTL",
	"authorization-webhook-cache-unauthorized-ttl": "Authorization.Webhook.CacheUnauthorizedTTL",
	"tls-cert-file":                                "TLSCertFile", "tls-private-key-file": "TLSPrivateKeyFile",
	"tls-cipher-suites": "TLSCipherSuites", "tls-min-version": "TLSMinVersion",
	"rotate-certificates": "RotateCertificates", "rotate-server-certificates": "ServerTLSBootstrap",

	"pod-manifest-path": "StaticPodPath", "file-check-frequency": "FileCheckFrequency",
	"manifest-url": "StaticPodURL", "manifest-url-header": "StaticPodURLHeader", "http-check-frequency": "HTTPCheckFrequency",
	"container-runtime-endpoint": "ContainerRuntimeEndpoint", "image-service-endpoint": "ImageServiceEndpoint",
	"runtime-request-timeout": "RuntimeRequestTimeout", "sync-frequency": "SyncFrequency",
	"serialize-image-pulls": "SerializeImagePulls", "registry-qps": "RegistryPullQPS", "registry-burst": "RegistryBurst",
	"container-log-max-files": "ContainerLogMaxFiles", "container-log-max-size": "ContainerLogMaxSize",
	"image-gc-high-threshold": "ImageGCHighThresholdPercent", "image-gc-low-threshold": "ImageGCLowThresholdPercent",
	"minimum-image-ttl-duration": "ImageMinimumGCAge", "node-status-max-images": "NodeStatusMaxImages",

	"register-node": "RegisterNode", "register-with-taints": "RegisterWithTaints",
	"node-status-update-frequency": "NodeStatusUpdateFrequency", "max-pods": "MaxPods", "pods-per-core": "PodsPerCore",
	"kube-api-content-type": "ContentType", "kube-api-qps": "KubeAPIQPS", "kube-api-burst": "KubeAPIBurst",
	"event-qps": "EventRecordQPS", "event-burst": "EventBurst",
	"cluster-dns": "ClusterDNS", "cluster-domain": "ClusterDomain", "resolv-conf": "ResolverConfig",
	"pod-cidr": "PodCIDR", "hairpin-mode": "HairpinMode", "make-iptables-util-chains": "MakeIPTablesUtilChains",

	"cgroup-root": "CgroupRoot", "cgroup-driver": "CgroupDriver", "cgroups-per-qos": "CgroupsPerQOS", "fail-cgroupv1": "FailCgroupV1",
	"kubelet-cgroups": "KubeletCgroups", "system-cgroups": "SystemCgroups", "cpu-cfs-quota": "CPUCFSQuota",
	"cpu-cfs-quota-period": "CPUCFSQuotaPeriod", "pod-max-pids": "PodPidsLimit", "oom-score-adj": "OOMScoreAdj",
	"max-open-files": "MaxOpenFiles", "fail-swap-on": "FailSwapOn", "protect-kernel-defaults": "ProtectKernelDefaults",
	"kernel-memcg-notification": "KernelMemcgNotification", "seccomp-default": "SeccompDefault",
	"allowed-unsafe-sysctls": "AllowedUnsafeSysctls",
	"system-reserved":        "SystemReserved", "kube-reserved": "KubeReserved", "system-reserved-cgroup": "SystemReservedCgroup",
	"kube-reserved-cgroup": "KubeReservedCgroup", "enforce-node-allocatable": "EnforceNodeAllocatable",
	"qos-reserved": "QOSReserved", "reserved-cpus": "ReservedSystemCPUs",
	"cpu-manager-policy": "CPUManagerPolicy", "cpu-manager-policy-options": "CPUManagerPolicyOptions",
	"cpu-manager-reconcile-period": "CPUManagerReconcilePeriod", "memory-manager-policy": "MemoryManagerPolicy",
	"topology-manager-policy": "TopologyManagerPolicy", "topology-manager-scope": "TopologyManagerScope",
	"topology-manager-policy-options": "TopologyManagerPolicyOptions",
	"eviction-hard":                   "EvictionHard", "eviction-soft": "EvictionSoft", "eviction-soft-grace-period": "EvictionSoftGracePeriod",
	"eviction-minimum-reclaim": "EvictionMinimumReclaim", "eviction-max-pod-grace-period": "EvictionMaxPodGracePeriod",
	"eviction-pressure-transition-period": "EvictionPressureTransitionPeriod",
	"local-storage-capacity-isolation":    "LocalStorageCapacityIsolation", "volume-stats-agg-period": "VolumeStatsAggPeriod",
	"enable-controller-attach-detach": "EnableControllerAttachDetach", "volume-plugin-dir": "VolumePluginDir",
	"feature-gates": "FeatureGates", "runonce": "RunOnce",
}

// addConfigFlags declares the table's flags.
func addConfigFlags(fs *pflag.FlagSet) {
	var probe kubeletv1beta1.KubeletConfiguration
	for name, path := range configFlags {
		field, json := fieldOf(&probe, path)
		fs.String(name, "", "overrides "+json+" of --config")
		if kind := field.Type().String(); kind == "bool" || kind == "*bool" {
			fs.Lookup(name).NoOptDefVal = "true"
		}
	}
}

// addOtherFlags declares what is neither: refused, or of no use here.
func addOtherFlags(fs *pflag.FlagSet) {
	for name, why := range map[string]string{
		"image-credential-provider-config":  "no program would be asked for credentials of registries",
		"image-credential-provider-bin-dir": "no program would be asked for credentials of registries",
		"experimental-mounter-path":         "another mount program would not be used",
		"lock-file":                         "a second kubelet would not be kept out",
		"exit-on-lock-contention":           "a second kubelet would not be kept out",
		"reserved-memory":                   "memory is not bound to NUMA nodes",
	} {
		flags.Refuse(fs, name, why)
	}
	flags.AcceptIgnored(fs, "runtime-cgroups", "minimum-container-ttl-duration", "maximum-dead-containers",
		"maximum-dead-containers-per-container", "pod-infra-container-image", "container-runtime",
		// cadvisor's, which is not here.
		"application-metrics-count-limit", "boot-id-file", "container-hints", "containerd", "containerd-namespace",
		"event-storage-age-limit", "event-storage-event-limit", "global-housekeeping-interval", "housekeeping-interval",
		"machine-id-file", "max-housekeeping-interval", "storage-driver-buffer-duration", "storage-driver-db", "storage-driver-host",
		"storage-driver-password", "storage-driver-table", "storage-driver-user")
	flags.AcceptIgnoredBool(fs, "experimental-allocatable-ignore-eviction", "enable-load-reader", "log-cadvisor-usage", "storage-driver-secure")
}

// applyConfigFlags writes the flags that were given over the configuration.
func applyConfigFlags(fs *pflag.FlagSet, c *kubeletv1beta1.KubeletConfiguration) error {
	var names []string
	for name := range configFlags {
		names = append(names, name)
	}
	sort.Strings(names) // so that the same mistake is told each time
	for _, name := range names {
		set := fs.Lookup(name)
		if !set.Changed {
			continue
		}
		field, _ := fieldOf(c, configFlags[name])
		if err := parseInto(field, set.Value.String()); err != nil {
			return fmt.Errorf("--%s=%s: %w", name, set.Value, err)
		}
	}
	return nil
}

// fieldOf finds a field by its path of Go names, and what JSON calls it.
func fieldOf(c *kubeletv1beta1.KubeletConfiguration, path string) (field reflect.Value, json string) {
	field = reflect.ValueOf(c).Elem()
	for _, name := range strings.Split(path, ".") {
		description, _ := field.Type().FieldByName(name) // a test knows that they all exist
		part, _, _ := strings.Cut(description.Tag.Get("json"), ",")
		json += "." + part
		field = field.FieldByIndex(description.Index)
	}
	return field, strings.TrimPrefix(json, ".")
}

// parseInto reads a flag's text as its field's type.
func parseInto(field reflect.Value, text string) error {
	if field.Kind() == reflect.Pointer {
		field.Set(reflect.New(field.Type().Elem()))
		field = field.Elem()
	}
	var err error
	switch into := field.Addr().Interface().(type) {
	case *metav1.Duration:
		into.Duration, err = time.ParseDuration(text)
	case *[]string:
		*into = strings.Split(text, ",")
	case *map[string]string:
		*into, err = parseMap(text)
	case *map[string]bool:
		*into = map[string]bool{}
		var pairs map[string]string
		pairs, err = parseMap(text)
		for name, value := range pairs {
			on, wrong := strconv.ParseBool(value)
			if wrong != nil {
				return wrong
			}
			(*into)[name] = on
		}
	case *map[string][]string:
		*into = map[string][]string{}
		for _, pair := range strings.Split(text, ",") {
			name, value, found := strings.Cut(pair, ":")
			if !found {
				return fmt.Errorf("%q is not name:value", pair)
			}
			(*into)[name] = append((*into)[name], value)
		}
	case *[]corev1.Taint:
		*into, err = parseTaints(text)
	default:
		err = parseScalar(field, text)
	}
	return err
}

func parseScalar(field reflect.Value, text string) error {
	switch field.Kind() {
	case reflect.String:
		field.SetString(text)
		return nil
	case reflect.Bool:
		on, err := strconv.ParseBool(text)
		field.SetBool(on)
		return err
	}
	n, err := strconv.ParseInt(text, 10, field.Type().Bits())
	field.SetInt(n)
	return err
}

// parseMap reads name=value,… and, for thresholds, name<value,…
func parseMap(text string) (map[string]string, error) {
	out := map[string]string{}
	for _, pair := range strings.Split(text, ",") {
		at := strings.IndexAny(pair, "=<")
		switch {
		case pair == "":
		case at < 0:
			return nil, fmt.Errorf("%q is not name=value", pair)
		default:
			out[strings.TrimSpace(pair[:at])] = strings.TrimSpace(pair[at+1:])
		}
	}
	return out, nil
}

func parseTaints(text string) ([]corev1.Taint, error) {
	var out []corev1.Taint
	for _, one := range strings.Split(text, ",") {
		if one == "" {
			continue
		}
		left, effect, found := strings.Cut(one, ":")
		key, value, _ := strings.Cut(left, "=")
		if !found || key == "" {
			return nil, fmt.Errorf("%q is not key=value:effect", one)
		}
		out = append(out, corev1.Taint{Key: key, Value: value, Effect: corev1.TaintEffect(effect)})
	}
	return out, nil
}
