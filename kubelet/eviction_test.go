package kubelet

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestThresholds(t *testing.T) {
	c := DefaultConfiguration()
	c.EvictionHard = map[string]string{"memory.available": "100Mi", "nodefs.available": "10%", "imagefs.available": "0%"}
	c.EvictionSoft = map[string]string{"memory.available": "20%"}
	c.EvictionSoftGracePeriod = map[string]string{"memory.available": "90s"}
	c.EvictionMinimumReclaim = map[string]string{"memory.available": "50Mi", "nodefs.available": "5%"}
	got, err := parseThresholds(c)
	if err != nil {
		t.Fatal(err)
	}
	want := []threshold{
		{signal: memoryAvailable, value: amount{absolute: 100 << 20}, hard: true, minReclaim: amount{absolute: 50 << 20}},
		{signal: nodeFsAvailable, value: amount{share: 0.1}, hard: true, minReclaim: amount{share: 0.05}},
		{signal: memoryAvailable, value: amount{share: 0.2}, grace: 90 * time.Second, minReclaim: amount{absolute: 50 << 20}},
		{signal: allocatableMemoryAvailable, value: amount{absolute: 100 << 20}, hard: true, minReclaim: amount{absolute: 50 << 20}},
	}
	if !slices.Equal(got, want) {
		t.Errorf("thresholds:\n%+v, want\n%+v", got, want)
	}
	for _, o := range []struct {
		free         int64
		met, holding bool
	}{{99, true, true}, {100, false, true}, {149, false, true}, {150, false, false}} {
		seen := observation{available: o.free << 20, capacity: 1 << 30}
		if want[0].met(seen, false) != o.met || want[0].met(seen, true) != o.holding {
			t.Errorf("%d MiB free: met %v, with reclaim %v", o.free, want[0].met(seen, false), want[0].met(seen, true))
		}
	}
	for field, text := range map[string]string{"memory.free": "unsupported", "memory.available": "must be positive"} {
		c := DefaultConfiguration()
		c.EvictionHard = map[string]string{field: "-1"}
		if _, err := parseThresholds(c); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v, want %q", field, err, text)
		}
	}
	c.EvictionSoftGracePeriod = nil
	if _, err := parseThresholds(c); err == nil || !strings.Contains(err.Error(), "grace period must be specified") {
		t.Errorf("a soft threshold without grace: %v", err)
	}
}

// usingPod is a pod named by what it requests and uses.
func usingPod(name, request string, used int64, prio int32) candidate {
	pod := &corev1.Pod{}
	pod.Name, pod.Spec.Priority = name, &prio
	pod.Spec.Containers = []corev1.Container{{Name: "c"}}
	if request != "" {
		q := resource.MustParse(request)
		pod.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: q, corev1.ResourceEphemeralStorage: q}
	}
	use := containerUse{name: "c", memory: used << 20, rootfs: fsUse{bytes: used << 20, inodes: used}}
	return candidate{pod, podUsage{known: true, processes: used, containers: []containerUse{use}}}
}

func TestRanking(t *testing.T) {
	pods := []candidate{
		usingPod("within", "100Mi", 90, 0), usingPod("over-by-10", "100Mi", 110, 0), usingPod("over-by-50", "100Mi", 150, 0),
		usingPod("important", "", 500, 1000), usingPod("best-effort", "", 30, 0), {pod: usingPod("unknown", "", 0, 5000).pod},
		usingPod("idle", "", 0, 0),
	}
	for _, row := range []struct {
		of   corev1.ResourceName
		want string
	}{
		{corev1.ResourceMemory, "unknown over-by-50 best-effort over-by-10 important idle within"},
		{corev1.ResourceEphemeralStorage, "unknown over-by-50 best-effort over-by-10 important idle within"},
		{resourceInodes, "unknown over-by-50 over-by-10 within best-effort important idle"},
		{resourcePIDs, "unknown over-by-50 over-by-10 within best-effort idle important"},
	} {
		ranked := slices.Clone(pods)
		rankForEviction(ranked, row.of, fsPart{rootfs: true, logsAndVolumes: true})
		var names []string
		for _, c := range ranked {
			names = append(names, c.pod.Name)
		}
		if got := strings.Join(names, " "); got != row.want {
			t.Errorf("%s: %s, want %s", row.of, got, row.want)
		}
	}
	message := evictionMessage(pods[2], corev1.ResourceMemory, []threshold{{signal: memoryAvailable, value: amount{absolute: 100 << 20}}},
		map[signal]observation{memoryAvailable: {available: 88 << 20, capacity: 1 << 30}})
	if want := "The node was low on resource: memory. Threshold quantity: 100Mi, available: 88Mi. " +
		"Container c was using 150Mi, request is 100Mi, has larger consumption of memory. "; message != want {
		t.Errorf("message %q, want %q", message, want)
	}
}

func TestStorageLimits(t *testing.T) {
	c := usingPod("p", "", 20, 0)
	if text, broken := storageLimitBroken(c, true); broken {
		t.Errorf("no limit, yet %q", text)
	}
	c.pod.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse("10Mi")}
	if text, _ := storageLimitBroken(c, true); text != "Pod ephemeral local storage usage exceeds the total limit of containers 10Mi. " {
		t.Errorf("message %q", text)
	}
	c.pod.Spec.Containers = append(c.pod.Spec.Containers, corev1.Container{Name: "roomy",
		Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse("1Gi")}}})
	if text, _ := storageLimitBroken(c, true); text != `Container c exceeded its local ephemeral storage limit "10Mi". ` {
		t.Errorf("message %q", text)
	}
	limit := resource.MustParse("1Mi")
	c.pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: &limit}}}}
	c.usage.volumes = map[string]fsUse{"v": {bytes: 2 << 20}}
	if text, _ := storageLimitBroken(c, true); text != `Usage of EmptyDir volume "v" exceeds the limit "1Mi". ` {
		t.Errorf("message %q", text)
	}
}

func TestCountFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, size int) {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a", 100_000)
	if err := os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "same")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/", filepath.Join(dir, "root")); err != nil {
		t.Fatal(err)
	}
	write("sparse", 0)
	if err := os.Truncate(filepath.Join(dir, "sparse"), 1<<30); err != nil {
		t.Fatal(err)
	}
	if use := countFiles(dir); use.bytes < 100_000 || use.bytes > 200_000 || use.inodes != 4 {
		t.Errorf("%+v, want about 100 kB in 4 inodes", use)
	}
}

// TestEvictionUnderMemoryPressure runs a node out of memory and back.
func TestEvictionUnderMemoryPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.cfg.Thresholds = []threshold{{signal: memoryAvailable, value: amount{absolute: 100 << 20}, hard: true}}
		n.start()
		free := int64(1 << 30)
		n.kubelet.observe = func() map[signal]observation {
			return map[signal]observation{memoryAvailable: {available: free, capacity: 4 << 30}}
		}
		// What the API would send: pods that are not static can be evicted.
		n.apiPod("small", oneContainer)
		n.apiPod("large", oneContainer)
		settle(15 * time.Second)
		n.runtime.Memory = map[string]uint64{"small-node-0": 10 << 20, "large-node-0": 500 << 20}
		n.expectRunning("a", "a")
		if p := n.kubelet.evictor.underPressure(); len(p) > 0 {
			t.Fatalf("pressure %v before there is any", p)
		}
		free = 50 << 20
		settle(12 * time.Second)
		_, status := n.pod("large")
		if status.Phase != corev1.PodFailed || status.Reason != "Evicted" || !strings.HasPrefix(status.Message, "The node was low on resource: memory. ") {
			t.Errorf("large: %s %s %q", status.Phase, status.Reason, status.Message)
		}
		if !slices.ContainsFunc(status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.DisruptionTarget && c.Reason == "TerminationByKubelet"
		}) {
			t.Errorf("no DisruptionTarget: %+v", status.Conditions)
		}
		if _, status := n.pod("small"); status.Phase != corev1.PodRunning {
			t.Errorf("small: %s %q", status.Phase, status.Message)
		}
		free = 1 << 30
		n.apiPod("late", oneContainer)
		settle(11 * time.Second)
		if _, status := n.pod("late"); status.Reason != "Evicted" || status.Message != "Pod was rejected: The node had condition: [MemoryPressure]. " {
			t.Errorf("a best-effort newcomer: %s %q", status.Phase, status.Message)
		}
		settle(5 * time.Minute)
		if p := n.kubelet.evictor.underPressure(); len(p) > 0 {
			t.Errorf("pressure %v after the transition period", p)
		}
		n.stop()
	})
}

func TestImagesThatMayGo(t *testing.T) {
	now := time.Unix(1e9, 0)
	var records imageRecords
	images := []*runtimeapi.Image{{Id: "old", Size: 10}, {Id: "used", Size: 10}, {Id: "pause", Size: 10, Pinned: true}, {Id: "older", Size: 10}}
	records.update(images, map[string]bool{"old": true, "used": true}, now.Add(-time.Hour))
	images = append(images, &runtimeapi.Image{Id: "new", Size: 10})
	known := records.update(images, map[string]bool{"used": true}, now)
	policy := imagePolicy{highPercent: 85, lowPercent: 80, minAge: 2 * time.Minute}
	for bytes, want := range map[int64]string{0: "", 1: "older", 11: "older old", 1000: "older old"} {
		var got []string
		for _, image := range planImages(known, policy, bytes, now) {
			got = append(got, image.id)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("to free %d: %v, want %s", bytes, got, want)
		}
	}
	policy.maxAge = 30 * time.Minute
	if got := planImages(known, policy, 0, now); len(got) != 2 {
		t.Errorf("of age: %v, want older and old", got)
	}
	for free, want := range map[int64]int64{30: 0, 16: 0, 15: 5, 1: 19} {
		if over, _ := policy.bytesOver(observation{available: free, capacity: 100}); over != want {
			t.Errorf("%d %% free: %d over, want %d", free, over, want)
		}
	}
}

func TestPreemption(t *testing.T) {
	pod := func(name, cpu string, prio int32, guaranteed bool) *corev1.Pod {
		p := &corev1.Pod{}
		p.Name, p.Spec.Priority, p.Spec.Containers = name, &prio, []corev1.Container{{Name: "c"}}
		if cpu != "" {
			list := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse("1Mi")}
			if p.Spec.Containers[0].Resources.Requests = list; guaranteed {
				p.Spec.Containers[0].Resources.Limits = list
			}
		}
		return p
	}
	others := []*corev1.Pod{pod("burst-1", "1", 0, false), pod("burst-3", "3", 0, false), pod("sure-2", "2", 0, true), pod("none", "", 0, false), pod("system", "4", 2_000_001_000, false)}
	for missing, want := range map[int64]string{500: "burst-1", 2500: "burst-3", 4000: "burst-3 burst-1", 5500: "sure-2 burst-3 burst-1"} {
		victims, err := planPreemption(pod("critical", "1", 2_000_001_000, false), others, []shortage{{name: corev1.ResourceCPU, requested: missing}})
		var got []string
		for _, v := range victims {
			got = append(got, v.Name)
		}
		if strings.Join(got, " ") != want || err != nil {
			t.Errorf("%dm missing: %v %v, want %s", missing, got, err, want)
		}
	}
	_, err := planPreemption(pod("critical", "1", 2_000_001_000, false), others, []shortage{{name: corev1.ResourceCPU, requested: 9000}})
	if err == nil || !strings.Contains(err.Error(), "no set of running pods found to reclaim resources: [(res: cpu, q: ") {
		t.Errorf("too much: %v", err)
	}
}

func TestShutdownGroups(t *testing.T) {
	c := DefaultConfiguration()
	c.ShutdownGracePeriod.Duration, c.ShutdownGracePeriodCriticalPods.Duration = 30*time.Second, 10*time.Second
	groups, err := parseShutdown(c)
	if err != nil || len(groups) != 2 || groups[0].seconds != 20 || groups[1].seconds != 10 {
		t.Fatalf("%+v, %v", groups, err)
	}
	grouped := groupPods(groups, []*corev1.Pod{usingPod("low", "", 0, -5).pod, usingPod("app", "", 0, 0).pod, usingPod("dns", "", 0, 2_000_000_000).pod})
	if len(grouped[0].pods) != 2 || len(grouped[1].pods) != 1 || grouped[1].pods[0].Name != "dns" {
		t.Errorf("%+v", grouped)
	}
	c.ShutdownGracePeriodCriticalPods.Duration = time.Minute
	if _, err := parseShutdown(c); err == nil {
		t.Error("more for the critical pods than for all: no error")
	}
}
