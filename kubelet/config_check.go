package kubelet

import (
	"crypto/tls"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"

	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
)

// A configuration may ask for more than this kubelet does. What only tunes is
// accepted with a warning; what promises a separation or a protection that
// would not be kept is refused, since starting anyway would be a lie.

// refusedSettings are the promises that are not kept, each with its reason.
var refusedSettings = []struct {
	asked func(*kubeletv1beta1.KubeletConfiguration) bool
	text  string
}{
	{func(c *kubeletv1beta1.KubeletConfiguration) bool {
		return c.CPUManagerPolicy != "none" || c.ReservedSystemCPUs != ""
	},
		"cpuManagerPolicy and reservedSystemCPUs are refused: this kubelet gives no container a CPU of its own"},
	{func(c *kubeletv1beta1.KubeletConfiguration) bool {
		return c.MemoryManagerPolicy != kubeletv1beta1.NoneMemoryManagerPolicy || len(c.ReservedMemory) > 0
	}, "memoryManagerPolicy and reservedMemory are refused: memory is not bound to NUMA nodes"},
	{func(c *kubeletv1beta1.KubeletConfiguration) bool {
		return c.TopologyManagerPolicy != kubeletv1beta1.NoneTopologyManagerPolicy
	}, "topologyManagerPolicy is refused: devices and CPUs are not aligned"},
	{func(c *kubeletv1beta1.KubeletConfiguration) bool { return len(c.QOSReserved) > 0 },
		"qosReserved is refused: no class gets memory reserved"},
	{func(c *kubeletv1beta1.KubeletConfiguration) bool {
		return c.MemorySwap.SwapBehavior != "" && c.MemorySwap.SwapBehavior != "NoSwap"
	}, "memorySwap.swapBehavior is refused unless it is NoSwap: containers are not given swap"},
	{func(c *kubeletv1beta1.KubeletConfiguration) bool { return isTrue(c.EnableSystemLogQuery) },
		"enableSystemLogQuery is refused: the node's own logs are not served"},
	{func(c *kubeletv1beta1.KubeletConfiguration) bool { return !isTrue(c.EnableControllerAttachDetach) },
		"enableControllerAttachDetach is refused unless it is true: this kubelet attaches no volume itself"},
	{func(c *kubeletv1beta1.KubeletConfiguration) bool { return len(c.TLSCurvePreferences) > 0 },
		"tlsCurvePreferences is refused: Go's order of curves is used"},
	{func(c *kubeletv1beta1.KubeletConfiguration) bool {
		return slices.ContainsFunc(c.EnforceNodeAllocatable, func(s string) bool { return s != "pods" && s != "none" })
	}, "enforceNodeAllocatable is refused for anything but pods: what is reserved is kept from pods, but the system's own groups are not bounded"},
}

// openSettings let in callers whom nobody knows. They mean what they mean
// upstream, and are never the default.
var openSettings = []struct {
	asked func(*kubeletv1beta1.KubeletConfiguration) bool
	text  string
}{
	{func(c *kubeletv1beta1.KubeletConfiguration) bool { return isTrue(c.Authentication.Anonymous.Enabled) },
		"authentication.anonymous.enabled: who shows no credentials is let in as system:anonymous"},
	{func(c *kubeletv1beta1.KubeletConfiguration) bool {
		return c.Authorization.Mode == kubeletv1beta1.KubeletAuthorizationModeAlwaysAllow
	}, "authorization.mode is AlwaysAllow: whoever is let in may run commands in every container of this node"},
	{func(c *kubeletv1beta1.KubeletConfiguration) bool { return c.ReadOnlyPort > 0 },
		"readOnlyPort: whoever reaches it reads the pods of this node, their environment included"},
}

// quietSettings are fields without an effect here. Setting one is no mistake.
var quietSettings = []string{"EnableContentionProfiling", "VolumeStatsAggPeriod", "KubeletCgroups", "SystemCgroups", "CPUManagerPolicyOptions",
	"CPUManagerReconcilePeriod", "TopologyManagerScope", "TopologyManagerPolicyOptions", "HairpinMode", "KubeAPIQPS", "KubeAPIBurst", "ContentType",
	"MakeIPTablesUtilChains", "IPTablesMasqueradeBit", "IPTablesDropBit", "ContainerLogMaxWorkers", "ConfigMapAndSecretChangeDetectionStrategy",
	"VolumePluginDir", "KernelMemcgNotification", "MemoryThrottlingFactor", "MemoryReservationPolicy", "Tracing", "UserNamespaces",
	"SystemReservedCgroup", "KubeReservedCgroup", "ShowHiddenMetricsForVersion",
	"StreamingConnectionIdleTimeout", "PodCIDR", "EnableDebugFlagsHandler"}

// checkConfiguration refuses what must be refused and returns the warnings.
func checkConfiguration(c *kubeletv1beta1.KubeletConfiguration) (warnings []string, err error) {
	open, warnings, err := newGates(c.FeatureGates)
	if err != nil {
		return nil, fmt.Errorf("failed to set feature gates from initial flags-based config: %w", err)
	}
	if err := validate(c, open); err != nil {
		return nil, fmt.Errorf("failed to validate kubelet configuration, error: %w", err)
	}
	if mode := c.Authorization.Mode; mode != kubeletv1beta1.KubeletAuthorizationModeWebhook && mode != kubeletv1beta1.KubeletAuthorizationModeAlwaysAllow {
		return nil, fmt.Errorf("unknown authorization mode %s", mode)
	}
	for _, row := range refusedSettings {
		if row.asked(c) {
			return nil, fmt.Errorf("%s", row.text)
		}
	}
	if isTrue(c.FailSwapOn) {
		if swaps, err := os.ReadFile("/proc/swaps"); err == nil && strings.Count(string(swaps), "\n") > 1 {
			return nil, fmt.Errorf("running with swap on is not supported, please disable swap or set failSwapOn to false")
		}
	}
	if c.ProtectKernelDefaults {
		if err := checkKernel(); err != nil {
			return nil, err
		}
	}
	for _, row := range openSettings {
		if row.asked(c) {
			warnings = append(warnings, row.text)
		}
	}
	given, defaults := reflect.ValueOf(c).Elem(), reflect.ValueOf(DefaultConfiguration()).Elem()
	for _, name := range quietSettings {
		field, _ := given.Type().FieldByName(name) // a test knows that they all exist
		if !reflect.DeepEqual(given.FieldByName(name).Interface(), defaults.FieldByName(name).Interface()) {
			json, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			warnings = append(warnings, json+" is accepted and has no effect")
		}
	}
	return warnings, nil
}

// tlsSettings reads the names of TLS versions and ciphers, as Go calls them.
func tlsSettings(c *kubeletv1beta1.KubeletConfiguration) (version uint16, suites []uint16, err error) {
	versions := map[string]uint16{"": tls.VersionTLS12, "VersionTLS10": tls.VersionTLS10, "VersionTLS11": tls.VersionTLS11,
		"VersionTLS12": tls.VersionTLS12, "VersionTLS13": tls.VersionTLS13}
	version, known := versions[c.TLSMinVersion]
	if !known {
		return 0, nil, fmt.Errorf("unknown tls version %q", c.TLSMinVersion)
	}
	all := append(tls.CipherSuites(), tls.InsecureCipherSuites()...)
	for _, name := range c.TLSCipherSuites {
		i := slices.IndexFunc(all, func(s *tls.CipherSuite) bool { return s.Name == name })
		if i < 0 {
			return 0, nil, fmt.Errorf("Cipher suite %s not supported or doesn't exist", name)
		}
		suites = append(suites, all[i].ID)
	}
	return version, suites, nil
}

// checkKernel holds the kernel's settings against those that a kubelet wants.
// Ours never changes them, so without protectKernelDefaults it does not look.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/cm/container_manager_linux.go setupKernelTunables.
func checkKernel() error {
	for _, want := range []struct {
		name  string
		value int64
	}{{"vm/overcommit_memory", 1}, {"vm/panic_on_oom", 0}, {"kernel/panic", 10}, {"kernel/panic_on_oops", 1},
		{"kernel/keys/root_maxkeys", 1_000_000}, {"kernel/keys/root_maxbytes", 25_000_000}} {
		is, err := readNumber("/proc/sys/" + want.name)
		if err != nil {
			return fmt.Errorf("protectKernelDefaults: %w", err)
		}
		if is != want.value {
			return fmt.Errorf("invalid kernel flag: %s, expected value: %d, actual value: %d", want.name, want.value, is)
		}
	}
	return nil
}
