package kubelet

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
)

// csiBench is a node's volume code before the program csi-hostpath, and an API
// that is made up.
type csiBench struct {
	t       *testing.T
	dir     string
	program string
	process *exec.Cmd
	client  *csiClient
	control csi.ControllerClient

	volumes   *volumes
	objects   *fakeObjects
	driver    *storagev1.CSIDriver
	asked     int // for the node: the first answers say that nothing is attached
	attach    storagev1.VolumeAttachment
	wanted    string // the attachment that was asked for
	resizedTo string
	log       bytes.Buffer
}

const testDriver = "hostpath.csi.k8s.io"

func newCSIBench(t *testing.T) *csiBench {
	b := &csiBench{t: t, dir: t.TempDir()}
	b.program = filepath.Join(b.dir, "csi-hostpath")
	if out, err := exec.Command("go", "build", "-o", b.program, "tinykube/cmd/csi-hostpath").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
		return nil
	}
	b.restartKubelet()
	b.startDriver()
	return b
}

// restartKubelet makes a volume code that knows nothing.
func (b *csiBench) restartKubelet() {
	if b.objects == nil {
		b.objects = &fakeObjects{volumes: map[string]*corev1.PersistentVolume{},
			secrets: map[string]*corev1.Secret{"s": {Data: map[string][]byte{"password": []byte("sesame")}}}}
	}
	log := slog.New(slog.NewTextHandler(&b.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	b.volumes = &volumes{metrics: newMetrics(), rootDir: filepath.Join(b.dir, "kubelet"), objects: b.objects, tokens: &tokens{}}
	b.volumes.csi = &csiVolumes{rootDir: b.volumes.rootDir, nodeName: "node-0", objects: b.objects, api: b, touchNode: func() {}, log: log,
		event: func(_ corev1.ObjectReference, _, reason, format string, args ...any) {
			log.Info(reason, "text", fmt.Sprintf(format, args...))
		},
		endpoint: func(driver string) (string, bool) {
			return filepath.Join(b.dir, "csi.sock"), driver == testDriver && b.process != nil
		}}
}

func (b *csiBench) csiDriver(context.Context, string) (*storagev1.CSIDriver, error) {
	return b.driver, nil
}

func (b *csiBench) node(context.Context, string) (*corev1.Node, error) {
	node := &corev1.Node{}
	node.Status.VolumesInUse = b.volumes.csi.inUse()
	if b.asked++; b.asked > 2 {
		for _, name := range node.Status.VolumesInUse {
			node.Status.VolumesAttached = append(node.Status.VolumesAttached, corev1.AttachedVolume{Name: name})
		}
	}
	return node, nil
}

func (b *csiBench) attachment(_ context.Context, name string) (*storagev1.VolumeAttachment, error) {
	b.wanted = name
	return &b.attach, nil
}

func (b *csiBench) resized(_ context.Context, _ *corev1.PersistentVolumeClaim, volume *corev1.PersistentVolume) error {
	b.resizedTo = volume.Spec.Capacity.Storage().String()
	return nil
}

// startDriver starts the program in this thread's mount namespace.
func (b *csiBench) startDriver() {
	b.t.Helper()
	b.process = exec.Command(b.program, "--endpoint=unix://"+filepath.Join(b.dir, "csi.sock"), "--nodeid=node-0",
		"--statedir="+filepath.Join(b.dir, "data"), "--enable-attach")
	b.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	b.process.Stderr = &b.log
	if err := b.process.Start(); err != nil {
		b.t.Error(err)
		return
	}
	client, err := dialCSI(filepath.Join(b.dir, "csi.sock"))
	if err != nil {
		b.t.Error(err)
		return
	}
	b.client, b.control = client, csi.NewControllerClient(client.conn)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err = client.NodeGetInfo(b.t.Context(), &csi.NodeGetInfoRequest{}); err == nil {
			return
		} else if time.Now().After(deadline) {
			b.t.Errorf("the driver does not answer: %v", err)
			return
		}
	}
}

func (b *csiBench) killDriver() {
	_ = b.process.Process.Kill()
	_ = b.process.Wait()
	b.client.close()
	b.process = nil
}

// volume makes a volume, attached to the node, as provisioner and attacher do,
// and a claim of the same name that is bound to it.
func (b *csiBench) volume(name string, block bool) *corev1.PersistentVolume {
	b.t.Helper()
	capability := &csi.VolumeCapability{AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER},
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}}}
	mode := corev1.PersistentVolumeFilesystem
	if block {
		mode = corev1.PersistentVolumeBlock
		capability.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
	}
	made, err := b.control.CreateVolume(b.t.Context(), &csi.CreateVolumeRequest{Name: name, VolumeCapabilities: []*csi.VolumeCapability{capability},
		CapacityRange: &csi.CapacityRange{RequiredBytes: 1 << 20}})
	if err != nil {
		b.t.Error(err)
		return nil
	}
	id := made.Volume.VolumeId
	if _, err := b.control.ControllerPublishVolume(b.t.Context(), &csi.ControllerPublishVolumeRequest{VolumeId: id, NodeId: "node-0", VolumeCapability: capability}); err != nil {
		b.t.Error(err)
	}
	volume := &corev1.PersistentVolume{}
	volume.Name = "pvc-" + name
	volume.Spec = corev1.PersistentVolumeSpec{VolumeMode: &mode, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Mi")},
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: testDriver, VolumeHandle: id,
			NodeStageSecretRef: &corev1.SecretReference{Namespace: "default", Name: "s"}, FSType: "ext4"}}}
	b.objects.volumes[name] = volume
	return volume
}

// gone checks that the node has nothing of the volume any more, by taking it
// from the node and deleting it.
func (b *csiBench) gone(volume *corev1.PersistentVolume) {
	b.t.Helper()
	id := volume.Spec.CSI.VolumeHandle
	if used := b.volumes.csi.inUse(); len(used) > 0 {
		b.t.Errorf("still in use: %v", used)
	}
	if _, err := b.control.ControllerUnpublishVolume(b.t.Context(), &csi.ControllerUnpublishVolumeRequest{VolumeId: id, NodeId: "node-0"}); err != nil {
		b.t.Error(err)
	}
	if _, err := b.control.DeleteVolume(b.t.Context(), &csi.DeleteVolumeRequest{VolumeId: id}); err != nil {
		b.t.Error(err)
	}
	mounts, err := mountsBelow(b.volumes.rootDir)
	if err != nil || len(mounts) > 0 {
		b.t.Errorf("orphaned mounts: %v %v", mounts, err)
	}
	_ = filepath.WalkDir(csiPlugins(b.volumes.rootDir), func(path string, entry fs.DirEntry, err error) error {
		if err == nil && (!entry.IsDir() || strings.HasSuffix(path, "globalmount")) {
			b.t.Errorf("left behind: %s", path)
		}
		return nil
	})
}

// pod wants the claim.
func (b *csiBench) pod(uid, claim string) podFacts {
	f := podWith(map[string]corev1.VolumeSource{"data": {PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}})
	f.pod.UID = types.UID(uid)
	return f
}

func (b *csiBench) setUp(f podFacts) mountedVolume {
	b.t.Helper()
	mounted, err := b.volumes.setUp(b.t.Context(), f)
	if err != nil {
		b.t.Error(err)
	}
	return mounted["data"]
}

func (b *csiBench) tearDown(f podFacts) {
	b.t.Helper()
	if err := b.volumes.tearDown(b.t.Context(), f.pod.UID, true); err != nil {
		b.t.Error(err)
	}
}

// TestCSIVolumes takes volumes of the real driver to pods and back: shared by
// two pods, across restarts of driver and kubelet, inline, and as a device.
func TestCSIVolumes(t *testing.T) {
	privately(t, func(t *testing.T) {
		b := newCSIBench(t)
		if b == nil {
			return
		}
		defer func() {
			b.killDriver()
			if t.Failed() {
				t.Logf("%s", b.log.String())
			}
		}()
		b.attach.Status.Attached = true
		b.shared()
		b.killedInBetween()
		b.inline()
		b.device()
		if strings.Contains(b.log.String(), "sesame") {
			t.Error("a secret was logged")
		}
	})
}

// shared: two pods have one volume; it is given back with the second.
func (b *csiBench) shared() {
	t := b.t
	volume := b.volume("shared", false)
	one, two := b.pod("one", "shared"), b.pod("two", "shared")
	group := int64(2000)
	b.asked = 0
	one.pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &group}
	first := b.setUp(one)
	if want := filepath.Join(b.volumes.rootDir, "pods/one/volumes/kubernetes.io~csi/pvc-shared/mount"); first.path != want || !isMounted(want) {
		t.Errorf("the volume is at %s, want %s, mounted", first.path, want)
	}
	if want := attachmentName(volume.Spec.CSI.VolumeHandle, testDriver, "node-0"); b.wanted != want || b.asked < 3 {
		t.Errorf("asked %d times for the node, and for attachment %s, want %s", b.asked, b.wanted, want)
	}
	var stat syscall.Stat_t
	if err := syscall.Stat(first.path, &stat); err != nil || stat.Gid != 2000 || stat.Mode&0o2770 != 0o2770 {
		t.Errorf("fsGroup: %o %d %v", stat.Mode, stat.Gid, err)
	}
	if err := os.WriteFile(first.path+"/file", []byte("kept"), 0o644); err != nil {
		t.Error(err)
	}
	if stats := b.volumes.csi.volumeStats(t.Context(), one.pod); len(stats) != 1 || stats[0].Name != "data" || stats[0].PVCRef == nil || stats[0].PVCRef.Name != "shared" ||
		stats[0].CapacityBytes == nil || *stats[0].CapacityBytes == 0 || stats[0].Inodes == nil {
		t.Errorf("how full it is: %+v", stats)
	}
	second := b.setUp(two)
	// Its controller enlarges it: the next look at the pod does the node's part.
	if _, err := b.control.ControllerExpandVolume(t.Context(), &csi.ControllerExpandVolumeRequest{VolumeId: volume.Spec.CSI.VolumeHandle,
		CapacityRange: &csi.CapacityRange{RequiredBytes: 2 << 20}}); err != nil {
		t.Error(err)
	}
	volume.Spec.Capacity[corev1.ResourceStorage] = resource.MustParse("2Mi")
	if b.setUp(two); b.resizedTo != "2Mi" || !strings.Contains(b.log.String(), `MountVolume.NodeExpandVolume succeeded for volume \"pvc-shared\"`) {
		t.Errorf("the claim was told %q", b.resizedTo)
	}
	// Everybody dies. Nothing has to be asked to know that the volume is there.
	b.killDriver()
	b.restartKubelet()
	claimed := b.objects.volumes["shared"]
	delete(b.objects.volumes, "shared")
	if again := b.setUp(two); again != second || read(t, again.path+"/file") != "kept" {
		t.Errorf("after a restart: %v, before: %v", again, second)
	}
	if err := b.volumes.tearDown(t.Context(), "one", true); err == nil || !strings.Contains(err.Error(), "driver name hostpath.csi.k8s.io not found in the list of registered CSI drivers") {
		t.Errorf("without a driver nothing can be taken down: %v", err)
	}
	b.startDriver()
	b.objects.volumes["shared"] = claimed
	b.tearDown(one)
	if got := b.volumes.csi.inUse(); !slices.Equal(got, []corev1.UniqueVolumeName{corev1.UniqueVolumeName("kubernetes.io/csi/" + testDriver + "^" + volume.Spec.CSI.VolumeHandle)}) {
		t.Errorf("in use by the second pod: %v", got)
	}
	b.tearDown(two)
	b.gone(volume)
}

// killedInBetween: a kubelet that is killed before the driver was told, and one
// that is killed when it has staged; then the pods are gone.
func (b *csiBench) killedInBetween() {
	volume := b.volume("killed", false)
	w := claimedCSI(b.pod("early", "killed").pod, "data", "node-0", nil, volume, false)
	if err := b.volumes.csi.record(w); err != nil {
		b.t.Error(err)
	}
	b.restartKubelet()
	b.tearDown(b.pod("early", "killed"))
	w.uid = "late"
	if err := b.volumes.csi.record(w); err != nil {
		b.t.Error(err)
	}
	client, err := b.volumes.csi.connect(b.t.Context(), testDriver)
	if err != nil {
		b.t.Error(err)
		return
	}
	defer client.close()
	if err := b.volumes.csi.stage(b.t.Context(), w, client, nil); err != nil {
		b.t.Error(err)
	}
	// Somebody removed the pod's directory: the node's record is enough.
	if err := os.RemoveAll(b.volumes.podDir("late")); err != nil {
		b.t.Error(err)
	}
	b.restartKubelet()
	for _, device := range b.volumes.csi.devices() {
		if err := b.volumes.csi.release(b.t.Context(), device); err != nil {
			b.t.Error(err)
		}
	}
	b.gone(volume)
}

// inline: the volume is the pod's own, if the driver says that it makes such.
func (b *csiBench) inline() {
	f := podWith(map[string]corev1.VolumeSource{"data": {CSI: &corev1.CSIVolumeSource{Driver: testDriver}}})
	_, err := b.volumes.setUp(b.t.Context(), f)
	if err == nil || !strings.Contains(err.Error(), `MountVolume.SetUp failed for volume "data" : `) || !strings.Contains(err.Error(), `volume mode "Ephemeral" not supported by driver hostpath.csi.k8s.io (no CSIDriver object)`) {
		b.t.Errorf("without a CSIDriver: %v", err)
	}
	yes := true
	b.driver = &storagev1.CSIDriver{Spec: storagev1.CSIDriverSpec{PodInfoOnMount: &yes,
		VolumeLifecycleModes: []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecycleEphemeral}}}
	mounted := b.setUp(f)
	if err := os.WriteFile(mounted.path+"/file", nil, 0o644); err != nil {
		b.t.Error(err)
	}
	if used := b.volumes.csi.inUse(); len(used) > 0 {
		b.t.Errorf("nobody attaches a pod's own volume: %v", used)
	}
	b.driver = nil
	b.restartKubelet()
	b.tearDown(f)
	if _, err := os.Stat(b.volumes.podDir(f.pod.UID)); !os.IsNotExist(err) {
		b.t.Errorf("left behind: %v", err)
	}
}

// device: a block volume is a device node for the container.
func (b *csiBench) device() {
	t := b.t
	volume, f := b.volume("block", true), b.pod("block", "block")
	f.pod.Spec.Containers = []corev1.Container{{VolumeMounts: []corev1.VolumeMount{{Name: "data"}}}}
	if _, err := b.volumes.setUp(t.Context(), f); err == nil || !strings.Contains(err.Error(), "failed to process volumes=[data]: volume data has volumeMode Block, but is specified in volumeMounts") {
		t.Errorf("a device as a file system: %v", err)
	}
	f.pod.Spec.Containers = nil
	mounted := b.setUp(f)
	link := filepath.Join(b.volumes.rootDir, "pods/block/volumeDevices/kubernetes.io~csi/pvc-block")
	target := filepath.Join(b.volumes.rootDir, "plugins/kubernetes.io/csi/volumeDevices/publish/pvc-block/block")
	if to, err := os.Readlink(link); err != nil || to != target || !mounted.block || mounted.path != link {
		t.Errorf("%s leads to %s, want %s: %+v %v", link, to, target, mounted, err)
	}
	if info, err := os.Stat(link); err != nil || info.Mode()&fs.ModeDevice == 0 {
		t.Errorf("not a device: %v %v", info, err)
	}
	in := containerInput{volumes: map[string]mountedVolume{"data": mounted},
		container: &corev1.Container{VolumeDevices: []corev1.VolumeDevice{{Name: "data", DevicePath: "/dev/xvda"}}}}
	if devices, err := blockDevices(in); err != nil || len(devices) != 1 || devices[0].HostPath != link || devices[0].Permissions != "mrw" {
		t.Errorf("devices: %v %v", devices, err)
	}
	b.restartKubelet()
	if again := b.setUp(f); again != mounted {
		t.Errorf("after a restart: %v", again)
	}
	b.tearDown(f)
	b.gone(volume)
}
