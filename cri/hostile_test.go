package cri

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"tinykube/internal/image"
)

// importImage brings an image of the tools and what a test adds.
func (m *machine) importImage(t *testing.T, name string, config v1.Config, files ...image.File) {
	t.Helper()
	var tools image.Spec
	for _, spec := range m.specs {
		if spec.Name == image.Tools {
			tools = spec
		}
	}
	config.Env = tools.Config.Env
	built, err := image.Build(image.Spec{Name: name, Config: config, Layers: []image.Layer{tools.Layers[1], files}})
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := image.WriteTar(&archive, name, built); err != nil {
		t.Fatal(err)
	}
	if _, err := m.client.Import(t.Context(), &archive); err != nil {
		t.Fatal(err)
	}
}

// testHostileImage: nothing that an image's files or its configuration say
// leads to a file of the host.
func (m *machine) testHostileImage(t *testing.T) {
	if err := os.MkdirAll("/run/secret", 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"key": "of the host", "passwd": "joe:x:4711:4711::/:/bin/sh\n"} {
		if err := os.WriteFile("/run/secret/"+name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m.importImage(t, "hostile:1", v1.Config{WorkingDir: "/../../run/secret",
		Volumes: map[string]struct{}{"/link": {}, "../../../run/secret": {}, "/up": {}, "/": {}}},
		image.File{Path: "/link", Symlink: "/run/secret"}, image.File{Path: "/up", Symlink: "../../../../../../run/secret"},
		image.File{Path: "/etc/passwd", Symlink: "/run/secret/passwd"})
	pod, config := m.runPod(t, "hostile")
	of := func(ref string) func(*runtimeapi.ContainerConfig) {
		return func(c *runtimeapi.ContainerConfig) { c.Image.Image = ref }
	}
	id := m.runShell(t, pod, config, "a", loop, of("hostile:1"))
	if out, _ := m.sh(t, id, "cat /link/* /up/* /run/secret/* ./* 2>/dev/null"); strings.Contains(out, "of the host") {
		t.Errorf("sees a file of the host: %q", out)
	}
	create := func(name string, change func(*runtimeapi.ContainerConfig)) error {
		c := &runtimeapi.ContainerConfig{Metadata: &runtimeapi.ContainerMetadata{Name: name}, Image: &runtimeapi.ImageSpec{}, Command: []string{"sleep", "1"}}
		change(c)
		_, err := m.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: pod, SandboxConfig: config, Config: c})
		return err
	}
	if err := create("joe", func(c *runtimeapi.ContainerConfig) {
		c.Image.Image = "hostile:1"
		c.Linux = &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{RunAsUsername: "joe"}}
	}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a user of the host's: %v", err)
	}
	m.importImage(t, "hostile:2", v1.Config{}, image.File{Path: "/etc/passwd", Data: bytes.Repeat([]byte("x"), maxAccountFile+1)})
	if err := create("huge", of("hostile:2")); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a huge passwd file: %v", err)
	}
	m.importImage(t, "hostile:3", v1.Config{}, image.File{Path: "/etc/passwd", Dir: true})
	if err := create("directory", of("hostile:3")); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a passwd directory: %v", err)
	}
	m.removePod(t, pod)
}

// testImageVolume shows one image in a container of another.
func (m *machine) testImageVolume(t *testing.T) {
	m.importImage(t, "data:1", v1.Config{}, image.File{Path: "/data/file", Data: []byte("content")}, image.File{Path: "/out", Symlink: "/etc"})
	pod, config := m.runPod(t, "volume")
	mount := func(sub string) func(*runtimeapi.ContainerConfig) {
		return func(c *runtimeapi.ContainerConfig) {
			c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/image", Readonly: true, Image: &runtimeapi.ImageSpec{Image: "data:1"}, ImageSubPath: sub}}
		}
	}
	id := m.runShell(t, pod, config, "a", loop, mount("data"))
	if out, _ := m.sh(t, id, "cat /image/file; echo x 2>/dev/null >/image/new || echo refused"); out != "contentrefused" {
		t.Errorf("the volume: %q", out)
	}
	if got := m.status(t, id).GetMounts()[0].GetImage().GetImageRef(); !strings.HasPrefix(got, "sha256:") {
		t.Errorf("image of the mount: %q", got)
	}
	for i, sub := range []string{"none", "../../etc", "out", "data/file"} {
		c := &runtimeapi.ContainerConfig{Metadata: &runtimeapi.ContainerMetadata{Name: fmt.Sprint("odd", i)}, Image: &runtimeapi.ImageSpec{Image: image.Tools}}
		mount(sub)(c)
		_, err := m.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: pod, SandboxConfig: config, Config: c})
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "ImageVolumeMountFailed") {
			t.Errorf("subPath %q: %v", sub, err)
		}
	}
	m.testMetrics(t, pod, id)
	// What is mounted is found again after kill -9, and let go with the container.
	kill9(m.server)
	m.startServer()
	if out, _ := m.sh(t, id, "cat /image/file"); out != "content" {
		t.Errorf("the volume after a restart: %q", out)
	}
	m.removePod(t, pod)
}

// testMetrics: every metric has a descriptor with as many labels.
func (m *machine) testMetrics(t *testing.T, pod, id string) {
	descriptors, err := m.ListMetricDescriptors(t.Context(), &runtimeapi.ListMetricDescriptorsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	labels := map[string]int{}
	for _, d := range descriptors.GetDescriptors() {
		labels[d.GetName()] = len(d.GetLabelKeys())
	}
	all, err := m.ListPodSandboxMetrics(t.Context(), &runtimeapi.ListPodSandboxMetricsRequest{})
	if err != nil || len(all.GetPodMetrics()) != 1 || all.GetPodMetrics()[0].GetPodSandboxId() != pod {
		t.Fatalf("metrics of %v: %v", all, err)
	}
	values := map[string]uint64{}
	of := all.GetPodMetrics()[0]
	for _, metric := range append(of.GetMetrics(), of.GetContainerMetrics()[0].GetMetrics()...) {
		if labels[metric.GetName()] != len(metric.GetLabelValues()) {
			t.Errorf("%s has labels %v, described are %d", metric.GetName(), metric.GetLabelValues(), labels[metric.GetName()])
		}
		values[metric.GetName()] = metric.GetValue().GetValue()
	}
	for _, name := range []string{"container_memory_usage_bytes", "container_processes", "container_threads", "container_file_descriptors",
		"container_network_receive_bytes_total", "container_start_time_seconds"} {
		if values[name] == 0 {
			t.Errorf("%s is 0 or missing", name)
		}
	}
}

// testEndlessLine: who never ends a line costs disk, not memory.
func (m *machine) testEndlessLine(t *testing.T) {
	const size = 128 << 20
	pod, config := m.runPod(t, "line")
	id := m.runShell(t, pod, config, "a", fmt.Sprintf("dd if=/dev/zero bs=1048576 count=%d 2>/dev/null", size>>20))
	m.awaitState(t, id, runtimeapi.ContainerState_CONTAINER_EXITED)
	log := m.status(t, id).GetLogPath()
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	if written := bytes.Count(data, []byte{0}); written != size {
		t.Errorf("%d bytes of %d are in the log", written, size)
	}
	for entry := range bytes.Lines(data) {
		if len(entry) > maxLogLine+100 {
			t.Fatalf("an entry of %d bytes", len(entry))
		}
	}
	process, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.server.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	var peak int
	for line := range strings.Lines(string(process)) {
		fmt.Sscanf(line, "VmHWM: %d kB", &peak)
	}
	if peak == 0 || peak > 100<<10 {
		t.Errorf("the server used %d KiB", peak)
	}
	if err := os.Remove(log); err != nil {
		t.Error(err)
	}
	m.removePod(t, pod)
}
