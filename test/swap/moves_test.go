package swap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"tinykube/internal/image"
	"tinykube/internal/reference"
)

// databases are the StatefulSets of the reference's manifests.
var databases = []struct {
	name, folder string
	pods         int
	files        []string
}{
	{"minio", "/data", 4, []string{"headless-service.yaml", "statefulset.yaml"}},
	{"cassandra", "/var/lib/cassandra", 3, []string{"service.yaml", "statefulset.yaml"}},
	{"cockroachdb", "/cockroach/cockroach-data", 3, []string{"statefulset.yaml"}},
}

// asTheyAre is all that is changed in their manifests: images that nobody has
// here, and must not be asked for; a provisioner that is not ours; an API that no
// server has any more; and a host port that lets only one pod onto a node.
var asTheyAre = strings.NewReplacer("image: minio/minio:latest", "image: "+databaseImage,
	"image: gcr.io/google-samples/cassandra:v14", "image: "+databaseImage, "imagePullPolicy: Always", "imagePullPolicy: IfNotPresent", "provisioner: k8s.io/minikube-hostpath", "provisioner: shared.example.com",
	"image: cockroachdb/cockroach-k8s-init:0.2", "image: "+databaseImage, "image: cockroachdb/cockroach:v1.1.0", "image: "+databaseImage, "policy/v1beta1", "policy/v1",
	"hostPort: 9000", "name: api")

const databaseImage = "tinykube.local/database:v1"

// TestVolumesFollowPods swaps nothing: it runs StatefulSets with claims, and
// then pods and nodes go. Each pod must always find its own data, on whatever
// node it comes up, and no volume may be on two nodes at once: the driver
// refuses that.
func TestVolumesFollowPods(t *testing.T) {
	c := up(t, "--nodes", "3", "--api-port", "26444")
	disk := t.TempDir()
	buildStatic(t, filepath.Join(disk, "driver"), "tinykube/test/swap/shareddriver")
	c.loadDatabase()
	for _, node := range []string{"node-0", "node-1", "node-2"} {
		c.share(disk, node)
	}
	c.run("", "kubectl", "apply", "-f", "testdata/shareddriver.yaml")
	f := &follower{clusterUnderTest: c}
	for _, database := range databases {
		f.pods += database.pods
		for _, file := range database.files {
			manifest, err := os.ReadFile(reference.Path(t, "manifests/apps/"+database.name+"/"+file))
			if err != nil {
				t.Fatal(err)
			}
			c.apply(asTheyAre.Replace(string(manifest)))
		}
	}
	f.settled("at first", "")
	f.each(func(name, folder string) {
		c.run("", "kubectl", "exec", name, "--", "sh", "-c", "echo data of "+name+" > "+folder+"/file && sync")
	})
	f.written = true
	t.Log(c.run("", "kubectl", "get", "statefulsets,pods,pvc,pv", "-o", "wide"))

	c.run("", "kubectl", "delete", "pod", "minio-0", "minio-2", "cassandra-1", "cockroachdb-0", "--grace-period=1", "--timeout=120s")
	f.settled("after some pods were deleted", "")

	f.killedKubelets(disk)

	// cockroachdb's budget allows no eviction of a third of its pods; deleting is always allowed.
	c.run("", "kubectl", "drain", "node-1", "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--grace-period=1", "--timeout=120s", "--disable-eviction")
	f.settled("after node-1 was drained", "node-2")
	c.run("", "kubectl", "uncordon", "node-1")

	// The plug is pulled, and somebody says that nothing runs there any more.
	c.pullPlug("node-2")
	within(t, 5*patience, "node-2 is missed", func(context.Context) (bool, error) {
		out, err := c.try("", "kubectl", "get", "node", "node-2", "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
		return err == nil && out == "Unknown", fmt.Errorf("%s %v", out, err)
	})
	c.run("", "kubectl", "taint", "node", "node-2", "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute")
	f.settled("after node-2 was lost", "node-1")

	c.run("", "kubectl", "taint", "node", "node-2", "node.kubernetes.io/out-of-service-") // which keeps flannel away, too
	c.run("", "up")
	c.share(disk, "node-2")
	c.run("", "kubectl", "wait", "--for=condition=Ready", "node/node-2", "--timeout=120s")
	within(t, 5*patience, "node-2 has taken its own leftovers away", func(context.Context) (bool, error) {
		out := c.run("", "node", "shell", "node-2", "--", "sh", "-c", "ls -d /var/lib/kubelet/pods/*/volumes/kubernetes.io~csi/* /var/lib/kubelet/plugins/kubernetes.io/csi/*/* 2>/dev/null; true")
		return strings.TrimSpace(out) == "", fmt.Errorf("%s", out)
	})
	f.settled("when node-2 is back", "node-1")

	c.run("", "kubectl", "delete", "statefulset", "minio", "cassandra", "cockroachdb", "--cascade=foreground", "--timeout=120s")
	c.run("", "kubectl", "delete", "pvc", "--all", "--timeout=120s")
	within(t, 5*patience, "nothing is left on the disk", func(context.Context) (bool, error) {
		volumes, _ := os.ReadDir(filepath.Join(disk, "volumes"))
		attached, _ := os.ReadDir(filepath.Join(disk, "attached"))
		return len(volumes) == 0 && len(attached) == 0, fmt.Errorf("%v %v", volumes, attached)
	})
}

func buildStatic(t *testing.T, path, name string) {
	t.Helper()
	build := exec.Command("go", "build", "-o", path, name)
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // it runs in an image without libraries
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// loadDatabase brings the image of database/ to all nodes, with the programs that
// the manifests' probes and scripts run.
func (c *clusterUnderTest) loadDatabase() {
	c.t.Helper()
	dir := c.t.TempDir()
	buildStatic(c.t, filepath.Join(dir, "database"), "tinykube/test/swap/database")
	program := image.Layer{{Path: "/database", Mode: 0o755, Source: filepath.Join(dir, "database")}}
	for _, name := range []string{"/bin/nodetool", "/ready-probe.sh", "/cockroach/cockroach"} {
		program = append(program, image.File{Path: name, Symlink: "/database"})
	}
	built, err := image.Build(image.Spec{Name: databaseImage, Layers: []image.Layer{image.Base(), c.machinesTools("sh", "bash", "cat", "sync", "hostname"), program},
		Config: v1.Config{Env: []string{image.DefaultPath}, WorkingDir: "/", Entrypoint: []string{"/database"}}})
	if err != nil {
		c.t.Fatal(err)
	}
	archive, err := image.WriteArchive(dir, databaseImage, built)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, node := range []string{"node-0", "node-1", "node-2"} {
		c.run("", "node", "load", node, archive)
	}
}

// follower knows what there must be.
type follower struct {
	*clusterUnderTest
	pods    int  // of all databases
	written bool // each has its data
}

// each goes through all pods and the folders of their data.
func (f *follower) each(do func(name, folder string)) {
	for _, database := range databases {
		for i := range database.pods {
			do(fmt.Sprint(database.name, "-", i), database.folder)
		}
	}
}

const theDatabases = "app in (minio,cassandra,cockroachdb)"

// settled waits until all pods are ready, on that node if one is named, each
// with its data, and exactly their volumes are attached.
func (f *follower) settled(when, node string) {
	f.t.Helper()
	within(f.t, 5*patience, "all pods are ready "+when, func(context.Context) (bool, error) {
		out, err := f.try("", "kubectl", "get", "pods", "-l", theDatabases, "-o",
			`jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName} {.status.conditions[?(@.type=="Ready")].status} {.metadata.deletionTimestamp}{"\n"}{end}`)
		ready := 0
		for line := range strings.Lines(out) {
			if fields := strings.Fields(line); len(fields) == 3 && fields[2] == "True" && (node == "" || fields[1] == node) {
				ready++
			}
		}
		return err == nil && ready == f.pods, fmt.Errorf("%s %v", out, err)
	})
	f.each(func(name, folder string) {
		if !f.written {
			return
		}
		if got := f.run("", "kubectl", "exec", name, "--", "cat", folder+"/owner", folder+"/file"); !strings.HasSuffix(strings.TrimSpace(got), name+"data of "+name) { // behind what kubectl says of containers
			f.t.Errorf("%s: %s has %q", when, name, got)
		}
	})
	within(f.t, 5*patience, "the attachments are those of the pods "+when, func(context.Context) (bool, error) {
		out, err := f.try("", "kubectl", "get", "volumeattachments", "-o", `jsonpath={range .items[*]}{.spec.nodeName} {.status.attached}{"\n"}{end}`)
		return err == nil && strings.Count(out, " true\n") == f.pods && strings.Count(out, "\n") == f.pods && (node == "" || strings.Count(out, node) == f.pods), fmt.Errorf("%s %v", out, err)
	})
	f.t.Logf("%s:\n%s%s", when, f.run("", "kubectl", "get", "pods", "-l", theDatabases, "-o", "wide"), f.run("", "kubectl", "get", "volumeattachments"))
}

// killedKubelets kills a kubelet while its driver is at each of the calls that
// bring a volume and take it back. The next one must bring the pod up with its
// data, stage nothing twice, and leave nothing.
func (f *follower) killedKubelets(disk string) {
	f.t.Helper()
	for i, method := range []string{"NodePublishVolume", "NodeUnpublishVolume", "NodeUnstageVolume", "NodeStageVolume"} {
		pod := fmt.Sprint("minio-", i)
		hold, held := filepath.Join(disk, "hold-"+method), filepath.Join(disk, "held-"+method)
		if err := os.WriteFile(hold, nil, 0o644); err != nil {
			f.t.Fatal(err)
		}
		f.run("", "kubectl", "delete", "pod", pod, "--grace-period=1", "--wait=false")
		var node []byte
		within(f.t, 5*patience, "the driver is at "+method, func(context.Context) (is bool, err error) {
			node, err = os.ReadFile(held)
			return len(node) > 0, err
		})
		f.killKubelet(string(node))
		if err := errors.Join(os.Remove(hold), os.Remove(held)); err != nil {
			f.t.Fatal(err)
		}
		f.settled("after the kubelet of "+string(node)+" was killed in "+method, "")
		within(f.t, 5*patience, "each volume is staged once and published once", func(context.Context) (bool, error) {
			mounts := ""
			for _, node := range []string{"node-0", "node-1", "node-2"} {
				mounts += f.run("", "node", "shell", node, "--", "cat", "/proc/mounts")
			}
			staged, published := strings.Count(mounts, "/globalmount "), strings.Count(mounts, "/mount ")
			return staged == f.pods && published == f.pods, fmt.Errorf("%d staged, %d published", staged, published)
		})
	}
}

// killKubelet kills the kubelet of a node, which the node starts again.
func (c *clusterUnderTest) killKubelet(node string) {
	c.t.Helper()
	within(c.t, patience, "the kubelet is killed", func(context.Context) (bool, error) {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", c.pid(node)))
		for _, task := range tasks {
			children, _ := os.ReadFile(task)
			for child := range strings.FieldsSeq(string(children)) {
				line, _ := os.ReadFile("/proc/" + child + "/cmdline")
				if strings.Contains(string(line), "/tinykube\x00kubelet\x00") {
					pid, _ := strconv.Atoi(child)
					return true, syscall.Kill(pid, syscall.SIGKILL)
				}
			}
		}
		return false, err
	})
}

// pid is that of a node's first process.
func (c *clusterUnderTest) pid(node string) int {
	c.t.Helper()
	text, err := os.ReadFile(filepath.Join(c.dir, "nodes", node, "pid"))
	if err != nil {
		c.t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(text), " ")
	pid, err := strconv.Atoi(first)
	if err != nil {
		c.t.Fatal(err)
	}
	return pid
}

func (c *clusterUnderTest) pullPlug(node string) {
	c.t.Helper()
	if err := syscall.Kill(c.pid(node), syscall.SIGKILL); err != nil {
		c.t.Fatal(err)
	}
}

// share shows a folder of the machine to a node, at /var/lib/shared, as mounting
// a file server's would.
func (c *clusterUnderTest) share(folder, node string) {
	c.t.Helper()
	c.run("", "node", "shell", node, "--", "mkdir", "-p", "/var/lib/shared")
	tree, err := unix.OpenTree(unix.AT_FDCWD, folder, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		c.t.Fatal(err)
	}
	defer unix.Close(tree)
	done, pid := make(chan error), c.pid(node)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread dies with its namespace
		done <- func() error {
			namespace, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid))
			if err != nil {
				return err
			}
			defer namespace.Close()
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return err
			}
			if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNS); err != nil {
				return err
			}
			return unix.MoveMount(tree, "", unix.AT_FDCWD, "/var/lib/shared", unix.MOVE_MOUNT_F_EMPTY_PATH)
		}()
	}()
	if err := <-done; err != nil {
		c.t.Fatalf("share %s with %s: %v", folder, node, err)
	}
}
