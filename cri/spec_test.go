package cri

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var update = flag.Bool("update", false, "rewrite testdata")

// webInput is an ordinary container of an ordinary pod. The cases change one
// thing each.
func webInput() specInput {
	return specInput{
		ID: "c0ffee",
		Sandbox: &sandboxRecord{ID: "5a5a", Hostname: "web", NetNS: "/run/netns/cri-5a5a", Config: &runtimeapi.PodSandboxConfig{
			Metadata: &runtimeapi.PodSandboxMetadata{Name: "web", Namespace: "default", Uid: "u1"},
			Linux:    &runtimeapi.LinuxPodSandboxConfig{CgroupParent: "/kubepods/burstable/podu1", SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{}},
		}},
		SandboxPid: 42,
		Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "nginx"},
			Image:    &runtimeapi.ImageSpec{Image: "sha256:1", UserSpecifiedImage: "nginx:1"},
			Args:     []string{"-v"},
			Envs:     []*runtimeapi.KeyValue{{Key: "B", Value: []byte("pod")}},
			Linux: &runtimeapi.LinuxContainerConfig{
				Resources:       &runtimeapi.LinuxContainerResources{CpuShares: 102, MemoryLimitInBytes: 64 << 20, OomScoreAdj: 900},
				SecurityContext: &runtimeapi.LinuxContainerSecurityContext{MaskedPaths: []string{"/proc/kcore"}, ReadonlyPaths: []string{"/proc/sys"}},
			},
		},
		Image: ocispec.ImageConfig{Entrypoint: []string{"/nginx"}, Cmd: []string{"-h"}, Env: []string{"A=image", "B=image"}, WorkingDir: "/srv"},
		User:  specs.User{UID: 33, GID: 33, AdditionalGids: []uint32{33, 50}},
		Files: podFiles{Hostname: "/pod/hostname", ResolvConf: "/pod/resolv.conf", Hosts: "/pod/hosts", Shm: "/pod/shm"},
		Host:  hostFacts{CgroupV2: true, Capabilities: []string{"CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_SYS_RESOURCE"}},
	}
}

func TestContainerSpec(t *testing.T) {
	for name, change := range map[string]func(in *specInput, sc *runtimeapi.LinuxContainerSecurityContext){
		"ordinary": func(*specInput, *runtimeapi.LinuxContainerSecurityContext) {},
		"privileged": func(in *specInput, sc *runtimeapi.LinuxContainerSecurityContext) {
			sc.Privileged = true
			in.Devices = []specs.LinuxDevice{{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229}}
		},
		"mounts": func(in *specInput, _ *runtimeapi.LinuxContainerSecurityContext) {
			in.Mounts = []*runtimeapi.Mount{
				{ContainerPath: "/data/inner/", HostPath: "/v/inner", Readonly: true, RecursiveReadOnly: true},
				{ContainerPath: "/data", HostPath: "/v/data", Propagation: runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL},
				{ContainerPath: "/etc/hosts", HostPath: "/kubelet/hosts"},
				{ContainerPath: "/dev/shm", HostPath: "/v/shm", Propagation: runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER},
			}
			in.Volumes = map[string]string{"/data": "/unused", "/cache": "/v/cache"}
		},
		"host-namespaces": func(in *specInput, sc *runtimeapi.LinuxContainerSecurityContext) {
			in.Sandbox.NetNS = ""
			sc.NamespaceOptions = &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_NODE, Ipc: runtimeapi.NamespaceMode_NODE}
			in.Files.Shm = "/dev/shm"
		},
		"systemd-v1-devices": func(in *specInput, sc *runtimeapi.LinuxContainerSecurityContext) {
			in.Host.CgroupV2, in.Host.SystemdCgroup = false, true
			in.Sandbox.Config.Linux.CgroupParent = "kubepods-burstable-podu1.slice"
			in.Config.Devices = []*runtimeapi.Device{{ContainerPath: "/dev/fuse", HostPath: "/dev/fuse", Permissions: "rw"}}
			in.Devices = []specs.LinuxDevice{{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229}}
			sc.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"net_admin"}, DropCapabilities: []string{"ALL"}}
			sc.NamespaceOptions = &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_TARGET}
			in.TargetPid = 77
			in.Config.Tty = true
			in.Config.Command, in.Config.Args, in.Config.WorkingDir = []string{"sh", "-c"}, []string{"true"}, "/tmp"
			sc.NoNewPrivs, sc.ReadonlyRootfs = true, true
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := webInput()
			change(&in, in.Config.Linux.SecurityContext)
			spec, err := containerSpec(in)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name, spec)
		})
	}
}

func TestSandboxSpec(t *testing.T) {
	for name, network := range map[string]runtimeapi.NamespaceMode{
		"sandbox": runtimeapi.NamespaceMode_POD, "sandbox-host-network": runtimeapi.NamespaceMode_NODE,
	} {
		t.Run(name, func(t *testing.T) {
			in := webInput()
			in.Image = ocispec.ImageConfig{Entrypoint: []string{"/pause"}}
			in.Sandbox.Config.Linux.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "1024"}
			in.Sandbox.Config.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Network: network}
			spec, err := sandboxSpec(in)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name, spec)
		})
	}
}

func golden(t *testing.T, name string, spec *specs.Spec) {
	t.Helper()
	got, err := json.MarshalIndent(spec, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("testdata", name+".json")
	if *update {
		if err := os.WriteFile(file, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)+"\n"); diff != "" {
		t.Errorf("spec differs from %s (-want +got):\n%s", file, diff)
	}
}

func TestSpecRefuses(t *testing.T) {
	for name, change := range map[string]func(in *specInput, sc *runtimeapi.LinuxContainerSecurityContext){
		"no command": func(in *specInput, _ *runtimeapi.LinuxContainerSecurityContext) {
			in.Image, in.Config.Args = ocispec.ImageConfig{}, nil
		},
		"a mount without a container path": func(in *specInput, _ *runtimeapi.LinuxContainerSecurityContext) {
			in.Mounts = []*runtimeapi.Mount{{HostPath: "/v"}}
		},
		"recursive read-only but writable": func(in *specInput, _ *runtimeapi.LinuxContainerSecurityContext) {
			in.Mounts = []*runtimeapi.Mount{{ContainerPath: "/data", HostPath: "/v", RecursiveReadOnly: true}}
		},
		"an AppArmor profile": func(_ *specInput, sc *runtimeapi.LinuxContainerSecurityContext) {
			sc.Apparmor = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "mine"}
		},
		"a seccomp profile that was not read": func(_ *specInput, sc *runtimeapi.LinuxContainerSecurityContext) {
			sc.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost}
		},
	} {
		in := webInput()
		change(&in, in.Config.Linux.SecurityContext)
		if _, err := containerSpec(in); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v, want an invalid argument", name, err)
		}
	}
}

// A profile that allows everything is not what "Localhost" asks for
// (CVE-2023-2431).
func TestEmptySeccompProfileIsRefused(t *testing.T) {
	for _, content := range []string{"", "{}", "[]"} {
		file := filepath.Join(t.TempDir(), "profile.json")
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := readSeccomp(&runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: file}); err == nil {
			t.Errorf("%q was accepted", content)
		}
	}
}

func TestDefaultSeccompFollowsCapabilities(t *testing.T) {
	in := webInput()
	sc := in.Config.Linux.SecurityContext
	sc.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	allows := func(call string) bool {
		spec, err := containerSpec(in)
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(spec.Linux.Seccomp.Syscalls, func(s specs.LinuxSyscall) bool {
			return s.Action == specs.ActAllow && slices.Contains(s.Names, call) && len(s.Args) == 0
		})
	}
	if !allows("read") || allows("mount") {
		t.Error("the default profile should allow read and not mount")
	}
	sc.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"SYS_ADMIN"}}
	if !allows("mount") {
		t.Error("with SYS_ADMIN it should allow mount")
	}
}

// runc spends more on three calling conventions than on all the rest of a start.
func TestPauseKnowsOneCallingConvention(t *testing.T) {
	in := webInput()
	profile := &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	in.Sandbox.Config.Linux.SecurityContext.Seccomp, in.Config.Linux.SecurityContext.Seccomp = profile, profile
	container, err := containerSpec(in)
	if err != nil {
		t.Fatal(err)
	}
	in.Image = ocispec.ImageConfig{Entrypoint: []string{"/pause"}}
	pause, err := sandboxSpec(in)
	if err != nil {
		t.Fatal(err)
	}
	all, one := container.Linux.Seccomp.Architectures, pause.Linux.Seccomp.Architectures
	if len(one) != 1 || one[0] != all[0] || goruntime.GOARCH == "amd64" && len(all) != 3 {
		t.Errorf("pause: %v, containers: %v", one, all)
	}
}

// A score below our own needs a capability; without it runc would die.
func TestOOMScoreIsClamped(t *testing.T) {
	for _, c := range []struct {
		capabilities []string
		asked, want  int
	}{{nil, -997, 100}, {nil, 900, 900}, {[]string{"CAP_SYS_RESOURCE"}, -997, -997}} {
		spec := &specs.Spec{Process: &specs.Process{}}
		setOOMScore(spec, hostFacts{OOMScoreAdj: 100, Capabilities: c.capabilities}, c.asked)
		if *spec.Process.OOMScoreAdj != c.want {
			t.Errorf("%v: %d, want %d", c, *spec.Process.OOMScoreAdj, c.want)
		}
	}
}

func TestValidateSandbox(t *testing.T) {
	ok := webInput().Sandbox.Config
	if err := validateSandbox(ok, "runc"); err != nil {
		t.Error(err)
	}
	if err := validateSandbox(ok, "kata"); err == nil {
		t.Error("an unknown runtime handler was accepted")
	}
	userns := webInput().Sandbox.Config
	userns.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{UsernsOptions: &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD}}
	if err := validateSandbox(userns, ""); err == nil {
		t.Error("a user namespace was accepted")
	}
}

func TestStopSignal(t *testing.T) {
	for text, want := range map[string]int{
		"": 15, "nonsense": 15, "SIGQUIT": 3, "quit": 3, "9": 9, "SIGRTMIN+3": 37, "SIGRTMINPLUS3": 37, "RTMAX-1": 63, "SIGRTMAXMINUS1": 63, "99": 15,
	} {
		if got := stopSignal(text); int(got) != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}
