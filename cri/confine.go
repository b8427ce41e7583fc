package cri

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/pkg/cap"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"tinykube/internal/cgroup"
)

// This file is what keeps a container inside: capabilities, devices, seccomp,
// and the parts of /proc and /sys that it may not see or change.
//
// Simplified: SELinux labels and AppArmor profiles are not applied. A pod that
// names an AppArmor profile of its own is refused; without one nothing breaks
// but one of several layers of defence is missing.

// defaultCapabilities is Docker's set, which images expect.
var defaultCapabilities = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
	"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

// The kubelet sends its lists; these are for crictl, which sends none, and
// for pause.
var (
	defaultMaskedPaths = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
	}
	defaultReadonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// confine applies a security context to a spec.
func confine(spec *specs.Spec, in specInput, sc *runtimeapi.LinuxContainerSecurityContext) error {
	spec.Process.Capabilities = capabilities(sc, in.Host.Capabilities)
	spec.Linux.Devices = in.Devices
	if sc.GetPrivileged() {
		spec.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		for i, m := range spec.Mounts {
			if m.Type == "sysfs" || m.Type == "cgroup" {
				spec.Mounts[i].Options = slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return o == "ro" })
			}
		}
		return nil // nothing masked, no seccomp
	}
	spec.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	for i, device := range in.Devices {
		spec.Linux.Resources.Devices = append(spec.Linux.Resources.Devices, specs.LinuxDeviceCgroup{
			Allow: true, Type: device.Type, Major: &in.Devices[i].Major, Minor: &in.Devices[i].Minor,
			Access: cmp.Or(devicePermissions(in.Config, device.Path), "rwm"),
		})
	}
	spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths = sc.GetMaskedPaths(), sc.GetReadonlyPaths()
	if len(sc.GetMaskedPaths()) == 0 && len(sc.GetReadonlyPaths()) == 0 {
		spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths = defaultMaskedPaths, defaultReadonlyPaths
	}
	if profile := sc.GetApparmor(); profile.GetProfileType() == runtimeapi.SecurityProfile_Localhost && profile != nil {
		return fmt.Errorf("AppArmor profile %q: AppArmor is not supported by this runtime: %w", profile.GetLocalhostRef(), errdefs.ErrInvalidArgument)
	}
	return setSeccomp(spec, sc.GetSeccomp(), in.Seccomp)
}

// capabilities starts from the default, or from all for a privileged one or
// "ALL", or from none if ALL is dropped; then adds, then drops, one by one.
// The inheritable set stays empty: a program must not gain what its file does
// not have (CVE-2022-24769).
func capabilities(sc *runtimeapi.LinuxContainerSecurityContext, own []string) *specs.LinuxCapabilities {
	add, drop := normalize(sc.GetCapabilities().GetAddCapabilities()), normalize(sc.GetCapabilities().GetDropCapabilities())
	set := map[string]bool{}
	start := defaultCapabilities
	switch {
	case sc.GetPrivileged():
		start, add, drop = own, nil, nil
	case slices.Contains(drop, "ALL"):
		start = nil
		if slices.Contains(add, "ALL") {
			start = own // upstream: adding ALL wins over dropping ALL
		}
	case slices.Contains(add, "ALL"):
		start = own
	}
	for _, name := range append(slices.Clone(start), add...) {
		set[name] = true
	}
	for _, name := range drop {
		delete(set, name)
	}
	delete(set, "ALL")
	list := slices.Sorted(maps.Keys(set))
	return &specs.LinuxCapabilities{Bounding: list, Effective: list, Permitted: list,
		Ambient: normalize(sc.GetCapabilities().GetAddAmbientCapabilities())}
}

func normalize(names []string) []string {
	var list []string
	for _, name := range names {
		if name = strings.ToUpper(name); name != "ALL" && !strings.HasPrefix(name, "CAP_") {
			name = "CAP_" + name
		}
		list = append(list, name)
	}
	return list
}

// setSeccomp filters system calls. The default profile depends on the
// capabilities, which must be set before.
func setSeccomp(spec *specs.Spec, profile *runtimeapi.SecurityProfile, localhost *specs.LinuxSeccomp) error {
	if profile == nil {
		return nil
	}
	switch profile.GetProfileType() {
	case runtimeapi.SecurityProfile_RuntimeDefault:
		spec.Linux.Seccomp = seccomp.DefaultProfile(spec)
	case runtimeapi.SecurityProfile_Localhost:
		if localhost == nil {
			return fmt.Errorf("seccomp profile %q was not read: %w", profile.GetLocalhostRef(), errdefs.ErrInvalidArgument)
		}
		spec.Linux.Seccomp = localhost
	}
	return nil
}

// onlyNative leaves out the other calling conventions that the processor also
// knows (32-bit x86, x32), and so forbids them. runc compiles the filter anew for
// each container, and for three conventions together that costs more than all
// the rest of its work. The programs of users may be 32-bit ones; pause is not.
func onlyNative(filter *specs.LinuxSeccomp) {
	if filter != nil && len(filter.Architectures) > 1 {
		filter.Architectures = filter.Architectures[:1] // the machine's own is first
	}
}

// readSeccomp reads a Localhost profile. One that says nothing would allow
// everything, and is an error (CVE-2023-2431).
func readSeccomp(profile *runtimeapi.SecurityProfile) (*specs.LinuxSeccomp, error) {
	if profile == nil || profile.GetProfileType() != runtimeapi.SecurityProfile_Localhost {
		return nil, nil
	}
	data, err := os.ReadFile(profile.GetLocalhostRef())
	if err != nil {
		return nil, fmt.Errorf("seccomp profile: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	var filter specs.LinuxSeccomp
	if err := json.Unmarshal(data, &filter); err != nil {
		return nil, fmt.Errorf("seccomp profile %q: %w: %w", profile.GetLocalhostRef(), err, errdefs.ErrInvalidArgument)
	}
	if filter.DefaultAction == "" {
		return nil, fmt.Errorf("seccomp profile %q has no default action: %w", profile.GetLocalhostRef(), errdefs.ErrInvalidArgument)
	}
	return &filter, nil
}

func devicePermissions(cfg *runtimeapi.ContainerConfig, containerPath string) string {
	for _, device := range cfg.GetDevices() {
		if filepath.Clean(device.GetContainerPath()) == containerPath {
			return device.GetPermissions()
		}
	}
	return ""
}

// findDevices looks up those a container asks for, or all there are.
func findDevices(cfg *runtimeapi.ContainerConfig) ([]specs.LinuxDevice, error) {
	if len(cfg.GetCDIDevices()) > 0 {
		return nil, fmt.Errorf("CDI devices are not supported by this runtime: %w", errdefs.ErrInvalidArgument)
	}
	if cfg.GetLinux().GetSecurityContext().GetPrivileged() {
		return oci.HostDevices()
	}
	var list []specs.LinuxDevice
	for _, asked := range cfg.GetDevices() {
		resolved, err := filepath.EvalSymlinks(asked.GetHostPath())
		if err != nil {
			return nil, fmt.Errorf("device: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		device, err := oci.DeviceFromPath(resolved)
		if err != nil {
			return nil, fmt.Errorf("device %s: %w", asked.GetHostPath(), err)
		}
		device.Path = filepath.Clean(asked.GetContainerPath())
		list = append(list, *device)
	}
	return list, nil
}

// readHostFacts is asked for once, when the server starts.
func readHostFacts(cgroupDriver string) (hostFacts, error) {
	facts := hostFacts{SystemdCgroup: cgroupDriver == "systemd", CgroupV2: isCgroupV2(), NoHugetlb: !hasHugetlb()}
	var err error
	if facts.Capabilities, err = cap.Current(); err != nil {
		return facts, err
	}
	score, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return facts, err
	}
	_, noSwap := os.Stat(filepath.Join(cgroup.Mount, "memory/memory.memsw.limit_in_bytes")) // v2 can always
	facts.Swap = facts.CgroupV2 || noSwap == nil
	facts.OOMScoreAdj, err = strconv.Atoi(strings.TrimSpace(string(score)))
	return facts, err
}

// hasHugetlb tells whether huge pages are counted, in either hierarchy.
func hasHugetlb() bool {
	if _, err := os.Stat(cgroup.Mount + "/hugetlb"); err == nil {
		return true
	}
	controllers, err := os.ReadFile(cgroup.Mount + "/cgroup.controllers")
	return err == nil && slices.Contains(strings.Fields(string(controllers)), "hugetlb")
}

// isCgroupV2 tells whether the unified hierarchy is the one in charge.
func isCgroupV2() bool {
	var fs unix.Statfs_t
	return unix.Statfs(cgroup.Mount, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC
}
