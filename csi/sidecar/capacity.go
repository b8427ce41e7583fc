package sidecar

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"

	"tinykube/api/claims"
	"tinykube/client"
)

// CapacityConfig says whether, how often and in whose name capacities are
// published. The zero value is: not at all.
type CapacityConfig struct {
	Namespace string        // of the objects: the pod's own
	Period    time.Duration // how often the driver is asked
	Immediate bool          // also for classes whose volumes do not wait for a pod
	Owner     *metav1.OwnerReference
}

// capacityLabels mark our objects, as upstream's does.
func (s *Sidecar) capacityLabels() map[string]string {
	manager := "external-provisioner"
	if s.cfg.Node != "" {
		if manager += "-" + s.cfg.Node; len(manager) > validation.LabelValueMaxLength {
			sum := sha256.Sum256([]byte(manager))
			manager = manager[:validation.LabelValueMaxLength-9] + "-" + hex.EncodeToString(sum[:4])
		}
	}
	return map[string]string{"csi.storage.k8s.io/drivername": s.driver.name, "csi.storage.k8s.io/managed-by": manager}
}

// capacities tells the scheduler how much room there is, for each place where
// the driver has volumes and each class of it:
//
//	nodes' topology × StorageClass ──▶ GetCapacity ──▶ CSIStorageCapacity ──▶ scheduler's VolumeBinding
//
// All of it is one key: a look at everything, which is made again when anything
// has changed, and now and then, since others may use the same disks.
//
// Upstream: kubernetes-csi/external-provisioner pkg/capacity
func (s *Sidecar) capacities() *loop {
	l := s.loop("capacity", nil)
	l.do = func(ctx context.Context, key string) error {
		if err := s.publishCapacities(ctx); err != nil {
			return err
		}
		l.queue.AddAfter(key, s.cfg.Capacity.Period)
		return nil
	}
	look := func() { l.queue.Add("all") }
	s.roomChanged = look
	s.classes.OnChange(func(_, _ *storagev1.StorageClass) { look() })
	s.csiNodes.OnChange(func(_, _ *storagev1.CSINode) { look() })
	// A volume that came or went has changed the room.
	s.volumes.OnChange(func(old, new *corev1.PersistentVolume) {
		if old == nil || new == nil {
			look()
		}
	})
	return l
}

func (s *Sidecar) publishCapacities(ctx context.Context) error {
	wanted, err := s.wantedCapacities(ctx)
	if err != nil {
		return err
	}
	api := client.For(s.api, client.CSIStorageCapacities)
	have, err := api.List(ctx, s.cfg.Capacity.Namespace, metav1.ListOptions{LabelSelector: labels.SelectorFromSet(s.capacityLabels()).String()})
	if err != nil {
		return fmt.Errorf("what capacities are published: %w", err)
	}
	for _, old := range have.Items {
		now := wanted[old.Name]
		delete(wanted, old.Name)
		switch {
		case now == nil: // its class, or the last node of its place, is gone
			err = ignoreNotFound(api.Delete(ctx, old.Namespace, old.Name, metav1.DeleteOptions{}))
		case !equality.Semantic.DeepEqual(old.Capacity, now.Capacity) || !equality.Semantic.DeepEqual(old.MaximumVolumeSize, now.MaximumVolumeSize):
			changed := old.DeepCopy()
			changed.Capacity, changed.MaximumVolumeSize = now.Capacity, now.MaximumVolumeSize
			_, err = patch(ctx, s, client.CSIStorageCapacities, old, changed)
		}
		if err != nil {
			return fmt.Errorf("capacity %s: %w", old.Name, err)
		}
	}
	for name, made := range wanted {
		if _, err := api.Create(ctx, made); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("capacity %s: %w", name, err)
		}
	}
	return nil
}

// wantedCapacities asks the driver for each place and class. Objects are named
// after what they are about, so that nobody makes two of one.
func (s *Sidecar) wantedCapacities(ctx context.Context) (map[string]*storagev1.CSIStorageCapacity, error) {
	places := map[string]map[string]string{}
	for _, node := range s.csiNodes.List() {
		if s.cfg.Node != "" && s.cfg.Node != node.Name {
			continue
		}
		if segments, err := s.segments(node.Name); err == nil { // else the driver does not run there, or not yet
			places[fmt.Sprint(segments)] = segments
		}
	}
	wanted := map[string]*storagev1.CSIStorageCapacity{}
	for _, class := range s.classes.List() {
		if class.Provisioner != s.driver.name || !s.cfg.Capacity.Immediate && !claims.WaitsForPod(class) {
			continue
		}
		for _, place := range slices.Sorted(maps.Keys(places)) {
			segments := places[place]
			answer, err := s.room(ctx, class, segments)
			if err != nil {
				return nil, err
			}
			sum := sha256.Sum256([]byte(s.driver.name + "/" + class.Name + "/" + place))
			made := &storagev1.CSIStorageCapacity{
				ObjectMeta:   metav1.ObjectMeta{Namespace: s.cfg.Capacity.Namespace, Name: "csisc-" + hex.EncodeToString(sum[:8]), Labels: s.capacityLabels()},
				NodeTopology: &metav1.LabelSelector{MatchLabels: segments}, StorageClassName: class.Name,
				Capacity: resource.NewQuantity(answer.AvailableCapacity, resource.BinarySI),
			}
			if answer.MaximumVolumeSize != nil {
				made.MaximumVolumeSize = resource.NewQuantity(answer.MaximumVolumeSize.Value, resource.BinarySI)
			}
			if owner := s.cfg.Capacity.Owner; owner != nil {
				made.OwnerReferences = []metav1.OwnerReference{*owner}
			}
			wanted[made.Name] = made
		}
	}
	return wanted, nil
}
