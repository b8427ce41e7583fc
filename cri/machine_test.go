package cri

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"tinykube/internal/cgroup"
	"tinykube/internal/image"
	"tinykube/internal/nstest"
	"tinykube/internal/payload"
)

// serverVariable makes this test binary the CRI server that its tests kill.
const serverVariable = "TINYKUBE_CRI_TEST_SERVER"

func TestMain(m *testing.M) {
	config := os.Getenv(serverVariable)
	if config == "" {
		nstest.Main(m)
	}
	var cfg Config
	err := json.Unmarshal([]byte(config), &cfg)
	var server *Server
	if err == nil {
		server, err = New(cfg, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	}
	if err == nil {
		err = server.Run(context.Background())
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// machine is a node without a kubelet: containerd and our server as processes
// of their own, in the namespaces of the test binary.
type machine struct {
	*testing.T
	cfg            Config
	daemon, server *exec.Cmd
	client         *containerd.Client
	runtimeapi.RuntimeServiceClient
	images runtimeapi.ImageServiceClient
	cgroup string
	specs  []image.Spec
}

// bridgeConfig is a network that needs no rule of the kernel.
const bridgeConfig = `{"cniVersion":"1.0.0","name":"test","plugins":[{"type":"bridge","bridge":"cni0","isGateway":true,
	"ipam":{"type":"host-local","ranges":[[{"subnet":"10.244.9.0/24"}]]}}]}`

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{T: t, cgroup: fmt.Sprintf("/tinykube-cri-test-%d", time.Now().UnixNano())}
	m.cfg = Config{
		Listen: "unix:///run/cri.sock", Containerd: "/run/containerd/containerd.sock", Root: "/var/lib/cri", State: "/run/cri", NetNSDir: "/run/netns",
		CNIConfDir: "/run/cni/net.d", CNIBinDirs: []string{"/run/cni/bin"}, PauseImage: image.Pause, Snapshotter: "overlayfs",
		RegistryConfigDirs: []string{"/run/none", "/run/certs.d"},
	}
	const bin = "/run/bin"
	err := payload.Unpack(bin, "containerd", "containerd-shim-runc-v2", "runc", "cni")
	if errors.Is(err, payload.ErrNotBuilt) && os.Getenv("TINYKUBE_MUST_RUN") == "" {
		t.Skip("the payload is not built: run make payload")
	}
	m.must(err)
	if os.Geteuid() != 0 {
		t.Skip("containers need root")
	}
	m.must(os.MkdirAll(m.cfg.CNIConfDir, 0o755))
	m.must(os.MkdirAll(m.cfg.CNIBinDirs[0], 0o755))
	for _, plugin := range []string{"bridge", "host-local"} {
		m.must(os.Symlink(bin+"/cni", filepath.Join(m.cfg.CNIBinDirs[0], plugin)))
	}
	m.writeNetwork(bridgeConfig)
	m.must(os.WriteFile("/run/containerd.toml", []byte(`version = 3
disabled_plugins = ["io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"]
[timeouts]
"io.containerd.timeout.task.state" = "1s" # how long a shim may take to say how a task is
`), 0o644))
	m.must(os.Setenv("PATH", bin+":"+os.Getenv("PATH")))
	m.startDaemon()
	m.client, err = containerd.New(m.cfg.Containerd, containerd.WithDefaultNamespace(namespace))
	m.must(err)
	m.importImages()
	conn, err := grpc.NewClient(m.cfg.Listen, grpc.WithTransportCredentials(insecure.NewCredentials()))
	m.must(err)
	m.RuntimeServiceClient, m.images = runtimeapi.NewRuntimeServiceClient(conn), runtimeapi.NewImageServiceClient(conn)
	m.startServer()
	t.Cleanup(m.cleanUp)
	return m
}

func (m *machine) must(err error) {
	m.Helper()
	if err != nil {
		m.Fatal(err)
	}
}

func (m *machine) writeNetwork(config string) {
	m.Helper()
	m.must(os.WriteFile(filepath.Join(m.cfg.CNIConfDir, "10-test.conflist"), []byte(config), 0o644))
}

// start runs a program until it answers on its socket.
func (m *machine) start(socket, logFile string, cmd *exec.Cmd) *exec.Cmd {
	m.Helper()
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	m.must(err)
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	m.must(cmd.Start())
	nstest.Eventually(m, cmd.Path+" answers", func() bool {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return cmd
}

func (m *machine) startDaemon() {
	m.Helper()
	m.daemon = m.start(m.cfg.Containerd, "/run/containerd.log", exec.Command("containerd", "-c", "/run/containerd.toml"))
}

func (m *machine) startServer() {
	m.Helper()
	config, err := json.Marshal(m.cfg)
	m.must(err)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), serverVariable+"="+string(config))
	m.server = m.start(strings.TrimPrefix(m.cfg.Listen, "unix://"), "/run/cri.log", cmd)
}

func kill9(cmd *exec.Cmd) {
	cmd.Process.Signal(syscall.SIGKILL)
	cmd.Wait()
}

// importImages brings pause and the image with the shell.
func (m *machine) importImages() {
	m.Helper()
	p, err := payload.Embedded()
	m.must(err)
	m.specs, err = p.Images("/run/images")
	m.must(err)
	for _, spec := range m.specs {
		if spec.Name != image.Pause && spec.Name != image.Tools {
			continue
		}
		archive, err := payload.WriteImage("/run/images", spec)
		m.must(err)
		file, err := os.Open(archive.Path)
		m.must(err)
		_, err = m.client.Import(m.Context(), file)
		file.Close()
		m.must(err)
	}
}

// cleanUp leaves no process (they end with the test binary) and no cgroup.
func (m *machine) cleanUp() {
	ctx := context.Background()
	if pods, err := m.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{}); err == nil {
		for _, pod := range pods.GetItems() {
			m.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod.GetId()})
		}
	}
	kill9(m.server)
	kill9(m.daemon)
	for _, pattern := range []string{"/*" + m.cgroup + "/*", "/*" + m.cgroup, m.cgroup} {
		groups, _ := filepath.Glob(cgroup.Mount + pattern)
		for _, group := range groups {
			os.Remove(group) // its files do not count
		}
	}
	if m.Failed() {
		for _, file := range []string{"/run/cri.log", "/run/containerd.log"} {
			data, _ := os.ReadFile(file)
			m.Logf("%s:\n%s", file, data[max(0, len(data)-8000):])
		}
	}
}

func (m *machine) podConfig(name string) *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "default", Uid: name}, Hostname: name,
		LogDirectory: "/run/log/" + name, Labels: map[string]string{"app": name},
		DnsConfig: &runtimeapi.DNSConfig{Servers: []string{"10.96.0.10"}, Searches: []string{"cluster.local"}, Options: []string{"ndots:5"}},
		Linux: &runtimeapi.LinuxPodSandboxConfig{CgroupParent: m.cgroup, SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
			NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
		}},
	}
}

// runPod starts a pod.
func (m *machine) runPod(t *testing.T, name string) (string, *runtimeapi.PodSandboxConfig) {
	t.Helper()
	config := m.podConfig(name)
	r, err := m.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetPodSandboxId(), config
}

// runShell starts a container that runs a shell script.
func (m *machine) runShell(t *testing.T, pod string, podConfig *runtimeapi.PodSandboxConfig, name, script string, change ...func(*runtimeapi.ContainerConfig)) string {
	t.Helper()
	config := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name}, Image: &runtimeapi.ImageSpec{Image: image.Tools},
		Command: []string{"sh", "-c", script}, LogPath: name + "/0.log", Labels: map[string]string{"container": name},
		Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
			Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
			NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
		}},
	}
	for _, f := range change {
		f(config)
	}
	created, err := m.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: pod, Config: config, SandboxConfig: podConfig})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: created.GetContainerId()}); err != nil {
		t.Fatal(err)
	}
	return created.GetContainerId()
}

func (m *machine) status(t *testing.T, id string) *runtimeapi.ContainerStatus {
	t.Helper()
	r, err := m.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetStatus()
}

func (m *machine) awaitState(t *testing.T, id string, state runtimeapi.ContainerState) *runtimeapi.ContainerStatus {
	t.Helper()
	nstest.Eventually(t, "container is "+state.String(), func() bool { return m.status(t, id).GetState() == state })
	return m.status(t, id)
}

// sh runs a script in a container and returns what it prints.
func (m *machine) sh(t *testing.T, id, script string) (string, int32) {
	t.Helper()
	r, err := m.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", script}, Timeout: 120})
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(r.GetStdout()) + string(r.GetStderr())), r.GetExitCode()
}

// messages are the third column of a log, one string per line of output.
func messages(t *testing.T, path string) []string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	piece := ""
	for line := range strings.Lines(string(data)) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if _, err := time.Parse(time.RFC3339Nano, fields[0]); err != nil || len(fields) != 4 {
			t.Fatalf("bad log entry %q", line)
		}
		piece += fields[3]
		if fields[2] == "F" {
			list, piece = append(list, piece), ""
		}
	}
	return list
}
