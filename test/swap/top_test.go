package swap

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"tinykube/internal/image"
	"tinykube/test/clusters"
)

// TestRealMetricsServer puts the metrics-server that everybody uses on a cluster
// of ours, with its own manifests: an API of its own behind our API server, fed by
// our kubelets' /metrics/resource. kubectl top is what it is for.
func TestRealMetricsServer(t *testing.T) {
	program := clusters.Program(t, "METRICS_SERVER")
	source, err := exec.Command("go", "list", "-C", "../upstream/metrics-server", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/metrics-server").Output()
	if err != nil {
		t.Fatal(err)
	}
	manifests := filepath.Join(strings.TrimSpace(string(source)), "manifests/base")
	c := up(t)
	name := regexp.MustCompile(`image: (\S+)`).FindStringSubmatch(c.run("", "kubectl", "kustomize", manifests))[1]
	built, err := image.Build(image.Spec{Name: name, Layers: []image.Layer{image.Base(), {{Path: "/metrics-server", Mode: 0o755, Source: program}}},
		Config: v1.Config{Entrypoint: []string{"/metrics-server"}, WorkingDir: "/"}})
	if err != nil {
		t.Fatal(err)
	}
	archive, err := image.WriteArchive(t.TempDir(), name, built)
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range []string{"node-0", "node-1"} {
		c.run("", "node", "load", node, archive)
	}
	c.web("web")
	c.run("", "kubectl", "apply", "-k", manifests)
	c.run("", "kubectl", "rollout", "status", "-n", "kube-system", "deployment", "metrics-server", "--timeout=180s")
	c.run("", "kubectl", "wait", "--for=condition=Available", "apiservice", "v1beta1.metrics.k8s.io", "--timeout=60s")

	number := regexp.MustCompile(`[1-9][0-9]*(m|Mi)\b`)
	for _, what := range [][]string{{"top", "nodes"}, {"top", "pods", "-A", "--containers"}} {
		wanted := []string{"node-0", "node-1"}
		if what[1] == "pods" {
			wanted = []string{"kube-apiserver-node-0", "web-", "kube-flannel"}
		}
		var out string
		eventually(t, "kubectl "+strings.Join(what, " "), func(context.Context) (bool, error) {
			out, err = c.try("", append([]string{"kubectl"}, what...)...)
			for _, one := range wanted {
				row := regexp.MustCompile(`(?m)^.*` + one + `.*$`).FindString(out)
				if err == nil && len(number.FindAllString(row, -1)) < 1 {
					err = fmt.Errorf("no figures of %s in:\n%s", one, out)
				}
			}
			return err == nil, err
		})
		t.Logf("kubectl %s\n%s", strings.Join(what, " "), out)
	}
	c.run("", "kubectl", "delete", "-k", manifests, "--timeout=120s")
	if out, err := c.try("", "kubectl", "top", "nodes"); err == nil || !strings.Contains(out, "Metrics API not available") {
		t.Errorf("without it: %v\n%s", err, out)
	}
}
