package swap

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"tinykube/internal/image"
	"tinykube/internal/reference"
	"tinykube/test/clusters"
)

// csiPart is a container of the driver's manifest: the real program in it, and
// which of ours takes its place.
type csiPart struct{ container, real, ours string }

var csiParts = []csiPart{
	{"hostpath", "", "csi-hostpath"}, // its program is $CSI_DRIVER
	{"node-driver-registrar", "csi-node-driver-registrar", "csi-node-driver-registrar"},
	{"liveness-probe", "livenessprobe", "livenessprobe"},
	{"csi-attacher", "csi-attacher", "csi-attacher"},
	{"csi-provisioner", "csi-provisioner", "csi-provisioner"},
	{"csi-resizer", "csi-resizer", "csi-resizer"},
	{"csi-snapshotter", "csi-snapshotter", "csi-snapshotter"},
	// Not in the manifest: the cluster has one for all drivers. Ours is a part of csi-snapshotter.
	{"snapshot-controller", "snapshot-controller", ""},
}

// TestRealCSI deploys the hostpath driver by its own project's manifest: with
// all programs that it names, with all of ours in their containers, and with one
// real program after the other among ours. Each time volumes go through all that
// can happen to them.
func TestRealCSI(t *testing.T) {
	driver, folder := clusters.Program(t, "CSI_DRIVER"), os.Getenv("CSI_SIDECARS")
	for _, part := range csiParts[1:] {
		if _, err := exec.LookPath(filepath.Join(folder, part.real)); err != nil {
			t.Fatalf("$CSI_SIDECARS: give the folder of the real sidecars, for example make smoke-swap CSI_DRIVER=/usr/local/bin/hostpathplugin CSI_SIDECARS=/usr/local/bin: %v", err)
		}
	}
	c := up(t)
	s := c.prepareCSI(driver, folder)
	arrangements := map[string][]string{"all of theirs": nil, "all of ours": {}}
	order := []string{"all of theirs", "all of ours"}
	for i, part := range csiParts[:7] {
		name := "our cluster with their " + part.container
		order, arrangements[name] = append(order, name), []string{part.container}
		if i == 0 {
			arrangements[name] = []string{"hostpath"}
		}
	}
	for _, name := range order {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			c := &clusterUnderTest{t: t, program: c.program, dir: c.dir}
			s := &csiSwap{clusterUnderTest: c, driver: s.driver}
			t.Cleanup(s.remove)
			s.deploy(arrangements[name])
			if real := arrangements[name]; len(real) == 0 || slices.Contains(real, "csi-provisioner") {
				s.room()
			}
			started := time.Now()
			s.journey()
			t.Logf("%s: the whole journey took %v", name, time.Since(started).Round(time.Millisecond))
		})
	}
}

// csiSwap is the driver's manifest on a cluster.
type csiSwap struct {
	*clusterUnderTest
	driver appsv1.StatefulSet
}

// csiManifest is a file of the driver's project. Images that nobody has here
// are replaced by ours.
func (c *clusterUnderTest) csiManifest(name string) string {
	c.t.Helper()
	text, err := os.ReadFile(reference.Path(c.t, "manifests/csi-hostpath/"+name))
	if err != nil {
		c.t.Fatal(err)
	}
	return strings.NewReplacer("image: busybox", "image: tinykube.local/tools:v1", "name: src-hp-pvc", "name: csi-pvc").Replace(string(text))
}

func (c *clusterUnderTest) apply(text string) {
	c.t.Helper()
	c.run(text, "kubectl", "apply", "-f", "-")
}

// prepareCSI brings the images to the nodes, and what must be there before the
// driver: the definitions of snapshots, the roles, the classes.
func (c *clusterUnderTest) prepareCSI(driver, folder string) *csiSwap {
	c.t.Helper()
	manifest := c.csiManifest("csi-hostpath-plugin.yaml")
	s := &csiSwap{clusterUnderTest: c}
	for document := range strings.SplitSeq(manifest, "\n---\n") {
		if strings.Contains(document, "kind: StatefulSet") {
			if err := yaml.Unmarshal([]byte(document), &s.driver); err != nil {
				c.t.Fatal(err)
			}
			manifest = strings.Replace(manifest, document, "", 1)
		}
	}
	containers := &s.driver.Spec.Template.Spec.Containers
	// Nothing of what the journey needs; its program is not among those that are asked for.
	*containers = slices.DeleteFunc(*containers, func(c corev1.Container) bool { return c.Name == "csi-external-health-monitor-controller" })
	*containers = append(*containers, corev1.Container{Name: "snapshot-controller", Image: "registry.k8s.io/sig-storage/snapshot-controller:v8.6.0", Args: []string{"--v=5"}})
	dir := c.t.TempDir()
	for i, part := range csiParts {
		if i == 0 && driver == "" || i > 0 && folder == "" { // not among what is tried
			continue
		}
		spec := image.Spec{Layers: []image.Layer{image.Base()}, Config: v1.Config{Env: []string{image.DefaultPath}, WorkingDir: "/"}}
		program := filepath.Join(folder, part.real)
		if i == 0 {
			program = driver
			spec.Layers = append(spec.Layers, c.machinesTools("sh", "mount", "umount", "tar", "gzip", "cp", "dd", "losetup", "findmnt", "fallocate"))
		}
		at := slices.IndexFunc(*containers, func(c corev1.Container) bool { return c.Name == part.container })
		if at < 0 {
			c.t.Fatalf("the manifest has no container %s", part.container)
		}
		spec.Name = (*containers)[at].Image
		spec.Layers = append(spec.Layers, image.Layer{{Path: "/program", Mode: 0o755, Source: program}})
		spec.Config.Entrypoint = []string{"/program"}
		built, err := image.Build(spec)
		if err != nil {
			c.t.Fatal(err)
		}
		archive, err := image.WriteArchive(dir, spec.Name, built)
		if err != nil {
			c.t.Fatal(err)
		}
		c.run("", "node", "load", "node-1", archive)
	}
	for _, file := range snapshotDefinitions(c.t) {
		c.run("", "kubectl", "apply", "-f", file)
	}
	c.run("", "kubectl", "wait", "--for=condition=Established", "--timeout=60s", "crd/volumesnapshots.snapshot.storage.k8s.io",
		"crd/volumesnapshotcontents.snapshot.storage.k8s.io", "crd/volumesnapshotclasses.snapshot.storage.k8s.io")
	c.run("", "kubectl", "apply", "-f", "testdata/csi-roles.yaml")
	c.apply(manifest)
	c.apply(c.csiManifest("csi-hostpath-driverinfo.yaml"))
	c.apply(c.csiManifest("csi-storageclass.yaml"))
	return s
}

// snapshotDefinitions are the files of snapshots' own project.
func snapshotDefinitions(t testing.TB) []string {
	t.Helper()
	raw, err := exec.Command("go", "mod", "download", "-C", reference.Checkout(t)+"/test/snapshots", "-json", "github.com/kubernetes-csi/external-snapshotter/client/v8").Output()
	var module struct{ Dir string }
	if err != nil || json.Unmarshal(raw, &module) != nil {
		t.Fatalf("the module with the definitions: %v\n%s", err, raw)
	}
	files, err := filepath.Glob(filepath.Join(module.Dir, "config/crd/snapshot.storage.k8s.io_*.yaml"))
	if err != nil || len(files) != 3 {
		t.Fatalf("%d definitions in %s: %v", len(files), module.Dir, err)
	}
	return files
}

var linkedLibrary = regexp.MustCompile(`(/\S+) \(0x`)

// machinesTools are programs of this machine, which the real driver runs, with
// what they are linked against.
func (c *clusterUnderTest) machinesTools(names ...string) (layer image.Layer) {
	c.t.Helper()
	seen := map[string]bool{}
	add := func(path, source string) {
		if !seen[path] {
			seen[path] = true
			layer = append(layer, image.File{Path: path, Mode: 0o755, Source: source})
		}
	}
	for _, name := range names {
		program, err := exec.LookPath(name)
		if err == nil {
			program, err = filepath.EvalSymlinks(program)
		}
		if err != nil {
			c.t.Fatal(err)
		}
		add("/bin/"+name, program)
		linked, err := exec.Command("ldd", program).Output()
		if err != nil {
			c.t.Fatalf("ldd %s: %v", program, err)
		}
		for _, match := range linkedLibrary.FindAllStringSubmatch(string(linked), -1) {
			add(match[1], match[1])
		}
	}
	return layer
}

func ofPod(name, path string) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}}
}

// deploy runs the driver's pod with the real programs in these containers and
// ours in the others; nil is the manifest as it is.
func (s *csiSwap) deploy(real []string) {
	s.t.Helper()
	set := s.driver.DeepCopy()
	pod := &set.Spec.Template.Spec
	if real != nil {
		pod.Containers = slices.DeleteFunc(pod.Containers, func(c corev1.Container) bool {
			return c.Name == "snapshot-controller" && !slices.Contains(real, "csi-snapshotter")
		})
		pod.TerminationGracePeriodSeconds = new(int64)
		*pod.TerminationGracePeriodSeconds = 5
	}
	for i := range pod.Containers {
		container := &pod.Containers[i]
		if container.Name == "csi-provisioner" { // the manifest leaves capacities out, here and in its CSIDriver
			container.Args = append(container.Args, "--enable-capacity", "--capacity-ownerref-level=0")
			container.Env = append(container.Env, ofPod("NAMESPACE", "metadata.namespace"), ofPod("POD_NAME", "metadata.name"))
		}
		part := csiParts[slices.IndexFunc(csiParts, func(p csiPart) bool { return p.container == container.Name })]
		if real != nil && part.ours != "" && !slices.Contains(real, part.container) {
			container.Image, container.Command = image.Tinykube, []string{part.ours}
		}
		if part.container == "hostpath" && real != nil { // the manifest leaves attaching out
			container.Args = append(container.Args, "--enable-attach")
		}
		s.t.Logf("%-22s %s %v", container.Name, container.Image, container.Command)
	}
	text, err := json.Marshal(set)
	if err != nil {
		s.t.Fatal(err)
	}
	s.apply(string(text))
	s.run("", "kubectl", "patch", "csidriver", "hostpath.csi.k8s.io", "-p", `{"spec":{"storageCapacity":true}}`)
	s.t.Cleanup(func() {
		if s.t.Failed() {
			out, _ := s.try("", "kubectl", "describe", "pods,pvc,pv,volumeattachments")
			logs, _ := s.try("", "kubectl", "logs", "csi-hostpathplugin-0", "--all-containers", "--prefix", "--tail=60")
			s.t.Logf("%s\n%s", out, logs)
			_, _ = s.try("", "kubectl", "delete", "volumesnapshots,pods,pvc", "--all", "--grace-period=1", "--timeout=30s")
		}
	})
	eventually(s.t, "the driver's pod is ready and node-1 has the driver", func(context.Context) (bool, error) {
		out, err := s.try("", "kubectl", "get", "pod", "csi-hostpathplugin-0", "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
		if err != nil || out != "True" {
			return false, fmt.Errorf("%s %v", out, err)
		}
		out, err = s.try("", "kubectl", "get", "csinode", "node-1", "-o", "jsonpath={.spec.drivers[*].name}")
		return out == "hostpath.csi.k8s.io", fmt.Errorf("%s %v", out, err)
	})
}

// roomDemand is two pods with claims that wait for them: one of what fits into the
// terabyte that the driver has at most, and one of twice that.
const roomDemand = `
{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: late}, provisioner: hostpath.csi.k8s.io, volumeBindingMode: WaitForFirstConsumer}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: small}, spec: {storageClassName: late, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: huge}, spec: {storageClassName: late, accessModes: [ReadWriteOnce], resources: {requests: {storage: 2Ti}}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: small}, spec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: "tinykube.local/pause:3.10"}], volumes: [{name: d, persistentVolumeClaim: {claimName: small}}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: huge}, spec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: "tinykube.local/pause:3.10"}], volumes: [{name: d, persistentVolumeClaim: {claimName: huge}}]}}
`

// room: what there is no room for is not even tried, what there is room for is.
func (s *csiSwap) room() {
	s.t.Helper()
	s.apply(roomDemand)
	s.run("", "kubectl", "wait", "--for=condition=Ready", "pod/small", "--timeout=120s")
	s.waitsForRoom("huge")
	s.run("", "kubectl", "delete", "pod", "small", "huge", "--timeout=120s")
	s.run("", "kubectl", "delete", "pvc", "small", "huge", "--timeout=120s")
}

// waitsForRoom: a pod and its claim of the same name wait, and the scheduler says why.
func (c *clusterUnderTest) waitsForRoom(name string) {
	c.t.Helper()
	eventually(c.t, "the scheduler says that there is no room for "+name, func(context.Context) (bool, error) {
		out, err := c.try("", "kubectl", "get", "events", "--field-selector", "involvedObject.name="+name+",reason=FailedScheduling", "-o", "jsonpath={.items[*].message}")
		return strings.Contains(out, "node(s) did not have enough free storage"), fmt.Errorf("%s %v", out, err)
	})
	if out := c.run("", "kubectl", "get", "pvc", name, "-o", `jsonpath={.status.phase} {.metadata.annotations.volume\.kubernetes\.io/selected-node}`); out != "Pending " {
		c.t.Errorf("a claim that no node has room for: %s", out)
	}
	c.t.Log(c.run("", "explain", "pvc", name))
}

// journey is a volume's life: made, mounted, written, copied in two ways, made
// larger, and all that gone again.
func (s *csiSwap) journey() {
	s.t.Helper()
	wait := func(what, args string) {
		s.t.Helper()
		started := time.Now()
		s.run("", append([]string{"kubectl", "wait", "--timeout=120s"}, strings.Fields(args)...)...)
		s.t.Logf("%-60s %v", what, time.Since(started).Round(time.Millisecond))
	}
	s.apply(s.csiManifest("csi-pvc.yaml"))
	s.apply(s.csiManifest("csi-app.yaml"))
	wait("claim to running pod", "--for=condition=Ready pod/my-csi-app")
	s.run("", "kubectl", "exec", "my-csi-app", "--", "sh", "-c", "echo kept > /data/file && sync")

	s.apply(s.csiManifest("csi-snapshot-v1.yaml"))
	wait("snapshot", "--for=jsonpath={.status.readyToUse}=true volumesnapshot/new-snapshot-demo")
	s.apply(s.csiManifest("csi-restore.yaml"))
	s.apply(s.csiManifest("csi-clone.yaml"))
	s.apply(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"reader"},"spec":{"terminationGracePeriodSeconds":1,
		"containers":[{"name":"c","image":"tinykube.local/tools:v1","command":["sleep","1000000"],"volumeMounts":[{"name":"r","mountPath":"/r"},{"name":"c","mountPath":"/c"}]}],
		"volumes":[{"name":"r","persistentVolumeClaim":{"claimName":"hpvc-restore"}},{"name":"c","persistentVolumeClaim":{"claimName":"hp-pvc-clone"}}]}}`)
	s.apply(s.csiManifest("csi-app-inline.yaml"))
	wait("restored and cloned, in a pod", "--for=condition=Ready pod/reader")
	if out := s.run("", "kubectl", "exec", "reader", "--", "cat", "/r/file", "/c/file"); out != "kept\nkept\n" {
		s.t.Errorf("the copies hold %q", out)
	}
	wait("inline", "--for=condition=Ready pod/my-csi-app-inline")
	s.run("", "kubectl", "exec", "my-csi-app-inline", "--", "sh", "-c", "echo x > /data/file")

	s.run("", "kubectl", "patch", "pvc", "csi-pvc", "-p", `{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}`)
	eventually(s.t, "the volume is larger", func(context.Context) (bool, error) {
		out, err := s.try("", "kubectl", "get", "pv", "-o", "jsonpath={.items[*].spec.capacity.storage}")
		return strings.Contains(out, "2Gi"), fmt.Errorf("%s %v", out, err)
	})
	// The file system's turn comes when the kubelet looks at the pod, once a minute or when it changes.
	s.run("", "kubectl", "annotate", "pod", "my-csi-app", "look=now")
	wait("larger", "--for=jsonpath={.status.capacity.storage}=2Gi pvc/csi-pvc")
	attached := s.run("", "kubectl", "get", "volumeattachments", "-o", "jsonpath={range .items[*]}{.spec.attacher} {.spec.nodeName} {.status.attached}{\"\\n\"}{end}")
	if want := strings.Repeat("hostpath.csi.k8s.io node-1 true\n", 3); attached != want {
		s.t.Errorf("attached: %q, want %q", attached, want)
	}
	s.t.Log(s.run("", "kubectl", "get", "pv,pvc,volumesnapshot,volumesnapshotcontent,volumeattachment"))

	// A claim that is used stays; a volume that is attached stays.
	s.run("", "kubectl", "delete", "pvc", "--all", "--wait=false")
	if out := s.run("", "kubectl", "get", "pvc", "csi-pvc", "-o", "jsonpath={.metadata.deletionTimestamp} {.status.phase}"); !strings.HasSuffix(out, "Z Bound") {
		s.t.Errorf("a claim that a pod uses: %s", out)
	}
	s.run("", "kubectl", "delete", "pod", "my-csi-app", "my-csi-app-inline", "reader", "--grace-period=1", "--timeout=120s")
	s.run("", "kubectl", "delete", "volumesnapshot", "new-snapshot-demo", "--timeout=120s")
	eventually(s.t, "nothing is left", func(context.Context) (bool, error) {
		out, err := s.try("", "kubectl", "get", "pvc,pv,volumeattachments,volumesnapshotcontents", "-o", "name")
		return err == nil && strings.TrimSpace(out) == "", fmt.Errorf("%s %v", out, err)
	})
	eventually(s.t, "nothing is mounted", func(context.Context) (bool, error) {
		out := s.run("", "node", "shell", "node-1", "--", "sh", "-c", "grep -e kubernetes.io~csi -e globalmount /proc/mounts; ls -d /var/lib/kubelet/plugins/kubernetes.io/csi/*/*; true")
		return !strings.Contains(out, "/mount ") && !strings.Contains(out, "globalmount") && !strings.Contains(out, "hostpath.csi.k8s.io/"), fmt.Errorf("%s", out)
	})
}

// remove takes the driver away, and what it wrote: ours and theirs do not read
// each other's notes.
func (s *csiSwap) remove() {
	s.t.Helper()
	s.run("", "kubectl", "delete", "statefulset", "csi-hostpathplugin", "--cascade=foreground", "--timeout=120s")
	s.run("", "kubectl", "wait", "--for=delete", "pod/csi-hostpathplugin-0", "--timeout=120s")
	eventually(s.t, "the kubelet has noticed", func(context.Context) (bool, error) {
		out, err := s.try("", "kubectl", "get", "csinode", "node-1", "-o", "jsonpath={.spec.drivers[*].name}")
		return err == nil && out == "", fmt.Errorf("%s %v", out, err)
	})
	s.run("", "node", "shell", "node-1", "--", "sh", "-c", "rm -rf /var/lib/csi-hostpath-data/* /var/lib/csi-hostpath-data/.[a-z]*; ls -A /var/lib/kubelet/plugins_registry /var/lib/kubelet/plugins/csi-hostpath")
}
