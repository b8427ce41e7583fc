package main

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func do(t *testing.T, in []byte, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := run(args, bytes.NewReader(in), &out, io.Discard)
	return out.String(), err
}

// The very commands that kubectl cp runs, in both directions.
func TestAsKubectlCopies(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	for name, content := range map[string]string{"a/b": "hello", "a/empty": "", "a/c/run.sh": "#!/bin/sh"} {
		path := filepath.Join(from, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o751); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("b", filepath.Join(from, "a/link")); err != nil {
		t.Fatal(err)
	}
	archive, err := do(t, nil, "cf", "-", filepath.Join(from, "a"))
	if err != nil {
		t.Fatal(err)
	}
	list, err := do(t, []byte(archive), "-tf", "-")
	if err != nil || !strings.Contains(list, strings.TrimPrefix(from, "/")+"/a/c/run.sh\n") {
		t.Errorf("%v: %s", err, list)
	}
	if _, err := do(t, []byte(archive), "-xmf", "-", "-C", to); err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(to, from, "a")
	if raw, err := os.ReadFile(filepath.Join(copied, "link")); err != nil || string(raw) != "hello" {
		t.Errorf("%q, %v", raw, err)
	}
	if info, err := os.Stat(filepath.Join(copied, "c/run.sh")); err != nil || info.Mode().Perm() != 0o751 {
		t.Errorf("%v, %v", info, err)
	}
	if only, err := do(t, []byte(archive), "-xOf", "-", filepath.Join(from, "a/b")); err != nil || only != "hello" {
		t.Errorf("%q, %v", only, err)
	}
}

// Nothing leaves the folder.
func TestArchivesThatWantOut(t *testing.T) {
	for name, members := range map[string][]tar.Header{
		"dots":       {{Name: "../out", Typeflag: tar.TypeReg}},
		"link":       {{Name: "way", Linkname: "../", Typeflag: tar.TypeSymlink}, {Name: "way/out", Typeflag: tar.TypeReg}},
		"full link":  {{Name: "way", Linkname: "/tmp", Typeflag: tar.TypeSymlink}, {Name: "way/out", Typeflag: tar.TypeReg}},
		"hard link":  {{Name: "way", Linkname: "../secret", Typeflag: tar.TypeLink}},
		"odd member": {{Name: "device", Typeflag: tar.TypeChar}},
	} {
		t.Run(name, func(t *testing.T) {
			above := t.TempDir()
			folder := filepath.Join(above, "folder")
			if err := os.Mkdir(folder, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(above, "secret"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			var archive bytes.Buffer
			w := tar.NewWriter(&archive)
			for _, member := range members {
				if err := w.WriteHeader(&member); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := do(t, archive.Bytes(), "-xf", "-", "-C", folder); err == nil {
				t.Error("unpacked")
			}
			if entries, err := os.ReadDir(above); err != nil || len(entries) != 2 {
				t.Errorf("written outside: %v, %v", entries, err)
			}
		})
	}
}

// git archive writes its commit there.
func TestGlobalHeader(t *testing.T) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, header := range []tar.Header{{Typeflag: tar.TypeXGlobalHeader, Name: "pax_global_header", PAXRecords: map[string]string{"comment": "x"}}, {Name: "file", Typeflag: tar.TypeReg}} {
		if err := w.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	if _, err := do(t, archive.Bytes(), "-xf", "-", "-C", folder); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(folder); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{}, {"-f", "x"}, {"cx"}, {"-c"}, {"-t", "-f", "/nonexistent"}, {"--what"}} {
		if out, err := do(t, nil, args...); err == nil {
			t.Errorf("%v: %s", args, out)
		}
	}
}
