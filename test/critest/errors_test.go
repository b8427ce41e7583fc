package critest

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"tinykube/internal/nstest"
)

// client is a runtime with something in it: a pod with a container in each
// state, and a pod that was stopped.
type client struct {
	api
	t   *testing.T
	pod string

	running, created, exited string
	stopped                  string // a pod
}

func newClient(t *testing.T, r runtimeUnderTest) *client {
	t.Helper()
	c := &client{api: r.dial(t), t: t}
	_, err := c.PullImage(t.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: defaultImage}})
	must(t, err)
	c.pod = c.run(podConfig("pod"))
	c.stopped = c.run(podConfig("stopped"))
	c.running, c.created, c.exited = c.create("running", "sleep 1000"), c.create("created", "sleep 1000"), c.create("exited", "exit 3")
	for _, id := range []string{c.running, c.exited} {
		_, err = c.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: id})
		must(t, err)
	}
	nstest.Eventually(t, "the exited container", func() bool {
		r, err := c.ContainerStatus(t.Context(), &cri.ContainerStatusRequest{ContainerId: c.exited})
		return err == nil && r.GetStatus().GetState() == cri.ContainerState_CONTAINER_EXITED
	})
	_, err = c.StopPodSandbox(t.Context(), &cri.StopPodSandboxRequest{PodSandboxId: c.stopped})
	must(t, err)
	return c
}

func (c *client) run(config *cri.PodSandboxConfig) string {
	c.t.Helper()
	r, err := c.RunPodSandbox(c.t.Context(), &cri.RunPodSandboxRequest{Config: config})
	must(c.t, err)
	return r.GetPodSandboxId()
}

func (c *client) create(name, script string) string {
	c.t.Helper()
	r, err := c.CreateContainer(c.t.Context(), &cri.CreateContainerRequest{PodSandboxId: c.pod, Config: containerConfig(name, script), SandboxConfig: podConfig("pod")})
	must(c.t, err)
	return r.GetContainerId()
}

func podConfig(name string) *cri.PodSandboxConfig {
	return &cri.PodSandboxConfig{Metadata: &cri.PodSandboxMetadata{Name: name, Uid: name, Namespace: "errors"}, LogDirectory: "/run/log",
		Linux: &cri.LinuxPodSandboxConfig{}}
}

func containerConfig(name, script string) *cri.ContainerConfig {
	return &cri.ContainerConfig{Metadata: &cri.ContainerMetadata{Name: name}, Image: &cri.ImageSpec{Image: defaultImage},
		Command: []string{"sh", "-c", script}, LogPath: name + ".log", Linux: &cri.LinuxContainerConfig{}}
}

// attempt is one call that a caller should not make, or should be able to make
// twice. It answers the call's error alone.
type attempt struct {
	what string
	call func(context.Context, *client) error
}

// failure drops a call's answer.
func failure[T any](_ T, err error) error { return err }

// pod and container make attempts to create something unusual.
func pod(what string, change func(*cri.PodSandboxConfig)) attempt {
	return attempt{"RunPodSandbox " + what, func(ctx context.Context, c *client) error {
		config := podConfig("odd")
		change(config)
		return failure(c.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config}))
	}}
}

// container creates and, if that succeeds, starts.
func container(what string, change func(*cri.ContainerConfig)) attempt {
	return attempt{"CreateContainer " + what, func(ctx context.Context, c *client) error {
		config := containerConfig("odd", "sleep 1000")
		change(config)
		r, err := c.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: c.pod, Config: config, SandboxConfig: podConfig("pod")})
		if err != nil {
			return err
		}
		if _, err = c.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: r.GetContainerId()}); err != nil {
			err = status.Errorf(status.Code(err), "start: %v", err)
		}
		return err
	}}
}

// attempts are made on both runtimes.
func attempts() []attempt {
	unknown := strings.Repeat("0123456789abcdef", 4)
	list := []attempt{
		{"RunPodSandbox nothing", func(ctx context.Context, c *client) error {
			return failure(c.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{}))
		}},
		{"RunPodSandbox unknown handler", func(ctx context.Context, c *client) error {
			return failure(c.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: podConfig("odd"), RuntimeHandler: "kata"}))
		}},
		{"RunPodSandbox the same twice", func(ctx context.Context, c *client) error {
			return failure(c.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: podConfig("pod")}))
		}},
		pod("empty configuration", (*cri.PodSandboxConfig).Reset),
		pod("empty metadata", func(p *cri.PodSandboxConfig) { p.Metadata = &cri.PodSandboxMetadata{} }),
		pod("no linux", func(p *cri.PodSandboxConfig) { p.Linux = nil }),
		pod("no uid", func(p *cri.PodSandboxConfig) { p.Metadata.Uid = "" }),
		pod("no namespace", func(p *cri.PodSandboxConfig) { p.Metadata.Namespace = "" }),
		pod("a name of 1 MB", func(p *cri.PodSandboxConfig) { p.Metadata.Name = strings.Repeat("x", 1<<20) }),
		pod("a hostname of 100 characters", func(p *cri.PodSandboxConfig) { p.Hostname = strings.Repeat("h", 100) }),
		pod("a hostname with newline", func(p *cri.PodSandboxConfig) { p.Hostname = "a\nb" }),
		pod("a relative log directory", func(p *cri.PodSandboxConfig) { p.LogDirectory = "../log" }),
		pod("DNS options with newlines", func(p *cri.PodSandboxConfig) {
			p.DnsConfig = &cri.DNSConfig{Options: []string{"a\nnameserver 1.2.3.4"}}
		}),
		pod("seven DNS searches", func(p *cri.PodSandboxConfig) { p.DnsConfig = &cri.DNSConfig{Searches: strings.Fields("a b c d e f g")} }),
		pod("an unknown sysctl", func(p *cri.PodSandboxConfig) { p.Linux.Sysctls = map[string]string{"kernel.nonsense": "1"} }),
		pod("a sysctl of the host", func(p *cri.PodSandboxConfig) { p.Linux.Sysctls = map[string]string{"vm.swappiness": "1"} }),
		pod("a sysctl with a bad value", func(p *cri.PodSandboxConfig) { p.Linux.Sysctls = map[string]string{"net.ipv4.ip_forward": "yes+1"} }),
		pod("a seccomp profile that is not there", func(p *cri.PodSandboxConfig) {
			p.Linux.SecurityContext = &cri.LinuxSandboxSecurityContext{Seccomp: &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: "/no/such"}}
		}),
		pod("a group without a user", func(p *cri.PodSandboxConfig) {
			p.Linux.SecurityContext = &cri.LinuxSandboxSecurityContext{RunAsGroup: &cri.Int64Value{Value: 7}}
		}),
		pod("a negative user", func(p *cri.PodSandboxConfig) {
			p.Linux.SecurityContext = &cri.LinuxSandboxSecurityContext{RunAsUser: &cri.Int64Value{Value: -1}}
		}),
		pod("a host port out of range", func(p *cri.PodSandboxConfig) {
			p.PortMappings = []*cri.PortMapping{{HostPort: 70000, ContainerPort: 80}}
		}),
		pod("a cgroup parent with ..", func(p *cri.PodSandboxConfig) { p.Linux.CgroupParent = "../../x" }),
		container("empty configuration", (*cri.ContainerConfig).Reset),
		container("no metadata", func(p *cri.ContainerConfig) { p.Metadata = nil }),
		container("no name", func(p *cri.ContainerConfig) { p.Metadata.Name = "" }),
		container("no image", func(p *cri.ContainerConfig) { p.Image = nil }),
		container("an unknown image", func(p *cri.ContainerConfig) { p.Image.Image = "example.com/none:v1" }),
		container("an image name that is none", func(p *cri.ContainerConfig) { p.Image.Image = "UPPER case" }),
		container("the same name", func(p *cri.ContainerConfig) { p.Metadata.Name = "running" }),
		container("a program that is not there", func(p *cri.ContainerConfig) { p.Command = []string{"/no/such"} }),
		container("a directory as program", func(p *cri.ContainerConfig) { p.Command = []string{"/bin"} }),
		container("an empty command word", func(p *cri.ContainerConfig) { p.Command = []string{""} }),
		container("a log path that leaves", func(p *cri.ContainerConfig) { p.LogPath = "../../x.log" }),
		container("a relative working directory", func(p *cri.ContainerConfig) { p.WorkingDir = "x/y" }),
		container("a working directory that is not there", func(p *cri.ContainerConfig) { p.WorkingDir = "/no/such" }),
		container("a working directory with ..", func(p *cri.ContainerConfig) { p.WorkingDir = "/../../etc" }),
		container("an environment variable without name", func(p *cri.ContainerConfig) { p.Envs = []*cri.KeyValue{{Key: "", Value: []byte("x")}} }),
		container("an environment variable with NUL", func(p *cri.ContainerConfig) { p.Envs = []*cri.KeyValue{{Key: "A", Value: []byte("x\x00y")}} }),
		container("an environment of 3 MB", func(p *cri.ContainerConfig) {
			p.Envs = []*cri.KeyValue{{Key: "A", Value: []byte(strings.Repeat("x", 3<<20))}}
		}),
		container("a mount without host path", func(p *cri.ContainerConfig) { p.Mounts = []*cri.Mount{{ContainerPath: "/x"}} }),
		container("a mount without container path", func(p *cri.ContainerConfig) { p.Mounts = []*cri.Mount{{HostPath: "/tmp"}} }),
		container("a relative mount", func(p *cri.ContainerConfig) { p.Mounts = []*cri.Mount{{HostPath: "/tmp", ContainerPath: "x"}} }),
		container("a mount below a file", func(p *cri.ContainerConfig) {
			p.Mounts = []*cri.Mount{{HostPath: "/etc/passwd/x", ContainerPath: "/x"}}
		}),
		container("recursively read-only but writable", func(p *cri.ContainerConfig) {
			p.Mounts = []*cri.Mount{{HostPath: "/tmp", ContainerPath: "/x", RecursiveReadOnly: true}}
		}),
		container("a device that is not there", func(p *cri.ContainerConfig) {
			p.Devices = []*cri.Device{{HostPath: "/dev/nonsense", ContainerPath: "/dev/x", Permissions: "rwm"}}
		}),
		container("a CDI device that nobody has", func(p *cri.ContainerConfig) { p.CDIDevices = []*cri.CDIDevice{{Name: "vendor.com/class=x"}} }),
		container("an unknown user", func(p *cri.ContainerConfig) {
			p.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{RunAsUsername: "nobody-at-all"}
		}),
		container("a user that does not fit", func(p *cri.ContainerConfig) {
			p.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{RunAsUser: &cri.Int64Value{Value: 1 << 32}}
		}),
		container("a negative user", func(p *cri.ContainerConfig) {
			p.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{RunAsUser: &cri.Int64Value{Value: -1}}
		}),
		container("a group without a user", func(p *cri.ContainerConfig) {
			p.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{RunAsGroup: &cri.Int64Value{Value: 7}}
		}),
		container("a capability that is none", func(p *cri.ContainerConfig) {
			p.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{Capabilities: &cri.Capability{AddCapabilities: []string{"NONSENSE"}}}
		}),
		container("privileged in a pod that is not", func(p *cri.ContainerConfig) {
			p.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{Privileged: true}
		}),
		container("a seccomp profile that is not there", func(p *cri.ContainerConfig) {
			p.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{Seccomp: &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: "/no/such"}}
		}),
		container("an empty seccomp profile", func(p *cri.ContainerConfig) {
			p.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{Seccomp: &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost}}
		}),
		container("an AppArmor profile that is not there", func(p *cri.ContainerConfig) {
			p.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{Apparmor: &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: "x"}}
		}),
		container("an unknown target", func(p *cri.ContainerConfig) {
			p.Linux.SecurityContext = &cri.LinuxContainerSecurityContext{NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_TARGET, TargetId: unknown}}
		}),
		container("a memory limit below what a process needs", func(p *cri.ContainerConfig) {
			p.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 4096}
		}),
		container("a negative CPU quota", func(p *cri.ContainerConfig) {
			p.Linux.Resources = &cri.LinuxContainerResources{CpuQuota: -1, CpuPeriod: 100000}
		}),
		container("a CPU that is not there", func(p *cri.ContainerConfig) {
			p.Linux.Resources = &cri.LinuxContainerResources{CpusetCpus: "4000"}
		}),
		container("an image volume of an unknown image", func(p *cri.ContainerConfig) {
			p.Mounts = []*cri.Mount{{ContainerPath: "/x", Readonly: true, Image: &cri.ImageSpec{Image: "example.com/none:v1"}}}
		}),
		{"CreateContainer nothing", func(ctx context.Context, c *client) error {
			return failure(c.CreateContainer(ctx, &cri.CreateContainerRequest{}))
		}},
		{"CreateContainer in an unknown pod", func(ctx context.Context, c *client) error {
			return failure(c.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: unknown, Config: containerConfig("odd", "")}))
		}},
		{"CreateContainer in a stopped pod", func(ctx context.Context, c *client) error {
			return failure(c.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: c.stopped, Config: containerConfig("odd", ""), SandboxConfig: podConfig("stopped")}))
		}},
		{"CreateContainer without the pod's configuration", func(ctx context.Context, c *client) error {
			return failure(c.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: c.pod, Config: containerConfig("odd", "")}))
		}},
		{"StartContainer twice", func(ctx context.Context, c *client) error {
			return failure(c.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: c.running}))
		}},
		{"StartContainer after its end", func(ctx context.Context, c *client) error {
			return failure(c.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: c.exited}))
		}},
		{"StopContainer before its start", func(ctx context.Context, c *client) error {
			return failure(c.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: c.created}))
		}},
		{"StopContainer after its end", func(ctx context.Context, c *client) error {
			return failure(c.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: c.exited, Timeout: 1}))
		}},
		{"StopPodSandbox twice", func(ctx context.Context, c *client) error {
			return failure(c.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: c.stopped}))
		}},
		{"RemoveImage unknown", func(ctx context.Context, c *client) error {
			return failure(c.RemoveImage(ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: "example.com/none:v1"}}))
		}},
		{"RemoveImage nothing", func(ctx context.Context, c *client) error {
			return failure(c.RemoveImage(ctx, &cri.RemoveImageRequest{}))
		}},
		{"ImageStatus nothing", func(ctx context.Context, c *client) error {
			return failure(c.ImageStatus(ctx, &cri.ImageStatusRequest{}))
		}},
		{"ImageStatus of no name", func(ctx context.Context, c *client) error {
			return failure(c.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: "UPPER case"}}))
		}},
		{"PullImage nothing", func(ctx context.Context, c *client) error {
			return failure(c.PullImage(ctx, &cri.PullImageRequest{}))
		}},
		{"PullImage no name", func(ctx context.Context, c *client) error {
			return failure(c.PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: "UPPER case"}}))
		}},
		{"PullImage that the registry does not have", func(ctx context.Context, c *client) error {
			return failure(c.PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: "tinykube.local/none:v1"}}))
		}},
		{"PullImage with half a password", func(ctx context.Context, c *client) error {
			return failure(c.PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: defaultImage}, Auth: &cri.AuthConfig{Auth: "%%%"}}))
		}},
		{"ExecSync past its time", func(ctx context.Context, c *client) error {
			return failure(c.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: c.running, Cmd: []string{"sleep", "60"}, Timeout: 1}))
		}},
		{"ExecSync no command", func(ctx context.Context, c *client) error {
			return failure(c.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: c.running}))
		}},
		{"ExecSync no such program", func(ctx context.Context, c *client) error {
			return failure(c.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: c.running, Cmd: []string{"/no/such"}}))
		}},
		{"Exec without streams", func(ctx context.Context, c *client) error {
			return failure(c.Exec(ctx, &cri.ExecRequest{ContainerId: c.running, Cmd: []string{"sh"}}))
		}},
		{"Exec terminal and stderr", func(ctx context.Context, c *client) error {
			return failure(c.Exec(ctx, &cri.ExecRequest{ContainerId: c.running, Cmd: []string{"sh"}, Tty: true, Stderr: true}))
		}},
		{"Attach without streams", func(ctx context.Context, c *client) error {
			return failure(c.Attach(ctx, &cri.AttachRequest{ContainerId: c.running}))
		}},
		{"PortForward to a stopped pod", func(ctx context.Context, c *client) error {
			return failure(c.PortForward(ctx, &cri.PortForwardRequest{PodSandboxId: c.stopped, Port: []int32{80}}))
		}},
		{"UpdateContainerResources nothing", func(ctx context.Context, c *client) error {
			return failure(c.UpdateContainerResources(ctx, &cri.UpdateContainerResourcesRequest{ContainerId: c.running}))
		}},
		{"UpdateContainerResources of exited", func(ctx context.Context, c *client) error {
			return failure(c.UpdateContainerResources(ctx, &cri.UpdateContainerResourcesRequest{ContainerId: c.exited, Linux: &cri.LinuxContainerResources{CpuShares: 5}}))
		}},
		{"CheckpointContainer running", func(ctx context.Context, c *client) error {
			return failure(c.CheckpointContainer(ctx, &cri.CheckpointContainerRequest{ContainerId: c.running, Location: "/run/x.tar"}))
		}},
		{"ContainerStats of exited", func(ctx context.Context, c *client) error {
			return failure(c.ContainerStats(ctx, &cri.ContainerStatsRequest{ContainerId: c.exited}))
		}},
		{"PodSandboxStats of stopped", func(ctx context.Context, c *client) error {
			return failure(c.PodSandboxStats(ctx, &cri.PodSandboxStatsRequest{PodSandboxId: c.stopped}))
		}},
		{"ReopenContainerLog of exited", func(ctx context.Context, c *client) error {
			return failure(c.ReopenContainerLog(ctx, &cri.ReopenContainerLogRequest{ContainerId: c.exited}))
		}},
		{"UpdateRuntimeConfig nothing", func(ctx context.Context, c *client) error {
			return failure(c.UpdateRuntimeConfig(ctx, &cri.UpdateRuntimeConfigRequest{}))
		}},
		{"ListMetricDescriptors", func(ctx context.Context, c *client) error {
			return failure(c.ListMetricDescriptors(ctx, &cri.ListMetricDescriptorsRequest{}))
		}},
		{"ListPodSandboxMetrics", func(ctx context.Context, c *client) error {
			return failure(c.ListPodSandboxMetrics(ctx, &cri.ListPodSandboxMetricsRequest{}))
		}},
		{"ListContainers of an unknown pod", func(ctx context.Context, c *client) error {
			return failure(c.ListContainers(ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{PodSandboxId: unknown}}))
		}},
	}
	for name, id := range map[string]string{"unknown": unknown, "empty": "", "..": "../../etc/passwd", "one letter": "z"} {
		list = append(list, withID(name, id)...)
	}
	return list
}

// withID makes every call that takes an id with one that is nobody's.
func withID(name, id string) []attempt {
	of := func(method string, call func(context.Context, *client) error) attempt {
		return attempt{method + " of id " + name, call}
	}
	return []attempt{
		of("StopPodSandbox", func(ctx context.Context, c *client) error {
			return failure(c.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: id}))
		}),
		of("RemovePodSandbox", func(ctx context.Context, c *client) error {
			return failure(c.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: id}))
		}),
		of("PodSandboxStatus", func(ctx context.Context, c *client) error {
			return failure(c.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: id}))
		}),
		of("PodSandboxStats", func(ctx context.Context, c *client) error {
			return failure(c.PodSandboxStats(ctx, &cri.PodSandboxStatsRequest{PodSandboxId: id}))
		}),
		of("PortForward", func(ctx context.Context, c *client) error {
			return failure(c.PortForward(ctx, &cri.PortForwardRequest{PodSandboxId: id, Port: []int32{80}}))
		}),
		of("UpdatePodSandboxResources", func(ctx context.Context, c *client) error {
			return failure(c.UpdatePodSandboxResources(ctx, &cri.UpdatePodSandboxResourcesRequest{PodSandboxId: id}))
		}),
		of("StartContainer", func(ctx context.Context, c *client) error {
			return failure(c.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: id}))
		}),
		of("StopContainer", func(ctx context.Context, c *client) error {
			return failure(c.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: id}))
		}),
		of("RemoveContainer", func(ctx context.Context, c *client) error {
			return failure(c.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: id}))
		}),
		of("ContainerStatus", func(ctx context.Context, c *client) error {
			return failure(c.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id}))
		}),
		of("ContainerStats", func(ctx context.Context, c *client) error {
			return failure(c.ContainerStats(ctx, &cri.ContainerStatsRequest{ContainerId: id}))
		}),
		of("ExecSync", func(ctx context.Context, c *client) error {
			return failure(c.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"true"}}))
		}),
		of("Exec", func(ctx context.Context, c *client) error {
			return failure(c.Exec(ctx, &cri.ExecRequest{ContainerId: id, Cmd: []string{"true"}, Stdout: true}))
		}),
		of("Attach", func(ctx context.Context, c *client) error {
			return failure(c.Attach(ctx, &cri.AttachRequest{ContainerId: id, Stdout: true}))
		}),
		of("UpdateContainerResources", func(ctx context.Context, c *client) error {
			return failure(c.UpdateContainerResources(ctx, &cri.UpdateContainerResourcesRequest{ContainerId: id, Linux: &cri.LinuxContainerResources{CpuShares: 5}}))
		}),
		of("ReopenContainerLog", func(ctx context.Context, c *client) error {
			return failure(c.ReopenContainerLog(ctx, &cri.ReopenContainerLogRequest{ContainerId: id}))
		}),
		of("CheckpointContainer", func(ctx context.Context, c *client) error {
			return failure(c.CheckpointContainer(ctx, &cri.CheckpointContainerRequest{ContainerId: id}))
		}),
	}
}

// TestErrors makes the same wrong calls to both runtimes and compares the codes
// of what they answer.
func TestErrors(t *testing.T) {
	unpack(t)
	ours.start(t)
	theirs.start(t)
	a, b := newClient(t, ours), newClient(t, theirs)
	for _, attempt := range attempts() {
		var codes, texts [2]string
		for i, c := range []*client{a, b} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			err := attempt.call(ctx, c)
			cancel()
			codes[i] = status.Code(err).String()
			if err != nil {
				texts[i] = status.Convert(err).Message()
			}
			if left := c.removeOdd(); left != nil {
				t.Errorf("%s: clean up: %v", attempt.what, left)
			}
		}
		// Theirs often has no class for an error; that ours has one is no difference.
		differ := codes[0] != codes[1] && (codes[1] != unclassified || codes[0] == passing)
		_, listed := otherCode[attempt.what]
		if differ != listed {
			t.Errorf("%s (listed: %v)\n\t%s: %.300s\n\t%s: %.300s", attempt.what, listed, codes[0], texts[0], codes[1], texts[1])
		}
		if dump := os.Getenv("CRITEST_DUMP"); dump != "" {
			fmt.Printf("%s\n\t%s: %.300s\n\t%s: %.300s\n", attempt.what, codes[0], texts[0], codes[1], texts[1])
		}
	}
	t.Logf("%d calls, %d with another code, each for a reason", len(attempts()), len(otherCode))
}

const (
	unclassified = "Unknown"
	passing      = "OK"
)

// removeOdd removes what an attempt has made, should it have succeeded.
func (c *client) removeOdd() error {
	ctx := context.Background()
	pods, err := c.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	for _, p := range pods.GetItems() {
		if p.GetId() != c.pod && p.GetId() != c.stopped {
			if _, err := c.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.GetId()}); err != nil {
				return err
			}
		}
	}
	list, err := c.ListContainers(ctx, &cri.ListContainersRequest{})
	if err != nil {
		return err
	}
	for _, one := range list.GetContainers() {
		if id := one.GetId(); id != c.running && id != c.created && id != c.exited {
			// A call that failed may have left one that still starts or runs.
			_, _ = c.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: id})
			if _, err := c.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: id}); err != nil {
				return err
			}
		}
	}
	return nil
}
