package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The cluster looks like any kubeadm cluster's.
func TestClusterLooksLikeOne(t *testing.T) {
	out := kubectl(t, "get", "pods", "-A", "-o", "wide")
	for _, name := range []string{"etcd-node-0", "kube-apiserver-node-0", "kube-controller-manager-node-0", "kube-scheduler-node-0", "kube-proxy-", "kube-flannel-ds-", "coredns-"} {
		if !strings.Contains(out, name) {
			t.Errorf("no pod %s in\n%s", name, out)
		}
	}
	for i := range 3 {
		node := fmt.Sprintf("node-%d", i)
		if got := kubectl(t, "get", "node", node, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status} {.status.addresses[?(@.type=="InternalIP")].address} {.spec.podCIDR}`); !strings.HasPrefix(got, fmt.Sprintf("True 172.30.9.%d 10.244.", i+1)) {
			t.Errorf("%s: %s", node, got)
		}
	}
	if got := kubectl(t, "get", "pod", "-n", "kube-system", "kube-apiserver-node-0", "-o", `jsonpath={.metadata.annotations.kubernetes\.io/config\.source} {.metadata.ownerReferences[0].kind} {.spec.nodeName}`); got != "file Node node-0" {
		t.Errorf("mirror pod: %s", got)
	}
}

// copyApp puts the demo's application together: podinfo as its authors deploy it.
func copyApp(t *testing.T, app string) {
	t.Helper()
	for _, copy := range [][]string{{filepath.Join(root, "examples/demo"), app}, {filepath.Join(root, "internal/payload/data/manifests/podinfo/webapp"), app}} {
		if out, err := command(nil, "cp", "-R", copy[0], copy[1]); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
}

func TestPodinfo(t *testing.T) {
	app := filepath.Join(t.TempDir(), "app")
	copyApp(t, app)
	kubectl(t, "apply", "-k", app)
	kubectl(t, "-n", "webapp", "scale", "deployment/frontend", "deployment/backend", "--replicas=2")
	kubectl(t, "-n", "webapp", "rollout", "status", "deployment/frontend", "--timeout=120s")
	kubectl(t, "-n", "webapp", "rollout", "status", "deployment/backend", "--timeout=120s")
	eventually(t, 20*time.Second, "answer through the NodePort", echo)
	if again := kubectl(t, "apply", "-k", app); strings.Contains(again, "deployment.apps/backend created") || !strings.Contains(again, "deployment.apps/backend unchanged") && !strings.Contains(again, "deployment.apps/backend configured") {
		t.Errorf("apply again: %s", again)
	}
	kubectl(t, "-n", "webapp", "scale", "deployment/frontend", "deployment/backend", "--replicas=2")
	// Pods of the two workers reach each other.
	out := kubectl(t, "-n", "webapp", "get", "pods", "-l", "app=backend", "-o", `jsonpath={range .items[*]}{.spec.nodeName} {.status.podIP}{"\n"}{end}`)
	nodes := map[string]string{}
	for _, line := range strings.Split(out, "\n") {
		if node, ip, ok := strings.Cut(line, " "); ok {
			nodes[node] = ip
		}
	}
	if len(nodes) != 2 {
		t.Fatalf("backends are not spread over the workers: %s", out)
	}
	for node, ip := range nodes {
		for _, from := range []string{"frontend"} {
			got := kubectl(t, "-n", "webapp", "exec", "deploy/"+from, "--", "wget", "-q", "-O", "-", "http://"+ip+":9898/healthz")
			if !strings.Contains(got, "OK") {
				t.Errorf("from %s to %s on %s: %s", from, ip, node, got)
			}
		}
	}
}

// Scale and roll while requests keep succeeding.
func TestRollingUpdateUnderLoad(t *testing.T) {
	l := startLoad()
	kubectl(t, "-n", "webapp", "scale", "deployment/frontend", "--replicas=4")
	kubectl(t, "-n", "webapp", "rollout", "restart", "deployment/frontend", "deployment/backend")
	kubectl(t, "-n", "webapp", "rollout", "status", "deployment/frontend", "--timeout=180s")
	kubectl(t, "-n", "webapp", "rollout", "status", "deployment/backend", "--timeout=180s")
	kubectl(t, "-n", "webapp", "scale", "deployment/frontend", "--replicas=2")
	kubectl(t, "-n", "webapp", "rollout", "status", "deployment/frontend", "--timeout=180s")
	l.end()
	if failed := l.failed.Load(); failed > 0 {
		t.Errorf("%d of %d requests failed, for example: %v", failed, failed+l.ok.Load(), l.lastError.Load())
	}
	if late := l.late.Load(); late > 2 { // as many as there are backends that end
		t.Errorf("%d requests met a connection that was being closed", late)
	}
	t.Logf("%d requests succeeded, %d met a connection that was being closed", l.ok.Load(), l.late.Load())
}

// The machine's own network is untouched by a running cluster.
func TestMachineIsUntouched(t *testing.T) {
	routes, err := os.ReadFile("/proc/net/route")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(routes), "flannel") || strings.Contains(string(routes), "cni0") {
		t.Errorf("the machine has routes of the cluster:\n%s", routes)
	}
	if out, err := command(nil, "iptables-save"); err == nil && strings.Contains(out, "KUBE-") {
		t.Errorf("the machine has rules of the cluster:\n%s", out)
	}
}
