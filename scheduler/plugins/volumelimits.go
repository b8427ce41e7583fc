package plugins

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"tinykube/api/claims"
	"tinykube/scheduler/framework"
)

// NodeVolumeLimits keeps within what a CSI driver says it can attach to a
// node at once. Volumes in use by several pods count once.
//
// Upstream: kubernetes pkg/scheduler/framework/plugins/nodevolumelimits
type NodeVolumeLimits struct{ objects framework.Objects }

var tooManyVolumes = framework.NewStatus(framework.Unschedulable, "node(s) exceed max volume count")

func newVolumeLimits(raw []byte, handle framework.Handle) (framework.Plugin, error) {
	return noArgs(raw, NodeVolumeLimits{handle.Known()})
}

// Name is the plugin's name in configuration files.
func (NodeVolumeLimits) Name() string { return "NodeVolumeLimits" }

// PreFilter skips pods without claims.
func (NodeVolumeLimits) PreFilter(c *framework.Cycle) (map[string]bool, *framework.Status) {
	if len(claims.Names(c.Pod.Pod)) == 0 {
		return nil, skip
	}
	return nil, nil
}

// attached is a volume as a driver knows it.
type attached struct{ driver, handle string }

// Filter counts, per driver, what is on the node and what would come.
func (p NodeVolumeLimits) Filter(c *framework.Cycle, n *framework.NodeInfo) *framework.Status {
	coming := map[attached]bool{}
	if err := p.collect(c.Pod.Pod, coming, true); err != nil {
		return framework.AsStatus(err)
	}
	csiNode := p.objects.CSINode(n.Node.Name)
	if len(coming) == 0 || csiNode == nil {
		return nil
	}
	there := map[attached]bool{}
	for _, other := range n.Pods {
		if err := p.collect(other.Pod, there, false); err != nil {
			return framework.AsStatus(err)
		}
	}
	for _, a := range p.objects.Attachments(n.Node.Name) {
		if name := a.Spec.Source.PersistentVolumeName; name != nil && a.Spec.Attacher != "" {
			if volume := p.objects.Volume(*name); volume != nil && volume.Spec.CSI != nil {
				there[attached{a.Spec.Attacher, volume.Spec.CSI.VolumeHandle}] = true
			}
		}
	}
	for driver, limit := range limits(csiNode) {
		added, used := 0, 0
		for v := range coming {
			if v.driver == driver && !there[v] {
				added++
			}
		}
		for v := range there {
			if v.driver == driver {
				used++
			}
		}
		if added > 0 && used+added > int(limit) {
			return tooManyVolumes
		}
	}
	return nil
}

func limits(node *storagev1.CSINode) map[string]int32 {
	limits := map[string]int32{}
	for _, d := range node.Spec.Drivers {
		if d.Allocatable != nil && d.Allocatable.Count != nil {
			limits[d.Name] = *d.Allocatable.Count
		}
	}
	return limits
}

// collect adds the pod's volumes that a driver attaches. Of pods that are there
// already, what cannot be looked up is not counted.
func (p NodeVolumeLimits) collect(pod *corev1.Pod, into map[attached]bool, isNew bool) error {
	for i := range pod.Spec.Volumes {
		name, ephemeral := claims.Of(pod, &pod.Spec.Volumes[i])
		if name == "" {
			continue
		}
		claim := p.objects.Claim(pod.Namespace, name)
		if claim == nil {
			if isNew {
				return fmt.Errorf("looking up PVC %s/%s: persistentvolumeclaim %q not found", pod.Namespace, name, name)
			}
			continue
		}
		if ephemeral {
			if err := claims.Own(pod, claim); err != nil {
				return err
			}
		}
		if v, ok := p.lookUp(claim); ok {
			into[v] = true
		}
	}
	return nil
}

// lookUp finds the volume behind a claim; one that is yet to be made counts
// under the claim's name.
func (p NodeVolumeLimits) lookUp(claim *corev1.PersistentVolumeClaim) (attached, bool) {
	if volume := p.objects.Volume(claim.Spec.VolumeName); volume != nil {
		if volume.Spec.CSI == nil {
			return attached{}, false
		}
		return attached{volume.Spec.CSI.Driver, volume.Spec.CSI.VolumeHandle}, true
	}
	class := p.objects.StorageClass(claims.Class(claim))
	if class == nil {
		return attached{}, false
	}
	return attached{class.Provisioner, "claim " + claim.Namespace + "/" + claim.Name}, true
}

// Hints: a volume leaves, a driver can do more, or the claim appears.
func (NodeVolumeLimits) Hints() []framework.Hint {
	return []framework.Hint{
		{On: framework.CSINodeAdd | framework.AttachmentDelete},
		{On: framework.CSINodeUpdate, Helps: func(_ *framework.PodInfo, e framework.Event) bool {
			before := limits(e.Old.(*storagev1.CSINode))
			for driver, limit := range limits(e.New.(*storagev1.CSINode)) {
				if limit > before[driver] {
					return true
				}
			}
			return false
		}},
		{On: framework.AssignedDelete, Helps: func(_ *framework.PodInfo, e framework.Event) bool { return len(claims.Names(e.OldPod)) > 0 }},
		{On: framework.ClaimAdd, Helps: func(pod *framework.PodInfo, e framework.Event) bool {
			return refersTo(pod.Pod, e.New.(*corev1.PersistentVolumeClaim))
		}},
	}
}
