package e2e

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func mkfifo(path string) error { return syscall.Mkfifo(path, 0o600) }

// Wrong words to `tinykube`: an error that names the flag, and nothing begun.
func TestWrongFlags(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, taken, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct{ args, message string }{
		{"up --nodes 0", "--nodes=0: must be between 1 and"},
		{"up --nodes 100000", "--nodes=100000: must be between 1 and"},
		{"up --nodes many", `invalid argument "many" for "--nodes"`},
		{"up --proxy-mode magic", "--proxy-mode=magic"},
		{"up --publish 80", "--publish=80: must be PORT:NODEPORT"},
		{"up --publish 8080:80", "--publish=8080:80: must be PORT:NODEPORT with a NodePort of 30000-32767"},
		{"up --node-memory 1", "--node-memory=1: must be a quantity of at least"},
		{"up --node-memory lots", "--node-memory=lots"},
		{"up --node-cpu -1", "--node-cpu=-1: must be a positive quantity"},
		{"up --container-runtime-endpoint /run/x.sock", "--container-runtime-endpoint=/run/x.sock: must look like unix:///"},
		{"up --what", "unknown flag: --what"},
		{"up more", `unknown command "more"`},
		{"up --api-port " + taken, "address already in use"},
		{"up --api-port 70000", "70000"},
		{"upp", `unknown command "upp"`},
		{"status", "no cluster in"},
		{"node shell node-0", "no cluster in"},
		{"logs node-0 kubelet", "no cluster in"},
	} {
		t.Run(row.args, func(t *testing.T) {
			elsewhere := filepath.Join(t.TempDir(), "elsewhere")
			args := strings.Fields(row.args)
			if args[0] != "upp" {
				args = append(args, "--dir", elsewhere)
			}
			out, err := tinykube(args...)
			if err == nil || !strings.Contains(out, row.message) {
				t.Errorf("%v, without %q:\n%s", err, row.message, out)
			}
			if strings.Contains(out, "goroutine ") || strings.Count(out, "\n") > 12 {
				t.Errorf("too many words:\n%s", out)
			}
			if _, err := os.Stat(elsewhere); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("something is in %s: %v", elsewhere, err)
			}
		})
	}
	if out, err := tinykube("down", "--dir", filepath.Join(t.TempDir(), "none")); err != nil || !strings.Contains(out, "no cluster in") {
		t.Errorf("down of nothing: %v: %s", err, out)
	}
}

// A second `up` is refused if it contradicts the first, and else changes nothing.
func TestUpTwice(t *testing.T) {
	before := pods(t, "kube-system")
	for flag, value := range map[string]string{"--nodes": "2", "--api-port": "1234", "--node-memory": "1Gi", "--node-cpu": "1", "--container-runtime-endpoint": "unix:///run/other.sock"} {
		out, err := tinykube("up", flag, value)
		if err == nil || !strings.Contains(out, "was made with another "+flag) {
			t.Errorf("up %s %s: %v, %s", flag, value, err, out)
		}
	}
	if out, err := tinykube("up"); err != nil {
		t.Errorf("up again: %v, %s", err, out)
	}
	after := pods(t, "kube-system")
	for name, was := range before {
		if after[name] != was {
			t.Errorf("%s was %s and is %s", name, was, after[name])
		}
	}
	for _, args := range [][]string{{"node", "shell", "node-7"}, {"node", "start", "node-7"}, {"logs", "node-7", "kubelet"}} {
		if out, err := tinykube(args...); err == nil || !strings.Contains(out, `no node "node-7"; the nodes are node-0, node-1, node-2`) {
			t.Errorf("%v: %v, %s", args, err, out)
		}
	}
	if out, err := tinykube("logs", "node-0", "nothing"); err == nil || !strings.Contains(out, "nothing") {
		t.Errorf("%v, %s", err, out)
	}
	if out, err := tinykube("node", "shell", "node-1", "--", "sh", "-c", "hostname; exit 6"); err == nil || !strings.Contains(err.Error(), "exit status 6") || !strings.HasPrefix(out, "node-1\n") {
		t.Errorf("%v, %s", err, out)
	}
}
