package swap

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tinykube/test/clusters"
)

// TestRealKubelet puts a real kubelet in the place of ours on the demo's
// worker, on our CRI server and before our API server; what ran goes on
// running, what is asked of it happens, and ours takes over what it leaves.
func TestRealKubelet(t *testing.T) {
	program, err := os.ReadFile(clusters.Program(t, "KUBELET"))
	if err != nil {
		t.Fatal(err)
	}
	c := up(t)
	c.run("", "kubectl", "create", "deployment", "lasting", "--image=tinykube.local/pause:3.10", "--replicas=2")
	c.run("", "kubectl", "rollout", "status", "deployment", "lasting", "--timeout=120s")
	before := c.workersContainers("app=lasting")

	const other = "/var/lib/tinykube/bin/kubelet"
	c.onNode1(string(program), "mkdir -p /var/lib/tinykube/bin && cat > "+other+".new && chmod +x "+other+".new && mv "+other+".new "+other)
	c.restartKubelet(other)
	if after := c.workersContainers("app=lasting"); after != before {
		t.Errorf("the real kubelet did not keep the containers:\n%s\nwere\n%s", after, before)
	}
	c.useKubelet("with-theirs")
	c.comparePods()
	c.compareNodeAPI()
	kept := c.workersContainers("app=lasting")

	c.onNode1("", "rm "+other)
	c.restartKubelet("/opt/tinykube/bin/tinykube")
	if after := c.workersContainers("app=lasting"); after != kept {
		t.Errorf("ours did not keep the real one's containers:\n%s\nwere\n%s", after, kept)
	}
	c.useKubelet("with-ours-again")
}

func (c *clusterUnderTest) onNode1(stdin, line string) string {
	c.t.Helper()
	return c.run(stdin, "node", "shell", "node-1", "--", "sh", "-c", line)
}

// workersContainers lists the containers of pods with a label on node-1.
func (c *clusterUnderTest) workersContainers(selector string) string {
	c.t.Helper()
	return c.run("", "kubectl", "get", "pods", "-l", selector, "--field-selector=spec.nodeName=node-1", "--sort-by=.metadata.name", "-o",
		`jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}{"\n"}{end}`)
}

// restartKubelet ends node-1's kubelet and waits until the expected program
// runs in its place and has reported.
func (c *clusterUnderTest) restartKubelet(program string) {
	c.t.Helper()
	// The shell that looks must not find itself.
	const find = `file=/var/lib/kubelet/config; for p in /proc/[0-9]*; do case "$(tr '\0' ' ' 2>/dev/null < $p/cmdline)" in *--config=$file.yaml*) echo ${p#/proc/};; esac; done 2>/dev/null; true`
	old := strings.Fields(c.onNode1("", find))
	if len(old) == 0 {
		c.t.Fatal("no kubelet runs on node-1")
	}
	renewed := func() string {
		return c.run("", "kubectl", "get", "lease", "-n", "kube-node-lease", "node-1", "-o", "jsonpath={.spec.renewTime}")
	}
	stale := renewed()
	c.onNode1("", "kill "+old[0])
	eventually(c.t, "node-1 is Ready with "+program, func(context.Context) (bool, error) {
		now := strings.Fields(c.onNode1("", find))
		if len(now) == 0 || now[0] == old[0] {
			return false, fmt.Errorf("kubelets: %v", now)
		}
		line := c.onNode1("", "tr '\\0' ' ' < /proc/"+now[0]+"/cmdline || true")
		ready := c.run("", "kubectl", "get", "node", "node-1", "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
		return strings.HasPrefix(line, program) && ready == "True" && renewed() != stale, fmt.Errorf("%s: ready %s", line, ready)
	})
	c.t.Logf("node-1 reports: %s", c.run("", "kubectl", "get", "node", "node-1", "-o", "wide", "--no-headers"))
}

// useKubelet asks node-1's kubelet for all that people ask one for.
func (c *clusterUnderTest) useKubelet(name string) {
	c.t.Helper()
	pod := `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"` + name + `"},"spec":{"nodeName":"node-1","terminationGracePeriodSeconds":2,
	"initContainers":[{"name":"first","image":"tinykube.local/tools:v1","command":["sh","-c","echo made > /shared/file"],"volumeMounts":[{"name":"v","mountPath":"/shared"}]}],
	"containers":[{"name":"main","image":"tinykube.local/tools:v1","command":["sh","-c","cat /shared/file; while true; do sleep 1; done"],
	"volumeMounts":[{"name":"v","mountPath":"/shared"}],"readinessProbe":{"exec":{"command":["ls","/shared/file"]},"periodSeconds":1},
	"resources":{"limits":{"cpu":"100m","memory":"64Mi"}}}],"volumes":[{"name":"v","emptyDir":{}}]}}`
	c.run(pod, "kubectl", "apply", "-f", "-")
	c.run("", "kubectl", "wait", "--for=condition=Ready", "pod/"+name, "--timeout=60s")
	if out := c.run("", "kubectl", "logs", name); !strings.Contains(out, "made") {
		c.t.Errorf("logs: %q", out)
	}
	if out := c.run("", "kubectl", "exec", name, "-c", "main", "--", "cat", "/shared/file"); strings.TrimSpace(out) != "made" {
		c.t.Errorf("exec: %q", out)
	}
	c.copies(name)
	c.debugs(name)
	c.attaches(name + "-listens")
	c.run("", "kubectl", "delete", "pod", name, "--timeout=60s")
}

// copies sends a file into a pod and fetches it again.
func (c *clusterUnderTest) copies(pod string) {
	c.t.Helper()
	sent, back := filepath.Join(c.t.TempDir(), "sent"), filepath.Join(c.t.TempDir(), "back")
	if err := os.WriteFile(sent, bytes.Repeat([]byte("a line\n"), 1<<17), 0o600); err != nil {
		c.t.Fatal(err)
	}
	c.run("", "kubectl", "cp", sent, pod+":/shared/copy", "-c", "main")
	c.run("", "kubectl", "cp", pod+":/shared/copy", back, "-c", "main")
	if content, err := os.ReadFile(back); err != nil || len(content) != 7<<17 {
		c.t.Errorf("cp: %d bytes came back, %v", len(content), err)
	}
}

// debugs adds an ephemeral container, which sees the processes of another one.
func (c *clusterUnderTest) debugs(pod string) {
	c.t.Helper()
	c.run("", "kubectl", "debug", pod, "--image=tinykube.local/tools:v1", "--target=main", "-c", "looks", "--profile=general", "--", "sh", "-c", "cat /proc/1/cmdline")
	eventually(c.t, "the debugging container has looked", func(context.Context) (bool, error) {
		out, err := c.try("", "kubectl", "logs", pod, "-c", "looks")
		return err == nil && strings.Contains(out, "cat /shared/file"), fmt.Errorf("%v: %q", err, out)
	})
}

// attaches talks to a container that listens.
func (c *clusterUnderTest) attaches(pod string) {
	c.t.Helper()
	c.run("", "kubectl", "run", pod, "--image=tinykube.local/tools:v1", "-i", "--restart=Never", "--attach=false", "--overrides", `{"spec":{"nodeName":"node-1"}}`,
		"--command", "--", "sh", "-c", `while read line; do echo "heard $line"; [ "$line" = end ] && exit 0; done`)
	c.run("", "kubectl", "wait", "--for=condition=Ready", "pod/"+pod, "--timeout=60s")
	if out := c.run("hello\nend\n", "kubectl", "attach", "-i", pod); !strings.Contains(out, "heard hello") || !strings.Contains(out, "heard end") {
		c.t.Errorf("attach: %q", out)
	}
	c.run("", "kubectl", "delete", "pod", pod, "--timeout=60s")
}
