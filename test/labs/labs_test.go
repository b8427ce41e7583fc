// Package labs runs every lab of the course on one cluster: the one in
// $TINYKUBE_DIR, or one that it brings up and takes down.
//
// `make labs` builds the program first; $TINYKUBE names another one.
package labs

import (
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// laboratory is the cluster and the home of whoever does the labs.
type laboratory struct {
	self string
	env  []string
}

// findProgram finds the program to test.
func findProgram(t *testing.T) string {
	t.Helper()
	self, err := filepath.Abs(cmp.Or(os.Getenv("TINYKUBE"), "../../bin/tinykube"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(self); err != nil {
		t.Fatalf("%v: run make", err)
	}
	return self
}

func newLaboratory(t *testing.T) *laboratory {
	t.Helper()
	l := &laboratory{self: findProgram(t), env: append(os.Environ(), "HOME="+t.TempDir())}
	if os.Getenv("TINYKUBE_DIR") != "" {
		return l
	}
	dir, err := os.MkdirTemp("", "labs-")
	if err != nil {
		t.Fatal(err)
	}
	l.env = append(l.env, "TINYKUBE_DIR="+filepath.Join(dir, "cluster"))
	t.Cleanup(func() {
		if out, err := l.tinykube("down"); err != nil {
			t.Errorf("down: %v\n%s", err, out)
		}
		os.RemoveAll(dir)
	})
	if out, err := l.tinykube("up", "--nodes", "3", "--api-port", "35443"); err != nil {
		t.Fatalf("up: %v\n%s", err, out)
	}
	return l
}

func (l *laboratory) tinykube(args ...string) (string, error) {
	command := exec.Command(l.self, args...)
	command.Env = l.env
	out, err := command.CombinedOutput()
	return string(out), err
}

// must runs tinykube and fails the test if it fails.
func (l *laboratory) must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := l.tinykube(args...)
	if err != nil {
		t.Fatalf("tinykube %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// A lab passes, and the cluster is afterwards what it was before.
func TestLabs(t *testing.T) {
	l := newLaboratory(t)
	readmes, err := filepath.Glob("../../labs/[0-9][0-9]-*/README.md")
	if err != nil || len(readmes) == 0 {
		t.Fatalf("no labs: %v", err)
	}
	inventory := func() string {
		return l.must(t, "kubectl", "get", "namespaces,nodes,clusterroles,clusterrolebindings,persistentvolumes,priorityclasses", "-o", "name") +
			l.must(t, "node", "shell", "node-0", "--", "ls", "-R", "/etc/kubernetes", "/root")
	}
	before := inventory()
	for _, readme := range readmes {
		number := filepath.Base(filepath.Dir(readme))[:2]
		t.Run(number, func(t *testing.T) {
			t.Log("\n" + l.must(t, "lab", "run", number))
			if after := inventory(); after != before {
				t.Errorf("the lab left something; before:\n%s\nafter:\n%s", before, after)
			}
		})
	}
	list := l.must(t, "lab", "list")
	if n := strings.Count(list, "passed in"); n != len(readmes) {
		t.Errorf("lab list shows %d of %d as passed:\n%s", n, len(readmes), list)
	}
	// The next one finds a cluster in which everything is ready.
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(500 * time.Millisecond) {
		out, err := l.tinykube("kubectl", "wait", "--for=condition=Ready", "pods", "--all", "-A", "--timeout=10s")
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("pods are not ready after the labs: %s", out)
		}
	}
}
