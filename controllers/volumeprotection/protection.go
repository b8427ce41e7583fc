package volumeprotection

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/api/claims"
	"tinykube/client"
	"tinykube/controllers/harness"
)

const (
	claimFinalizer  = "kubernetes.io/pvc-protection"
	volumeFinalizer = "kubernetes.io/pv-protection"
	classFinalizer  = "kubernetes.io/vac-protection"
)

type controller struct {
	*harness.Scope
	claims *harness.Store[*corev1.PersistentVolumeClaim]
	pods   *harness.Store[*corev1.Pod]
}

// RegisterClaims adds the controller that protects claims to a manager.
//
// Upstream: kubernetes pkg/controller/volume/pvcprotection
func RegisterClaims(m *harness.Manager) {
	s := m.Scope(harness.Identity{Name: "persistentvolumeclaim-protection-controller", Account: "pvc-protection-controller", Source: "pvc-protection-controller"})
	c := &controller{Scope: s, claims: harness.StoreOf(s, client.PersistentVolumeClaims), pods: harness.StoreOf(s, client.Pods)}
	loop := harness.NewLoop(s, 1, c.reconcile)
	harness.WatchSelf(loop, c.claims)
	harness.Watch(loop, c.pods, func(old, new *corev1.Pod) (keys []string) {
		if old == nil { // it uses more, not less
			return nil
		}
		for _, name := range claims.Names(old) {
			keys = append(keys, old.Namespace+"/"+name)
		}
		return keys
	})
}

func (c *controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	claim, ok := c.claims.Get(client.SplitKey(key))
	if !ok {
		return 0, nil
	}
	if claim.DeletionTimestamp != nil && slices.Contains(claim.Finalizers, claimFinalizer) {
		used, err := c.inUse(ctx, claim)
		if used || err != nil {
			return 0, err
		}
	}
	return 0, settle(ctx, c.claims, claim, claimFinalizer)
}

// inUse asks the server as well: a pod that the cache does not show yet may
// just have got its node.
func (c *controller) inUse(ctx context.Context, claim *corev1.PersistentVolumeClaim) (bool, error) {
	user := func(pod *corev1.Pod) bool { return uses(pod, claim) }
	if slices.ContainsFunc(c.pods.ByIndex(harness.ByNamespace, claim.Namespace), user) {
		return true, nil
	}
	pods, err := client.For(c.Client, client.Pods).List(ctx, claim.Namespace, metav1.ListOptions{})
	if err != nil {
		return false, fmt.Errorf("who uses claim %s: %w", client.Key(claim), err)
	}
	return slices.ContainsFunc(pods.Items, user), nil
}

// uses says whether a pod with a node names the claim. Without a node no kubelet
// knows of the pod, and none will begin with a claim that is being deleted.
func uses(pod *corev1.Pod, claim *corev1.PersistentVolumeClaim) bool {
	if pod.Spec.NodeName == "" {
		return false
	}
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
		name, ephemeral := claims.Of(pod, &v)
		return name == claim.Name && (!ephemeral || !shutDown(pod) && claims.Own(pod, claim) == nil)
	})
}

// shutDown: the kubelet has finished with the pod, which waits for its claims
// to be deleted, as they do for it.
func shutDown(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp != nil && pod.DeletionGracePeriodSeconds != nil && *pod.DeletionGracePeriodSeconds == 0
}

// RegisterVolumes adds the controller that protects volumes to a manager.
//
// Upstream: kubernetes pkg/controller/volume/pvprotection
func RegisterVolumes(m *harness.Manager) {
	s := m.Scope(harness.Identity{Name: "persistentvolume-protection-controller", Account: "pv-protection-controller", Source: "pv-protection-controller"})
	volumes := harness.StoreOf(s, client.PersistentVolumes)
	loop := harness.NewLoop(s, 1, func(ctx context.Context, name string) (time.Duration, error) {
		volume, ok := volumes.Get("", name)
		if !ok || volume.DeletionTimestamp != nil && volume.Status.Phase == corev1.VolumeBound {
			return 0, nil
		}
		return 0, settle(ctx, volumes, volume, volumeFinalizer)
	})
	harness.WatchSelf(loop, volumes)
}

// RegisterClasses adds the controller that protects the attributes that claims
// and volumes have, or are to have.
//
// Upstream: kubernetes pkg/controller/volume/vacprotection
func RegisterClasses(m *harness.Manager) {
	const name = "volumeattributesclass-protection-controller"
	s := m.Scope(harness.Identity{Name: name, Account: name, Source: name})
	classes, claims, volumes := harness.StoreOf(s, client.VolumeAttributesClasses), harness.StoreOf(s, client.PersistentVolumeClaims), harness.StoreOf(s, client.PersistentVolumes)
	loop := harness.NewLoop(s, 1, func(ctx context.Context, name string) (time.Duration, error) {
		class, ok := classes.Get("", name)
		if !ok || class.DeletionTimestamp != nil && (slices.ContainsFunc(claims.List(), func(c *corev1.PersistentVolumeClaim) bool { return slices.Contains(claimClasses(c), name) }) ||
			slices.ContainsFunc(volumes.List(), func(v *corev1.PersistentVolume) bool { return slices.Contains(volumeClasses(v), name) })) {
			return 0, nil
		}
		return 0, settle(ctx, classes, class, classFinalizer)
	})
	harness.WatchSelf(loop, classes)
	// Who has let go of a class may have been the last.
	harness.Watch(loop, claims, func(old, _ *corev1.PersistentVolumeClaim) []string { return claimClasses(old) })
	harness.Watch(loop, volumes, func(old, _ *corev1.PersistentVolume) []string { return volumeClasses(old) })
}

// claimClasses are those that a claim asks for, has, and is on its way to.
func claimClasses(claim *corev1.PersistentVolumeClaim) []string {
	if claim == nil {
		return nil
	}
	named := []*string{claim.Spec.VolumeAttributesClassName, claim.Status.CurrentVolumeAttributesClassName}
	if status := claim.Status.ModifyVolumeStatus; status != nil {
		named = append(named, &status.TargetVolumeAttributesClassName)
	}
	return given(named...)
}

func volumeClasses(volume *corev1.PersistentVolume) []string {
	if volume == nil {
		return nil
	}
	return given(volume.Spec.VolumeAttributesClassName)
}

func given(names ...*string) (out []string) {
	for _, name := range names {
		if name != nil && *name != "" {
			out = append(out, *name)
		}
	}
	return out
}

// settle puts the finalizer on what lives, which the server has done unless the
// object is older than that, and takes it off what is being deleted.
func settle[T client.Object](ctx context.Context, store *harness.Store[T], obj T, finalizer string) error {
	dying, has := obj.GetDeletionTimestamp() != nil, slices.Contains(obj.GetFinalizers(), finalizer)
	if dying != has {
		return nil
	}
	changed := obj.DeepCopyObject().(T)
	if dying {
		changed.SetFinalizers(slices.DeleteFunc(changed.GetFinalizers(), func(f string) bool { return f == finalizer }))
	} else {
		changed.SetFinalizers(append(changed.GetFinalizers(), finalizer))
	}
	_, err := store.Update(ctx, changed)
	return err
}
