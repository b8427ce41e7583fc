package swap

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"tinykube/test/clusters"
)

// The rest of this folder tests seams one by one; this file tests them all at
// once, in a cluster of `tinykube up`, as a person would swap a component:
// edit a static pod's manifest.

// realFolder is where a real program lies inside the control plane's node.
const realFolder = "/var/lib/real"

// manifest is a component's static pod, inside the control plane's node.
func manifest(component string) string { return "/etc/kubernetes/manifests/" + component + ".yaml" }

// clusterUnderTest is a cluster of bin/tinykube.
type clusterUnderTest struct {
	t            *testing.T
	program, dir string
}

// up starts a cluster that ends with the test. $TINYKUBE_SWAP_DIR names one
// that is up already and stays, for who writes tests.
func up(t *testing.T, flags ...string) *clusterUnderTest {
	t.Helper()
	program, err := filepath.Abs("../../bin/tinykube")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		t.Fatal("bin/tinykube is missing: run make")
	}
	c := &clusterUnderTest{t: t, program: program, dir: os.Getenv("TINYKUBE_SWAP_DIR")}
	if c.dir != "" {
		return c
	}
	scratch, err := os.MkdirTemp("", "tinykube-swap-")
	if err != nil {
		t.Fatal(err)
	}
	c.dir = filepath.Join(scratch, "cluster")
	t.Cleanup(func() {
		if out, err := c.try("", "down"); err != nil {
			t.Errorf("down: %v\n%s", err, out)
		}
		os.RemoveAll(scratch)
	})
	t.Log(c.run("", append([]string{"up", "--nodes", "2", "--api-port", "26443"}, flags...)...))
	return c
}

func (c *clusterUnderTest) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.program, args...)
	cmd.Env = append(os.Environ(), "TINYKUBE_DIR="+c.dir, "KUBECONFIG="+filepath.Join(c.dir, "admin.conf"))
	return cmd
}

// try runs bin/tinykube.
func (c *clusterUnderTest) try(stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*patience)
	defer cancel()
	cmd := c.command(ctx, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// run is try for what must work.
func (c *clusterUnderTest) run(stdin string, args ...string) string {
	c.t.Helper()
	out, err := c.try(stdin, args...)
	if err != nil {
		c.t.Fatalf("tinykube %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// onNode0 runs a shell line inside the control plane's node.
func (c *clusterUnderTest) onNode0(stdin, line string) string {
	c.t.Helper()
	return c.run(stdin, "node", "shell", "node-0", "--", "sh", "-c", line)
}

// TestRealSchedulerAsStaticPod replaces the command of the scheduler's static
// pod by the real program, lets it place pods, and puts ours back.
func TestRealSchedulerAsStaticPod(t *testing.T) {
	path := clusters.Program(t, "KUBE_SCHEDULER")
	c := up(t)
	ours, theirs := c.manifests("kube-scheduler", path)
	c.place(t, "before", 2, "")
	c.swap("kube-scheduler", theirs, "Starting Kubernetes Scheduler")
	// Only the real one signs with events.k8s.io's reporting instance.
	c.place(t, "with-theirs", 3, "default-scheduler-node-0")
	c.swap("kube-scheduler", ours, "became leader")
	c.place(t, "with-ours-again", 2, "")
}

// TestRealControllerManagerAsStaticPod does the same to the controller manager:
// what ours has made stays as it is, and each brings what is asked of it.
func TestRealControllerManagerAsStaticPod(t *testing.T) {
	path := clusters.Program(t, "KUBE_CONTROLLER_MANAGER")
	c := up(t)
	ours, theirs := c.manifests("kube-controller-manager", path)
	c.run("", "kubectl", "create", "deployment", "lasting", "--image=tinykube.local/pause:3.10", "--replicas=2")
	c.run("", "kubectl", "rollout", "status", "deployment", "lasting", "--timeout=120s")
	pods := func() string {
		return c.run("", "kubectl", "get", "pods", "-A", "-l", "tier!=control-plane", "-o", `jsonpath={range .items[*]}{.metadata.name} {.metadata.uid}{"\n"}{end}`)
	}
	before := pods()
	c.swap("kube-controller-manager", theirs, "Successfully acquired lease")
	c.place(t, "made-by-theirs", 3, "")
	c.run("", "kubectl", "delete", "pod", "-l", "app=lasting", "--wait=false")
	c.run("", "kubectl", "rollout", "status", "deployment", "lasting", "--timeout=120s")
	c.swap("kube-controller-manager", ours, "controller-manager: became leader")
	c.place(t, "made-by-ours-again", 2, "")
	c.run("", "kubectl", "scale", "deployment", "lasting", "--replicas=3")
	c.run("", "kubectl", "rollout", "status", "deployment", "lasting", "--timeout=120s")
	after := pods()
	for line := range strings.Lines(before) {
		if !strings.HasPrefix(line, "lasting-") && !strings.Contains(after, line) {
			t.Errorf("%s is not there any more:\n%s", strings.TrimSpace(line), after)
		}
	}
}

// manifests brings a real program into the node, and returns the static pod of
// a component as it is, and with that program as its command.
func (c *clusterUnderTest) manifests(component, path string) (ours, theirs string) {
	c.t.Helper()
	ours = c.onNode0("", "cat "+manifest(component))
	var pod corev1.Pod
	if err := yaml.Unmarshal([]byte(ours), &pod); err != nil {
		c.t.Fatal(err)
	}
	executable, err := os.ReadFile(path)
	if err != nil {
		c.t.Fatal(err)
	}
	// A node sees the machine's system folders and nothing else of it.
	real := realFolder + "/" + component
	c.onNode0(string(executable), "mkdir -p "+realFolder+" && cat > "+real+" && chmod +x "+real)
	replaceCommand(&pod, real)
	changed, err := yaml.Marshal(pod)
	if err != nil {
		c.t.Fatal(err)
	}
	return ours, string(changed)
}

// replaceCommand makes the pod run the real program with the flags that the
// manifest has. The machine's libraries come along, since the program may be
// linked against them.
func replaceCommand(pod *corev1.Pod, real string) {
	container := &pod.Spec.Containers[0]
	container.Command[0] = real
	for i, folder := range []string{realFolder, "/lib", "/lib64", "/usr/lib"} {
		if _, err := os.Stat(folder); err != nil && folder != realFolder {
			continue
		}
		name := fmt.Sprint("real-", i)
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name,
			VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: folder}}})
		container.VolumeMounts = append(container.VolumeMounts, corev1.VolumeMount{Name: name, MountPath: folder, ReadOnly: true})
	}
}

// swap writes the manifest and waits until the new program says so.
func (c *clusterUnderTest) swap(component, text, says string) {
	c.t.Helper()
	before, pod := c.containerID(component), component+"-node-0"
	c.onNode0(text, "cat > "+manifest(component))
	eventually(c.t, "another "+component+" that says "+says, func(context.Context) (bool, error) {
		logs, err := c.try("", "kubectl", "logs", "-n", "kube-system", pod)
		for line := range strings.Lines(logs) {
			if strings.Contains(line, says) && c.containerID(component) != before {
				c.t.Logf("the static pod is now %s\nand says: %s",
					c.run("", "kubectl", "get", "pod", "-n", "kube-system", pod, "-o", "jsonpath={.spec.containers[0].command}"), line)
				return true, nil
			}
		}
		return false, fmt.Errorf("%v: %s", err, logs)
	})
}

func (c *clusterUnderTest) containerID(component string) string {
	out, _ := c.try("", "kubectl", "get", "pod", "-n", "kube-system", component+"-node-0", "-o", "jsonpath={.status.containerStatuses[0].containerID}")
	return out
}

// place makes a Deployment and waits until its pods run. signer is who must
// have reported their placement.
func (c *clusterUnderTest) place(t *testing.T, name string, replicas int, signer string) {
	t.Helper()
	name = fmt.Sprint(name, "-", os.Getpid()) // events outlive what they tell of
	c.run("", "kubectl", "create", "deployment", name, "--image=tinykube.local/pause:3.10", fmt.Sprint("--replicas=", replicas))
	c.run("", "kubectl", "rollout", "status", "deployment", name, "--timeout=120s")
	eventually(t, "events about "+name, func(context.Context) (bool, error) {
		out, err := c.try("", "kubectl", "get", "events", "--field-selector=reason=Scheduled", "-o",
			`jsonpath={range .items[*]}{.involvedObject.name} {.reportingInstance}{"\n"}{end}`)
		signed := 0
		for line := range strings.Lines(out) {
			if strings.HasPrefix(line, name) && strings.TrimSpace(line[strings.Index(line, " "):]) == signer {
				signed++
			}
		}
		return signed == replicas, fmt.Errorf("%d of %d: %v\n%s", signed, replicas, err, out)
	})
	t.Logf("%s: placed and reported by %q\n%s", name, signer, c.run("", "kubectl", "get", "pods", "-l", "app="+name, "-o", "wide"))
	c.run("", "kubectl", "delete", "deployment", name)
}
