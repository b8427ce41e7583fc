package labs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// nobody is a user without any rights.
const nobody = 65534

// What needs no root runs without it: in a network of one's own, on an API
// server alone, on nodes that are not there. What needs a cluster says who could
// make one.
func TestWithoutRoot(t *testing.T) {
	self := findProgram(t)
	dir, err := os.MkdirTemp("", "labs-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.CopyFS(dir, os.DirFS("testdata")); err != nil {
		t.Fatal(err)
	}
	home, program := filepath.Join(dir, "home"), filepath.Join(dir, "tinykube")
	content, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{os.Chmod(dir, 0o755), os.Mkdir(home, 0o755), os.Chown(home, nobody, nobody), os.WriteFile(program, content, 0o755)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) (string, error) {
		command := exec.Command(program, append([]string{"lab", "run"}, args...)...)
		command.Dir = dir
		command.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "TINYKUBE_DIR=" + filepath.Join(dir, "no-cluster")}
		command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		out, err := command.CombinedOutput()
		return string(out), err
	}
	out, err := run("apiserver", "network", "hollow", "17")
	t.Log("\n" + out)
	if err != nil {
		t.Error(err)
	}
	if out, err := run("00"); err == nil || !strings.Contains(out, "only root can make one") {
		t.Errorf("%v\n%s", err, out)
	}
}
