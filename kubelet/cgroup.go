package kubelet

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"tinykube/api/qos"
)

// The kubelet groups pods by quality of service, so that when CPU or memory is
// short, classes compete before pods and pods before containers:
//
//	<root>/kubepods                       all pods: the node's allocatable
//	   ├── pod<uid>                       Guaranteed
//	   ├── burstable/pod<uid>             weight: what they requested together
//	   └── besteffort/pod<uid>            weight: almost nothing
//	          └── <container>             made by the runtime
//
// On cgroup v1 the same tree exists once per controller; on v2 once.
//
// Simplified: with the systemd driver the groups are slices that the runtime
// makes through systemd; we only name them and set no limits of our own.
type cgroupTree struct {
	mount   string // /sys/fs/cgroup
	root    string // --cgroup-root: the node's own group
	driver  string
	enabled bool // cgroupsPerQOS
	v2      bool
	failV1  bool
	pids    int64 // podPidsLimit; <= 0: none
	uncut   bool  // no CPU quotas at all
	period  time.Duration
}

// v1Controllers are those in which we make groups ourselves; the runtime makes
// the containers' own in all the others.
var v1Controllers = []string{"cpu", "memory", "pids"}

func newCgroupTree(cfg Config) cgroupTree {
	return cgroupTree{mount: "/sys/fs/cgroup", root: filepath.Clean("/" + cfg.CgroupRoot), driver: cfg.CgroupDriver,
		enabled: cfg.CgroupsPerQOS, failV1: cfg.FailCgroupV1, pids: cfg.PodPidsLimit,
		uncut: !cfg.CPUCFSQuota, period: cfg.CPUPeriod}
}

// unified says whether the machine has cgroup v2. It is known after ensureRoot.
func (t *cgroupTree) unified() bool { return t.v2 }

// setDriver takes over the runtime's driver: the two must be the same.
func (t *cgroupTree) setDriver(d runtimeapi.CgroupDriver) {
	t.driver = strings.ToLower(d.String())
}

func (t *cgroupTree) systemd() bool { return t.driver == "systemd" }

// ensureRoot finds out which cgroups the machine has and makes the groups that
// all pods share.
func (t *cgroupTree) ensureRoot(milliCPU, memory int64, log *slog.Logger) error {
	if !t.enabled {
		return nil
	}
	_, err := os.Stat(filepath.Join(t.mount, "cgroup.controllers"))
	t.v2 = err == nil
	if !t.v2 && t.failV1 {
		return errors.New("this machine has cgroup v1 and failCgroupV1 is set; boot with systemd.unified_cgroup_hierarchy=1, or set failCgroupV1: false")
	}
	if !t.v2 {
		log.Warn("cgroup v1 is in maintenance mode, please migrate to cgroup v2")
	}
	if t.systemd() {
		return nil
	}
	all := &runtimeapi.LinuxContainerResources{CpuShares: cpuShares(milliCPU), MemoryLimitInBytes: memory}
	if err := t.ensure("kubepods", all); err != nil {
		return fmt.Errorf("cgroup of all pods: %w", err)
	}
	for _, class := range []string{"burstable", "besteffort"} {
		if err := t.ensure("kubepods/"+class, &runtimeapi.LinuxContainerResources{CpuShares: minShares}); err != nil {
			return fmt.Errorf("cgroup %s: %w", class, err)
		}
	}
	return nil
}

// path is the pod's group below the root.
//
// LAB 16 path: Guaranteed pods have no class above them.
func (t *cgroupTree) path(uid types.UID, class corev1.PodQOSClass) string {
	group := "pod" + string(uid)
	switch class {
	case corev1.PodQOSBurstable:
		return "kubepods/burstable/" + group
	case corev1.PodQOSBestEffort:
		return "kubepods/besteffort/" + group
	}
	return "kubepods/" + group
}

// parent is the pod's group as the runtime wants to hear it.
func (t *cgroupTree) parent(pod *corev1.Pod) string {
	if !t.enabled {
		return ""
	}
	path := t.path(pod.UID, qos.Of(pod))
	if !t.systemd() {
		return filepath.Join(t.root, path)
	}
	// systemd writes the whole path into the slice's name, with dashes.
	escaped := strings.ReplaceAll(path, "-", "_")
	return strings.ReplaceAll(escaped, "/", "-") + ".slice"
}

// ensurePod makes the pod's group with its limits.
func (t *cgroupTree) ensurePod(pod *corev1.Pod) error {
	if !t.enabled || t.systemd() {
		return nil
	}
	return t.ensure(t.path(pod.UID, qos.Of(pod)), t.quota(podResources(pod)))
}

// quota counts a quota in the period that is configured, or drops it.
func (t *cgroupTree) quota(r *runtimeapi.LinuxContainerResources) *runtimeapi.LinuxContainerResources {
	if t.uncut {
		r.CpuPeriod, r.CpuQuota = 0, 0
	} else if period := t.period.Microseconds(); r.CpuQuota > 0 && period > 0 {
		r.CpuPeriod, r.CpuQuota = period, max(r.CpuQuota*period/quotaPeriod, minQuota)
	}
	return r
}

// widenPod makes the pod's group as wide as it is or as it shall be, whichever
// is more: while its containers change from one to the other.
func (t *cgroupTree) widenPod(pod *corev1.Pod) error {
	if !t.enabled || t.systemd() {
		return nil
	}
	path, next := t.path(pod.UID, qos.Of(pod)), podResources(pod)
	next.CpuQuota = wider(next.CpuQuota, t.limit(path, "cpu", "cpu.cfs_quota_us", "cpu.max"))
	next.MemoryLimitInBytes = wider(next.MemoryLimitInBytes, t.limit(path, "memory", "memory.limit_in_bytes", "memory.max"))
	return t.ensure(path, next)
}

// memoryLimit is the limit that the pod's group has now; 0 if it is not ours.
func (t *cgroupTree) memoryLimit(pod *corev1.Pod) int64 {
	if !t.enabled || t.systemd() {
		return 0
	}
	limit := t.limit(t.path(pod.UID, qos.Of(pod)), "memory", "memory.limit_in_bytes", "memory.max")
	if limit <= 0 {
		return math.MaxInt64
	}
	return limit
}

// limit reads one limit of a group: from a controller's file of v1, or of v2.
// 0 is none.
func (t *cgroupTree) limit(path, controller, v1, v2 string) int64 {
	file := filepath.Join(t.mount, controller, t.root, path, v1)
	if t.v2 {
		file = filepath.Join(t.mount, t.root, path, v2)
	}
	raw, _ := os.ReadFile(file)
	first, _, _ := strings.Cut(strings.TrimSpace(string(raw)), " ")
	value, err := strconv.ParseInt(first, 10, 64)
	if err != nil || value > 1<<60 { // "max", or v1's way to say so
		return 0
	}
	return max(value, 0)
}

// wider compares two limits, of which 0 is none.
func wider(a, b int64) int64 {
	if a <= 0 || b <= 0 {
		return 0
	}
	return max(a, b)
}

// setBurstableShares gives the class the weight of all that is in it.
func (t *cgroupTree) setBurstableShares(pods []*corev1.Pod) error {
	if !t.enabled || t.systemd() {
		return nil
	}
	milli := int64(0)
	for _, p := range pods {
		if qos.Of(p) == corev1.PodQOSBurstable {
			request := specRequests(p)
			milli += request.Cpu().MilliValue()
		}
	}
	return t.ensure("kubepods/burstable", &runtimeapi.LinuxContainerResources{CpuShares: cpuShares(milli)})
}

// ensure makes one group and sets its limits, which it also does for a group
// that exists.
func (t *cgroupTree) ensure(path string, r *runtimeapi.LinuxContainerResources) error {
	if t.v2 {
		return t.ensureV2(path, r)
	}
	dirs := map[string]string{}
	for _, controller := range v1Controllers {
		dir := filepath.Join(t.mount, controller, t.root, path)
		if _, err := os.Stat(filepath.Join(t.mount, controller)); err != nil {
			continue // the kernel does not have it
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		dirs[controller] = dir
	}
	for _, v := range t.values(path, r) {
		if dir := dirs[v.controller]; dir != "" {
			if err := write(filepath.Join(dir, v.file), v.value); err != nil {
				return err
			}
		}
	}
	return nil
}

// cgroupValue is what is written into one file of a group.
type cgroupValue struct{ controller, file, value string }

// values are the resources of a group in the words of v1, or of v2.
func (t *cgroupTree) values(path string, r *runtimeapi.LinuxContainerResources) []cgroupValue {
	values := []cgroupValue{
		{"cpu", "cpu.shares", strconv.FormatInt(r.CpuShares, 10)},
		{"cpu", "cpu.cfs_period_us", strconv.FormatInt(cmp.Or(r.CpuPeriod, quotaPeriod), 10)},
		{"cpu", "cpu.cfs_quota_us", orUnlimited(r.CpuQuota, "-1")},
		{"memory", "memory.limit_in_bytes", orUnlimited(r.MemoryLimitInBytes, "-1")},
	}
	if t.v2 {
		values = []cgroupValue{
			{"cpu", "cpu.weight", strconv.FormatInt(1+(r.CpuShares-minShares)*9999/(maxShares-minShares), 10)},
			{"cpu", "cpu.max", orUnlimited(r.CpuQuota, "max") + " " + strconv.FormatInt(cmp.Or(r.CpuPeriod, quotaPeriod), 10)},
			{"memory", "memory.max", orUnlimited(r.MemoryLimitInBytes, "max")},
		}
	}
	if strings.Contains(path, "/pod") {
		values = append(values, cgroupValue{"pids", "pids.max", orUnlimited(t.pids, "max")})
	}
	return values
}

// ensureV2 also hands the controllers down, which v2 does not do by itself.
//
// Spec: Linux Documentation/admin-guide/cgroup-v2.rst, "Enabling and Disabling".
func (t *cgroupTree) ensureV2(path string, r *runtimeapi.LinuxContainerResources) error {
	dir := t.mount
	for _, part := range strings.Split(strings.Trim(filepath.Join(t.root, path), "/"), "/") {
		raw, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
		if err != nil {
			return err
		}
		for _, controller := range strings.Fields(string(raw)) {
			if slices.Contains([]string{"cpu", "cpuset", "memory", "pids", "io", "hugetlb"}, controller) {
				// One at a time: one that is refused must not cost the others.
				_ = write(filepath.Join(dir, "cgroup.subtree_control"), "+"+controller)
			}
		}
		dir = filepath.Join(dir, part)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	for _, v := range t.values(path, r) {
		if err := write(filepath.Join(dir, v.file), v.value); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// removePod removes the pod's group in every controller and class: the class
// of an orphan is not known.
func (t *cgroupTree) removePod(pod *corev1.Pod) error {
	if !t.enabled || t.systemd() {
		return nil
	}
	var roots []string
	if t.v2 {
		roots = []string{filepath.Join(t.mount, t.root)}
	} else {
		entries, err := os.ReadDir(t.mount)
		if err != nil {
			return err
		}
		for _, e := range entries {
			roots = append(roots, filepath.Join(t.mount, e.Name(), t.root))
		}
	}
	for _, root := range roots {
		for _, class := range []corev1.PodQOSClass{corev1.PodQOSGuaranteed, corev1.PodQOSBurstable, corev1.PodQOSBestEffort} {
			if err := removeGroup(filepath.Join(root, t.path(pod.UID, class))); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeGroup removes a group and those in it, deepest first. A group with a
// process in it stays, and that is an error: something of the pod still runs.
func removeGroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() {
			err = errors.Join(err, removeGroup(filepath.Join(dir, e.Name())))
		}
	}
	if removal := os.Remove(dir); removal != nil && !errors.Is(removal, fs.ErrNotExist) {
		err = errors.Join(err, fmt.Errorf("remove cgroup: %w", removal))
	}
	return err
}

func orUnlimited(value int64, unlimited string) string {
	if value <= 0 {
		return unlimited
	}
	return strconv.FormatInt(value, 10)
}

func write(file, value string) error {
	return os.WriteFile(file, []byte(value), 0o644)
}
