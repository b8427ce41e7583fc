package sidecar

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"tinykube/api/claims"
	"tinykube/client"
	"tinykube/controllers"
	"tinykube/csi/hostpath"
	"tinykube/internal/testenv"
)

const driverName = "hostpath.csi.k8s.io"

// world is an API server, the volume controllers, a driver and its sidecars.
type world struct {
	t     *testing.T
	api   *client.Client
	state string // the driver's directory

	driverLog, sidecarLog *os.File
}

// password is what the driver's calls carry as a secret, and nobody may log.
const password = "correct-horse-battery-staple"

// together runs programs until stop, or the end of the test.
func together(t *testing.T, run ...func(ctx context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	for _, f := range run {
		running.Go(func() {
			if err := f(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	t.Cleanup(stop)
	return stop
}

func (w *world) sidecar(parts ...string) *Sidecar {
	w.t.Helper()
	s, err := New(Config{Address: filepath.Join(w.state, "csi.sock"), Timeout: time.Minute, Parts: parts}, w.api,
		slog.New(slog.NewTextHandler(w.sidecarLog, &slog.HandlerOptions{Level: slog.LevelDebug - 10})))
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func newWorld(t *testing.T) *world {
	env := testenv.New(t)
	api, err := client.New(env.Config)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, api: api, state: t.TempDir()}
	for name, log := range map[string]**os.File{"driver.log": &w.driverLog, "sidecar.log": &w.sidecarLog} {
		if *log, err = os.Create(filepath.Join(w.state, name)); err != nil {
			t.Fatal(err)
		}
	}
	driver, err := hostpath.New(hostpath.Config{Endpoint: "unix://" + filepath.Join(w.state, "csi.sock"), Name: driverName, NodeID: "id-of-node-1", StateDir: filepath.Join(w.state, "data"),
		MaxVolumeSize: 1 << 30, Attach: true, Topology: true, Expansion: true, ControllerExpansion: true}, slog.New(slog.NewTextHandler(w.driverLog, nil)))
	if err != nil {
		t.Fatal(err)
	}
	manager, err := controllers.New(controllers.Config{API: env.Config, Controllers: []string{"persistentvolume-binder", "attachdetach", "pvc-protection", "pv-protection"}}, testenv.Logger(t))
	if err != nil {
		t.Fatal(err)
	}
	together(t, driver.Run, manager.Run)
	node := make1(w, client.Nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1", Labels: map[string]string{hostpath.TopologyKey: "id-of-node-1"}}})
	make1(w, client.CSINodes, &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: "node-1", OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "node-1", UID: node.UID}}},
		Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{{Name: driverName, NodeID: "id-of-node-1", TopologyKeys: []string{hostpath.TopologyKey}}}}})
	yes := true
	make1(w, client.CSIDrivers, &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: driverName}, Spec: storagev1.CSIDriverSpec{AttachRequired: &yes}})
	make1(w, client.Secrets, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "keys"}, Data: map[string][]byte{"key": []byte(password)}})
	parameters := map[string]string{}
	for _, call := range []string{"provisioner", "controller-publish", "controller-expand"} {
		parameters[prefix+call+"-secret-name"], parameters[prefix+call+"-secret-namespace"] = "keys", "default"
	}
	make1(w, client.StorageClasses, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "fast"}, Provisioner: driverName, AllowVolumeExpansion: &yes, Parameters: parameters})
	return w
}

func make1[T client.Object](w *world, kind client.Kind[T], obj T) T {
	w.t.Helper()
	made, err := client.For(w.api, kind).Create(w.t.Context(), obj)
	if err != nil {
		w.t.Fatal(err)
	}
	return made
}

// until waits for something to be true of the cluster.
func (w *world) until(what string, is func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("not within a minute: %s", what)
		}
	}
}

func (w *world) claim(name string) *corev1.PersistentVolumeClaim {
	claim, err := client.For(w.api, client.PersistentVolumeClaims).Get(w.t.Context(), "default", name)
	if err != nil {
		w.t.Fatal(err)
	}
	return claim
}

func (w *world) volumes() []*corev1.PersistentVolume {
	list, err := client.For(w.api, client.PersistentVolumes).List(w.t.Context(), "", metav1.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return list.Items
}

func newClaim(name, size string) *corev1.PersistentVolumeClaim {
	class := "fast"
	return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PersistentVolumeClaimSpec{
		StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}},
	}}
}

// directories are what the driver really has.
func (w *world) directories() (n int) {
	entries, err := os.ReadDir(filepath.Join(w.state, "data", "volumes"))
	if err != nil && !os.IsNotExist(err) {
		w.t.Fatal(err)
	}
	return len(entries)
}

// TestJourney is a volume's life as far as the Controller service goes: made for
// its claim, attached for a pod, larger, detached, deleted.
func TestJourney(t *testing.T) {
	w := newWorld(t)
	stop := together(t, w.sidecar().Run)
	make1(w, client.PersistentVolumeClaims, newClaim("data", "1Mi"))
	w.until("the claim is bound", func() bool { return w.claim("data").Status.Phase == corev1.ClaimBound && claims.Bound(w.claim("data")) })
	volume := w.volumes()[0]
	if terms := volume.Spec.NodeAffinity.Required.NodeSelectorTerms; volume.Spec.CSI.Driver != driverName || len(terms) != 1 || terms[0].MatchExpressions[0].Key != hostpath.TopologyKey {
		t.Errorf("volume %+v", volume.Spec)
	}
	if n := w.directories(); n != 1 {
		t.Fatalf("the driver has %d volumes, want 1", n)
	}

	pods, now := client.For(w.api, client.Pods), metav1.DeleteOptions{GracePeriodSeconds: new(int64)}
	make1(w, client.ServiceAccounts, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "default"}})
	make1(w, client.Pods, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "user"}, Spec: corev1.PodSpec{NodeName: "node-1",
		Containers: []corev1.Container{{Name: "c", Image: "app:1"}},
		Volumes:    []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}}})
	w.until("the node is told that it is attached", func() bool {
		node, err := client.For(w.api, client.Nodes).Get(t.Context(), "", "node-1")
		return err == nil && len(node.Status.VolumesAttached) == 1 && strings.HasSuffix(string(node.Status.VolumesAttached[0].Name), "^"+volume.Spec.CSI.VolumeHandle)
	})

	larger := w.claim("data")
	larger.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse("3Mi")
	if _, err := client.For(w.api, client.PersistentVolumeClaims).Update(t.Context(), larger); err != nil {
		t.Fatal(err)
	}
	w.until("the volume has grown, and the claim with it or waits for its node", func() bool {
		size := w.volumes()[0].Spec.Capacity[corev1.ResourceStorage]
		now := w.claim("data").Status
		return size.String() == "3Mi" && (now.Capacity.Storage().String() == "3Mi" || pending(w.claim("data")))
	})

	if err := client.For(w.api, client.PersistentVolumeClaims).Delete(t.Context(), "default", "data", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if claim := w.claim("data"); claim.DeletionTimestamp == nil || len(w.volumes()) != 1 {
		t.Error("a claim that a pod uses is gone")
	}
	if err := pods.Delete(t.Context(), "default", "user", now); err != nil {
		t.Fatal(err)
	}
	w.until("everything is gone", func() bool {
		attachments, err := client.For(w.api, client.VolumeAttachments).List(t.Context(), "", metav1.ListOptions{})
		return err == nil && len(attachments.Items) == 0 && len(w.volumes()) == 0 && w.directories() == 0
	})
	stop()
	said, err := os.ReadFile(w.driverLog.Name())
	if err != nil {
		t.Fatal(err)
	}
	for _, call := range []string{"CreateVolume", "ControllerPublishVolume", "ControllerExpandVolume", "ControllerUnpublishVolume", "DeleteVolume"} {
		if n := strings.Count(string(said), "method=/csi.v1.Controller/"+call+" "); n != 1 {
			t.Errorf("%s was called %d times, want once:\n%s", call, n, said)
		}
	}
	if n := strings.Count(string(said), `\"secrets\":{\"key\":\"***stripped***\"}`); n != 5 {
		t.Errorf("%d of 5 calls came with their secret:\n%s", n, said)
	}
	other, err := os.ReadFile(w.sidecarLog.Name())
	if err != nil || !strings.Contains(string(other), "CreateVolume") || strings.Contains(string(said)+string(other), password) {
		t.Errorf("a secret was logged, or nothing: %v", err)
	}
}

// TestRestarts: whoever dies in the middle leaves nothing that the next one does
// not find.
func TestRestarts(t *testing.T) {
	w := newWorld(t)
	for i := range 5 {
		make1(w, client.PersistentVolumeClaims, newClaim(string(rune('a'+i)), "1Mi"))
	}
	for round := range 4 {
		s := w.sidecar(Provisioner)
		stop := together(t, s.Run)
		<-s.Ready()
		time.Sleep(time.Duration(round) * 20 * time.Millisecond) // each dies at another point
		stop()
	}
	together(t, w.sidecar().Run)
	w.until("all are bound", func() bool {
		n := 0
		for i := range 5 {
			if w.claim(string(rune('a'+i))).Status.Phase == corev1.ClaimBound {
				n++
			}
		}
		return n == 5
	})
	if n := w.directories(); n != 5 || len(w.volumes()) != 5 {
		t.Errorf("%d volumes of the driver and %d objects for 5 claims", n, len(w.volumes()))
	}
}

// definitions installs snapshots as custom resources, as their own project
// defines them.
func (w *world) definitions() {
	w.t.Helper()
	raw, err := exec.Command("go", "mod", "download", "-C", "../../test/snapshots", "-json", "github.com/kubernetes-csi/external-snapshotter/client/v8").Output()
	var module struct{ Dir string }
	if err != nil || json.Unmarshal(raw, &module) != nil {
		w.t.Fatalf("the module with the definitions: %v\n%s", err, raw)
	}
	files, err := filepath.Glob(filepath.Join(module.Dir, "config/crd/snapshot.storage.k8s.io_*.yaml"))
	if err != nil || len(files) != 3 {
		w.t.Fatalf("%d definitions in %s: %v", len(files), module.Dir, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			w.t.Fatal(err)
		}
		body, err := yaml.YAMLToJSON(text)
		if err != nil {
			w.t.Fatal(err)
		}
		request := client.Request{Method: "POST", Path: "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", Body: body}
		if err := w.api.DoInto(w.t.Context(), request, nil, nil); err != nil {
			w.t.Fatalf("%s: %v", file, err)
		}
	}
}

func custom(kind client.Kind[*unstructured.Unstructured], name string, fields map[string]any) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: fields}
	u.SetGroupVersionKind(kind.GVK())
	u.SetName(name)
	if kind.Namespaced {
		u.SetNamespace("default")
	}
	return u
}

// TestSnapshot: a snapshot is taken, a volume is made of it, it goes again.
func TestSnapshot(t *testing.T) {
	w := newWorld(t)
	together(t, w.sidecar().Run)
	make1(w, client.PersistentVolumeClaims, newClaim("data", "1Mi"))
	w.until("the claim is bound", func() bool { return claims.Bound(w.claim("data")) })
	w.definitions()
	w.until("the server knows snapshots", func() bool {
		for _, kind := range []client.Kind[*unstructured.Unstructured]{snapshotClasses, volumeSnapshots, snapshotContent} {
			if _, err := client.For(w.api, kind).List(t.Context(), "", metav1.ListOptions{}); err != nil {
				return false
			}
		}
		return true
	})
	make1(w, snapshotClasses, custom(snapshotClasses, "plain", map[string]any{"driver": driverName, "deletionPolicy": "Delete"}))
	make1(w, volumeSnapshots, custom(volumeSnapshots, "monday", map[string]any{"spec": map[string]any{
		"volumeSnapshotClassName": "plain", "source": map[string]any{"persistentVolumeClaimName": "data"}}}))
	w.until("the snapshot is ready", func() bool {
		u, err := client.For(w.api, volumeSnapshots).Get(t.Context(), "default", "monday")
		if err != nil {
			t.Fatal(err)
		}
		v, err := as[snapshot](u)
		return err == nil && v.Status.ReadyToUse != nil && *v.Status.ReadyToUse && v.Status.RestoreSize != nil
	})

	group := snapshotGroup
	restored := newClaim("restored", "1Mi")
	restored.Spec.DataSource = &corev1.TypedLocalObjectReference{APIGroup: &group, Kind: "VolumeSnapshot", Name: "monday"}
	make1(w, client.PersistentVolumeClaims, restored)
	w.until("a volume is made of it", func() bool { return claims.Bound(w.claim("restored")) })

	if err := client.For(w.api, volumeSnapshots).Delete(t.Context(), "default", "monday", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.until("the snapshot is gone, and the driver's with it", func() bool {
		snapshots, err1 := client.For(w.api, volumeSnapshots).List(t.Context(), "", metav1.ListOptions{})
		contents, err2 := client.For(w.api, snapshotContent).List(t.Context(), "", metav1.ListOptions{})
		left, err3 := os.ReadDir(filepath.Join(w.state, "data", "snapshots"))
		return err1 == nil && err2 == nil && len(snapshots.Items) == 0 && len(contents.Items) == 0 && (os.IsNotExist(err3) || len(left) == 0)
	})
}

// TestCapacity: the scheduler is told how much room there is, for classes whose
// volumes wait for a pod, and as long as there are such.
func TestCapacity(t *testing.T) {
	w := newWorld(t)
	s := w.sidecar(Provisioner)
	s.cfg.Capacity = CapacityConfig{Namespace: "default", Period: 100 * time.Millisecond, Owner: &metav1.OwnerReference{APIVersion: "v1", Kind: "Pod", Name: "driver", UID: "1"}}
	together(t, s.Run)
	waits := storagev1.VolumeBindingWaitForFirstConsumer
	make1(w, client.StorageClasses, &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "late"}, Provisioner: driverName, VolumeBindingMode: &waits})
	api := client.For(w.api, client.CSIStorageCapacities)
	published := func() []*storagev1.CSIStorageCapacity {
		list, err := api.List(t.Context(), "", metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return list.Items
	}
	w.until("the room is published", func() bool { return len(published()) == 1 })
	first := published()[0]
	if first.Namespace != "default" || first.StorageClassName != "late" || first.NodeTopology.MatchLabels[hostpath.TopologyKey] != "id-of-node-1" ||
		first.Capacity.String() != "1Gi" || first.MaximumVolumeSize.String() != "1Gi" || first.Labels["csi.storage.k8s.io/drivername"] != driverName || len(first.OwnerReferences) != 1 {
		t.Errorf("%+v", first)
	}
	wrong := resource.MustParse("1Mi")
	first.Capacity = &wrong
	if _, err := api.Update(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	w.until("what was wrong is right", func() bool { return len(published()) == 1 && published()[0].Capacity.String() == "1Gi" })
	if err := client.For(w.api, client.StorageClasses).Delete(t.Context(), "", "late", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.until("nothing is said of a class that is gone", func() bool { return len(published()) == 0 })
}
