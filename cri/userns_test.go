package cri

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// testUserNamespace: root in the pod, nobody on the host, and all that the two
// share has one owner on each side.
func (m *machine) testUserNamespace(t *testing.T) {
	const first = 1 << 20
	mapping := []*runtimeapi.IDMapping{{HostId: first, Length: 65536}}
	config := m.podConfig("userns")
	config.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: mapping, Gids: mapping}
	r, err := m.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: config})
	if !idMappedMounts() { // an old kernel: such a pod is refused, not run without
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("on this kernel: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	volume := t.TempDir()
	id := m.runShell(t, r.GetPodSandboxId(), config, "a", "echo x > /v/made; echo y > /made; echo z > /dev/shm/made; "+loop, func(c *runtimeapi.ContainerConfig) {
		c.Mounts = []*runtimeapi.Mount{{HostPath: volume, ContainerPath: "/v", UidMappings: mapping, GidMappings: mapping}}
	})
	for script, want := range map[string]string{
		"cat /proc/self/uid_map":              fmt.Sprintf("0 %d 65536", first),
		"id -u":                               "0",
		"stat -c %u /made /v/made /etc/hosts": "0\n0\n0",
		"cat /dev/shm/made":                   "z",
		"ls /sys/class/net | grep -c eth0":    "1",
		"cat /proc/sys/net/ipv4/ip_forward":   "0",
		"echo 1 > /proc/sys/kernel/pid_max":   "",
		"mount -t tmpfs none /tmp":            "",
	} {
		got, code := m.sh(t, id, script)
		if strings.HasSuffix(script, "_map") {
			got = strings.Join(strings.Fields(got), " ")
		}
		if want != "" && got != want || want == "" && code == 0 {
			t.Errorf("%s: %q (%d), want %q", script, got, code, want)
		}
	}
	// On the host the volume's file is the host root's, whom the mount speaks
	// for; the process is nobody.
	info, err := os.Stat(filepath.Join(volume, "made"))
	if err != nil || info.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("the volume's file: %v, %v", info, err)
	}
	task, err := m.client.TaskService().Get(t.Context(), &tasks.GetRequest{ContainerID: id})
	if err != nil {
		t.Fatal(err)
	}
	if info, err = os.Stat(fmt.Sprintf("/proc/%d", task.GetProcess().GetPid())); err != nil || info.Sys().(*syscall.Stat_t).Uid != first {
		t.Errorf("the process: %v, %v", info, err)
	}
	m.removePod(t, r.GetPodSandboxId())
	for what, change := range map[string]func(*runtimeapi.NamespaceOption){
		"two mappings":   func(o *runtimeapi.NamespaceOption) { o.UsernsOptions.Uids = append(mapping, mapping...) },
		"none":           func(o *runtimeapi.NamespaceOption) { o.UsernsOptions.Gids = nil },
		"host's network": func(o *runtimeapi.NamespaceOption) { o.Network = runtimeapi.NamespaceMode_NODE },
	} {
		config := m.podConfig("userns")
		options := config.Linux.SecurityContext.NamespaceOptions
		options.UsernsOptions = &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: mapping, Gids: mapping}
		change(options)
		if _, err := m.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: config}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", what, err)
		}
	}
}
