package lint

import (
	"bytes"
	"go/format"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

const root = "../.."

// tree reads the repository once for all tests.
var tree = sync.OnceValues(func() ([]File, error) { return Load(root) })

func files(t *testing.T) []File {
	t.Helper()
	files, err := tree()
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 50 {
		t.Fatalf("only %d files under %s", len(files), root)
	}
	return files
}

func report(t *testing.T, problems []string) {
	t.Helper()
	for _, problem := range problems {
		t.Error(problem)
	}
}

func TestImports(t *testing.T) { report(t, CheckImports(files(t))) }
func TestAnchors(t *testing.T) { report(t, CheckAnchors(root, files(t))) }
func TestDocs(t *testing.T)    { report(t, CheckDocs(root, files(t))) }
func TestLinks(t *testing.T)   { report(t, CheckLinks(root, files(t))) }
func TestSizes(t *testing.T) {
	report(t, CheckSizes(files(t)))
	t.Log("\n" + Report(files(t)))
}

func TestFormatted(t *testing.T) {
	t.Parallel()
	for _, file := range files(t) {
		if !file.IsGo() {
			continue
		}
		formatted, err := format.Source(file.Content)
		if err != nil || !bytes.Equal(formatted, file.Content) {
			t.Errorf("%s is not formatted: run gofmt -w %s", file.Path, file.Path)
		}
	}
}

// Every package says what it is and what it refuses to do.
func TestPackageComments(t *testing.T) {
	documented, packages := map[string]bool{}, map[string]bool{}
	for _, file := range files(t) {
		if file.IsGo() && !file.IsTest() {
			packages[file.Folder()] = true
			documented[file.Folder()] = documented[file.Folder()] || file.Doc
		}
	}
	for folder := range packages {
		if !documented[folder] {
			t.Errorf("package in %s has no package comment", folder)
		}
	}
}

// Folders are named for what is in them.
func TestFolderNames(t *testing.T) {
	for _, file := range files(t) {
		for _, name := range []string{"util", "utils", "common", "helpers", "pkg", "misc"} {
			if slices.Contains(strings.Split(filepath.ToSlash(file.Folder()), "/"), name) {
				t.Errorf("%s: a folder called %s says nothing", file.Path, name)
			}
		}
	}
}

// The project's text names nothing of the machine it was written on.
func TestNoMachinePaths(t *testing.T) {
	path := []byte("/" + "work/")
	for _, file := range files(t) {
		if bytes.Contains(file.Content, path) {
			t.Errorf("%s names %s", file.Path, path)
		}
	}
}
