package scheduler

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
)

// volumeWorld is a cluster with two nodes and classes that bind in three ways.
type volumeWorld struct {
	*cluster
	claims  *client.Resource[*corev1.PersistentVolumeClaim]
	volumes *client.Resource[*corev1.PersistentVolume]
}

func newVolumeWorld(t *testing.T) *volumeWorld {
	c := newCluster(t)
	api, err := client.New(c.cfg)
	if err != nil {
		t.Fatal(err)
	}
	w := &volumeWorld{c, client.For(api, client.PersistentVolumeClaims), client.For(api, client.PersistentVolumes)}
	immediate, later := storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer
	for name, class := range map[string]*storagev1.StorageClass{
		"now":   {Provisioner: "disk.example.com", VolumeBindingMode: &immediate},
		"later": {Provisioner: "disk.example.com", VolumeBindingMode: &later},
		"local": {Provisioner: "kubernetes.io/no-provisioner", VolumeBindingMode: &later}} {
		class.Name = name
		if _, err := client.For(api, client.StorageClasses).Create(t.Context(), class); err != nil {
			t.Fatal(err)
		}
	}
	c.addNode("n0", "4")
	c.addNode("n1", "4")
	c.schedule(client.ElectionConfig{})
	return w
}

func (w *volumeWorld) addClaim(name, class string) {
	w.t.Helper()
	_, err := w.claims.Create(w.t.Context(), &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}}})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *volumeWorld) addVolume(name, class, node string) {
	w.t.Helper()
	v, err := w.volumes.Create(w.t.Context(), &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{
		StorageClassName: class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Capacity:               corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
		PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/x"}},
		NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{
			{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}}}}}}}})
	if err != nil {
		w.t.Fatal(err)
	}
	v.Status.Phase = corev1.VolumeAvailable
	if _, err := w.volumes.UpdateStatus(w.t.Context(), v); err != nil {
		w.t.Fatal(err)
	}
}

// bind plays the volume controller: it finishes what claim and volume begin.
func (w *volumeWorld) bind(claimName, volumeName string) {
	w.t.Helper()
	claim, err := w.claims.Get(w.t.Context(), "default", claimName)
	if err != nil {
		w.t.Fatal(err)
	}
	claim.Spec.VolumeName = volumeName
	if claim.Annotations == nil {
		claim.Annotations = map[string]string{}
	}
	claim.Annotations["pv.kubernetes.io/bind-completed"] = "yes"
	if _, err := w.claims.Update(w.t.Context(), claim); err != nil {
		w.t.Fatal(err)
	}
}

func using(claim string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}}
	}
}

func TestUnboundImmediateClaimIsWaitedFor(t *testing.T) {
	w := newVolumeWorld(t)
	w.addPod("p", using("c"))
	w.until("p", "waiting for the claim to exist", func(p *corev1.Pod) bool {
		return sentence(p) == `0/2 nodes are available: persistentvolumeclaim "c" not found. not found`
	})
	w.addClaim("c", "now")
	w.until("p", "waiting for the claim to be bound", func(p *corev1.Pod) bool {
		return sentence(p) == "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found"
	})
	w.addVolume("v", "now", "n1")
	w.bind("c", "v")
	if pod := w.until("p", "bound", bound); pod.Spec.NodeName != "n1" {
		t.Errorf("on %s, where its volume is not", pod.Spec.NodeName)
	}
}

func TestExistingVolumeIsTakenOnce(t *testing.T) {
	w := newVolumeWorld(t)
	w.addVolume("v", "local", "n1")
	w.addClaim("c", "local")
	w.addClaim("d", "local")
	w.addPod("p", using("c"))
	w.until("p", "nominated", func(p *corev1.Pod) bool { return p.Status.NominatedNodeName == "n1" })
	// Set aside before the watch can show it.
	w.addPod("q", using("d"))
	w.until("q", "unschedulable", func(p *corev1.Pod) bool { return sentence(p) != "" })
	volume, err := w.volumes.Get(t.Context(), "", "v")
	if err != nil || volume.Spec.ClaimRef == nil || volume.Spec.ClaimRef.Name != "c" || volume.Annotations["pv.kubernetes.io/bound-by-controller"] != "yes" {
		t.Fatalf("%+v %v", volume, err)
	}
	if pod, _ := w.pods.Get(t.Context(), "default", "p"); pod == nil || bound(pod) {
		t.Error("bound before its volume")
	}
	w.bind("c", "v")
	if pod := w.until("p", "bound", bound); pod.Spec.NodeName != "n1" {
		t.Errorf("on %s", pod.Spec.NodeName)
	}
}

func TestProvisionerIsToldTheNodeAndMayRefuse(t *testing.T) {
	w := newVolumeWorld(t)
	w.addClaim("c", "later")
	w.addPod("p", using("c"))
	told := func() *corev1.PersistentVolumeClaim {
		var claim *corev1.PersistentVolumeClaim
		w.until("p", "in the hands of the provisioner", func(*corev1.Pod) bool {
			claim, _ = w.claims.Get(t.Context(), "default", "c")
			return claim != nil && claim.Annotations["volume.kubernetes.io/selected-node"] != ""
		})
		return claim
	}
	claim := told()
	delete(claim.Annotations, "volume.kubernetes.io/selected-node") // no room there
	if _, err := w.claims.Update(t.Context(), claim); err != nil {
		t.Fatal(err)
	}
	w.expectEvents("p", `FailedScheduling: binding volumes: provisioning failed for PVC "c"`)
	node := told().Annotations["volume.kubernetes.io/selected-node"]
	w.addVolume("made", "later", node)
	w.bind("c", "made")
	if pod := w.until("p", "bound", bound); pod.Spec.NodeName != node {
		t.Errorf("on %s, told %s", pod.Spec.NodeName, node)
	}
}
