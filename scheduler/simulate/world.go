package simulate

import (
	"encoding/json"
	"fmt"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// World is what the files describe. Nodes and pods are decided about; the rest
// is there for plugins to ask for (framework.Objects).
type World struct {
	Nodes []*corev1.Node
	Pods  []*corev1.Pod
	// others are all else, by kind, namespace and name.
	others map[id]metav1.Object
}

type id struct{ kind, namespace, name string }

// others says how what plugins ask for is read. Of what owns pods, only the
// selector matters.
var others = map[string]func() metav1.Object{
	"Namespace":             func() metav1.Object { return &corev1.Namespace{} },
	"Service":               func() metav1.Object { return &corev1.Service{} },
	"ReplicaSet":            func() metav1.Object { return &owner{} },
	"StatefulSet":           func() metav1.Object { return &owner{} },
	"ReplicationController": func() metav1.Object { return &corev1.ReplicationController{} },
	"PodDisruptionBudget":   func() metav1.Object { return &policyv1.PodDisruptionBudget{} },
	"PersistentVolume":      func() metav1.Object { return &corev1.PersistentVolume{} },
	"PersistentVolumeClaim": func() metav1.Object { return &corev1.PersistentVolumeClaim{} },
	"StorageClass":          func() metav1.Object { return &storagev1.StorageClass{} },
	"CSINode":               func() metav1.Object { return &storagev1.CSINode{} },
	"CSIDriver":             func() metav1.Object { return &storagev1.CSIDriver{} },
	"CSIStorageCapacity":    func() metav1.Object { return &storagev1.CSIStorageCapacity{} },
	"VolumeAttachment":      func() metav1.Object { return &storagev1.VolumeAttachment{} },
}

// namespaced are those kinds of others that live in one.
var namespaced = map[string]bool{"Service": true, "ReplicaSet": true, "StatefulSet": true, "ReplicationController": true,
	"PodDisruptionBudget": true, "PersistentVolumeClaim": true, "CSIStorageCapacity": true}

// owner is a ReplicaSet or a StatefulSet.
type owner struct {
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct{ Selector *metav1.LabelSelector }
}

// addOther takes in what nobody places but plugins ask for.
func (w *World) addOther(kind string, raw []byte) error {
	if kind == "PriorityClass" {
		return nil // pods carry their priority themselves
	}
	made := others[kind]
	if made == nil {
		return fmt.Errorf("only nodes, pods and what plugins ask for can be simulated, not %q", kind)
	}
	object := made()
	if err := json.Unmarshal(raw, object); err != nil {
		return fmt.Errorf("%s: %w", kind, err)
	}
	if namespaced[kind] && object.GetNamespace() == "" {
		object.SetNamespace(metav1.NamespaceDefault)
	}
	if w.others == nil {
		w.others = map[id]metav1.Object{}
	}
	w.others[id{kind, object.GetNamespace(), object.GetName()}] = object
	return nil
}

// Add takes in an object of the API.
func (w *World) Add(object runtime.Object) error {
	switch o := object.(type) {
	case *corev1.Node:
		return w.addNode(o)
	case *corev1.Pod:
		w.addPod(o.DeepCopy())
		return nil
	}
	raw, err := json.Marshal(object)
	if err != nil {
		return err
	}
	// Objects made in Go do not name their kind.
	return w.addKind(reflect.TypeOf(object).Elem().Name(), raw)
}

// AddAll takes in several.
func (w *World) AddAll(objects []runtime.Object) error {
	for _, object := range objects {
		if err := w.Add(object); err != nil {
			return err
		}
	}
	return nil
}

// find is an object of a kind; nil if there is none.
func find[T any](w *World, kind, namespace, name string) *T {
	var object any = w.others[id{kind, namespace, name}]
	found, _ := object.(*T)
	return found
}

// all is every object of a kind that fits.
func all[T any](w *World, kind string, fits func(*T) bool) (found []*T) {
	for id, object := range w.others {
		if t, ok := any(object).(*T); ok && id.kind == kind && fits(t) {
			found = append(found, t)
		}
	}
	return found
}

// NamespaceLabels is for framework.Objects.
func (w *World) NamespaceLabels(name string) map[string]string {
	if n := find[corev1.Namespace](w, "Namespace", "", name); n != nil {
		return n.Labels
	}
	return nil
}

// Selector is for framework.Objects.
func (w *World) Selector(namespace string, ref *metav1.OwnerReference) *metav1.LabelSelector {
	if rc := find[corev1.ReplicationController](w, ref.Kind, namespace, ref.Name); rc != nil {
		return &metav1.LabelSelector{MatchLabels: rc.Spec.Selector}
	}
	if o := find[owner](w, ref.Kind, namespace, ref.Name); o != nil {
		return o.Spec.Selector
	}
	return nil
}

// Services is for framework.Objects.
func (w *World) Services(namespace string) []*corev1.Service {
	return all(w, "Service", func(s *corev1.Service) bool { return s.Namespace == namespace && len(s.Spec.Selector) > 0 })
}

// DisruptionBudgets is for framework.Objects.
func (w *World) DisruptionBudgets() []*policyv1.PodDisruptionBudget {
	return all(w, "PodDisruptionBudget", func(*policyv1.PodDisruptionBudget) bool { return true })
}

// Claim is for framework.Storage.
func (w *World) Claim(namespace, name string) *corev1.PersistentVolumeClaim {
	return find[corev1.PersistentVolumeClaim](w, "PersistentVolumeClaim", namespace, name)
}

// Volume is for framework.Storage.
func (w *World) Volume(name string) *corev1.PersistentVolume {
	return find[corev1.PersistentVolume](w, "PersistentVolume", "", name)
}

// VolumesOfClass is for framework.Storage.
func (w *World) VolumesOfClass(class string) []*corev1.PersistentVolume {
	return all(w, "PersistentVolume", func(v *corev1.PersistentVolume) bool { return v.Spec.StorageClassName == class })
}

// StorageClass is for framework.Storage.
func (w *World) StorageClass(name string) *storagev1.StorageClass {
	return find[storagev1.StorageClass](w, "StorageClass", "", name)
}

// CSINode is for framework.Storage.
func (w *World) CSINode(node string) *storagev1.CSINode {
	return find[storagev1.CSINode](w, "CSINode", "", node)
}

// CSIDriver is for framework.Storage.
func (w *World) CSIDriver(name string) *storagev1.CSIDriver {
	return find[storagev1.CSIDriver](w, "CSIDriver", "", name)
}

// StorageCapacities is for framework.Storage.
func (w *World) StorageCapacities() []*storagev1.CSIStorageCapacity {
	return all(w, "CSIStorageCapacity", func(*storagev1.CSIStorageCapacity) bool { return true })
}

// Attachments is for framework.Storage.
func (w *World) Attachments(node string) []*storagev1.VolumeAttachment {
	return all(w, "VolumeAttachment", func(a *storagev1.VolumeAttachment) bool { return a.Spec.NodeName == node })
}
