package critest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"tinykube/internal/image"
	"tinykube/internal/nstest"
	"tinykube/internal/payload"
	"tinykube/test/clusters"
)

func TestMain(m *testing.M) {
	// The suite makes shared memory on the host, and leaves it: here the host
	// has an IPC namespace of its own, which the tests inherit from this thread.
	if err := unix.Unshare(unix.CLONE_NEWIPC); err != nil {
		fmt.Fprintln(os.Stderr, "a new IPC namespace:", err)
		os.Exit(1)
	}
	nstest.Main(m)
}

const (
	bin     = "/run/bin"
	certs   = "/run/certs.d"
	network = `{"cniVersion":"1.0.0","name":"critest","plugins":[
	{"type":"bridge","bridge":"cni0","isGateway":true,"ipMasq":true,"hairpinMode":true,
	 "ipam":{"type":"host-local","ranges":[[{"subnet":"10.244.9.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}},
	{"type":"portmap","capabilities":{"portMappings":true}}]}`
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// runtimeUnderTest is a CRI server on its socket. Each has a containerd of its
// own, the payload's, so that they may run side by side.
type runtimeUnderTest struct {
	name   string
	socket string
	// plugins is what containerd's configuration says of its CRI plugin.
	plugins string
	// serve is the server's own command line; nil if containerd is the server.
	serve func(t testing.TB) []string
}

var ours = runtimeUnderTest{
	name: "tinykube", socket: "/run/tinykube/cri.sock",
	plugins: `disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri"]`,
	serve: func(t testing.TB) []string {
		return []string{clusters.Built(t, "tinykube"), "cri", "--listen", "unix:///run/tinykube/cri.sock", "--containerd", "/run/containerd-tinykube/containerd.sock",
			"--root", "/var/lib/tinykube/cri", "--state", "/run/tinykube/cri", "--cni-conf-dir", "/run/cni/net.d", "--cni-bin-dir", "/run/cni/bin",
			"--registry-config-path", certs, "--pause-image", image.Pause}
	},
}

var theirs = runtimeUnderTest{
	name: "containerd", socket: "/run/containerd-containerd/containerd.sock",
	plugins: fmt.Sprintf(`disabled_plugins = ["io.containerd.nri.v1.nri"]
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = %q
[plugins.'io.containerd.cri.v1.images'.registry]
config_path = %q
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = %t
enable_selinux = false
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["/run/cni/bin"]
conf_dir = "/run/cni/net.d"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"`, image.Pause, certs, !canRaisePriority()),
}

// canRaisePriority reports CAP_SYS_RESOURCE, without which no oom_score_adj
// can be lowered.
func canRaisePriority() bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&hdr, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}

// unpack brings the payload's programs, the network's configuration and the
// registry: what both runtimes use.
func unpack(t testing.TB) {
	t.Helper()
	must(t, payload.Unpack(bin, "containerd", "containerd-shim-runc-v2", "runc", "cni"))
	must(t, os.MkdirAll("/run/cni/net.d", 0o755))
	must(t, os.MkdirAll("/run/cni/bin", 0o755))
	for _, plugin := range []string{"bridge", "host-local", "loopback", "portmap"} {
		if err := os.Symlink(bin+"/cni", filepath.Join("/run/cni/bin", plugin)); !errors.Is(err, os.ErrExist) { // by a test before
			must(t, err)
		}
	}
	must(t, os.WriteFile("/run/cni/net.d/10-critest.conflist", []byte(network), 0o644))
	must(t, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644))
	must(t, os.Setenv("PATH", bin+":"+os.Getenv("PATH")))
	serveImages(t)
}

// start runs containerd and, if it is another program, the server on top of it,
// until the test ends.
func (r runtimeUnderTest) start(t testing.TB) {
	t.Helper()
	config, daemon := filepath.Join(t.TempDir(), "containerd-"+r.name+".toml"), "/run/containerd-"+r.name+"/containerd.sock"
	must(t, os.WriteFile(config, fmt.Appendf(nil, "version = 3\nroot = \"/var/lib/containerd-%s\"\nstate = %q\n%s\n[grpc]\naddress = %q\n",
		r.name, filepath.Dir(daemon), r.plugins, daemon), 0o644))
	r.process(t, daemon, "containerd", "-c", config)
	if r.serve != nil {
		arguments := r.serve(t)
		r.process(t, r.socket, arguments[0], arguments[1:]...)
	}
	t.Cleanup(func() {
		r.removePods(t)
		removeGroups(t)
	})
}

// removePods removes what specs that failed have left.
func (r runtimeUnderTest) removePods(t testing.TB) {
	t.Helper()
	client := r.dial(t)
	pods, err := client.ListPodSandbox(context.Background(), &cri.ListPodSandboxRequest{})
	if err != nil {
		t.Error(err)
	}
	for _, pod := range pods.GetItems() {
		if _, err := client.RemovePodSandbox(context.Background(), &cri.RemovePodSandboxRequest{PodSandboxId: pod.GetId()}); err != nil {
			t.Error(err)
		}
	}
}

// api is all of the CRI.
type api struct {
	cri.RuntimeServiceClient
	cri.ImageServiceClient
}

func (r runtimeUnderTest) dial(t testing.TB) api {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+r.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	client := api{cri.NewRuntimeServiceClient(conn), cri.NewImageServiceClient(conn)}
	nstest.Eventually(t, r.name+" is ready", func() bool {
		_, err := client.Version(context.Background(), &cri.VersionRequest{})
		return err == nil
	})
	return client
}

func (r runtimeUnderTest) process(t testing.TB, socket, program string, arguments ...string) {
	t.Helper()
	var log bytes.Buffer
	cmd := exec.Command(program, arguments...)
	cmd.Stdout, cmd.Stderr = &log, &log
	must(t, cmd.Start())
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
		_ = os.Remove(socket)
		if dir := os.Getenv("CRITEST_REPORT"); dir != "" {
			_ = os.WriteFile(filepath.Join(dir, r.name+"-"+filepath.Base(program)+".log"), log.Bytes(), 0o644)
		}
	})
	nstest.Eventually(t, program+" answers", func() bool {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// removeGroups removes control groups that a runtime has left: one that is
// given no parent for a pod puts it below /k8s.io. Groups with processes belong
// to somebody else, who does the same on this machine.
func removeGroups(t testing.TB) {
	for _, parent := range []string{"/sys/fs/cgroup/*/k8s.io", "/sys/fs/cgroup/k8s.io"} {
		groups, _ := filepath.Glob(parent + "/*/")
		for _, group := range groups {
			if os.Remove(group) == nil {
				t.Errorf("left behind: %s", group)
			}
		}
		parents, _ := filepath.Glob(parent)
		for _, group := range parents {
			_ = os.Remove(group) // should it be empty
		}
	}
}
