package sidecar

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"tinykube/api/claims"
	"tinykube/client"
)

// Parameters of a StorageClass with this prefix are for us, all others for the
// driver.
const (
	prefix    = "csi.storage.k8s.io/"
	fsTypeKey = prefix + "fstype"
)

// secretRefs are where the secrets of each call are found.
type secretRefs struct {
	provision, controllerPublish, nodeStage, nodePublish, controllerExpand, nodeExpand *corev1.SecretReference
}

// readParameters sorts a class's parameters, and fills in what they say with
// ${pvc.name} and the like. A parameter of ours that is not known is refused: it
// may have promised safety.
func readParameters(class *storagev1.StorageClass, claim *corev1.PersistentVolumeClaim, volume string) (map[string]string, secretRefs, error) {
	var refs secretRefs
	names := map[string]**corev1.SecretReference{"provisioner": &refs.provision, "controller-publish": &refs.controllerPublish, "node-stage": &refs.nodeStage,
		"node-publish": &refs.nodePublish, "controller-expand": &refs.controllerExpand, "node-expand": &refs.nodeExpand}
	known := []string{fsTypeKey}
	for call, ref := range names {
		nameKey, namespaceKey := prefix+call+"-secret-name", prefix+call+"-secret-namespace"
		known = append(known, nameKey, namespaceKey)
		name, hasName := class.Parameters[nameKey]
		namespace, hasNamespace := class.Parameters[namespaceKey]
		if hasName != hasNamespace {
			return nil, refs, fmt.Errorf("only name or namespace for %s secret specified", call)
		}
		if !hasName {
			continue
		}
		expand := func(text string) (string, error) { return fill(text, claim, volume) }
		var err error
		*ref = &corev1.SecretReference{}
		if (*ref).Name, err = expand(name); err != nil {
			return nil, refs, fmt.Errorf("%s: %w", nameKey, err)
		}
		if (*ref).Namespace, err = expand(namespace); err != nil {
			return nil, refs, fmt.Errorf("%s: %w", namespaceKey, err)
		}
	}
	for key := range class.Parameters {
		if strings.HasPrefix(key, prefix) && !slices.Contains(known, key) {
			return nil, refs, fmt.Errorf("found unknown parameter key %q with reserved namespace %s", key, prefix)
		}
	}
	return class.Parameters, refs, nil
}

// fill replaces the words that a class may use for what it cannot know.
func fill(text string, claim *corev1.PersistentVolumeClaim, volume string) (string, error) {
	var unknown string
	filled := os.Expand(text, func(word string) string {
		switch word {
		case "pv.name":
			return volume
		case "pvc.name":
			return claim.Name
		case "pvc.namespace":
			return claim.Namespace
		}
		if key, is := strings.CutPrefix(word, "pvc.annotations['"); is {
			if value, has := claim.Annotations[strings.TrimSuffix(key, "']")]; has {
				return value
			}
		}
		unknown = word
		return ""
	})
	if unknown != "" {
		return "", fmt.Errorf("error resolving value %q: invalid tokens: [%q]", text, unknown)
	}
	return filled, nil
}

// driverParameters are those that are not ours.
func driverParameters(all map[string]string) map[string]string {
	own := map[string]string{}
	for key, value := range all {
		if !strings.HasPrefix(key, prefix) {
			own[key] = value
		}
	}
	return own
}

// content is what the new volume shall hold at first: a copy of another claim's
// volume, or of a snapshot.
func (s *Sidecar) content(ctx context.Context, claim *corev1.PersistentVolumeClaim) (*csi.VolumeContentSource, error) {
	from := claim.Spec.DataSource
	switch {
	case from == nil:
		return nil, nil
	case from.Kind == "PersistentVolumeClaim" && (from.APIGroup == nil || *from.APIGroup == ""):
		source, ok := s.claims.Get(claim.Namespace + "/" + from.Name)
		if !ok || !claims.Bound(source) {
			return nil, fmt.Errorf("the source PVC %s is not bound", from.Name)
		}
		volume, ok := s.volumes.Get(source.Spec.VolumeName)
		if !ok || volume.Spec.CSI == nil || volume.Spec.CSI.Driver != s.driver.name {
			return nil, fmt.Errorf("the source volume %s is not of driver %s", source.Spec.VolumeName, s.driver.name)
		}
		return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: volume.Spec.CSI.VolumeHandle}}}, nil
	case from.Kind == "VolumeSnapshot" && from.APIGroup != nil && *from.APIGroup == snapshotGroup:
		handle, err := s.snapshotHandle(ctx, claim.Namespace, from.Name)
		if err != nil {
			return nil, err
		}
		return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: handle}}}, nil
	}
	return nil, fmt.Errorf("data source %s %s is for somebody else to fill", from.Kind, from.Name)
}

const snapshotGroup = "snapshot.storage.k8s.io"

// Snapshots are custom resources, whose types we do not have.
var (
	volumeSnapshots = client.Kind[*unstructured.Unstructured]{Group: snapshotGroup, Version: "v1", Kind: "VolumeSnapshot", Plural: "volumesnapshots", Namespaced: true}
	snapshotContent = client.Kind[*unstructured.Unstructured]{Group: snapshotGroup, Version: "v1", Kind: "VolumeSnapshotContent", Plural: "volumesnapshotcontents"}
)

// snapshotHandle is what the driver calls a snapshot.
func (s *Sidecar) snapshotHandle(ctx context.Context, namespace, name string) (string, error) {
	snapshot, err := client.For(s.api, volumeSnapshots).Get(ctx, namespace, name)
	if err != nil {
		return "", fmt.Errorf("error getting snapshot %s from api server: %w", name, err)
	}
	bound, _, _ := unstructured.NestedString(snapshot.Object, "status", "boundVolumeSnapshotContentName")
	ready, _, _ := unstructured.NestedBool(snapshot.Object, "status", "readyToUse")
	if bound == "" || !ready {
		return "", fmt.Errorf("snapshot %s is not Ready", name)
	}
	content, err := client.For(s.api, snapshotContent).Get(ctx, "", bound)
	if err != nil {
		return "", fmt.Errorf("error getting snapshotcontent %s from api server: %w", bound, err)
	}
	driver, _, _ := unstructured.NestedString(content.Object, "spec", "driver")
	handle, _, _ := unstructured.NestedString(content.Object, "status", "snapshotHandle")
	if driver != s.driver.name || handle == "" {
		return "", fmt.Errorf("snapshot %s has driver %q and handle %q; a volume of driver %s cannot be made of it", name, driver, handle, s.driver.name)
	}
	return handle, nil
}

// requirements says from where the new volume must be reachable: the node that
// the scheduler has chosen, or else any that the class allows.
func (s *Sidecar) requirements(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) (*csi.TopologyRequirement, error) {
	if !s.driver.topology {
		return nil, nil
	}
	if name := claim.Annotations[claims.SelectedNode]; name != "" {
		segments, err := s.segments(name)
		if err != nil {
			return nil, err
		}
		one := []*csi.Topology{{Segments: segments}}
		return &csi.TopologyRequirement{Requisite: one, Preferred: one}, nil
	}
	r := &csi.TopologyRequirement{}
	for _, node := range s.csiNodes.List() {
		segments, err := s.segments(node.Name)
		if err != nil || !allowed(class.AllowedTopologies, segments) {
			continue // the driver does not run there
		}
		r.Requisite = append(r.Requisite, &csi.Topology{Segments: segments})
	}
	if len(r.Requisite) == 0 {
		return nil, fmt.Errorf("no available topology found: driver %s runs on no node that StorageClass %s allows", s.driver.name, class.Name)
	}
	slices.SortFunc(r.Requisite, func(a, b *csi.Topology) int { return strings.Compare(fmt.Sprint(a.Segments), fmt.Sprint(b.Segments)) })
	r.Preferred = r.Requisite
	return r, nil
}

// segments are where the driver says that a node is.
func (s *Sidecar) segments(name string) (map[string]string, error) {
	csiNode, ok := s.csiNodes.Get(name)
	if !ok {
		return nil, fmt.Errorf("error getting CSINode for selected node %q: not found", name)
	}
	node, ok := s.nodes.Get(name)
	if !ok {
		return nil, fmt.Errorf("error getting node %q: not found", name)
	}
	for _, d := range csiNode.Spec.Drivers {
		if d.Name != s.driver.name {
			continue
		}
		segments := map[string]string{}
		for _, key := range d.TopologyKeys {
			if segments[key], ok = node.Labels[key]; !ok {
				return nil, fmt.Errorf("node %s has no label %s yet, which the driver's topology needs", name, key)
			}
		}
		return segments, nil
	}
	return nil, fmt.Errorf("driver %s does not run on node %s", s.driver.name, name)
}

func allowed(terms []corev1.TopologySelectorTerm, segments map[string]string) bool {
	return len(terms) == 0 || slices.ContainsFunc(terms, func(term corev1.TopologySelectorTerm) bool {
		return !slices.ContainsFunc(term.MatchLabelExpressions, func(e corev1.TopologySelectorLabelRequirement) bool {
			return !slices.Contains(e.Values, segments[e.Key])
		})
	})
}

// affinity is where a volume can be reached from, as the scheduler reads it.
func affinity(topologies []*csi.Topology) *corev1.VolumeNodeAffinity {
	var terms []corev1.NodeSelectorTerm
	for _, t := range topologies {
		var term corev1.NodeSelectorTerm
		for key, value := range t.Segments {
			term.MatchExpressions = append(term.MatchExpressions, corev1.NodeSelectorRequirement{Key: key, Operator: corev1.NodeSelectorOpIn, Values: []string{value}})
		}
		slices.SortFunc(term.MatchExpressions, func(a, b corev1.NodeSelectorRequirement) int { return strings.Compare(a.Key, b.Key) })
		if len(term.MatchExpressions) > 0 {
			terms = append(terms, term)
		}
	}
	if len(terms) == 0 {
		return nil
	}
	return &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: terms}}
}
