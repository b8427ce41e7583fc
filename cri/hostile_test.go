package cri

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"tinykube/internal/image"
)

// importImage brings an image of the tools and what a test adds.
func (m *machine) importImage(t *testing.T, name string, config v1.Config, files ...image.File) {
	t.Helper()
	m.importLayers(t, name, config, files)
}

// importLayers is importImage with a layer that our builder would refuse on top.
func (m *machine) importLayers(t *testing.T, name string, config v1.Config, files image.Layer, odd ...tar.Header) {
	t.Helper()
	var tools image.Spec
	for _, spec := range m.specs {
		if spec.Name == image.Tools {
			tools = spec
		}
	}
	config.Env = append(config.Env, tools.Config.Env...)
	built, err := image.Build(image.Spec{Name: name, Config: config, Layers: []image.Layer{tools.Layers[1], files}})
	if err != nil {
		t.Fatal(err)
	}
	if len(odd) > 0 {
		if built, err = mutate.AppendLayers(built, oddLayer(t, odd)); err != nil {
			t.Fatal(err)
		}
	}
	var archive bytes.Buffer
	if err := image.WriteTar(&archive, name, built); err != nil {
		t.Fatal(err)
	}
	if _, err := m.client.Import(t.Context(), &archive); err != nil {
		t.Fatal(err)
	}
}

// oddLayer is a layer of exactly these entries, each file with a word in it.
func oddLayer(t *testing.T, entries []tar.Header) v1.Layer {
	t.Helper()
	const content = "hostile"
	var data bytes.Buffer
	writer := tar.NewWriter(&data)
	for _, entry := range entries {
		if entry.Typeflag == tar.TypeReg {
			entry.Size = int64(len(content))
		}
		entry.Mode = 0o777
		if err := writer.WriteHeader(&entry); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(writer, content[:entry.Size]); err != nil {
			t.Fatal(err)
		}
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	return static.NewLayer(data.Bytes(), types.OCIUncompressedLayer)
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
	m.importLayers(t, "hostile:4", v1.Config{}, nil, tar.Header{Name: "etc/passwd", Typeflag: tar.TypeFifo})
	if err := create("fifo", of("hostile:4")); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a passwd FIFO: %v", err)
	}
	m.importLayers(t, "hostile:5", v1.Config{}, nil, tar.Header{Name: "etc/group", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 5})
	if err := create("device", of("hostile:5")); status.Code(err) != codes.InvalidArgument {
		t.Errorf("an endless group device: %v", err)
	}
	m.importImage(t, "hostile:6", v1.Config{User: strings.Repeat("x", 1<<20)})
	if err := create("user", of("hostile:6")); status.Code(err) != codes.InvalidArgument || len(err.Error()) > 500 {
		t.Errorf("a user with a long name: %.500v", err)
	}
	many := map[string]struct{}{}
	for i := range maxVolumes + 1 {
		many[fmt.Sprint("/volume-", i)] = struct{}{}
	}
	m.importImage(t, "hostile:7", v1.Config{Volumes: many})
	if err := create("volumes", of("hostile:7")); status.Code(err) != codes.InvalidArgument {
		t.Errorf("more volumes than can be: %v", err)
	}
	m.removePod(t, pod)
}

// testHostileLayers: a layer is unpacked as root and must stay where it is.
func (m *machine) testHostileLayers(t *testing.T) {
	const victim = "/run/victim"
	if err := os.MkdirAll(victim, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(victim+"/key", []byte("of the host"), 0o644); err != nil {
		t.Fatal(err)
	}
	m.importLayers(t, "layers:1", v1.Config{Env: []string{"no variable", "ODD=a=b"}, WorkingDir: "../../tmp/../srv", StopSignal: "SIG\nGARBAGE"},
		image.Layer{{Path: "/out", Symlink: victim}, {Path: "/up", Symlink: "../../../../../../../../../" + victim}},
		tar.Header{Name: "out/through-a-link", Typeflag: tar.TypeReg}, tar.Header{Name: "up/through-another", Typeflag: tar.TypeReg},
		tar.Header{Name: "../../../../../../../../.." + victim + "/by-dots", Typeflag: tar.TypeReg}, tar.Header{Name: victim + "/by-name", Typeflag: tar.TypeReg},
		tar.Header{Name: "key", Typeflag: tar.TypeSymlink, Linkname: victim + "/key"},
		tar.Header{Name: "out/.wh.key", Typeflag: tar.TypeReg}, tar.Header{Name: "out/.wh..wh..opq", Typeflag: tar.TypeReg})
	pod, config := m.runPod(t, "layers")
	of := func(ref string) func(*runtimeapi.ContainerConfig) {
		return func(c *runtimeapi.ContainerConfig) { c.Image.Image = ref }
	}
	id := m.runShell(t, pod, config, "a", loop, of("layers:1"))
	if out, _ := m.sh(t, id, "cat /key; pwd; echo $ODD"); strings.Contains(out, "of the host") || !strings.HasPrefix(out, "/srv\na=b\n") {
		t.Errorf("sees %q", out)
	}
	if entries, err := os.ReadDir(victim); err != nil || len(entries) != 1 {
		t.Errorf("the host's directory has %v, %v", entries, err)
	}
	// A hard link to what is not in the image cannot be made: there is no such image.
	m.importLayers(t, "layers:2", v1.Config{}, nil, tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: "../../../../../../../.." + victim + "/key"})
	c := &runtimeapi.ContainerConfig{Metadata: &runtimeapi.ContainerMetadata{Name: "hard"}, Image: &runtimeapi.ImageSpec{Image: "layers:2"}, Command: []string{"sleep", "1"}}
	create := &runtimeapi.CreateContainerRequest{PodSandboxId: pod, SandboxConfig: config, Config: c}
	if _, err := m.CreateContainer(t.Context(), create); err == nil {
		t.Error("a hard link to a file of the host's was made")
	}
	// What the kernel refuses is the container's end, and not ours.
	m.importImage(t, "layers:3", v1.Config{Entrypoint: []string{"sh", "-c", strings.Repeat("x", 1<<20)}})
	c.Metadata.Name, c.Image.Image, c.Command = "long", "layers:3", nil
	created, err := m.CreateContainer(t.Context(), create)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: created.GetContainerId()}); err != nil {
		t.Errorf("an argument of a megabyte: %.1000v", err)
	}
	if got := m.awaitState(t, created.GetContainerId(), runtimeapi.ContainerState_CONTAINER_EXITED); got.GetExitCode() == 0 {
		t.Error("ran with an argument of a megabyte")
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
