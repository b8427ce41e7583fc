package kubelet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"tinykube/client"
)

// annotationDriverNode is who the node is to each driver, as JSON: older
// attachers read it.
const annotationDriverNode = "csi.volume.kubernetes.io/nodeid"

// csiNodePeriod is how long a CSINode that somebody removed may be missing.
const csiNodePeriod = 30 * time.Second

// csiNode keeps what the API knows of the node's drivers: the CSINode, and the
// node's labels for topology, which scheduler and provisioners go by.
//
// Upstream: kubernetes@v1.36 pkg/volume/csi/nodeinfomanager.
type csiNode struct{ k *Kubelet }

// run makes the CSINode once there is a Node for it, and again whenever somebody
// removed it, as happens to that of a deleted Node.
//
// Simplified: it looks every half minute, where upstream writes a lost driver
// only when its registrar is started anew.
func (c csiNode) run(ctx context.Context) error {
	pause := 100 * time.Millisecond
	for first := true; ; {
		err := c.change(ctx, slices.Clone[[]storagev1.CSINodeDriver])
		for _, driver := range c.k.plugins.drivers() {
			if err == nil && !first {
				err = c.installIf(ctx, driver)
			}
		}
		if err != nil && ctx.Err() == nil {
			c.k.log.Debug("CSINode not written", "err", err)
			pause = min(2*pause, 10*time.Second)
		} else {
			first, pause = false, csiNodePeriod
		}
		if !wait(ctx, pause) {
			return nil
		}
	}
}

// installIf writes a driver that is still registered: it may go while we write.
func (c csiNode) installIf(ctx context.Context, driver csiDriver) error {
	if err := c.install(ctx, driver); err != nil {
		return err
	}
	if _, registered := c.k.plugins.endpoint(driver.name); !registered {
		return c.uninstall(ctx, driver.name)
	}
	return nil
}

// install adds a driver. The API server may be away for a moment.
func (c csiNode) install(ctx context.Context, driver csiDriver) error {
	if c.k.client == nil {
		return nil
	}
	return c.retry(ctx, func() error {
		if err := c.label(ctx, driver.name, driver.nodeID, driver.topology); err != nil {
			return fmt.Errorf("error updating Node object with CSI driver node info: %w", err)
		}
		if err := c.change(ctx, func(have []storagev1.CSINodeDriver) []storagev1.CSINodeDriver { return withDriver(have, driver) }); err != nil {
			return fmt.Errorf("error updating CSINode object with CSI driver node info: %w", err)
		}
		return nil
	})
}

// uninstall takes it out. Its topology labels stay: volumes are where they are.
func (c csiNode) uninstall(ctx context.Context, name string) error {
	if c.k.client == nil {
		return nil
	}
	return c.retry(ctx, func() error {
		if err := c.change(ctx, func(have []storagev1.CSINodeDriver) []storagev1.CSINodeDriver { return withoutDriver(have, name) }); err != nil {
			return fmt.Errorf("error uninstalling CSI driver from CSINode object %w", err)
		}
		return c.label(ctx, name, "", nil)
	})
}

func (c csiNode) retry(ctx context.Context, do func() error) (err error) {
	for pause := 50 * time.Millisecond; pause < 4*time.Second; pause *= 2 {
		if err = do(); err == nil || !wait(ctx, pause) {
			return err
		}
	}
	return err
}

// change writes the drivers of the CSINode, and makes it if there is none. One
// that belongs to a former Node of this name is replaced.
func (c csiNode) change(ctx context.Context, drivers func([]storagev1.CSINodeDriver) []storagev1.CSINodeDriver) error {
	node := c.k.registeredNode()
	if node == nil {
		return errors.New("the CSINode waits for the node")
	}
	nodes := client.For(c.k.client, client.CSINodes)
	have, err := nodes.Get(ctx, "", node.Name)
	if err == nil && !slices.ContainsFunc(have.OwnerReferences, func(o metav1.OwnerReference) bool { return o.UID == node.UID }) {
		if err := nodes.Delete(ctx, "", node.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		have, err = nil, apierrors.NewNotFound(storagev1.Resource("csinodes"), node.Name)
	}
	switch {
	case apierrors.IsNotFound(err):
		made := &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: node.Name, OwnerReferences: ownedBy(node)},
			Spec: storagev1.CSINodeSpec{Drivers: append([]storagev1.CSINodeDriver{}, drivers(nil)...)}}
		_, err = nodes.Create(ctx, made)
		return err
	case err != nil:
		return err
	}
	after := have.DeepCopy()
	after.Spec.Drivers = append([]storagev1.CSINodeDriver{}, drivers(have.Spec.Drivers)...)
	if equal(have.Spec.Drivers, after.Spec.Drivers) {
		return nil
	}
	_, err = nodes.Update(ctx, after)
	return err
}

// withDriver is the list with the driver as it is now. One that has not changed
// keeps its place.
func withDriver(have []storagev1.CSINodeDriver, driver csiDriver) []storagev1.CSINodeDriver {
	entry := storagev1.CSINodeDriver{Name: driver.name, NodeID: driver.nodeID, TopologyKeys: slices.Sorted(maps.Keys(driver.topology))}
	if driver.maxVolumes > 0 {
		count := int32(min(driver.maxVolumes, math.MaxInt32))
		entry.Allocatable = &storagev1.VolumeNodeResources{Count: &count}
	}
	for _, old := range have {
		if equal(old, entry) {
			return have
		}
	}
	return append(withoutDriver(have, driver.name), entry)
}

func withoutDriver(have []storagev1.CSINodeDriver, name string) []storagev1.CSINodeDriver {
	return slices.DeleteFunc(slices.Clone(have), func(d storagev1.CSINodeDriver) bool { return d.Name == name })
}

// label writes the Node's part: topology as labels, and the driver's name for
// the node.
func (c csiNode) label(ctx context.Context, driver, nodeID string, topology map[string]string) error {
	nodes := client.For(c.k.client, client.Nodes)
	node, err := nodes.Get(ctx, "", c.k.cfg.NodeName)
	if err != nil {
		return err
	}
	patch, err := labelPatch(node, driver, nodeID, topology)
	if err != nil || patch == nil {
		return err
	}
	_, err = nodes.Patch(ctx, "", node.Name, types.StrategicMergePatchType, patch)
	return err
}

// labelPatch is what differs, or nil. A driver cannot move a node.
func labelPatch(node *corev1.Node, driver, nodeID string, topology map[string]string) ([]byte, error) {
	labels := map[string]string{}
	for key, value := range topology {
		switch has, found := node.Labels[key]; {
		case found && has != value:
			return nil, fmt.Errorf("detected topology value collision: driver reported %q:%q but existing label is %q:%q", key, value, key, has)
		case !found:
			labels[key] = value
		}
	}
	ids := map[string]string{}
	if old := node.Annotations[annotationDriverNode]; old != "" {
		if err := json.Unmarshal([]byte(old), &ids); err != nil {
			return nil, fmt.Errorf("annotation %s: %w", annotationDriverNode, err)
		}
	}
	same := ids[driver] == nodeID
	if ids[driver] = nodeID; nodeID == "" {
		delete(ids, driver)
	}
	if len(labels) == 0 && same {
		return nil, nil
	}
	raw, err := json.Marshal(ids)
	if err != nil {
		return nil, err
	}
	annotation := any(string(raw))
	if len(ids) == 0 {
		annotation = nil // removes it
	}
	return json.Marshal(map[string]any{"metadata": map[string]any{"labels": labels, "annotations": map[string]any{annotationDriverNode: annotation}}})
}
