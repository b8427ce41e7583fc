package kubelet

import (
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestEnvFile(t *testing.T) {
	const good = "# a comment\n\n  A='one' # and more\nB='two\nlines'\nEMPTY= 'x'\nC='$(A) \\n'\n"
	for _, row := range []struct {
		text, key, want string
		bad             bool
	}{
		{good, "A", "one", false}, {good, "B", "two\nlines", false}, {good, "C", `$(A) \n`, false}, {good, "EMPTY", "", false}, {good, "D", "", false},
		{"A ='x'\n", "A", "", true}, {"A=x\n", "A", "", true}, {"A='x\n", "A", "", true}, {"A='x'y\n", "A", "", true}, {"A\n", "A", "", true}, {"A=\n", "A", "", true}, {"='x'\n", "", "", true},
		{"A='x'\nB=broken", "A", "x", false}, {"B=broken\nA='x'", "A", "", true},
	} {
		if got, err := envFileValue(row.text, row.key); got != row.want || (err != nil) != row.bad {
			t.Errorf("%s in %q: %q, %v", row.key, row.text, got, err)
		}
	}
}

// TestEnvFileStaysInItsVolume: the file is the container's, the links in it as well.
func TestEnvFileStaysInItsVolume(t *testing.T) {
	dir := t.TempDir()
	volume := filepath.Join(dir, "volume")
	if err := os.Mkdir(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{filepath.Join(dir, "secret"), filepath.Join(volume, "env")} {
		if err := os.WriteFile(name, []byte("A='x'\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../secret", filepath.Join(volume, "link")); err != nil {
		t.Fatal(err)
	}
	f := podFacts{volumes: map[string]mountedVolume{"v": {path: volume}}}
	for path, want := range map[string]bool{"env": true, "link": false, "../secret": false, ".": false, "none": false} {
		value, found, err := f.fromFile(&corev1.FileKeySelector{VolumeName: "v", Path: path, Key: "A"})
		if found != want || want != (value == "x") || want != (err == nil) {
			t.Errorf("%s: %q %v %v", path, value, found, err)
		}
	}
}
