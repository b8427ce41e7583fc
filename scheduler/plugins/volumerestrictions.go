package plugins

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"tinykube/scheduler/framework"
)

// VolumeRestrictions refuses what cannot be mounted twice: disks of four old
// kinds on one node, and claims for a single pod (ReadWriteOncePod) anywhere.
//
// Upstream: kubernetes pkg/scheduler/framework/plugins/volumerestrictions
type VolumeRestrictions struct{ objects framework.Objects }

var (
	diskTaken  = framework.NewStatus(framework.Unschedulable, "node(s) had no available disk")
	claimTaken = framework.NewStatus(framework.Unschedulable,
		"node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod")
)

func newVolumeRestrictions(raw []byte, handle framework.Handle) (framework.Plugin, error) {
	return noArgs(raw, VolumeRestrictions{handle.Known()})
}

// singleClaims are the pod's claims for a single pod, and how many of them
// others use.
type singleClaims struct {
	names map[string]bool
	inUse int64
}

// Clone is for what-if questions.
func (s *singleClaims) Clone() any { c := *s; return &c }

func (s *singleClaims) usedBy(pod *corev1.Pod) (uses int64) {
	for i := range pod.Spec.Volumes {
		if v := pod.Spec.Volumes[i].PersistentVolumeClaim; v != nil && s.names[v.ClaimName] {
			uses++
		}
	}
	return uses
}

// Name is the plugin's name in configuration files.
func (VolumeRestrictions) Name() string { return "VolumeRestrictions" }

// PreFilter looks for users of the pod's claims in the whole cluster.
func (p VolumeRestrictions) PreFilter(c *framework.Cycle) (map[string]bool, *framework.Status) {
	s := &singleClaims{names: map[string]bool{}}
	for i := range c.Pod.Spec.Volumes {
		v := c.Pod.Spec.Volumes[i].PersistentVolumeClaim
		if v == nil {
			continue
		}
		claim := p.objects.Claim(c.Pod.Namespace, v.ClaimName)
		if claim == nil {
			return nil, notFound("", "persistentvolumeclaim", v.ClaimName)
		}
		if slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteOncePod) {
			s.names[v.ClaimName] = true
		}
	}
	used := map[string]bool{}
	for _, n := range c.Snapshot.Nodes {
		for _, other := range n.Pods {
			if len(s.names) > 0 && other.Namespace == c.Pod.Namespace && s.usedBy(other.Pod) > 0 {
				for i := range other.Spec.Volumes {
					if v := other.Spec.Volumes[i].PersistentVolumeClaim; v != nil && s.names[v.ClaimName] {
						used[v.ClaimName] = true
					}
				}
			}
		}
		if len(s.names) == 0 {
			break
		}
	}
	s.inUse = int64(len(used))
	if s.inUse == 0 && !slices.ContainsFunc(c.Pod.Spec.Volumes, isOldDisk) {
		return nil, skip
	}
	c.Set(p.Name(), s)
	return nil, nil
}

// Update counts a user more or less.
func (p VolumeRestrictions) Update(c *framework.Cycle, other *framework.PodInfo, _ *framework.NodeInfo, sign int64) {
	s := c.Get(p.Name()).(*singleClaims)
	if other.Namespace == c.Pod.Namespace {
		s.inUse += sign * s.usedBy(other.Pod)
	}
}

// Filter looks for the disks on the node; claims are taken anywhere.
func (p VolumeRestrictions) Filter(c *framework.Cycle, n *framework.NodeInfo) *framework.Status {
	for _, other := range n.Pods {
		if sharesDisk(c.Pod.Pod, other.Pod) {
			return diskTaken
		}
	}
	if c.Get(p.Name()).(*singleClaims).inUse > 0 {
		return claimTaken
	}
	return nil
}

func isOldDisk(v corev1.Volume) bool {
	return v.GCEPersistentDisk != nil || v.AWSElasticBlockStore != nil || v.RBD != nil || v.ISCSI != nil
}

// sharesDisk: two pods want the same disk, and not both to read only.
func sharesDisk(pod, other *corev1.Pod) bool {
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; isOldDisk(*v) && slices.ContainsFunc(other.Spec.Volumes, func(w corev1.Volume) bool { return sameDisk(v, &w) }) {
			return true
		}
	}
	return false
}

func sameDisk(v, w *corev1.Volume) bool {
	switch {
	case v.GCEPersistentDisk != nil && w.GCEPersistentDisk != nil:
		a, b := v.GCEPersistentDisk, w.GCEPersistentDisk
		return a.PDName == b.PDName && !(a.ReadOnly && b.ReadOnly)
	case v.AWSElasticBlockStore != nil && w.AWSElasticBlockStore != nil:
		return v.AWSElasticBlockStore.VolumeID == w.AWSElasticBlockStore.VolumeID
	case v.ISCSI != nil && w.ISCSI != nil:
		return v.ISCSI.IQN == w.ISCSI.IQN && !(v.ISCSI.ReadOnly && w.ISCSI.ReadOnly)
	case v.RBD != nil && w.RBD != nil:
		a, b := v.RBD, w.RBD
		sameMonitor := slices.ContainsFunc(a.CephMonitors, func(m string) bool { return slices.Contains(b.CephMonitors, m) })
		return sameMonitor && a.RBDPool == b.RBDPool && a.RBDImage == b.RBDImage && !(a.ReadOnly && b.ReadOnly)
	}
	return false
}

// Hints: the other user leaves, a node comes, or the claim appears.
func (VolumeRestrictions) Hints() []framework.Hint {
	return []framework.Hint{
		{On: framework.NodeAdd},
		{On: framework.AssignedDelete, Helps: func(pod *framework.PodInfo, e framework.Event) bool {
			return pod.Namespace == e.OldPod.Namespace && (sharesDisk(pod.Pod, e.OldPod) || sharesClaim(pod.Pod, e.OldPod))
		}},
		{On: framework.ClaimAdd, Helps: func(pod *framework.PodInfo, e framework.Event) bool {
			return refersTo(pod.Pod, e.New.(*corev1.PersistentVolumeClaim))
		}},
	}
}

func sharesClaim(pod, other *corev1.Pod) bool {
	s := singleClaims{names: map[string]bool{}}
	for i := range pod.Spec.Volumes {
		if v := pod.Spec.Volumes[i].PersistentVolumeClaim; v != nil {
			s.names[v.ClaimName] = true
		}
	}
	return s.usedBy(other) > 0
}
