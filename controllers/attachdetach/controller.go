package attachdetach

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"tinykube/api/claims"
	"tinykube/client"
	"tinykube/controllers/harness"
)

type controller struct {
	*harness.Scope
	nodes       *harness.Store[*corev1.Node]
	pods        *harness.Store[*corev1.Pod]
	claims      *harness.Store[*corev1.PersistentVolumeClaim]
	volumes     *harness.Store[*corev1.PersistentVolume]
	drivers     *harness.Store[*storagev1.CSIDriver]
	attachments *harness.Store[*storagev1.VolumeAttachment]

	mu       sync.Mutex // guards unwanted
	unwanted map[types.UID]time.Time
}

// Register adds the controller to a manager. Its keys are names of nodes.
func Register(m *harness.Manager) {
	s := m.Scope(harness.Identity{Name: "persistentvolume-attach-detach-controller", Account: "attachdetach-controller", Source: "attachdetach-controller"})
	c := &controller{
		Scope: s, nodes: harness.StoreOf(s, client.Nodes), pods: harness.StoreOf(s, client.Pods), claims: harness.StoreOf(s, client.PersistentVolumeClaims),
		volumes: harness.StoreOf(s, client.PersistentVolumes), drivers: harness.StoreOf(s, client.CSIDrivers),
		attachments: harness.StoreOf(s, client.VolumeAttachments), unwanted: map[types.UID]time.Time{},
	}
	loop := harness.NewLoop(s, 4, c.reconcile)
	harness.Watch(loop, c.pods, func(old, new *corev1.Pod) (nodes []string) {
		for _, pod := range []*corev1.Pod{old, new} {
			if pod != nil && pod.Spec.NodeName != "" && len(claims.Names(pod)) > 0 {
				nodes = append(nodes, pod.Spec.NodeName)
			}
		}
		return nodes
	})
	harness.Watch(loop, c.attachments, func(old, new *storagev1.VolumeAttachment) []string {
		if new != nil {
			return []string{new.Spec.NodeName}
		}
		c.mu.Lock()
		delete(c.unwanted, old.UID)
		c.mu.Unlock()
		return append(c.users(source(old)), old.Spec.NodeName) // somebody may have waited for it
	})
	harness.Watch(loop, c.nodes, func(old, new *corev1.Node) []string {
		if old != nil && new != nil && equality.Semantic.DeepEqual(old.Status.VolumesInUse, new.Status.VolumesInUse) &&
			equality.Semantic.DeepEqual(old.Status.VolumesAttached, new.Status.VolumesAttached) && outOfService(old) == outOfService(new) && ready(old) == ready(new) {
			return nil
		}
		if new == nil {
			return []string{old.Name}
		}
		return []string{new.Name}
	})
	harness.Watch(loop, c.claims, func(_, new *corev1.PersistentVolumeClaim) []string {
		if new == nil || !claims.Bound(new) {
			return nil
		}
		return c.users(new.Spec.VolumeName)
	})
	// A volume may be heard of after the claim and the pod that lead to it.
	harness.Watch(loop, c.volumes, func(old, new *corev1.PersistentVolume) []string {
		if new == nil || old != nil && equality.Semantic.DeepEqual(old.Spec.ClaimRef, new.Spec.ClaimRef) {
			return nil
		}
		return c.users(new.Name)
	})
}

// users are the nodes whose pods use a volume.
func (c *controller) users(volume string) (nodes []string) {
	for _, pod := range c.pods.List() {
		if pod.Spec.NodeName != "" && slices.ContainsFunc(c.volumesOf(pod), func(v *corev1.PersistentVolume) bool { return v.Name == volume }) {
			nodes = append(nodes, pod.Spec.NodeName)
		}
	}
	return nodes
}

// volumesOf are the volumes behind a pod's claims that have to be attached.
func (c *controller) volumesOf(pod *corev1.Pod) (found []*corev1.PersistentVolume) {
	for _, name := range claims.Names(pod) {
		claim, ok := c.claims.Get(pod.Namespace, name)
		if !ok || !claims.Bound(claim) {
			continue
		}
		volume, ok := c.volumes.Get("", claim.Spec.VolumeName)
		if !ok || volume.Spec.CSI == nil || !claims.Promised(volume, claim) {
			continue
		}
		// A driver that has not said so has to be asked; one that is not known may
		// say so yet, but until then this is what the kubelet believes as well.
		if driver, known := c.drivers.Get("", volume.Spec.CSI.Driver); known && driver.Spec.AttachRequired != nil && !*driver.Spec.AttachRequired {
			continue
		}
		found = append(found, volume)
	}
	return found
}

// uses lists what a node's pods use. A pod that has ended needs nothing; when
// its volumes are free the kubelet says by volumesInUse.
func (c *controller) uses(node string) (uses []use) {
	for _, pod := range c.pods.ByIndex(harness.ByNode, node) {
		if ended(pod) {
			continue
		}
		for _, volume := range c.volumesOf(pod) {
			i := slices.IndexFunc(uses, func(u use) bool { return u.volume.Name == volume.Name })
			if i < 0 {
				i = len(uses)
				uses = append(uses, use{volume: volume})
			}
			uses[i].pods = append(uses[i].pods, pod)
		}
	}
	return uses
}

// ended says whether none of a pod's containers runs, and none will.
//
// Upstream: kubernetes pkg/volume/util IsPodTerminated
func ended(pod *corev1.Pod) bool {
	if harness.IsFinished(pod) {
		return true
	}
	return pod.DeletionTimestamp != nil && !slices.ContainsFunc(
		slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses),
		func(s corev1.ContainerStatus) bool { return s.State.Terminated == nil && s.State.Waiting == nil })
}

func (c *controller) reconcile(ctx context.Context, name string) (time.Duration, error) {
	v := view{name: name, uses: c.uses(name), since: c.since, now: time.Now()}
	v.node, _ = c.nodes.Get("", name)
	for _, a := range c.attachments.List() {
		if a.Spec.NodeName == name {
			v.here = append(v.here, a)
		} else {
			v.elsewhere = append(v.elsewhere, a)
		}
	}
	c.note(v)
	p := planNode(v)
	// First the node is told that something will go, then it goes.
	if err := c.report(ctx, v.node, p.attached); err != nil {
		return 0, err
	}
	for _, a := range p.detach {
		if err := c.attachments.Delete(ctx, a, metav1.DeleteOptions{}); err != nil {
			return 0, fmt.Errorf("detach %s from %s: %w", source(a), name, err)
		}
	}
	for _, u := range p.blocked {
		for _, pod := range u.pods {
			c.Events.Event(pod, corev1.EventTypeWarning, "FailedAttachVolume", "%s", multiAttach(u.volume.Name, pod, c.rivals(u.volume.Name, name)))
		}
	}
	return p.again, c.attach(ctx, v, p)
}

func (c *controller) attach(ctx context.Context, v view, p plan) error {
	var errs []error
	for _, a := range p.attach {
		if v.node == nil {
			continue
		}
		if _, err := c.attachments.Create(ctx, a); err != nil && !apierrors.IsAlreadyExists(err) {
			errs = append(errs, fmt.Errorf("attach %s to %s: %w", source(a), v.name, err))
		}
	}
	return errors.Join(errs...)
}

// rivals are the pods that use a volume on other nodes.
func (c *controller) rivals(volume, node string) (pods []*corev1.Pod) {
	for _, pod := range c.pods.List() {
		if pod.Spec.NodeName != "" && pod.Spec.NodeName != node && !ended(pod) &&
			slices.ContainsFunc(c.volumesOf(pod), func(v *corev1.PersistentVolume) bool { return v.Name == volume }) {
			pods = append(pods, pod)
		}
	}
	return pods
}

// report writes node.status.volumesAttached, and events for what is new there.
func (c *controller) report(ctx context.Context, node *corev1.Node, attached []corev1.AttachedVolume) error {
	if node == nil || equality.Semantic.DeepEqual(node.Status.VolumesAttached, attached) {
		return nil
	}
	changed := node.DeepCopy()
	changed.Status.VolumesAttached = attached
	if _, err := c.nodes.UpdateStatus(ctx, changed); err != nil {
		return fmt.Errorf("tell node %s what is attached: %w", node.Name, err)
	}
	for _, u := range c.uses(node.Name) {
		has := func(a corev1.AttachedVolume) bool { return a.Name == uniqueName(u.volume) }
		if slices.ContainsFunc(attached, has) && !slices.ContainsFunc(node.Status.VolumesAttached, has) {
			for _, pod := range u.pods {
				c.Events.Event(pod, corev1.EventTypeNormal, "SuccessfulAttachVolume", "AttachVolume.Attach succeeded for volume %q ", u.volume.Name)
			}
		}
	}
	return nil
}

// note remembers since when each of a node's attachments is not wanted. It is
// lost with the process, which only makes the wait for a silent node longer.
func (c *controller) note(v view) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range v.here {
		if slices.ContainsFunc(v.uses, func(u use) bool { return u.volume.Name == source(a) }) || a.DeletionTimestamp != nil {
			delete(c.unwanted, a.UID)
		} else if _, noted := c.unwanted[a.UID]; !noted {
			c.unwanted[a.UID] = v.now
		}
	}
}

func (c *controller) since(a *storagev1.VolumeAttachment) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.unwanted[a.UID]
}
