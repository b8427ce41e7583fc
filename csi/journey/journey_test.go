package journey

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

var update = flag.Bool("update", false, "write what is printed into testdata")

// What a claim waits for in each state. The states were recorded on a cluster
// whose parts were started one by one, or taken away: testdata/STATE.json. All
// that is printed is in STATE.txt.
var states = map[string]string{
	"no-pod-yet":         "a pod that uses it",
	"no-scheduler":       "the scheduler to choose a node for pod writer",
	"no-provisioner":     "CreateVolume, which the provisioner says to driver hostpath.csi.k8s.io",
	"provisioning-fails": "CreateVolume, ",
	"no-driver":          "CreateVolume, which the provisioner says to driver no.such.driver",
	"no-class":           "a volume that fits",
	"no-volume-fits":     "a volume that fits",
	"named-volume-small": "volume small, which the claim names, to be there and fit",
	"node-by-hand":       "the scheduler to write volume.kubernetes.io/selected-node, which it will not do",
	"no-binder":          "the binder ",
	"no-pod":             "It is bound, and no pod uses it.",
	"pod-unplaced":       "the scheduler to choose a node.",
	"not-registered":     "driver hostpath.csi.k8s.io to be registered on node-0",
	"no-attachment":      "a VolumeAttachment",
	"no-attacher":        "ControllerPublishVolume, ",
	"attach-fails":       "ControllerPublishVolume, ",
	"multi-attach":       "NodeUnpublishVolume and NodeUnstageVolume, which the kubelet of node-0 says",
	"mount-fails":        "NodePublishVolume, which the kubelet of node-0 says",
	"mounted":            "It is mounted.",
	"grow-controller":    "ControllerExpandVolume, ",
	"grow-node":          "NodeExpandVolume, ",
	"deleted-in-use":     "the end of pod writer",
	"delete-volume":      "DeleteVolume, ",
	"lost":               "It waits for nothing any more",
}

func TestStates(t *testing.T) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) != len(states) {
		t.Fatalf("%d recordings and %d states: %v", len(files), len(states), err)
	}
	for state, want := range states {
		got, err := explained(recorded(t, state), state)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(got), "\n")
		if last := strings.TrimPrefix(lines[len(lines)-1], "It waits for "); !strings.HasPrefix(last, want) && !strings.HasPrefix(lines[len(lines)-1], want) {
			t.Errorf("%s: %q, want %q", state, last, want)
		}
		golden := filepath.Join("testdata", state+".txt")
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if text, err := os.ReadFile(golden); err != nil || string(text) != got {
			t.Errorf("%s: %v\n%s\nwant\n%s", state, err, got, text)
		}
	}
}

func explained(w *World, state string) (string, error) {
	name := "data"
	if w.Claim != nil {
		name = w.Claim.Name
	}
	var out bytes.Buffer
	err := Explain(&out, w, "default", name)
	return out.String(), err
}

// What was not recorded differs by one thing from what was.
func TestVariations(t *testing.T) {
	for name, c := range map[string]struct {
		state  string
		change func(*World)
		want   string
	}{
		"a driver that need not attach": {"no-attachment", func(w *World) {
			no := false
			w.Drivers = append(w.Drivers, &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "hostpath.csi.k8s.io"}, Spec: storagev1.CSIDriverSpec{AttachRequired: &no}})
		}, "It waits for NodeStageVolume and NodePublishVolume, which the kubelet of node-0"},
		"attached, and not in use":   {"mounted", func(w *World) { w.Nodes[0].Status.VolumesInUse = nil }, "the kubelet of node-0 to write status.volumesInUse"},
		"attached, and nobody knows": {"mounted", func(w *World) { w.Nodes[0].Status.VolumesAttached = nil }, "to write status.volumesAttached of node node-0"},
		"not started": {"mounted", func(w *World) {
			w.Pods[0].Status.ContainerStatuses[0].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}}
		}, "It waits for NodeStageVolume and NodePublishVolume"},
		"cannot be staged": {"mount-fails", func(w *World) {
			for _, e := range w.Events {
				e.Message = strings.Replace(e.Message, "SetUp", "MountDevice", 1)
			}
		}, "It waits for NodeStageVolume, which"},
		"being detached": {"mounted", func(w *World) {
			w.Attachments[0].DeletionTimestamp = &metav1.Time{Time: w.Now}
			w.Attachments[0].Status.DetachError = &storagev1.VolumeError{Message: "busy"}
			w.Nodes[0].Status.VolumesInUse = nil
		}, "detachError: busy"},
		"on its way out":      {"mounted", func(w *World) { w.Pods[0].DeletionTimestamp = &metav1.Time{Time: w.Now} }, "It is still mounted"},
		"its pods have ended": {"deleted-in-use", func(w *World) { w.Pods = nil }, "It waits for pvc-protection"},
		"held by a stranger": {"mounted", func(w *World) {
			w.Claim.DeletionTimestamp, w.Claim.Finalizers = &metav1.Time{Time: w.Now}, []string{"example.com/mine"}
		}, "It waits for whoever has put the finalizer example.com/mine there"},
		"kept": {"delete-volume", func(w *World) { w.Volumes[0].Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain },
			"Its volume is kept (Retain)"},
		"not deleted yet since attached": {"delete-volume", func(w *World) {
			w.Attachments = append(w.Attachments, &storagev1.VolumeAttachment{Spec: storagev1.VolumeAttachmentSpec{NodeName: "node-0",
				Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &w.Volumes[0].Name}}})
		}, "It waits for ControllerUnpublishVolume"},
		"another claim's": {"mounted", func(w *World) { w.Volumes[0].Spec.ClaimRef.UID = "another" }, "is another claim's by now"},
		"not asked for": {"no-provisioner", func(w *World) {
			w.Claim.Annotations = map[string]string{"volume.kubernetes.io/selected-node": "node-0"}
		}, "to ask the provisioner"},
		"taken by a node": {"no-provisioner", func(w *World) {
			w.Classes[0].VolumeBindingMode = nil
		}, "node-0, whose provisioner has taken it"},
		"no room": {"no-scheduler", func(w *World) {
			room := resource.MustParse("1Mi")
			w.Capacities = []*storagev1.CSIStorageCapacity{{StorageClassName: "hostpath", Capacity: &room, NodeTopology: &metav1.LabelSelector{MatchLabels: map[string]string{"topology.hostpath.csi/node": "node-0"}}}}
		}, "room at topology.hostpath.csi/node=node-0: 1Mi, at most not said for one volume"},
		"a copy of a claim that is not there": {"no-provisioner", func(w *World) { w.copyOf("PersistentVolumeClaim") },
			"It waits for PersistentVolumeClaim monday, of which it is to be a copy, to be made."},
		"a copy of a claim that is not bound": {"no-provisioner", func(w *World) {
			w.copyOf("PersistentVolumeClaim")
			w.SourceClaim = &corev1.PersistentVolumeClaim{}
		}, "It waits for claim monday, of which it is to be a copy, to be bound."},
		"a snapshot that is not there": {"no-provisioner", func(w *World) { w.copyOf("VolumeSnapshot") },
			"It waits for VolumeSnapshot monday, of which it is to be a copy, to be made."},
		"a snapshot that nobody takes": {"no-provisioner", func(w *World) {
			w.copyOf("VolumeSnapshot")
			w.SourceSnapshot = &unstructured.Unstructured{Object: map[string]any{}}
		}, "does the snapshot controller run?"},
		"a snapshot that fails": {"no-provisioner", func(w *World) {
			w.copyOf("VolumeSnapshot")
			w.SourceSnapshot = &unstructured.Unstructured{Object: map[string]any{"status": map[string]any{"error": map[string]any{"message": "disk full"}}}}
		}, "VolumeSnapshot monday: disk full"},
		"a snapshot that is ready": {"no-provisioner", func(w *World) {
			w.copyOf("VolumeSnapshot")
			w.SourceSnapshot = &unstructured.Unstructured{Object: map[string]any{"status": map[string]any{"readyToUse": true}}}
		}, "It waits for CreateVolume"},
		"held by a snapshot": {"mounted", func(w *World) {
			w.Claim.DeletionTimestamp, w.Claim.Finalizers = &metav1.Time{Time: w.Now}, []string{"snapshot.storage.kubernetes.io/pvc-as-source-protection"}
		}, "It waits for the snapshot controller to take its finalizer"},
		"on a node that is lost": {"multi-attach", func(w *World) {
			for _, node := range w.Nodes {
				node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown, Message: "Kubelet stopped posting node status."}}
			}
		}, "node node-0 is not ready: Kubelet stopped posting node status. If it never comes back"},
		"registered elsewhere": {"no-provisioner", func(w *World) { w.CSINodes[0].Spec.Drivers = nil }, "CSINode node-0 does not name the driver"},
	} {
		w := recorded(t, c.state)
		c.change(w)
		if got, err := explained(w, c.state); err != nil || !strings.Contains(got, c.want) {
			t.Errorf("%s: %v\n%swant %q", name, err, got, c.want)
		}
	}
}

func (w *World) copyOf(kind string) {
	w.Claim.Spec.DataSource = &corev1.TypedLocalObjectReference{Kind: kind, Name: "monday"}
}

func TestNotFound(t *testing.T) {
	var out bytes.Buffer
	err := Explain(&out, &World{}, "there", "nope")
	if err == nil || err.Error() != `persistentvolumeclaims "nope" not found in namespace "there"` || out.Len() > 0 {
		t.Errorf("%v, %q", err, out.String())
	}
}

// recorded reads a state, a minute after its last event.
func recorded(t *testing.T, state string) *World {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", state+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var list struct{ Items []json.RawMessage }
	if err := json.Unmarshal(raw, &list); err != nil {
		t.Fatal(err)
	}
	w := &World{Now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	for _, item := range list.Items {
		var kind metav1.TypeMeta
		if err := json.Unmarshal(item, &kind); err != nil {
			t.Fatal(err)
		}
		var err error
		switch kind.Kind {
		case "PersistentVolumeClaim":
			w.Claim = &corev1.PersistentVolumeClaim{}
			err = json.Unmarshal(item, w.Claim)
		case "PersistentVolume":
			err = into(item, &w.Volumes)
		case "StorageClass":
			err = into(item, &w.Classes)
		case "Pod":
			err = into(item, &w.Pods)
		case "Node":
			err = into(item, &w.Nodes)
		case "CSINode":
			err = into(item, &w.CSINodes)
		case "VolumeAttachment":
			err = into(item, &w.Attachments)
		case "Event":
			err = into(item, &w.Events)
		default:
			t.Fatalf("%s: what is a %s?", state, kind.Kind)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, event := range w.Events {
		if at := moment(event).Add(time.Minute); at.After(w.Now) {
			w.Now = at
		}
	}
	return w
}

func into[T any](raw []byte, list *[]*T) error {
	one := new(T)
	*list = append(*list, one)
	return json.Unmarshal(raw, one)
}
