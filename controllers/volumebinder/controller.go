package volumebinder

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"tinykube/api/claims"
	"tinykube/client"
	"tinykube/controllers/harness"
)

// again is how often a claim that waits is looked at and told of.
//
// Upstream: --pvclaimbinder-sync-period
const again = 15 * time.Second

type controller struct {
	*harness.Scope
	claims  *harness.Store[*corev1.PersistentVolumeClaim]
	volumes *harness.Store[*corev1.PersistentVolume]
	classes *harness.Store[*storagev1.StorageClass]
	pods    *harness.Store[*corev1.Pod]
	claimed *harness.Loop[string]
}

// Register adds the controller to a manager.
func Register(m *harness.Manager) {
	s := m.Scope(harness.Identity{Name: "persistentvolume-binder-controller", Account: "persistent-volume-binder", Source: "persistentvolume-controller"})
	c := &controller{
		Scope: s, claims: harness.StoreOf(s, client.PersistentVolumeClaims), volumes: harness.StoreOf(s, client.PersistentVolumes),
		classes: harness.StoreOf(s, client.StorageClasses), pods: harness.StoreOf(s, client.Pods),
	}
	// One worker: two claims that see the same free volume would take it both,
	// and one of them find out only by a conflict.
	c.claimed = harness.NewLoop(s, 1, c.reconcileClaim)
	harness.WatchSelf(c.claimed, c.claims)
	harness.Watch(c.claimed, c.volumes, c.interested)
	harness.Watch(c.claimed, c.classes, func(_, class *storagev1.StorageClass) []string {
		if class == nil {
			return nil
		}
		return c.pending(func(*corev1.PersistentVolumeClaim) bool { return true })
	})
	volumes := harness.NewLoop(s, 1, c.reconcileVolume)
	harness.WatchSelf(volumes, c.volumes)
	harness.Watch(volumes, c.claims, func(old, new *corev1.PersistentVolumeClaim) (names []string) {
		for _, claim := range []*corev1.PersistentVolumeClaim{old, new} {
			if claim != nil && claim.Spec.VolumeName != "" {
				names = append(names, claim.Spec.VolumeName)
			}
		}
		return names
	})
}

// interested are the claims that a change of a volume concerns: the one that it
// names, or if it is free, all that wait for one of its class.
func (c *controller) interested(old, new *corev1.PersistentVolume) (keys []string) {
	for _, volume := range []*corev1.PersistentVolume{old, new} {
		switch {
		case volume == nil:
		case volume.Spec.ClaimRef != nil:
			keys = append(keys, volume.Spec.ClaimRef.Namespace+"/"+volume.Spec.ClaimRef.Name)
		default:
			keys = append(keys, c.pending(func(claim *corev1.PersistentVolumeClaim) bool {
				return claims.Class(claim) == claims.VolumeClass(volume) || claim.Spec.VolumeName == volume.Name
			})...)
		}
	}
	return keys
}

func (c *controller) pending(which func(*corev1.PersistentVolumeClaim) bool) (keys []string) {
	for _, claim := range c.claims.List() {
		if !claims.Bound(claim) && which(claim) {
			keys = append(keys, client.Key(claim))
		}
	}
	return keys
}

func (c *controller) reconcileClaim(ctx context.Context, key string) (time.Duration, error) {
	claim, ok := c.claims.Get(client.SplitKey(key))
	if !ok {
		return 0, nil
	}
	plan := planClaim(claim, world{volumes: c.volumes.List(), classes: c.classes.List(), waiting: c.waiting(claim)})
	if plan.bind != nil {
		return 0, c.bind(ctx, plan.bind, claim)
	}
	if plan.event != nil {
		c.Events.Event(claim, plan.event.kind, plan.event.reason, "%s", plan.event.text)
	}
	changed := claim.DeepCopy()
	if plan.class != "" {
		changed.Spec.StorageClassName = &plan.class
	}
	if plan.provisioner != "" {
		annotate(&changed.Annotations, claims.Provisioner, plan.provisioner)
		annotate(&changed.Annotations, claims.BetaProvisioner, plan.provisioner)
	}
	var err error
	if !equality.Semantic.DeepEqual(claim, changed) {
		if changed, err = c.claims.Update(ctx, changed); err != nil {
			return 0, err
		}
	}
	if plan.phase == "" {
		return 0, nil // it comes again with its class
	}
	if err = c.claimStatus(ctx, changed, plan.phase, nil); plan.phase == corev1.ClaimPending {
		return again, err
	}
	return 0, err
}

// waiting are the pods that use the claim and have no node yet.
func (c *controller) waiting(claim *corev1.PersistentVolumeClaim) (names []string) {
	for _, pod := range c.pods.ByIndex(harness.ByNode, "") {
		if pod.Namespace == claim.Namespace && !harness.IsFinished(pod) && slices.Contains(claims.Names(pod), claim.Name) {
			names = append(names, pod.Name)
		}
	}
	slices.Sort(names)
	return names
}

// bind draws both arrows. Each step changes nothing if it has been done before.
func (c *controller) bind(ctx context.Context, volume *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) error {
	if claim.DeletionTimestamp != nil && volume.Spec.ClaimRef == nil {
		return nil // it would be released at once
	}
	v := volume.DeepCopy()
	if !claims.Promised(volume, claim) {
		annotate(&v.Annotations, claims.BoundByController, "yes")
	}
	if !claims.Promised(volume, claim) || volume.Spec.ClaimRef.UID == "" {
		v.Spec.ClaimRef = &corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: claim.Namespace,
			Name: claim.Name, UID: claim.UID, ResourceVersion: claim.ResourceVersion}
	}
	var err error
	if !equality.Semantic.DeepEqual(volume, v) {
		if v, err = c.volumes.Update(ctx, v); err != nil {
			return fmt.Errorf("bind volume %s: %w", volume.Name, err)
		}
	}
	if v, err = c.volumePhase(ctx, v, corev1.VolumeBound); err != nil {
		return err
	}
	p := claim.DeepCopy()
	if claim.Spec.VolumeName == "" {
		p.Spec.VolumeName = v.Name
		annotate(&p.Annotations, claims.BoundByController, "yes")
	}
	annotate(&p.Annotations, claims.BindCompleted, "yes")
	if !equality.Semantic.DeepEqual(claim, p) {
		if p, err = c.claims.Update(ctx, p); err != nil {
			return fmt.Errorf("bind claim %s: %w", client.Key(claim), err)
		}
	}
	return c.claimStatus(ctx, p, corev1.ClaimBound, v)
}

func annotate(annotations *map[string]string, key, value string) {
	if (*annotations)[key] == value {
		return
	}
	copied := maps.Clone(*annotations)
	if copied == nil {
		copied = map[string]string{}
	}
	copied[key] = value
	*annotations = copied
}

// claimStatus says where a claim stands; volume is what it is bound to. Once it
// is bound its size is who resizes it to say.
func (c *controller) claimStatus(ctx context.Context, claim *corev1.PersistentVolumeClaim, phase corev1.PersistentVolumeClaimPhase, volume *corev1.PersistentVolume) error {
	p := claim.DeepCopy()
	p.Status.Phase = phase
	switch {
	case volume == nil:
		p.Status.AccessModes, p.Status.Capacity, p.Status.CurrentVolumeAttributesClassName = nil, nil, nil
	default:
		p.Status.AccessModes = volume.Spec.AccessModes
		if claim.Status.Phase != phase {
			p.Status.Capacity = volume.Spec.Capacity
			if claim.Status.Phase == corev1.ClaimPending {
				p.Status.CurrentVolumeAttributesClassName = volume.Spec.VolumeAttributesClassName
			}
		}
	}
	if equality.Semantic.DeepEqual(claim.Status, p.Status) {
		return nil
	}
	_, err := c.claims.UpdateStatus(ctx, p)
	return err
}

func (c *controller) volumePhase(ctx context.Context, volume *corev1.PersistentVolume, phase corev1.PersistentVolumePhase) (*corev1.PersistentVolume, error) {
	if phase == "" || volume.Status.Phase == phase {
		return volume, nil
	}
	v := volume.DeepCopy()
	v.Status.Phase, v.Status.Message = phase, ""
	return c.volumes.UpdateStatus(ctx, v)
}

func (c *controller) reconcileVolume(ctx context.Context, name string) (time.Duration, error) {
	volume, ok := c.volumes.Get("", name)
	if !ok {
		return 0, nil
	}
	claim, err := c.named(ctx, volume)
	if err != nil {
		return 0, err
	}
	plan := planVolume(volume, claim)
	if plan.look {
		c.claimed.Add(client.Key(claim))
	}
	if plan.claimEvent != nil {
		c.Events.Event(claim, plan.claimEvent.kind, plan.claimEvent.reason, "%s", plan.claimEvent.text)
	}
	if plan.event != nil {
		c.Events.Event(volume, plan.event.kind, plan.event.reason, "%s", plan.event.text)
	}
	if plan.unbind {
		v := volume.DeepCopy()
		if _, ours := v.Annotations[claims.BoundByController]; ours {
			v.Spec.ClaimRef = nil
			delete(v.Annotations, claims.BoundByController)
		} else {
			v.Spec.ClaimRef.UID = ""
		}
		if volume, err = c.volumes.Update(ctx, v); err != nil {
			return 0, err
		}
	}
	_, err = c.volumePhase(ctx, volume, plan.phase)
	return 0, err
}

// named is the claim that a volume names, nil if there is none of that UID any
// more. To believe that costs data, so the server is asked before.
func (c *controller) named(ctx context.Context, volume *corev1.PersistentVolume) (*corev1.PersistentVolumeClaim, error) {
	ref := volume.Spec.ClaimRef
	if ref == nil || ref.UID == "" {
		return nil, nil
	}
	if claim, ok := c.claims.Get(ref.Namespace, ref.Name); ok && claim.UID == ref.UID {
		return claim, nil
	}
	claim, err := c.claims.Live(ctx, ref.Namespace, ref.Name)
	if apierrors.IsNotFound(err) || err == nil && claim.UID != ref.UID {
		return nil, nil
	}
	return claim, err
}
