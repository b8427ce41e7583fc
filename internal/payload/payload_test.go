package payload

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"tinykube/internal/image"
)

// A program compiled before its payload was built says so, whatever it is asked.
func TestNotBuilt(t *testing.T) {
	placeholder := fstest.MapFS{"README.md": {Data: []byte("generated")}}
	if _, err := Open(placeholder); !errors.Is(err, ErrNotBuilt) {
		t.Errorf("Open: %v, want %v", err, ErrNotBuilt)
	}
	p := &Payload{fsys: placeholder}
	if _, err := p.Manifests(); !errors.Is(err, ErrNotBuilt) {
		t.Errorf("Manifests: %v, want %v", err, ErrNotBuilt)
	}
}

// Whether or not the payload of this very test was built, it answers; if it was, it holds what the cluster needs.
func TestEmbedded(t *testing.T) {
	p, err := Embedded()
	if errors.Is(err, ErrNotBuilt) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	files := p.Files()
	for _, name := range []string{"containerd", "containerd-shim-runc-v2", "runc", "pause", "coredns", "podinfo", "podcli", "tools"} {
		at := slices.IndexFunc(files, func(file File) bool { return file.Name == name })
		if at < 0 {
			t.Errorf("no %s in the payload", name)
			continue
		}
		if name == "coredns" && !strings.HasSuffix(image.CoreDNS, ":"+files[at].Version) {
			t.Errorf("the image is called %s and holds CoreDNS %s", image.CoreDNS, files[at].Version)
		}
	}
}

func TestToolsLayer(t *testing.T) {
	layer, err := toolsLayer("/program", "example.org/tools/cmds/cat\nsh\n# a comment\n\nnc = exec netcat \"$@\"\nsh = exec tools sh \"$@\"\n")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, file := range layer {
		got[file.Path] = file.Source + file.Symlink + string(file.Data)
	}
	want := map[string]string{
		"/bin/tools": "/program",
		"/bin/cat":   "tools",
		"/bin/nc":    "#!/bin/sh\nexec netcat \"$@\"\n",
		"/bin/sh":    "#!/bin/sh\nexec tools sh \"$@\"\n",
	}
	if len(got) != len(want) {
		t.Errorf("layer is %v, want %v", got, want)
	}
	for path, content := range want {
		if got[path] != content {
			t.Errorf("%s is %q, want %q", path, got[path], content)
		}
	}
	if _, err := toolsLayer("/program", "two words\n"); err == nil {
		t.Error("no error for a line that is neither")
	}
}
