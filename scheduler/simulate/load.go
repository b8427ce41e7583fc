package simulate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"

	"tinykube/api/defaults"
)

// World is what the files describe. Nodes and pods are decided about; the rest
// is there for plugins to ask for (framework.Objects).
type World struct {
	Nodes      []*corev1.Node
	Pods       []*corev1.Pod
	namespaces map[string]map[string]string
	// selectors are those of Services and pods' owners, by kind, namespace and
	// name.
	selectors map[[3]string]*metav1.LabelSelector
}

// NamespaceLabels is for framework.Objects.
func (w *World) NamespaceLabels(name string) map[string]string { return w.namespaces[name] }

// Selector is for framework.Objects.
func (w *World) Selector(namespace string, owner *metav1.OwnerReference) *metav1.LabelSelector {
	return w.selectors[[3]string{owner.Kind, namespace, owner.Name}]
}

// Services is for framework.Objects.
func (w *World) Services(namespace string) (services []*corev1.Service) {
	for id, s := range w.selectors {
		if id[0] == "Service" && id[1] == namespace {
			services = append(services, &corev1.Service{Spec: corev1.ServiceSpec{Selector: s.MatchLabels}})
		}
	}
	return services
}

// ReadFile adds the objects of a file of YAML or JSON documents; "-" is
// the given input.
func (w *World) ReadFile(path string, stdin io.Reader) error {
	raw, err := readAll(path, stdin)
	if err != nil {
		return err
	}
	documents := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(raw), 4096)
	for i := 1; ; i++ {
		var document json.RawMessage
		if err := documents.Decode(&document); err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("%s: document %d: %w", path, i, err)
		}
		if len(bytes.TrimSpace(document)) == 0 || string(document) == "null" {
			continue
		}
		if err := w.add(document); err != nil {
			return fmt.Errorf("%s: document %d: %w", path, i, err)
		}
	}
}

func readAll(path string, stdin io.Reader) ([]byte, error) {
	if path == "-" {
		return io.ReadAll(stdin)
	}
	return os.ReadFile(path)
}

// add takes in one object. Lists, as `kubectl get -o yaml` prints them, count
// as their items.
func (w *World) add(raw []byte) error {
	var kind metav1.TypeMeta
	if err := json.Unmarshal(raw, &kind); err != nil {
		return err
	}
	switch kind.Kind {
	case "List", "PodList", "NodeList", "ServiceList", "NamespaceList", "ReplicaSetList", "StatefulSetList", "ReplicationControllerList":
		var list struct{ Items []json.RawMessage }
		if err := json.Unmarshal(raw, &list); err != nil {
			return err
		}
		for _, item := range list.Items {
			if err := w.add(item); err != nil {
				return err
			}
		}
	case "Node":
		node := &corev1.Node{}
		if err := json.Unmarshal(raw, node); err != nil {
			return err
		}
		if node.Status.Allocatable == nil {
			node.Status.Allocatable = node.Status.Capacity
		}
		if _, given := node.Status.Allocatable[corev1.ResourcePods]; !given {
			return fmt.Errorf("node %s: status.allocatable.pods is missing, so no pod would fit", node.Name)
		}
		w.Nodes = append(w.Nodes, node)
	case "Pod":
		pod := &corev1.Pod{}
		if err := json.Unmarshal(raw, pod); err != nil {
			return err
		}
		defaults.Apply(pod)
		if pod.Namespace == "" {
			pod.Namespace = metav1.NamespaceDefault
		}
		if pod.UID == "" {
			// Any UID will do that no other pod has.
			pod.UID = types.UID(fmt.Sprintf("%s/%s#%d", pod.Namespace, pod.Name, len(w.Pods)))
		}
		w.Pods = append(w.Pods, pod)
	case "Service", "Namespace", "ReplicaSet", "StatefulSet", "ReplicationController":
		return w.addOther(kind.Kind, raw)
	default:
		return fmt.Errorf("only nodes, pods and what selects pods can be simulated, not %q", kind.Kind)
	}
	return nil
}

// addOther takes in what nobody places but plugins ask for. Of what owns pods,
// only the selector matters, which is a plain map in the oldest of them.
func (w *World) addOther(kind string, raw []byte) error {
	var object struct {
		metav1.ObjectMeta `json:"metadata"`
		Spec              struct{ Selector json.RawMessage }
	}
	if err := json.Unmarshal(raw, &object); err != nil {
		return err
	}
	if w.namespaces == nil {
		w.namespaces, w.selectors = map[string]map[string]string{}, map[[3]string]*metav1.LabelSelector{}
	}
	if kind == "Namespace" {
		w.namespaces[object.Name] = object.Labels
		return nil
	}
	if object.Namespace == "" {
		object.Namespace = metav1.NamespaceDefault
	}
	if len(object.Spec.Selector) == 0 {
		return nil
	}
	selector := &metav1.LabelSelector{}
	var into any = selector
	if kind == "Service" || kind == "ReplicationController" {
		into = &selector.MatchLabels
	}
	if err := json.Unmarshal(object.Spec.Selector, into); err != nil {
		return fmt.Errorf("%s %s: spec.selector: %w", kind, object.Name, err)
	}
	w.selectors[[3]string{kind, object.Namespace, object.Name}] = selector
	return nil
}
