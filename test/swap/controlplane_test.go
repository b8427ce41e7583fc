package swap

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
)

// TestTradingPlacesControlPlane turns the demo's control plane into a real one,
// component by component, under our kubelets and CRI servers, runs the demo on
// it, and asks through the real API server for what only a kubelet can answer.
func TestTradingPlacesControlPlane(t *testing.T) {
	c := up(t)
	c.web("before")
	for _, program := range []struct{ component, variable, says string }{
		{"kube-apiserver", "KUBE_APISERVER", "Serving securely on"},
		{"kube-controller-manager", "KUBE_CONTROLLER_MANAGER", "Successfully acquired lease"},
		{"kube-scheduler", "KUBE_SCHEDULER", "Starting Kubernetes Scheduler"},
	} {
		if path, given := given(program.variable); given {
			_, theirs := c.manifests(program.component, path)
			c.swap(program.component, theirs, program.says)
		}
	}
	c.reachable("before")
	c.web("web")
	c.reachable("web")
	for _, node := range []string{"node-0", "node-1"} {
		eventually(t, node+" is Ready for the real control plane", func(context.Context) (bool, error) {
			ready := c.run("", "kubectl", "get", "node", node, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
			return ready == "True", fmt.Errorf("%s", ready)
		})
	}
	c.useKubelet("with-theirs")
	c.forward()
	if out := c.run("", "kubectl", "get", "--raw", "/api/v1/nodes/node-1/proxy/healthz"); out != "ok" {
		t.Errorf("the kubelet through the API server: %q", out)
	}
	t.Log(c.run("", "kubectl", "version"), c.run("", "kubectl", "get", "pods", "-A", "-o", "wide"))
}

// given is a program that may be given.
func given(variable string) (path string, ok bool) {
	return os.Getenv(variable), os.Getenv(variable) != ""
}

// forward reads from a pod through kubectl port-forward.
func (c *clusterUnderTest) forward() {
	c.t.Helper()
	cmd := c.command(c.t.Context(), "kubectl", "port-forward", "deployment/web", ":9898")
	out, err := cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	_, rest, found := strings.Cut(line, "127.0.0.1:")
	if err != nil || !found {
		c.t.Fatalf("port-forward says %q, %v", line, err)
	}
	port, _, _ := strings.Cut(rest, " ")
	answer, err := http.Get("http://127.0.0.1:" + port + "/healthz")
	if err != nil {
		c.t.Fatal(err)
	}
	defer answer.Body.Close()
	if body, err := io.ReadAll(answer.Body); answer.StatusCode != http.StatusOK {
		c.t.Errorf("through the forwarded port: %s, %s, %v", answer.Status, body, err)
	}
}
