package main

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"tinykube/internal/payload"
)

// built packs three files into a folder as the Makefile does, and returns the folder and what the files hold.
func built(t *testing.T) (folder string, contents map[string][]byte) {
	t.Helper()
	folder, parts := t.TempDir(), t.TempDir()
	contents = map[string][]byte{"program": make([]byte, 300_000), "list": []byte("a\nb\n"), "empty": {}}
	rand.NewChaCha8([32]byte{1}).Read(contents["program"])
	modes := map[string]fs.FileMode{"program": 0o755, "list": 0o644, "empty": 0o644}
	for name, content := range contents {
		if err := os.WriteFile(filepath.Join(parts, name), content, modes[name]); err != nil {
			t.Fatal(err)
		}
	}
	for group, names := range map[string][]string{"one": {"list", "program"}, "two": {"empty"}} {
		var files []string
		for _, name := range names {
			files = append(files, filepath.Join(parts, name))
		}
		if err := pack(filepath.Join(folder, group+".tar.zst"), files); err != nil {
			t.Fatal(err)
		}
	}
	return folder, contents
}

func open(t *testing.T, folder string) *payload.Payload {
	t.Helper()
	p, err := payload.Open(os.DirFS(folder))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func mustUnpack(t *testing.T, p *payload.Payload, into string, names ...string) {
	t.Helper()
	if err := p.Unpack(into, names...); err != nil {
		t.Fatal(err)
	}
}

// holds checks that into holds exactly the named files, complete.
func holds(t *testing.T, into string, contents map[string][]byte, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(into)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != len(names)+1 { // and the lock
		t.Errorf("%s holds %v, want %v", into, entries, names)
	}
	for _, name := range names {
		got, err := os.ReadFile(filepath.Join(into, name))
		if err != nil || !bytes.Equal(got, contents[name]) {
			t.Errorf("%s: %d bytes, %v; want %d bytes", name, len(got), err, len(contents[name]))
		}
	}
}

func TestRoundTrip(t *testing.T) {
	folder, contents := built(t)
	p, into := open(t, folder), filepath.Join(t.TempDir(), "not", "there")
	mustUnpack(t, p, into, "program")
	holds(t, into, contents, "program")
	mustUnpack(t, p, into)
	holds(t, into, contents, "program", "list", "empty")
	for name, want := range map[string]fs.FileMode{"program": 0o755, "list": 0o644} {
		if info, err := os.Stat(filepath.Join(into, name)); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v; want mode %v", name, info, err, want)
		}
	}
	if err := p.Unpack(into, "program", "nothing"); err == nil || !strings.Contains(err.Error(), "nothing") {
		t.Errorf("a name that is not in the payload: %v", err)
	}
}

// Right files are left alone, down to their inode; wrong ones are replaced, however they are wrong.
func TestUnpackOnlyWhatIsWrong(t *testing.T) {
	folder, contents := built(t)
	p, into := open(t, folder), t.TempDir()
	mustUnpack(t, p, into)
	path := filepath.Join(into, "program")
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	mustUnpack(t, p, into)
	if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) {
		t.Errorf("a right file was replaced: %v", err)
	}
	for name, spoil := range map[string]func() error{
		"truncated":            func() error { return os.Truncate(path, 1000) },
		"altered":              func() error { return os.WriteFile(path, make([]byte, 300_000), 0o755) },
		"no longer executable": func() error { return os.Chmod(path, 0o644) },
		"removed":              func() error { return os.Remove(path) },
		"half-written by a killed run": func() error {
			return os.WriteFile(filepath.Join(into, ".unpack-123"), []byte("half"), 0o600)
		},
		"a link to elsewhere": func() error {
			elsewhere := filepath.Join(t.TempDir(), "elsewhere")
			return errors.Join(os.WriteFile(elsewhere, nil, 0o755), os.Remove(path), os.Symlink(elsewhere, path))
		},
	} {
		if err := spoil(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		mustUnpack(t, p, into)
		t.Log(name)
		holds(t, into, contents, "program", "list", "empty")
	}
}

// What the archive holds must be what its list says; nothing wrong gets a name.
func TestSpoiltPayload(t *testing.T) {
	for name, spoil := range map[string]func(content []byte) []byte{
		"truncated": func(content []byte) []byte { return content[:len(content)/2] },
		"altered":   func(content []byte) []byte { content[len(content)/2] ^= 1; return content },
		"empty":     func([]byte) []byte { return nil },
	} {
		folder, _ := built(t)
		archive := filepath.Join(folder, "one.tar.zst")
		content, err := os.ReadFile(archive)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(archive, spoil(content), 0o644); err != nil {
			t.Fatal(err)
		}
		into := t.TempDir()
		if err := open(t, folder).Unpack(into, "program"); err == nil {
			t.Errorf("%s: no error", name)
		}
		holds(t, into, nil)
	}
}

func TestWrongDigestNamesBoth(t *testing.T) {
	folder, _ := built(t)
	list := filepath.Join(folder, "one.json")
	content, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.LastIndex(content, []byte(`"sha256": "`)) + len(`"sha256": "`)
	copy(content[at:], strings.Repeat("0", 64))
	if err := os.WriteFile(list, content, 0o644); err != nil {
		t.Fatal(err)
	}
	into := t.TempDir()
	err = open(t, folder).Unpack(into)
	if err == nil || !strings.Contains(err.Error(), "program: digest is sha256:") || !strings.Contains(err.Error(), strings.Repeat("0", 64)) {
		t.Errorf("error %v", err)
	}
}

func TestConcurrentUnpack(t *testing.T) {
	folder, contents := built(t)
	into := t.TempDir()
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			p, err := payload.Open(os.DirFS(folder))
			if err == nil {
				err = p.Unpack(into)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	holds(t, into, contents, "program", "list", "empty")
}

// The list names the Go module of a program: this test's own.
func TestOrigin(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if module, _ := origin(self); module != "tinykube" {
		t.Errorf("module %q", module)
	}
}
