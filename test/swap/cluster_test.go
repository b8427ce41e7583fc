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
)

// The rest of this folder tests seams one by one; this file tests them all at
// once, in a cluster of `tinykube up`, as a person would swap a component:
// edit a static pod's manifest.

// Paths inside the control plane's node.
const (
	schedulerManifest = "/etc/kubernetes/manifests/kube-scheduler.yaml"
	realFolder        = "/var/lib/real"
)

// clusterUnderTest is a cluster of bin/tinykube.
type clusterUnderTest struct {
	t            *testing.T
	program, dir string
}

// up starts a cluster that ends with the test. $TINYKUBE_SWAP_DIR names one
// that is up already and stays, for who writes tests.
func up(t *testing.T) *clusterUnderTest {
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
	t.Log(c.run("", "up", "--nodes", "2", "--api-port", "26443"))
	return c
}

// try runs bin/tinykube.
func (c *clusterUnderTest) try(stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.program, args...)
	cmd.Env = append(os.Environ(), "TINYKUBE_DIR="+c.dir, "KUBECONFIG="+filepath.Join(c.dir, "admin.conf"))
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
	path := program(t, "KUBE_SCHEDULER")
	c := up(t)
	ours := c.onNode0("", "cat "+schedulerManifest)
	var pod corev1.Pod
	if err := yaml.Unmarshal([]byte(ours), &pod); err != nil {
		t.Fatal(err)
	}
	executable, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// A node sees the machine's system folders and nothing else of it.
	c.onNode0(string(executable), "mkdir -p "+realFolder+" && cat > "+realFolder+"/kube-scheduler && chmod +x "+realFolder+"/kube-scheduler")
	replaceCommand(&pod)
	theirs, err := yaml.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}

	c.place(t, "before", 2, "")
	c.swap(string(theirs), "Starting Kubernetes Scheduler")
	// Only the real one signs with events.k8s.io's reporting instance.
	c.place(t, "with-theirs", 3, "default-scheduler-node-0")
	c.swap(ours, "became leader")
	c.place(t, "with-ours-again", 2, "")
}

// replaceCommand makes the pod run the real program with the flags that the
// manifest has. The machine's libraries come along, since the program may be
// linked against them.
func replaceCommand(pod *corev1.Pod) {
	container := &pod.Spec.Containers[0]
	container.Command[0] = realFolder + "/kube-scheduler"
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

// swap writes the manifest and waits until the new scheduler says so.
func (c *clusterUnderTest) swap(manifest, says string) {
	c.t.Helper()
	before := c.schedulerID()
	c.onNode0(manifest, "cat > "+schedulerManifest)
	eventually(c.t, "another scheduler that says "+says, func(context.Context) (bool, error) {
		logs, err := c.try("", "kubectl", "logs", "-n", "kube-system", "kube-scheduler-node-0")
		for line := range strings.Lines(logs) {
			if strings.Contains(line, says) && c.schedulerID() != before {
				c.t.Logf("the scheduler's static pod is now %s\nand says: %s",
					c.run("", "kubectl", "get", "pod", "-n", "kube-system", "kube-scheduler-node-0", "-o", "jsonpath={.spec.containers[0].command}"), line)
				return true, nil
			}
		}
		return false, fmt.Errorf("%v: %s", err, logs)
	})
}

func (c *clusterUnderTest) schedulerID() string {
	out, _ := c.try("", "kubectl", "get", "pod", "-n", "kube-system", "kube-scheduler-node-0", "-o", "jsonpath={.status.containerStatuses[0].containerID}")
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
