package scheduler

import (
	"context"
	"log/slog"
	"sync"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"tinykube/client"
	"tinykube/scheduler/framework"
)

// Indexes: volumes by class, attachments by node.
const (
	byClass = "class"
	byNode  = "node"
)

// storage watches what the volume plugins want to know, and does what they
// want to have done before a pod is bound.
type storage struct {
	api         *client.Client
	claims      *client.Informer[*corev1.PersistentVolumeClaim]
	volumes     *client.Informer[*corev1.PersistentVolume]
	classes     *client.Informer[*storagev1.StorageClass]
	csiNodes    *client.Informer[*storagev1.CSINode]
	drivers     *client.Informer[*storagev1.CSIDriver]
	capacities  *client.Informer[*storagev1.CSIStorageCapacity]
	attachments *client.Informer[*storagev1.VolumeAttachment]

	mu      sync.Mutex    // guards changed
	changed chan struct{} // closed, and replaced, when a claim or volume changes
}

func newStorage(api *client.Client, log *slog.Logger) *storage {
	return &storage{
		api:    api,
		claims: informer(api, client.PersistentVolumeClaims, log),
		volumes: client.NewInformer(client.For(api, client.PersistentVolumes), client.InformerOptions[*corev1.PersistentVolume]{Logger: log,
			Indexers: map[string]func(*corev1.PersistentVolume) []string{byClass: func(v *corev1.PersistentVolume) []string { return []string{v.Spec.StorageClassName} }}}),
		classes:    informer(api, client.StorageClasses, log),
		csiNodes:   informer(api, client.CSINodes, log),
		drivers:    informer(api, client.CSIDrivers, log),
		capacities: informer(api, client.CSIStorageCapacities, log),
		attachments: client.NewInformer(client.For(api, client.VolumeAttachments), client.InformerOptions[*storagev1.VolumeAttachment]{Logger: log,
			Indexers: map[string]func(*storagev1.VolumeAttachment) []string{byNode: func(a *storagev1.VolumeAttachment) []string { return []string{a.Spec.NodeName} }}}),
		changed: make(chan struct{}),
	}
}

// Run watches until ctx ends.
func (s *storage) Run(ctx context.Context) error {
	return together(ctx, s.claims.Run, s.volumes.Run, s.classes.Run, s.csiNodes.Run, s.drivers.Run, s.capacities.Run, s.attachments.Run)
}

// Synced are closed once everything has been seen.
func (s *storage) Synced() []<-chan struct{} {
	return []<-chan struct{}{s.claims.Synced(), s.volumes.Synced(), s.classes.Synced(), s.csiNodes.Synced(), s.drivers.Synced(), s.capacities.Synced(), s.attachments.Synced()}
}

// onChange tells of every change which may help a pod.
func (s *storage) onChange(happened func(framework.Event)) {
	s.claims.OnChange(func(old, new *corev1.PersistentVolumeClaim) {
		s.tell()
		happened(change(old, new, framework.ClaimAdd, framework.ClaimUpdate, 0))
	})
	s.volumes.OnChange(func(old, new *corev1.PersistentVolume) {
		s.tell()
		happened(change(old, new, framework.VolumeAdd, framework.VolumeUpdate, 0))
	})
	s.classes.OnChange(func(old, new *storagev1.StorageClass) {
		happened(change(old, new, framework.ClassAdd, framework.ClassUpdate, 0))
	})
	s.csiNodes.OnChange(func(old, new *storagev1.CSINode) {
		happened(change(old, new, framework.CSINodeAdd, framework.CSINodeUpdate, 0))
	})
	s.drivers.OnChange(func(old, new *storagev1.CSIDriver) { happened(change(old, new, 0, framework.CSIDriverUpdate, 0)) })
	s.capacities.OnChange(func(old, new *storagev1.CSIStorageCapacity) {
		happened(change(old, new, framework.CapacityAdd, framework.CapacityUpdate, 0))
	})
	s.attachments.OnChange(func(old, new *storagev1.VolumeAttachment) {
		happened(change(old, new, 0, 0, framework.AttachmentDelete))
	})
}

func change[T comparable](old, new T, added, updated, deleted framework.Action) framework.Event {
	var none T
	switch none {
	case old:
		return framework.Event{Action: added, New: new}
	case new:
		return framework.Event{Action: deleted, Old: old}
	}
	return framework.Event{Action: updated, Old: old, New: new}
}

func (s *storage) tell() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
}

// Await is for framework.VolumeWriter.
func (s *storage) Await(ctx context.Context, done func() (bool, error)) error {
	for {
		s.mu.Lock()
		changed := s.changed // from before the look, so that nothing is missed
		s.mu.Unlock()
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// UpdateVolume is for framework.VolumeWriter.
func (s *storage) UpdateVolume(ctx context.Context, volume *corev1.PersistentVolume) (string, error) {
	updated, err := client.For(s.api, client.PersistentVolumes).Update(ctx, volume)
	if err != nil {
		return "", err
	}
	return updated.ResourceVersion, nil
}

// UpdateClaim is for framework.VolumeWriter.
func (s *storage) UpdateClaim(ctx context.Context, claim *corev1.PersistentVolumeClaim) (string, error) {
	updated, err := client.For(s.api, client.PersistentVolumeClaims).Update(ctx, claim)
	if err != nil {
		return "", err
	}
	return updated.ResourceVersion, nil
}

// get returns nil, and not a typed zero, for what is not there.
func get[T client.Object](i *client.Informer[T], key string) T {
	object, _ := i.Get(key)
	return object
}

// Claim is for framework.Storage.
func (s *storage) Claim(namespace, name string) *corev1.PersistentVolumeClaim {
	return get(s.claims, namespace+"/"+name)
}

// Volume is for framework.Storage.
func (s *storage) Volume(name string) *corev1.PersistentVolume { return get(s.volumes, name) }

// VolumesOfClass is for framework.Storage.
func (s *storage) VolumesOfClass(class string) []*corev1.PersistentVolume {
	return s.volumes.ByIndex(byClass, class)
}

// StorageClass is for framework.Storage.
func (s *storage) StorageClass(name string) *storagev1.StorageClass { return get(s.classes, name) }

// CSINode is for framework.Storage.
func (s *storage) CSINode(node string) *storagev1.CSINode { return get(s.csiNodes, node) }

// CSIDriver is for framework.Storage.
func (s *storage) CSIDriver(name string) *storagev1.CSIDriver { return get(s.drivers, name) }

// StorageCapacities is for framework.Storage.
func (s *storage) StorageCapacities() []*storagev1.CSIStorageCapacity { return s.capacities.List() }

// Attachments is for framework.Storage.
func (s *storage) Attachments(node string) []*storagev1.VolumeAttachment {
	return s.attachments.ByIndex(byNode, node)
}
