package cri

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"sort"
	"strings"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// specInput is everything that decides what a container will be. Whoever fills
// it in has done all the looking (at the image, the host, the file system), so
// that the two functions of this file are pure: the same input, the same spec.
type specInput struct {
	ID         string
	Sandbox    *sandboxRecord
	SandboxPid uint32 // whose namespaces to join
	TargetPid  uint32 // for namespace mode TARGET
	Config     *runtimeapi.ContainerConfig
	Image      ocispec.ImageConfig
	User       specs.User
	Files      podFiles
	Mounts     []*runtimeapi.Mount // with host paths that exist, links followed
	Volumes    map[string]string   // container path → host path, for image VOLUMEs
	Devices    []specs.LinuxDevice // those asked for, or all for a privileged one
	Seccomp    *specs.LinuxSeccomp // a Localhost profile, already read
	Host       hostFacts
}

// podFiles are the sandbox's own, bound into each of its containers.
type podFiles struct {
	Hostname, ResolvConf, Hosts, Shm string
}

// ownFiles are the host's paths of what the pod sees as its own.
func (in specInput) ownFiles() []string {
	files := []string{in.Files.Hostname, in.Files.Hosts, in.Files.ResolvConf, in.Files.Shm}
	for _, source := range in.Volumes {
		files = append(files, source)
	}
	return files
}

// hostFacts is what the spec must know about this machine.
type hostFacts struct {
	CgroupV2      bool
	SystemdCgroup bool
	// NoHugetlb says that the kernel counts no huge pages, so none can be
	// limited. A kubelet sends a limit of 0 for each size all the same.
	NoHugetlb bool
	// Capabilities are our own: a container cannot have more.
	Capabilities []string
	// OOMScoreAdj is our own. Without CAP_SYS_RESOURCE it cannot be undercut,
	// and runc would die trying.
	OOMScoreAdj int
	// Swap: the kernel limits memory and swap together.
	Swap bool
}

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// containerSpec says what one container of a pod is, in runc's language.
//
// Spec: OCI runtime-spec 1.2 config.md, config-linux.md
// Upstream: containerd@v2.3 internal/cri/server/container_create_linux.go
func containerSpec(in specInput) (*specs.Spec, error) {
	cfg, sc := in.Config, in.Config.GetLinux().GetSecurityContext()
	args, err := commandLine(cfg, in.Image)
	if err != nil {
		return nil, err
	}
	spec := baseSpec(in)
	spec.Root.Readonly = sc.GetReadonlyRootfs()
	spec.Process = &specs.Process{
		Terminal:        cfg.GetTty(),
		Args:            args,
		Env:             environment(cfg, in.Image, in.Sandbox.Hostname),
		Cwd:             path.Join("/", cmp.Or(cfg.GetWorkingDir(), in.Image.WorkingDir)),
		User:            in.User,
		NoNewPrivileges: sc.GetNoNewPrivs(),
	}
	spec.Linux.Namespaces = containerNamespaces(in, sc.GetNamespaceOptions())
	spec.Mounts = append(spec.Mounts, podMounts(in)...)
	if err := addMounts(spec, in); err != nil {
		return nil, err
	}
	in.Sandbox.userNamespace().enter(spec, fmt.Sprintf("/proc/%d/ns/user", in.SandboxPid), in.ownFiles()...)
	spec.Linux.Resources = linuxResources(cfg.GetLinux().GetResources(), in.Host)
	setOOMScore(spec, in.Host, int(cfg.GetLinux().GetResources().GetOomScoreAdj()))
	if err := confine(spec, in, sc); err != nil {
		return nil, err
	}
	spec.Annotations["io.kubernetes.cri.container-type"] = "container"
	spec.Annotations["io.kubernetes.cri.container-name"] = cfg.GetMetadata().GetName()
	spec.Annotations["io.kubernetes.cri.image-name"] = cmp.Or(cfg.GetImage().GetUserSpecifiedImage(), cfg.GetImage().GetImage())
	return spec, nil
}

// sandboxSpec is the pause container: it makes the namespaces that the pod's
// containers join, and does nothing.
func sandboxSpec(in specInput) (*specs.Spec, error) {
	linux := in.Sandbox.Config.GetLinux()
	sc, options := linux.GetSecurityContext(), linux.GetSecurityContext().GetNamespaceOptions()
	args := append(slices.Clone(in.Image.Entrypoint), in.Image.Cmd...)
	if len(args) == 0 {
		return nil, fmt.Errorf("the pause image has no command: %w", errdefs.ErrInvalidArgument)
	}
	spec := baseSpec(in)
	spec.Mounts = spec.Mounts[:2] // it opens no terminal, queue or device of /sys, and each mount costs runc time
	spec.Root.Readonly = true
	spec.Process = &specs.Process{
		Args: args, Env: append([]string{defaultPath}, in.Image.Env...), Cwd: cmp.Or(in.Image.WorkingDir, "/"),
		User: in.User, NoNewPrivileges: true,
	}
	spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	if options.GetPid() != runtimeapi.NamespaceMode_NODE {
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.PIDNamespace})
	}
	if options.GetIpc() != runtimeapi.NamespaceMode_NODE {
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.IPCNamespace})
	}
	if options.GetNetwork() != runtimeapi.NamespaceMode_NODE {
		// A pod on the host's network bears the host's name as well.
		spec.Hostname = in.Sandbox.Hostname
		spec.Linux.Namespaces = append(spec.Linux.Namespaces,
			specs.LinuxNamespace{Type: specs.UTSNamespace},
			specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: in.Sandbox.NetNS})
	}
	userns := in.Sandbox.userNamespace()
	if userns != nil { // runc makes the network namespace, see userns.go
		spec.Linux.Namespaces[len(spec.Linux.Namespaces)-1].Path = ""
	}
	spec.Linux.Sysctl = podSysctls(linux.GetSysctls(), options, userns != nil)
	spec.Mounts = append(spec.Mounts, bind(in.Files.Shm, "/dev/shm"), bind(in.Files.ResolvConf, "/etc/resolv.conf", "ro"))
	userns.enter(spec, "", in.ownFiles()...)
	shares := uint64(2) // pause never needs a turn
	spec.Linux.Resources = &specs.LinuxResources{
		CPU:     &specs.LinuxCPU{Shares: &shares},
		Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
	}
	setOOMScore(spec, in.Host, -998)
	// Even for a privileged pod pause itself stays confined.
	spec.Process.Capabilities = &specs.LinuxCapabilities{}
	spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths = defaultMaskedPaths, defaultReadonlyPaths
	if !sc.GetPrivileged() {
		if err := setSeccomp(spec, sc.GetSeccomp(), in.Seccomp); err != nil {
			return nil, err
		}
		if sc.GetSeccomp().GetProfileType() == runtimeapi.SecurityProfile_RuntimeDefault {
			onlyNative(spec.Linux.Seccomp)
		}
	}
	spec.Annotations["io.kubernetes.cri.container-type"] = "sandbox"
	return spec, nil
}

// baseSpec is what pause and containers have in common.
func baseSpec(in specInput) *specs.Spec {
	meta := in.Sandbox.Config.GetMetadata()
	spec := &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: "rootfs"},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		},
		Linux: &specs.Linux{CgroupsPath: cgroupsPath(in)},
		Annotations: map[string]string{
			// With this one the shim of the pause container serves the pod's
			// other containers too: one shim process per pod.
			"io.kubernetes.cri.sandbox-id":        in.Sandbox.ID,
			"io.kubernetes.cri.sandbox-name":      meta.GetName(),
			"io.kubernetes.cri.sandbox-namespace": meta.GetNamespace(),
			"io.kubernetes.cri.sandbox-uid":       meta.GetUid(),
		},
	}
	return spec
}

// commandLine applies the rule that a pod's command replaces the image's
// ENTRYPOINT and CMD, while its args alone replace only CMD.
func commandLine(cfg *runtimeapi.ContainerConfig, image ocispec.ImageConfig) ([]string, error) {
	command, args := cfg.GetCommand(), cfg.GetArgs()
	if len(command) == 0 {
		command = image.Entrypoint
		if len(args) == 0 {
			args = image.Cmd
		}
	}
	line := append(slices.Clone(command), args...)
	if len(line) == 0 || line[0] == "" {
		return nil, fmt.Errorf("no command specified: %w", errdefs.ErrInvalidArgument)
	}
	return line, nil
}

// environment layers PATH, HOSTNAME, TERM, the image's and the pod's
// variables; the last one wins and each keeps its first place. What has no "="
// is none, though an image may say so.
func environment(cfg *runtimeapi.ContainerConfig, image ocispec.ImageConfig, hostname string) []string {
	layers := []string{defaultPath, "HOSTNAME=" + hostname}
	if cfg.GetTty() {
		layers = append(layers, "TERM=xterm")
	}
	layers = append(layers, image.Env...)
	for _, kv := range cfg.GetEnvs() {
		layers = append(layers, kv.GetKey()+"="+string(kv.GetValue()))
	}
	var env []string
	place := map[string]int{}
	for _, variable := range layers {
		name, _, valid := strings.Cut(variable, "=")
		if i, seen := place[name]; seen && valid {
			env[i] = variable
			continue
		}
		if !valid {
			continue
		}
		place[name] = len(env)
		env = append(env, variable)
	}
	return env
}

// containerNamespaces joins the pod's namespaces. Only the mounts are always
// the container's own.
func containerNamespaces(in specInput, options *runtimeapi.NamespaceOption) []specs.LinuxNamespace {
	of := func(pid uint32, kind string) string { return fmt.Sprintf("/proc/%d/ns/%s", pid, kind) }
	list := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	// Joining pause's namespace is right for NODE as well, where pause is in
	// the host's: containers always have what their pod has.
	list = append(list,
		specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: cmp.Or(in.Sandbox.NetNS, of(in.SandboxPid, "net"))},
		specs.LinuxNamespace{Type: specs.IPCNamespace, Path: of(in.SandboxPid, "ipc")},
		specs.LinuxNamespace{Type: specs.UTSNamespace, Path: of(in.SandboxPid, "uts")})
	switch options.GetPid() {
	case runtimeapi.NamespaceMode_POD:
		list = append(list, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: of(in.SandboxPid, "pid")})
	case runtimeapi.NamespaceMode_CONTAINER:
		list = append(list, specs.LinuxNamespace{Type: specs.PIDNamespace})
	case runtimeapi.NamespaceMode_TARGET:
		list = append(list, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: of(in.TargetPid, "pid")})
	}
	if in.Host.CgroupV2 && !in.Config.GetLinux().GetSecurityContext().GetPrivileged() {
		list = append(list, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return list
}

// podMounts are the pod's own files, except where the kubelet mounts its own.
func podMounts(in specInput) []specs.Mount {
	own := []specs.Mount{
		bind(in.Files.Hostname, "/etc/hostname"), bind(in.Files.Hosts, "/etc/hosts"),
		bind(in.Files.ResolvConf, "/etc/resolv.conf"), bind(in.Files.Shm, "/dev/shm"),
	}
	cgroup := specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup",
		Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}}
	return slices.DeleteFunc(append([]specs.Mount{cgroup}, own...), func(m specs.Mount) bool {
		return slices.ContainsFunc(in.Mounts, func(asked *runtimeapi.Mount) bool {
			return path.Join("/", asked.GetContainerPath()) == m.Destination
		}) || (m.Source == "")
	})
}

// addMounts appends what the pod asked for and the image's volumes, outer
// directories before inner ones.
func addMounts(spec *specs.Spec, in specInput) error {
	var list []specs.Mount
	asked := map[string]bool{}
	for _, m := range in.Mounts {
		mount, err := volumeMount(m)
		if err != nil {
			return err
		}
		switch m.GetPropagation() {
		case runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:
			spec.Linux.RootfsPropagation = "rshared"
		case runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
			if spec.Linux.RootfsPropagation == "" {
				spec.Linux.RootfsPropagation = "rslave"
			}
		}
		asked[mount.Destination] = true
		list = append(list, mount)
	}
	for destination, source := range in.Volumes {
		if destination = path.Clean(destination); !asked[destination] {
			list = append(list, bind(source, destination, "rprivate"))
		}
	}
	sort.SliceStable(list, func(i, j int) bool {
		a, b := list[i].Destination, list[j].Destination
		if depthA, depthB := strings.Count(a, "/"), strings.Count(b, "/"); depthA != depthB {
			return depthA < depthB
		}
		return a < b
	})
	// What is mounted over one of our defaults (say /sys, or /dev) replaces it.
	spec.Mounts = slices.DeleteFunc(spec.Mounts, func(m specs.Mount) bool { return asked[m.Destination] })
	spec.Mounts = append(spec.Mounts, list...)
	return nil
}

func volumeMount(m *runtimeapi.Mount) (specs.Mount, error) {
	propagation := map[runtimeapi.MountPropagation]string{
		runtimeapi.MountPropagation_PROPAGATION_PRIVATE:           "rprivate",
		runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER: "rslave",
		runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:     "rshared",
	}[m.GetPropagation()]
	access := "rw"
	if m.GetReadonly() {
		access = "ro"
	}
	if m.GetRecursiveReadOnly() {
		if !m.GetReadonly() || propagation != "rprivate" {
			return specs.Mount{}, fmt.Errorf("mount %s: recursive_read_only needs readonly and private propagation: %w",
				m.GetContainerPath(), errdefs.ErrInvalidArgument)
		}
		access = "rro"
	}
	if m.GetContainerPath() == "" {
		return specs.Mount{}, fmt.Errorf("the mount of %q has no container path: %w", m.GetHostPath(), errdefs.ErrInvalidArgument)
	}
	mount := bind(m.GetHostPath(), path.Join("/", m.GetContainerPath()), propagation, access)
	mount.UIDMappings, mount.GIDMappings = idMappings(m.GetUidMappings()), idMappings(m.GetGidMappings())
	return mount, nil
}

func bind(source, destination string, options ...string) specs.Mount {
	return specs.Mount{Destination: destination, Type: "bind", Source: source, Options: append([]string{"rbind"}, options...)}
}

// podSysctls adds two that let an unprivileged process listen on port 80 and
// send pings, which is safe where the pod's network is its own.
//
// Upstream: containerd@v2.3 enable_unprivileged_ports, enable_unprivileged_icmp
func podSysctls(asked map[string]string, options *runtimeapi.NamespaceOption, userns bool) map[string]string {
	sysctls := map[string]string{}
	if options.GetNetwork() != runtimeapi.NamespaceMode_NODE {
		sysctls["net.ipv4.ip_unprivileged_port_start"] = "0"
		if !userns { // which knows no groups with such numbers
			sysctls["net.ipv4.ping_group_range"] = "0 2147483647"
		}
	}
	maps.Copy(sysctls, asked)
	return sysctls
}

// linuxResources translates the limits, as given at creation or in an update.
func linuxResources(r *runtimeapi.LinuxContainerResources, host hostFacts) *specs.LinuxResources {
	// Who limits memory and says nothing of swap means that there is none.
	swap := r.GetMemorySwapLimitInBytes()
	if swap == 0 {
		swap = r.GetMemoryLimitInBytes()
	}
	if !host.Swap {
		swap = 0
	}
	resources := &specs.LinuxResources{
		CPU: &specs.LinuxCPU{
			Shares: nonZero(uint64(r.GetCpuShares())), Quota: nonZero(r.GetCpuQuota()), Period: nonZero(uint64(r.GetCpuPeriod())),
			Cpus: r.GetCpusetCpus(), Mems: r.GetCpusetMems(),
		},
		Memory:  &specs.LinuxMemory{Limit: nonZero(r.GetMemoryLimitInBytes()), Swap: nonZero(swap)},
		Unified: r.GetUnified(),
	}
	for _, limit := range r.GetHugepageLimits() {
		if host.NoHugetlb {
			break
		}
		resources.HugepageLimits = append(resources.HugepageLimits,
			specs.LinuxHugepageLimit{Pagesize: limit.GetPageSize(), Limit: limit.GetLimit()})
	}
	return resources
}

// cgroupsPath places the container below the pod's cgroup, which the kubelet
// has made. The systemd driver names a slice and a scope instead of a path.
func cgroupsPath(in specInput) string {
	parent := in.Sandbox.Config.GetLinux().GetCgroupParent()
	if in.Host.SystemdCgroup {
		return path.Base(cmp.Or(parent, "system.slice")) + ":cri-containerd:" + in.ID
	}
	return path.Join("/", cmp.Or(parent, namespace), in.ID)
}

// setOOMScore keeps the wish within what we may grant.
func setOOMScore(spec *specs.Spec, host hostFacts, score int) {
	if score < host.OOMScoreAdj && !slices.Contains(host.Capabilities, "CAP_SYS_RESOURCE") {
		score = host.OOMScoreAdj
	}
	spec.Process.OOMScoreAdj = &score
}

// validateSandbox refuses what we would otherwise silently not do.
func validateSandbox(cfg *runtimeapi.PodSandboxConfig, handler string) error {
	meta := cfg.GetMetadata()
	var err error
	switch {
	case meta.GetName() == "" || meta.GetUid() == "" && meta.GetNamespace() == "":
		err = errors.New("sandbox metadata with a name and a uid is required")
	case len(meta.GetName())+len(meta.GetNamespace())+len(meta.GetUid()) > maxNames:
		err = fmt.Errorf("sandbox metadata of more than %d characters", maxNames)
	case slices.ContainsFunc(cfg.GetPortMappings(), badPorts):
		// A plugin would refuse it too, and then could not take it back.
		err = errors.New("a port mapping's ports are out of range")
	case handler != "" && handler != "runc":
		err = fmt.Errorf("no runtime for %q is configured", handler)
	case cfg.GetLinux().GetCgroupParent() != "" && strings.Contains(cfg.GetLinux().GetCgroupParent(), ".."):
		err = errors.New("cgroup parent must not contain ..")
	default:
		err = validateUserns(cfg.GetLinux().GetSecurityContext().GetNamespaceOptions())
	}
	if err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// maxNames bounds a pod's name, namespace and uid together: plugins are given
// them in an environment variable, which the kernel limits to 128 KiB.
const maxNames = 16 << 10

func badPorts(m *runtimeapi.PortMapping) bool {
	return m.GetHostPort() < 0 || m.GetHostPort() > 65535 || m.GetContainerPort() < 0 || m.GetContainerPort() > 65535
}

func nonZero[T int64 | uint64](value T) *T {
	if value == 0 {
		return nil
	}
	return &value
}
