package plugins

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/api/claims"
	"tinykube/scheduler/framework"
)

// VolumeZone keeps pods in the zones and regions that their volumes' labels
// name, as those of clouds do; newer volumes say it by node affinity.
type VolumeZone struct{ objects framework.Objects }

func newVolumeZone(raw []byte, handle framework.Handle) (framework.Plugin, error) {
	return noArgs(raw, VolumeZone{handle.Known()})
}

var wrongZone = framework.NewStatus(framework.UnschedulableAndUnresolvable, "node(s) had no available volume zone")

// topologyLabels are the places that count, each with the name that replaced it.
var topologyLabels = []struct{ key, now string }{
	{corev1.LabelFailureDomainBetaZone, corev1.LabelTopologyZone}, {corev1.LabelFailureDomainBetaRegion, corev1.LabelTopologyRegion},
	{corev1.LabelTopologyZone, corev1.LabelTopologyZone}, {corev1.LabelTopologyRegion, corev1.LabelTopologyRegion},
}

// place is what one label of a volume demands.
type place struct {
	key, now string
	values   []string
}

// Name is the plugin's name in configuration files.
func (VolumeZone) Name() string { return "VolumeZone" }

// PreFilter collects the places of the pod's volumes.
func (p VolumeZone) PreFilter(c *framework.Cycle) (map[string]bool, *framework.Status) {
	var places []place
	for i := range c.Pod.Spec.Volumes {
		v := c.Pod.Spec.Volumes[i].PersistentVolumeClaim
		if v == nil {
			continue
		}
		claim := p.objects.Claim(c.Pod.Namespace, v.ClaimName)
		if claim == nil {
			return nil, notFound("", "persistentvolumeclaim", v.ClaimName)
		}
		if claim.Spec.VolumeName == "" {
			if no := p.mayBeUnbound(claim); no != nil {
				return nil, no
			}
			continue
		}
		volume := p.objects.Volume(claim.Spec.VolumeName)
		if volume == nil {
			return nil, notFound("", "persistentvolume", claim.Spec.VolumeName)
		}
		places = append(places, placesOf(volume)...)
	}
	if len(places) == 0 {
		return nil, skip
	}
	c.Set(p.Name(), places)
	return nil, nil
}

func (p VolumeZone) mayBeUnbound(claim *corev1.PersistentVolumeClaim) *framework.Status {
	name := claims.Class(claim)
	if name == "" {
		return framework.NewStatus(framework.UnschedulableAndUnresolvable, "PersistentVolumeClaim had no pv name and storageClass name")
	}
	class := p.objects.StorageClass(name)
	switch {
	case class == nil:
		return notFound(storagev1.GroupName, "storageclass", name)
	case class.VolumeBindingMode == nil:
		return framework.NewStatus(framework.UnschedulableAndUnresolvable, fmt.Sprintf("VolumeBindingMode not set for StorageClass %q", name))
	case !claims.WaitsForPod(class):
		return framework.NewStatus(framework.UnschedulableAndUnresolvable, "PersistentVolume had no name")
	}
	return nil
}

// Filter compares; a node without any such label is in no zone, which is taken
// to mean that there is only one.
func (p VolumeZone) Filter(c *framework.Cycle, n *framework.NodeInfo) *framework.Status {
	if !slices.ContainsFunc(topologyLabels, func(l struct{ key, now string }) bool { return metav1.HasLabel(n.Node.ObjectMeta, l.key) }) {
		return nil
	}
	for _, place := range c.Get(p.Name()).([]place) {
		value, ok := n.Node.Labels[place.key]
		if !ok {
			value, ok = n.Node.Labels[place.now]
		}
		if !ok || !slices.Contains(place.values, value) {
			return wrongZone
		}
	}
	return nil
}

// Hints: the claim is bound, the volume is labelled, or a node is elsewhere.
func (VolumeZone) Hints() []framework.Hint {
	return []framework.Hint{
		{On: framework.NodeAdd | framework.NodeLabels | framework.VolumeAdd},
		{On: framework.ClassAdd, Helps: func(_ *framework.PodInfo, e framework.Event) bool {
			return claims.WaitsForPod(e.New.(*storagev1.StorageClass))
		}},
		{On: framework.ClaimAdd | framework.ClaimUpdate, Helps: func(pod *framework.PodInfo, e framework.Event) bool {
			return refersTo(pod.Pod, e.New.(*corev1.PersistentVolumeClaim))
		}},
		{On: framework.VolumeUpdate, Helps: func(_ *framework.PodInfo, e framework.Event) bool {
			return !equality.Semantic.DeepEqual(placesOf(e.Old.(*corev1.PersistentVolume)), placesOf(e.New.(*corev1.PersistentVolume)))
		}},
	}
}

// placesOf reads a volume's labels. One may name several zones, with "__"
// between them.
func placesOf(volume *corev1.PersistentVolume) (places []place) {
	for _, l := range topologyLabels {
		value, ok := volume.Labels[l.key]
		if !ok {
			continue
		}
		values := strings.Split(value, "__")
		for i := range values {
			values[i] = strings.TrimSpace(values[i])
		}
		if !slices.Contains(values, "") { // a label that says nothing is ignored
			places = append(places, place{l.key, l.now, values})
		}
	}
	return places
}
