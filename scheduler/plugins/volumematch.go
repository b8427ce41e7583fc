package plugins

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"

	"tinykube/api/claims"
	"tinykube/scheduler/framework"
)

// The questions that VolumeBinding asks about claim, volume and node.

// smallest is the volume for the claim on the node: one that names the claim
// already, otherwise the smallest that is free and large enough.
//
// Upstream: kubernetes component-helpers storage/volume FindMatchingVolume
func (p *VolumeBinding) smallest(claim *corev1.PersistentVolumeClaim, node *corev1.Node, taken map[string]bool) (best *corev1.PersistentVolume) {
	for _, volume := range p.objects.VolumesOfClass(claims.Class(claim)) {
		if taken[volume.Name] || !claims.Large(volume, claim) || volume.DeletionTimestamp != nil ||
			claims.Mode(volume.Spec.VolumeMode) != claims.Mode(claim.Spec.VolumeMode) || !claims.SameAttributes(volume, claim) {
			continue
		}
		if volume.Spec.ClaimRef != nil {
			if !claims.Promised(volume, claim) {
				continue
			}
			if !claims.Reachable(volume, node) {
				return nil
			}
			return volume
		}
		if volume.Status.Phase != corev1.VolumeAvailable || !p.free(volume, claim) || !claims.Selected(volume, claim) || !claims.Modes(volume, claim) || !claims.Reachable(volume, node) {
			continue
		}
		if best == nil || volume.Spec.Capacity.Storage().Cmp(*best.Spec.Capacity.Storage()) < 0 {
			best = volume
		}
	}
	return best
}

// free: no other claim has been promised the volume.
func (p *VolumeBinding) free(volume *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	by, taken := p.takenBy[volume.Name]
	return !taken || by == keyOf(claim)
}

// canProvision says why the claim's class cannot make a volume for the node.
func (p *VolumeBinding) canProvision(claim *corev1.PersistentVolumeClaim, node *corev1.Node) (reason string, err error) {
	class := p.objects.StorageClass(claims.Class(claim))
	if class == nil {
		return "", fmt.Errorf("failed to find storage class %q", claims.Class(claim))
	}
	if class.Provisioner == "" || class.Provisioner == claims.NoProvisioner || !allowed(class.AllowedTopologies, node) {
		return noVolume, nil
	}
	driver := p.objects.CSIDriver(class.Provisioner)
	size, sized := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	if !sized || driver == nil || driver.Spec.StorageCapacity == nil || !*driver.Spec.StorageCapacity {
		return "", nil
	}
	for _, capacity := range p.objects.StorageCapacities() {
		limit := largest(capacity)
		if capacity.StorageClassName == class.Name && limit != nil && limit.Value() >= size.Value() && capacity.NodeTopology != nil &&
			framework.ParseSelector(capacity.NodeTopology).Matches(labels.Set(node.Labels)) {
			return "", nil
		}
	}
	return noSpace, nil
}

// largest is the size of the largest volume that can be made.
func largest(c *storagev1.CSIStorageCapacity) *resource.Quantity {
	if c.MaximumVolumeSize != nil {
		return c.MaximumVolumeSize
	}
	return c.Capacity
}

// allowed: the node's labels satisfy one of the terms, if there are any.
func allowed(terms []corev1.TopologySelectorTerm, node *corev1.Node) bool {
	return len(terms) == 0 || slices.ContainsFunc(terms, func(term corev1.TopologySelectorTerm) bool {
		for _, e := range term.MatchLabelExpressions {
			if value, ok := node.Labels[e.Key]; !ok || !slices.Contains(e.Values, value) {
				return false
			}
		}
		return len(term.MatchLabelExpressions) > 0
	})
}

// Hints: something about the pod's claims, about volumes or how they are made,
// or about which node is where.
func (*VolumeBinding) Hints() []framework.Hint {
	return []framework.Hint{
		{On: framework.VolumeAdd | framework.VolumeUpdate | framework.NodeAdd | framework.NodeLabels | framework.ClassAdd | framework.CSINodeAdd | framework.CapacityAdd},
		{On: framework.ClaimAdd | framework.ClaimUpdate, Helps: func(pod *framework.PodInfo, e framework.Event) bool {
			return refersTo(pod.Pod, e.New.(*corev1.PersistentVolumeClaim))
		}},
		{On: framework.ClassUpdate, Helps: func(_ *framework.PodInfo, e framework.Event) bool {
			return !equality.Semantic.DeepEqual(e.Old.(*storagev1.StorageClass).AllowedTopologies, e.New.(*storagev1.StorageClass).AllowedTopologies)
		}},
		{On: framework.CSIDriverUpdate, Helps: func(pod *framework.PodInfo, e framework.Event) bool {
			driver := e.New.(*storagev1.CSIDriver)
			counts := func(d *storagev1.CSIDriver) bool { return d.Spec.StorageCapacity != nil && *d.Spec.StorageCapacity }
			return counts(e.Old.(*storagev1.CSIDriver)) && !counts(driver)
		}},
		{On: framework.CapacityUpdate, Helps: func(_ *framework.PodInfo, e framework.Event) bool {
			before, after := largest(e.Old.(*storagev1.CSIStorageCapacity)), largest(e.New.(*storagev1.CSIStorageCapacity))
			return after != nil && (before == nil || after.Cmp(*before) > 0)
		}},
	}
}
