package simulate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"

	"tinykube/api/defaults"
)

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
	if strings.HasSuffix(kind.Kind, "List") {
		var list struct{ Items []json.RawMessage }
		if err := json.Unmarshal(raw, &list); err != nil {
			return err
		}
		for _, item := range list.Items {
			if err := w.add(item); err != nil {
				return err
			}
		}
		return nil
	}
	return w.addKind(kind.Kind, raw)
}

func (w *World) addKind(kind string, raw []byte) error {
	switch kind {
	case "Node":
		node := &corev1.Node{}
		if err := json.Unmarshal(raw, node); err != nil {
			return err
		}
		return w.addNode(node)
	case "Pod":
		pod := &corev1.Pod{}
		if err := json.Unmarshal(raw, pod); err != nil {
			return err
		}
		w.addPod(pod)
		return nil
	}
	return w.addOther(kind, raw)
}

func (w *World) addNode(node *corev1.Node) error {
	if node.Status.Allocatable == nil {
		node.Status.Allocatable = node.Status.Capacity
	}
	if _, given := node.Status.Allocatable[corev1.ResourcePods]; !given {
		return fmt.Errorf("node %s: status.allocatable.pods is missing, so no pod would fit", node.Name)
	}
	w.Nodes = append(w.Nodes, node)
	return nil
}

// addPod fills in what the API server would.
func (w *World) addPod(pod *corev1.Pod) {
	defaults.Apply(pod)
	if pod.Namespace == "" {
		pod.Namespace = metav1.NamespaceDefault
	}
	if pod.UID == "" {
		// Any UID will do that no other pod has.
		pod.UID = types.UID(fmt.Sprintf("%s/%s#%d", pod.Namespace, pod.Name, len(w.Pods)))
	}
	w.Pods = append(w.Pods, pod)
}
