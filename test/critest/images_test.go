package critest

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"tinykube/internal/image"
	"tinykube/internal/payload"
	"tinykube/test/clusters"
)

// The images that the suite lets its user choose, as its file of test images
// names them.
const (
	defaultImage = "tinykube.local/critest/default:v1"
	webServer    = "tinykube.local/critest/web-server:v1"
)

// mirrored are the hosts whose images the suite takes for granted.
var mirrored = []string{"tinykube.local", "registry.k8s.io", "k8s.gcr.io", "gcr.io"}

// images says what each image of the suite holds. The same path may stand for
// several hosts: the registry does not know by which name it was called.
func images(t testing.TB) map[string]image.Spec {
	t.Helper()
	pause := pauseImage(t)
	base := image.Layer(busybox(t))
	// with is the base image with more files and another configuration.
	with := func(change func(*v1.Config), files ...image.File) image.Spec {
		spec := image.Spec{Layers: []image.Layer{image.Base(), base}, Config: v1.Config{Cmd: []string{"sh"}, Env: []string{image.DefaultPath}}}
		if len(files) > 0 {
			spec.Layers = append(spec.Layers, files)
		}
		if change != nil {
			change(&spec.Config)
		}
		return spec
	}
	stand := image.File{Path: "/bin/nginx", Mode: 0o755, Source: clusters.Built(t, "critest-nginx")}
	run := func(arguments ...string) image.Spec {
		return with(func(c *v1.Config) { c.Cmd = arguments }, stand, image.File{Path: "/var/run", Dir: true})
	}
	privileges := stand
	privileges.Mode |= fs.ModeSetuid
	user := func(user string) image.Spec { return with(func(c *v1.Config) { c.User = user }) }
	mark := func(text string) image.Spec { return with(nil, image.File{Path: "/" + text, Data: []byte(text)}) }

	const staging = "k8s-staging-cri-tools/"
	return map[string]image.Spec{
		"pause:3.10":                                      pause,
		"pause:3.9":                                       mark("pause"),
		"critest/default:v1":                              with(nil),
		"critest/web-server:v1":                           run("nginx", "80"),
		"e2e-test-images/nginx:1.14-2":                    run("nginx", "80"),
		"e2e-test-images/httpd:2.4.39-4":                  run("nginx", "80", "httpd"),
		"e2e-test-images/nonewprivs:1.3":                  with(func(c *v1.Config) { c.Entrypoint, c.Cmd = []string{"nginx"}, []string{"uid"} }, privileges),
		staging + "hostnet-nginx-" + runtime.GOARCH:       run("nginx", "12003"),
		staging + "test-image-user-uid:latest":            user("1002"),
		staging + "test-image-user-username:latest":       user("www-data"),
		staging + "test-image-user-uid-group:latest":      user("1003:50000"),
		staging + "test-image-user-username-group:latest": user("www-data:100"),
		staging + "test-image-predefined-group:latest": with(func(c *v1.Config) { c.User = "1000" },
			image.File{Path: "/etc/passwd", Data: []byte("root:x:0:0:root:/root:/bin/sh\ndefault-user:x:1000:1000::/home/default-user:/bin/sh\n")},
			image.File{Path: "/etc/group", Data: []byte("root:x:0:\ndefault-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n")}),
		staging + "test-image-latest:latest": mark("test-image-latest"),
		staging + "test-image-tag:test":      mark("test-image-tag"),
		staging + "test-image-tag:all":       mark("test-image-tag-all"),
		staging + "test-image-1:latest":      mark("test-image-1"),
		staging + "test-image-2:latest":      mark("test-image-2"),
		staging + "test-image-3:latest":      mark("test-image-3"),
		staging + "test-image-tags:1":        mark("test-image-tags"),
		staging + "test-image-tags:2":        mark("test-image-tags"),
		staging + "test-image-tags:3":        mark("test-image-tags"),
	}
}

func pauseImage(t testing.TB) image.Spec {
	t.Helper()
	p, err := payload.Embedded()
	must(t, err)
	specs, err := p.Images("/run/images")
	must(t, err)
	return specs[slices.IndexFunc(specs, func(s image.Spec) bool { return s.Name == image.Pause })]
}

// busybox is the machine's own, since the suite compares what its shell and
// commands say, word by word.
func busybox(t testing.TB) []image.File {
	t.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatalf("the suite's images need a static busybox (Debian: apt-get install busybox-static): %v", err)
	}
	list, err := exec.Command(path, "--list").Output()
	must(t, err)
	// A spec hides /bin/ls from the shell. Debian's shell has an ls in itself, as
	// upstream's has not; in the copy it has another name.
	program, err := os.ReadFile(path)
	must(t, err)
	const ls, renamed = "\x00ls\x00", "\x00lr\x00"
	if found := bytes.Count(program, []byte(ls)); found != 1 {
		t.Fatalf("%s: its list of commands is not where it was: ls is found %d times", path, found)
	}
	files := []image.File{
		{Path: "/bin/busybox", Mode: 0o755, Data: bytes.Replace(program, []byte(ls), []byte(renamed), 1)},
		{Path: "/bin/ls", Mode: 0o755, Source: path}, // the others must stay when it is hidden
		// What Debian's lacks.
		{Path: "/bin/pgrep", Mode: 0o755, Data: []byte("#!/bin/sh\nexec pidof \"$@\"\n")},
		{Path: "/bin/ipcs", Mode: 0o755, Data: []byte("#!/bin/sh\nexec cat /proc/sysvipc/shm\n")},
	}
	for _, command := range strings.Fields(string(list)) {
		if !slices.ContainsFunc(files, func(f image.File) bool { return f.Path == "/bin/"+command }) {
			files = append(files, image.File{Path: "/bin/" + command, Symlink: "busybox"})
		}
	}
	return files
}

// serveImages fills a registry on loopback and writes the files that send both
// runtimes there.
func serveImages(t testing.TB) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	server := &http.Server{Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	go func() { _ = server.Serve(listener) }() // ends with the test binary
	t.Cleanup(func() { server.Close() })
	for path, spec := range images(t) {
		if !strings.Contains(path, ":") {
			path += ":latest"
		}
		spec.Name = path
		built, err := image.Build(spec)
		must(t, err)
		reference, err := name.ParseReference(listener.Addr().String()+"/"+path, name.Insecure)
		must(t, err)
		must(t, remote.Write(reference, built))
	}
	for _, host := range mirrored {
		dir := filepath.Join(certs, host)
		must(t, os.MkdirAll(dir, 0o755))
		must(t, os.WriteFile(filepath.Join(dir, "hosts.toml"), fmt.Appendf(nil,
			"server = \"https://%s\"\n[host.\"http://%s\"]\ncapabilities = [\"pull\", \"resolve\"]\n", host, listener.Addr()), 0o644))
	}
}
