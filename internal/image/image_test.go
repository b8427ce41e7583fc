package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// program writes a file to put into images.
func program(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func example(t *testing.T, content string) Spec {
	return Spec{
		Name: "tinykube.local/example:v2",
		Layers: []Layer{
			Base(),
			{
				{Path: "/home/app/server", Mode: 0o755, UID: 100, GID: 101, Source: program(t, content)},
				{Path: "/home/app/data", Dir: true, UID: 100, GID: 101},
				{Path: "/usr/local/bin/server", Symlink: "/home/app/server"},
			},
		},
		Config: v1.Config{Entrypoint: []string{"server"}, Env: []string{DefaultPath}, User: "app", WorkingDir: "/home/app"},
	}
}

func build(t *testing.T, spec Spec) v1.Image {
	t.Helper()
	img, err := Build(spec)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// untar reads a tar into its headers and contents by name.
func untar(t *testing.T, r io.Reader) (map[string]*tar.Header, map[string][]byte) {
	t.Helper()
	headers, contents := map[string]*tar.Header{}, map[string][]byte{}
	for archive := tar.NewReader(r); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return headers, contents
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		headers[header.Name], contents[header.Name] = header, content
	}
}

func decode[T any](t *testing.T, content []byte) (value T) {
	t.Helper()
	if err := json.Unmarshal(content, &value); err != nil {
		t.Fatalf("%s: %v", content, err)
	}
	return value
}

// Spec: OCI image-spec 1.1 §Image Layout: everything is reachable from index.json by digest, and every blob is what its
// name says.
func TestArchiveIsAnOCILayout(t *testing.T) {
	var archive bytes.Buffer
	spec := example(t, "one")
	if err := WriteTar(&archive, spec.Name, build(t, spec)); err != nil {
		t.Fatal(err)
	}
	_, blobs := untar(t, &archive)
	if layout := decode[map[string]string](t, blobs["oci-layout"]); layout["imageLayoutVersion"] != "1.0.0" {
		t.Errorf("oci-layout is %v", layout)
	}
	for name, content := range blobs {
		digest, isBlob := strings.CutPrefix(name, "blobs/sha256/")
		if sum := sha256.Sum256(content); isBlob && digest != hex.EncodeToString(sum[:]) {
			t.Errorf("%s holds something of digest %x", name, sum)
		}
	}
	reach := func(descriptor v1.Descriptor) []byte {
		content, found := blobs[blobPath(descriptor.Digest)]
		if !found || int64(len(content)) != descriptor.Size {
			t.Fatalf("%s: found %v, %d bytes, want %d", descriptor.Digest, found, len(content), descriptor.Size)
		}
		return content
	}
	index := decode[v1.IndexManifest](t, blobs["index.json"])
	if annotations := index.Manifests[0].Annotations; annotations[annotationImageName] != spec.Name || annotations[annotationRefName] != "v2" {
		t.Errorf("annotations are %v", annotations)
	}
	manifest := decode[v1.Manifest](t, reach(index.Manifests[0]))
	config := decode[v1.ConfigFile](t, reach(manifest.Config))
	if config.OS != "linux" || config.Architecture != runtime.GOARCH || config.Config.User != "app" || config.Config.Entrypoint[0] != "server" {
		t.Errorf("config is %+v", config)
	}
	for i, layer := range manifest.Layers {
		reach(layer)
		if config.RootFS.DiffIDs[i] != layer.Digest {
			t.Errorf("layer %d is %s in the manifest and %s in the config", i, layer.Digest, config.RootFS.DiffIDs[i])
		}
	}
}

func TestLayerEntries(t *testing.T) {
	layer, err := newTarLayer(example(t, "one").Layers[1])
	if err != nil {
		t.Fatal(err)
	}
	content, err := layer.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	headers, contents := untar(t, content)
	for _, want := range []struct {
		name     string
		kind     byte
		mode     int64
		uid, gid int
	}{
		{"home/", tar.TypeDir, 0o755, 0, 0},
		{"home/app/", tar.TypeDir, 0o755, 0, 0},
		{"home/app/server", tar.TypeReg, 0o755, 100, 101},
		{"home/app/data/", tar.TypeDir, 0o755, 100, 101},
		{"usr/local/bin/", tar.TypeDir, 0o755, 0, 0},
		{"usr/local/bin/server", tar.TypeSymlink, 0o777, 0, 0},
	} {
		got := headers[want.name]
		if got == nil || got.Typeflag != want.kind || got.Mode != want.mode || got.Uid != want.uid || got.Gid != want.gid || !got.ModTime.Equal(epoch) {
			t.Errorf("%s is %+v, want %+v", want.name, got, want)
		}
	}
	if string(contents["home/app/server"]) != "one" {
		t.Errorf("server holds %q", contents["home/app/server"])
	}
}

// Equal files give an equal digest, wherever they lie and however old they are; other content gives another.
func TestDigestIsReproducible(t *testing.T) {
	digest := func(content string) v1.Hash {
		digest, err := build(t, example(t, content)).Digest()
		if err != nil {
			t.Fatal(err)
		}
		return digest
	}
	if first, second := digest("one"), digest("one"); first != second {
		t.Errorf("digests %s and %s of equal files", first, second)
	}
	if first, other := digest("one"), digest("two"); first == other {
		t.Errorf("digest %s of different files", first)
	}
}

func TestDoubleEntryRefused(t *testing.T) {
	for _, layer := range []Layer{
		{{Path: "/a"}, {Path: "/a"}},
		{{Path: "/a/b"}, {Path: "/a", Dir: true}},
	} {
		if _, err := newTarLayer(layer); err == nil {
			t.Errorf("%v: no error", layer)
		}
	}
}

// An archive that is there is left alone; when the image changes, the old one goes.
func TestWriteArchive(t *testing.T) {
	folder, spec := t.TempDir(), example(t, "one")
	write := func(spec Spec) (string, fs.FileInfo) {
		path, err := WriteArchive(folder, spec.Name, build(t, spec))
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return path, info
	}
	path, first := write(spec)
	if again, second := write(spec); again != path || !os.SameFile(first, second) {
		t.Errorf("second archive at %s, first at %s", again, path)
	}
	if err := os.WriteFile(filepath.Join(folder, ".tinykube.local_example_v2-123"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if other, _ := write(example(t, "two")); other == path {
		t.Errorf("another image at %s too", path)
	}
	if entries, err := os.ReadDir(folder); err != nil || len(entries) != 1 {
		t.Errorf("left in the folder: %v, %v", entries, err)
	}
}

func TestSelfHoldsTheRunningProgram(t *testing.T) {
	spec := Self(Tinykube, []string{"kubelet", "etcd"})
	img := build(t, spec)
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	headers := map[string]*tar.Header{}
	var running []byte
	for _, layer := range layers {
		content, err := layer.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		found, contents := untar(t, content)
		for name, header := range found {
			headers[name] = header
		}
		if program, found := contents["bin/tinykube"]; found {
			running = program
		}
		content.Close()
	}
	want, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(running, want) {
		t.Errorf("/bin/tinykube has %d bytes, this program %d", len(running), len(want))
	}
	for _, command := range []string{"kubelet", "etcd"} {
		if link := headers["usr/local/bin/"+command]; link == nil || link.Linkname != "/bin/tinykube" {
			t.Errorf("%s is %+v", command, link)
		}
	}
}

func TestTagOf(t *testing.T) {
	for name, want := range map[string]string{
		Pause: "3.10", "localhost:5000/x": "latest", "localhost:5000/x:y": "y", "x": "latest",
	} {
		if got := tagOf(name); got != want {
			t.Errorf("tag of %s is %s, want %s", name, got, want)
		}
	}
}
