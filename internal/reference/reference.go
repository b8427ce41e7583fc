// Package reference finds the material that tests compare us with: discovery
// and OpenAPI documents of a real kube-apiserver, and manifests of real
// programs. It is not part of the repository; a checkout without it skips
// those comparisons and says so.
package reference

import (
	"os"
	"path/filepath"
	"testing"
)

// Env names the folder when it does not lie beside the checkout.
const Env = "TINYKUBE_REFERENCE"

// Path returns the path of a file or folder of the reference material, such as
// "golden/discovery", or skips the test, naming what is missing.
func Path(t testing.TB, name string) string {
	t.Helper()
	root := os.Getenv(Env)
	if root == "" {
		root = filepath.Join(Checkout(t), "..", "shared")
	}
	path := filepath.Join(root, filepath.FromSlash(name))
	if _, err := os.Stat(path); err != nil {
		t.Skipf("reference material %q is not there (set $%s to its folder): %v", name, Env, err)
	}
	return path
}

// Checkout walks up to the outermost folder with a go.mod: tests have modules of
// their own inside ours.
func Checkout(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	outermost := ""
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			outermost = dir
		}
	}
	if outermost == "" {
		t.Fatal("no go.mod above the test's folder")
	}
	return outermost
}
