package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The kubelet knows CRI and nothing else: with containerd's own plugin at the
// other end of the socket, and our CRI server nowhere, the cluster is the same.
// (`make e2e-containerd` runs everything else that way.)
func TestOtherRuntime(t *testing.T) {
	t.Parallel()
	const otherAPIPort, otherWebPort = "36444", "38081"
	folder := filepath.Join(t.TempDir(), "cluster")
	run := func(args ...string) string {
		t.Helper()
		c := exec.CommandContext(t.Context(), program, args...)
		c.Env = append(os.Environ(), "TINYKUBE_DIR="+folder, "KUBECONFIG="+filepath.Join(folder, "admin.conf"), "KUBECACHEDIR="+filepath.Join(folder, "cache"))
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("tinykube %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	t.Cleanup(func() {
		// Its context is over by now, so not run.
		if out, err := exec.Command(program, "down", "--dir", folder).CombinedOutput(); err != nil {
			t.Errorf("down: %v\n%s", err, out)
		}
	})
	run("up", "--nodes", "2", "--api-port", otherAPIPort, "--publish", otherWebPort+":"+nodePort, "--container-runtime-endpoint", "unix:///run/containerd/containerd.sock")
	if got := run("kubectl", "get", "nodes", "-o", "jsonpath={.items[*].status.nodeInfo.containerRuntimeVersion}"); strings.Count(got, "containerd://2") != 2 {
		t.Errorf("runtimes of the nodes: %s", got)
	}
	if out := run("node", "shell", "node-1", "--", "ps", "-A"); !strings.Contains(out, "containerd") || strings.Contains(out, "tinykube cri") {
		t.Errorf("processes of node-1:\n%s", out)
	}
	app := filepath.Join(t.TempDir(), "app")
	copyApp(t, app)
	run("kubectl", "apply", "-k", app)
	for _, deployment := range []string{"backend", "frontend"} {
		run("kubectl", "-n", "webapp", "rollout", "status", "deployment/"+deployment, "--timeout=120s")
	}
	eventually(t, 30*time.Second, "answer through the NodePort", func() error { return echoAt("http://127.0.0.1:" + otherWebPort) })
	if out := run("kubectl", "-n", "webapp", "exec", "deployment/frontend", "--", "podcli", "version"); !strings.Contains(out, "6.9.2") {
		t.Errorf("exec: %s", out)
	}
	if out := run("kubectl", "-n", "webapp", "logs", "deployment/frontend"); !strings.Contains(out, "Starting podinfo") && !strings.Contains(out, "Starting HTTP Server") {
		t.Errorf("logs: %s", out)
	}
}
