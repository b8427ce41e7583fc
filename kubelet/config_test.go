package kubelet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
	"sigs.k8s.io/yaml"

	"tinykube/internal/reference"
)

func TestRealStaticPodManifests(t *testing.T) {
	dir := reference.Path(t, "manifests/kubeadm")
	uids := map[string]bool{}
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
		pod, err := readManifest(filepath.Join(dir, name+".yaml"), "node-0")
		if err != nil {
			t.Fatal(err)
		}
		again, err := readManifest(filepath.Join(dir, name+".yaml"), "node-0")
		if err != nil || again.UID != pod.UID {
			t.Errorf("%s: the UID is not stable: %s, %s", name, pod.UID, again.UID)
		}
		uids[string(pod.UID)] = true
		if pod.Name != name+"-node-0" || pod.Namespace != "kube-system" || pod.Annotations[annotationConfigHash] != string(pod.UID) || len(pod.UID) != 32 {
			t.Errorf("%s: %s/%s %v", name, pod.Namespace, pod.Name, pod.Annotations)
		}
		if pod.Spec.NodeName != "node-0" || pod.Spec.RestartPolicy != corev1.RestartPolicyAlways || !isStatic(pod) ||
			!slices.Contains(pod.Spec.Tolerations, corev1.Toleration{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}) {
			t.Errorf("%s: %+v", name, pod.Spec)
		}
	}
	if len(uids) != 4 {
		t.Errorf("UIDs are not unique: %v", uids)
	}
}

func TestManifestsThatAreRefused(t *testing.T) {
	for text, want := range map[string]string{
		"": "not v1 Pod",
		"apiVersion: v1\nkind: Service\nmetadata: {name: x}":                    "not v1 Pod",
		"apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {}":              "needs metadata.name and spec.containers",
		"apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: 7}": "cannot unmarshal",
		"a: *b": "unknown anchor",
	} {
		if _, err := parseStaticPod([]byte(text), sourceFile, "/x.yaml", "n"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// A static pod must start without an API server.
func TestStaticPodReferences(t *testing.T) {
	const none = ""
	for spec, kind := range map[string]string{
		"serviceAccountName: a":                                                          "serviceaccounts",
		"serviceAccount: a":                                                              "serviceaccounts",
		"imagePullSecrets: [{name: a}]":                                                  "secrets",
		"volumes: [{name: v, secret: {secretName: s}}]":                                  "secrets",
		"volumes: [{name: v, configMap: {name: s}}]":                                     "configmaps",
		"volumes: [{name: v, persistentVolumeClaim: {claimName: s}}]":                    "persistentvolumeclaims",
		"volumes: [{name: v, csi: {driver: d.example}}]":                                 "csidrivers (via CSI volumes)",
		"volumes: [{name: v, projected: {sources: [{serviceAccountToken: {path: t}}]}}]": "serviceaccounts (via projected volumes)",
		"volumes: [{name: v, projected: {sources: [{configMap: {name: c}}]}}]":           "configmaps",
		"volumes: [{name: v, projected: {sources: [{downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}]}}]": none,
		"resourceClaims: [{name: c, resourceClaimName: d}]":                                                                          "resourceclaims",
		"initContainers: [{name: i, image: b, envFrom: [{configMapRef: {name: c}}]}]":                                                "configmaps",
		"initContainers: [{name: i, image: b, env: [{name: E, valueFrom: {secretKeyRef: {name: c, key: k}}}]}]":                      "secrets",
	} {
		text := "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec:\n  containers: [{name: a, image: b}]\n  " + spec
		_, err := parseStaticPod([]byte(text), sourceFile, "/x.yaml", "n")
		if kind == none && err != nil || kind != none && (err == nil || err.Error() != "static pods may not reference "+kind) {
			t.Errorf("%s: %v, want %q", spec, err, kind)
		}
	}
}

// TestManifestDirectoryFullOfTraps must end, and find the one pod in it.
func TestManifestDirectoryFullOfTraps(t *testing.T) {
	dir := t.TempDir()
	bomb := "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
	for i := range 20 {
		bomb += fmt.Sprintf("a%d: &a%[1]d [%s]\n", i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i), 10), ", "))
	}
	pod := "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: a, image: b}]}\n"
	binary, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"good.yaml": pod, ".hidden.yaml": pod, ".good.yaml.swp": pod, "broken.yaml": "{", "binary.yaml": string(binary[:1<<20]), "big.yaml": strings.Repeat("#", maxManifestBytes+10),
		"deep.yaml": strings.Repeat("[", 1<<20), "deeper.yaml": "a: " + strings.Repeat(`{"a":`, 9000) + "1" + strings.Repeat("}", 9000), "bomb.yaml": bomb,
		"names.yaml": strings.Replace(pod, "name: a,", "name: ../../a,", 1), "uid.yaml": strings.Replace(pod, "name: x", "name: x, uid: ../../x", 1),
		"unmasked.yaml": strings.Replace(pod, "image: b", "image: b, securityContext: {procMount: Unmasked}", 1)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(dir, "fifo.yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	socket, err := net.Listen("unix", filepath.Join(dir, "socket.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	for from, to := range map[string]string{"loop": "loop", "ping": "pong", "pong": "ping", "self": ".", "device": "/dev/zero", "dangling": "/nowhere"} {
		if err := os.Symlink(to, filepath.Join(dir, from)); err != nil {
			t.Fatal(err)
		}
	}
	var said bytes.Buffer
	if err := os.Mkdir(filepath.Join(dir, "folder.yaml"), 0o700); err != nil {
		t.Fatal(err)
	}
	s := &staticPods{path: dir, nodeName: "n", log: slog.New(slog.NewTextHandler(&said, nil))}
	if !s.scan() || s.scan() {
		t.Error("the first scan changes something, the second does not")
	}
	for _, name := range []string{"broken.yaml", "binary.yaml", "big.yaml", "deep.yaml", "deeper.yaml", "bomb.yaml", "names.yaml", "uid.yaml", "unmasked.yaml", "fifo.yaml", "socket.yaml", "loop", "ping", "device", "dangling"} {
		if n := strings.Count(said.String(), "/"+name+" err="); n != 1 {
			t.Errorf("%s is complained of %d times", name, n)
		}
	}
	pods, read := s.list()
	if !read || len(pods) != 1 || pods[0].Name != "x-n" {
		t.Errorf("pods: %v", pods)
	}
	// A good file that breaks keeps its pod; one that is touched is the same.
	if err := os.WriteFile(filepath.Join(dir, "good.yaml"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s.scan() {
		t.Error("a broken file ended its pod")
	}
	if err := os.WriteFile(filepath.Join(dir, "good.yaml"), []byte(pod), 0o600); err != nil {
		t.Fatal(err)
	}
	if s.scan() {
		t.Error("a healed file changed its pod")
	}
	// One put in its place is read, though it is as long and as old.
	good, other := filepath.Join(dir, "good.yaml"), filepath.Join(dir, ".other")
	info, err := os.Stat(good)
	if err == nil {
		err = errors.Join(os.WriteFile(other, []byte(strings.Replace(pod, "image: b", "image: c", 1)), 0o600), os.Chtimes(other, info.ModTime(), info.ModTime()), os.Rename(other, good))
	}
	if err != nil {
		t.Fatal(err)
	}
	changed := s.scan()
	if pods, _ := s.list(); !changed || len(pods) != 1 || pods[0].Spec.Containers[0].Image != "c" {
		t.Errorf("a file that was replaced is not read: %v", pods)
	}
}

func TestRealConfigurations(t *testing.T) {
	c, _, err := LoadConfiguration(reference.Path(t, "manifests/hard-way/kubelet-config.yaml"), "")
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := NewConfig(c, "node-0", "/var/lib/kubelet")
	if err != nil {
		t.Fatal(err)
	}
	if cfg.MaxPods != 16 || cfg.CgroupDriver != "systemd" || cfg.Server.CertFile != "/var/lib/kubelet/kubelet.crt" || cfg.RuntimeEndpoint != "unix:///var/run/containerd/containerd.sock" {
		t.Errorf("hard way: %+v", cfg)
	}
	raw, err := os.ReadFile(reference.Path(t, "manifests/kubeadm/component-config-defaults.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, document := range strings.Split(string(raw), "\n---\n") {
		var meta struct{ Kind string }
		if yaml.Unmarshal([]byte(document), &meta) != nil || meta.Kind != "KubeletConfiguration" {
			continue
		}
		path := filepath.Join(t.TempDir(), "config.yaml")
		if err := os.WriteFile(path, []byte(document), 0o600); err != nil {
			t.Fatal(err)
		}
		if c, _, err = LoadConfiguration(path, ""); err != nil {
			t.Fatal(err)
		}
		if cfg, err = NewConfig(c, "node-0", "/var/lib/kubelet"); err != nil {
			t.Fatal(err)
		}
		// kubeadm writes zeros for what it leaves to the kubelet.
		if cfg.FileCheckFrequency != 20*time.Second || cfg.StatusUpdateFrequency != 10*time.Second || cfg.StaticPodPath != "/etc/kubernetes/manifests" ||
			cfg.ClusterDNS[0] != "10.96.0.10" || cfg.MaxPods != 110 || cfg.RuntimeEndpoint == "" || cfg.Server.HealthzPort != 10248 {
			t.Errorf("kubeadm: %+v", cfg)
		}
	}
}

const configHead = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"

// configOf reads a configuration as the command does.
func configOf(t *testing.T, text string) (Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, loose, err := LoadConfiguration(path, "")
	if err != nil {
		return Config{}, err
	}
	cfg, err := NewConfig(c, "n", "/x")
	cfg.Warnings = append(loose, cfg.Warnings...)
	return cfg, err
}

// TestConfigurationsThatAreRefused holds our words against upstream's.
func TestConfigurationsThatAreRefused(t *testing.T) {
	for text, want := range map[string]string{
		configHead + "maxPods: many\n":                                       "cannot unmarshal string into Go struct field KubeletConfiguration.maxPods of type int32",
		"apiVersion: v1\nkind: Pod\n":                                        `no kind "Pod" is registered for version "v1"`,
		"apiVersion: kubelet.config.k8s.io/v1\nkind: KubeletConfiguration\n": `no kind "KubeletConfiguration" is registered for version "kubelet.config.k8s.io/v1"`,
		"kind: KubeletConfiguration\n":                                       "Object 'apiVersion' is missing",
		configHead + "systemReserved: {memory: lots}\n":                      `--system-reserved value failed to parse: failed to parse quantity "lots" for "memory" resource`,
		configHead + "kubeReserved: {gpu: \"1\"}\n":                          `cannot reserve "gpu" resource`,
		configHead + "kubeReserved: {cpu: \"-1\"}\n":                         `resource quantity for "cpu" cannot be negative: -1`,
		configHead + "authorization: {mode: RBAC}\n":                         "unknown authorization mode RBAC",
		configHead + "featureGates: {NoSuchGate: true}\n":                    "unrecognized feature gate: NoSuchGate",
		configHead + "featureGates: {NodeSwap: false}\n":                     "cannot set feature gate NodeSwap to false, feature is locked to true",
		configHead + "featureGates: {GangScheduling: true}\n":                "GangScheduling is enabled, but depends on features that are disabled: [GenericWorkload]",
		configHead + "port: 70000\n":                                         "failed to validate kubelet configuration, error: invalid configuration: port (--port) 70000 must be between 1 and 65535, inclusive",
		configHead + "maxPods: -1\nregistryBurst: -2\n":                      "[invalid configuration: maxPods (--max-pods) -1 must not be a negative number, invalid configuration: registryBurst (--registry-burst) -2 must not be a negative number]",
		configHead + "cpuCFSQuotaPeriod: 2s\n":                               "cpuCFSQuotaPeriod (--cpu-cfs-quota-period) 2s must be between 1ms and 1sec, inclusive",
		configHead + "imageGCLowThresholdPercent: 90\n":                      "imageGCLowThresholdPercent (--image-gc-low-threshold) 90 must be less than imageGCHighThresholdPercent (--image-gc-high-threshold) 85",
		configHead + "shutdownGracePeriodCriticalPods: 5s\n":                 "shutdownGracePeriodCriticalPods 5s must be <= shutdownGracePeriod 0s",
		configHead + "enforceNodeAllocatable: [pods, magic]\n":               `option "magic" specified for enforceNodeAllocatable`,
		configHead + "enforceNodeAllocatable: [kube-reserved]\n":             "kubeReservedCgroup (--kube-reserved-cgroup) must be specified when",
		configHead + "cgroupsPerQOS: false\n":                                "cgroupsPerQOS (--cgroups-per-qos) must be set to true when \"pods\" contained in",
		configHead + "hairpinMode: wide\n":                                   `option "wide" specified for hairpinMode (--hairpin-mode)`,
		configHead + "containerLogMaxFiles: 1\n":                             "containerLogMaxFiles must be greater than 1",
		configHead + "podLogsDir: /var/log/../x\n":                           `pod logs path "/var/log/../x" must be normalized`,
		configHead + "registerWithTaints: [{key: a, effect: Never}]\n":       "invalid taint: {a  Never <nil>}",
		configHead + "memorySwap: {swapBehavior: Much}\n":                    `memorySwap.swapBehavior "Much" must be one of: "", "LimitedSwap" or "NoSwap"`,
		configHead + "maxParallelImagePulls: 3\nserializeImagePulls: true\n": "maxParallelImagePulls cannot be larger than 1 unless SerializeImagePulls",
		configHead + "logging: {format: xml}\n":                              `logging.format: Invalid value: "xml": Unsupported log format`,
		configHead + "cpuManagerPolicy: static\n":                            "cpuManagerPolicy",
	} {
		if _, err := configOf(t, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q:\n%v, want\n%q", strings.TrimPrefix(text, configHead), err, want)
		}
	}
}

// TestConfigurationsOfOthers are files as tutorials and distributions have them.
func TestConfigurationsOfOthers(t *testing.T) {
	for name, test := range map[string]struct {
		text     string
		warnings []string // the beginnings of them, in order
		check    func(Config) bool
	}{
		"Running Kubelet in Standalone Mode": {`authentication:
  webhook:
    enabled: false # Do NOT use in production clusters!
authorization:
  mode: AlwaysAllow # Do NOT use in production clusters!
enableServer: false
logging:
  format: text
address: 127.0.0.1 # Restrict access to localhost
readOnlyPort: 10255 # Do NOT use in production clusters!
staticPodPath: /etc/kubernetes/manifests
containerRuntimeEndpoint: unix:///var/run/crio/crio.sock
`, []string{"authorization.mode is AlwaysAllow", "readOnlyPort"}, func(c Config) bool {
			return c.Server.ReadOnlyPort == 10255 && !c.Server.Enabled && c.StaticPodPath == "/etc/kubernetes/manifests"
		}},
		"kind": {`cgroupDriver: systemd
cgroupRoot: /kubelet
failSwapOn: false
imageGCHighThresholdPercent: 100
evictionHard: {imagefs.available: 0%, nodefs.available: 0%, nodefs.inodesFree: 0%}
featureGates: {KubeletInUserNamespace: true}
`, []string{"featureGates: KubeletInUserNamespace=true"}, func(c Config) bool { return c.CgroupRoot == "/kubelet" }},
		"minikube": {`authentication: {x509: {clientCAFile: /var/lib/minikube/certs/ca.crt}}
cgroupDriver: systemd
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
hairpinMode: hairpin-veth
runtimeRequestTimeout: 15m
clusterDomain: cluster.local
imageGCHighThresholdPercent: 100
evictionHard: {nodefs.available: 0%, nodefs.inodesFree: 0%, imagefs.available: 0%}
failSwapOn: false
staticPodPath: /etc/kubernetes/manifests
`, []string{"hairpinMode"}, func(c Config) bool { return c.RuntimeTimeout == 15*time.Minute }},
		"k3s": {`address: 0.0.0.0
allowedUnsafeSysctls: [net.ipv4.ip_forward, net.ipv6.conf.all.forwarding]
authentication:
  anonymous: {enabled: false}
  webhook: {cacheTTL: 2m0s, enabled: true}
  x509: {clientCAFile: /var/lib/rancher/k3s/agent/client-ca.crt}
authorization: {mode: Webhook, webhook: {cacheAuthorizedTTL: 5m0s, cacheUnauthorizedTTL: 30s}}
cgroupDriver: systemd
clusterDNS: [10.43.0.10]
clusterDomain: cluster.local
containerRuntimeEndpoint: unix:///run/k3s/containerd/containerd.sock
cpuManagerReconcilePeriod: 10s
crashLoopBackOff: {}
evictionHard: {imagefs.available: 5%, nodefs.available: 5%}
evictionMinimumReclaim: {imagefs.available: 10%, nodefs.available: 10%}
evictionPressureTransitionPeriod: 5m0s
failSwapOn: false
fileCheckFrequency: 20s
healthzBindAddress: 127.0.0.1
logging: {flushFrequency: 5s, format: text, options: {json: {infoBufferSize: "0"}, text: {infoBufferSize: "0"}}, verbosity: 0}
memorySwap: {}
resolvConf: /etc/resolv.conf
serializeImagePulls: false
shutdownGracePeriod: 0s
staticPodPath: /var/lib/rancher/k3s/agent/pod-manifests
volumeStatsAggPeriod: 1m0s
`, nil, func(c Config) bool { return !c.SerializeImagePulls && c.Server.DeniedTTL == 30*time.Second }},
		"tuned": {`cpuCFSQuotaPeriod: 10ms
registryPullQPS: 20
registryBurst: 40
eventRecordQPS: 0
syncFrequency: 10s
maxPod: 3
maxPods: 3
maxPods: 4
nodeStatusMaxImages: -1
containerLogMonitorInterval: 5s
kubeAPIQPS: 100
featureGates: {PodLogsQuerySplitStreams: true}
authentication: {anonymous: {enabled: true}}
`, []string{"", "", "authentication.anonymous.enabled", "kubeAPIQPS"}, func(c Config) bool {
			return c.MaxPods == 4 && c.CPUPeriod == 10*time.Millisecond && c.PullQPS == 20 && c.PullBurst == 40 && c.EventQPS == 0 && c.SyncFrequency == 10*time.Second &&
				c.MaxNodeImages == -1 && c.LogPeriod == 5*time.Second && c.SplitLogStreams && c.Server.Anonymous
		}},
	} {
		cfg, err := configOf(t, configHead+test.text)
		if err != nil || !test.check(cfg) || len(cfg.Warnings) != len(test.warnings) {
			t.Errorf("%s: %v\n%q\n%+v", name, err, cfg.Warnings, cfg)
			continue
		}
		for i, want := range test.warnings {
			if !strings.HasPrefix(cfg.Warnings[i], want) {
				t.Errorf("%s: warning %q, want %q", name, cfg.Warnings[i], want)
			}
		}
	}
}

// TestEveryFieldIsJudged: a field that nobody has thought of would be read,
// do nothing, and say nothing.
func TestEveryFieldIsJudged(t *testing.T) {
	var code string
	for _, file := range []string{"config.go", "config_check.go", "config_file.go", "eviction_threshold.go", "imagegc.go", "shutdown.go", "../cmd/kubelet/app/app.go"} {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		code += string(raw)
	}
	kind := reflect.TypeFor[kubeletv1beta1.KubeletConfiguration]()
	for i := range kind.NumField() {
		name := kind.Field(i).Name
		if name != "TypeMeta" && name != "RunOnce" && !slices.Contains(quietSettings, name) && !regexp.MustCompile(`\b(c|file)\.`+name+`\b`).MatchString(code) {
			t.Errorf("%s has neither an effect nor a warning", name)
		}
	}
}

func TestAllocatable(t *testing.T) {
	k := &Kubelet{capacity: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("4Gi"), corev1.ResourceCPU: resource.MustParse("2")},
		cfg: Config{KubeReserved: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m")}, SystemReserved: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")},
			Thresholds: []threshold{{signal: memoryAvailable, hard: true, value: amount{absolute: 1 << 30}}}}}
	got := k.allocatable()
	if got.Cpu().String() != "1500m" || got.Memory().String() != "2Gi" {
		t.Errorf("allocatable %v", got)
	}
}

func TestExpand(t *testing.T) {
	env := map[string]string{"A": "1", "EMPTY": "", "B": "$(A)"}
	for in, want := range map[string]string{
		"x$(A)y": "x1y", "$(A)$(A)": "11", "$$(A)": "$(A)", "$$$(A)": "$1", "$(NONE)": "$(NONE)", "$(A": "$(A", "$": "$", "a$": "a$",
		"$A": "$A", "$(EMPTY)|": "|", "$(B)": "$(A)", "": "", "100%$": "100%$", "$$": "$",
	} {
		if got := expandAll([]string{in}, env)[0]; got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestEnvironment(t *testing.T) {
	yes := true
	pod := &corev1.Pod{}
	pod.Name, pod.Namespace = "web", "shop"
	pod.Labels = map[string]string{"tier": "front"}
	c := &corev1.Container{Name: "c", Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("250m")}},
		EnvFrom: []corev1.EnvFromSource{{Prefix: "P_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}},
			{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "none"}, Optional: &yes}}},
		Env: []corev1.EnvVar{
			{Name: "P_a", Value: "over"},
			{Name: "IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}},
			{Name: "TIER", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels['tier']"}}},
			{Name: "CPU", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.cpu"}}},
			{Name: "MEM", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.memory", Divisor: resource.MustParse("1Mi")}}},
			{Name: "SUM", Value: "$(IP)/$(P_b)/$(API_SERVICE_HOST)"},
		}}
	services := []*corev1.Service{service("default", "kubernetes", "10.96.0.1", 443), service("shop", "api", "10.96.0.7", 80),
		service("other", "db", "10.96.0.8", 5432), service("shop", "headless", corev1.ClusterIPNone, 1)}
	objects := &fakeObjects{configMaps: map[string]*corev1.ConfigMap{"cm": {Data: map[string]string{"a": "1", "b": "2"}}}}
	f := podFacts{pod: pod, podIPs: []string{"10.244.0.5"}, allocatable: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")}}
	pod.Spec.Containers = []corev1.Container{*c}
	env, err := environment(context.Background(), f, c, objects, services)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"P_a": "over", "P_b": "2", "IP": "10.244.0.5", "TIER": "front", "CPU": "1", "MEM": "1024",
		"SUM": "10.244.0.5/2/10.96.0.7", "KUBERNETES_SERVICE_HOST": "10.96.0.1", "API_PORT_80_TCP": "tcp://10.96.0.7:80"} {
		if env[name] != want {
			t.Errorf("%s=%q, want %q", name, env[name], want)
		}
	}
	for name := range maps.Keys(env) {
		if strings.HasPrefix(name, "DB_") || strings.HasPrefix(name, "HEADLESS_") {
			t.Errorf("%s does not belong here", name)
		}
	}
	c.Env = []corev1.EnvVar{{Name: "X", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}, Key: "nope"}}}}
	if _, err := environment(context.Background(), f, c, objects, nil); fmt.Sprint(err) != "couldn't find key nope in ConfigMap shop/cm" {
		t.Errorf("a missing key: %v", err)
	}
}

func service(namespace, name, ip string, port int32) *corev1.Service {
	s := &corev1.Service{Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: []corev1.ServicePort{{Port: port, Protocol: corev1.ProtocolTCP}}}}
	s.Namespace, s.Name = namespace, name
	return s
}

func TestPodDNS(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte("# comment\nnameserver 192.0.2.53\nsearch one.\nsearch example.com.\noptions edns0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	value := "2"
	for name, test := range map[string]struct {
		policy corev1.DNSPolicy
		host   bool
		extra  *corev1.PodDNSConfig
		resolv string
		want   string
	}{
		"cluster first":       {corev1.DNSClusterFirst, false, nil, file, "[10.96.0.10] [shop.svc.cluster.local svc.cluster.local cluster.local example.com] [ndots:5]"},
		"on the host network": {corev1.DNSClusterFirst, true, nil, file, "[192.0.2.53] [example.com] [edns0]"},
		"cluster with host":   {corev1.DNSClusterFirstWithHostNet, true, nil, file, "[10.96.0.10] [shop.svc.cluster.local svc.cluster.local cluster.local example.com] [ndots:5]"},
		"none":                {corev1.DNSNone, false, &corev1.PodDNSConfig{Nameservers: []string{"192.0.2.1"}}, file, "[192.0.2.1] [] []"},
		"an option":           {corev1.DNSClusterFirst, false, &corev1.PodDNSConfig{Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: &value}}}, "", "[10.96.0.10] [shop.svc.cluster.local svc.cluster.local cluster.local] [ndots:2]"},
		"no resolver":         {corev1.DNSDefault, false, nil, "/nowhere", "[] [] [ndots:1]"},
	} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{DNSPolicy: test.policy, HostNetwork: test.host, DNSConfig: test.extra}}
		pod.Namespace = "shop"
		got := podDNS(pod, Config{ClusterDNS: []string{"10.96.0.10"}, ClusterDomain: "cluster.local", ResolvConf: test.resolv})
		if text := fmt.Sprint(got.Servers, got.Searches, got.Options); text != test.want {
			t.Errorf("%s: %s, want %s", name, text, test.want)
		}
	}
}

func TestCgroupNames(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}}}}}}
	pod.UID = "12-34"
	tree := newCgroupTree(Config{CgroupRoot: "/tinykube/node-1", CgroupsPerQOS: true, CgroupDriver: "cgroupfs"})
	if got := tree.parent(pod); got != "/tinykube/node-1/kubepods/burstable/pod12-34" {
		t.Error(got)
	}
	tree.driver = "systemd"
	if got := tree.parent(pod); got != "kubepods-burstable-pod12_34.slice" {
		t.Error(got)
	}
}
