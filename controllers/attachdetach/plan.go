package attachdetach

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// patience is how long a silent node may keep what it has mounted.
//
// Upstream: pkg/controller/volume/attachdetach ReconcilerMaxWaitForUnmountDuration
const patience = 6 * time.Minute

// use is a volume that pods of a node use.
type use struct {
	volume *corev1.PersistentVolume
	pods   []*corev1.Pod
}

// view is what a node is decided on.
type view struct {
	name string
	node *corev1.Node // nil if there is none of that name any more
	uses []use
	// here are the node's attachments; elsewhere are others' of the same volumes.
	here, elsewhere []*storagev1.VolumeAttachment
	// since is when an attachment was first not wanted any more.
	since func(a *storagev1.VolumeAttachment) time.Time
	now   time.Time
}

// plan is what is to be done for a node, in this order.
type plan struct {
	// attached is node.status.volumesAttached.
	attached []corev1.AttachedVolume
	detach   []*storagev1.VolumeAttachment
	attach   []*storagev1.VolumeAttachment
	// blocked are uses of volumes that another node has.
	blocked []use
	// again is when to look again, zero for not before something changes.
	again time.Duration
}

// planNode compares what a node's pods use with what is attached to it.
//
// Upstream: kubernetes pkg/controller/volume/attachdetach/reconciler.
//
// LAB 22 attach: twice a comparison. What is used and not here is to be attached,
// or is blocked by another node (shared, find); what is here, not being deleted,
// and attached is to be reported, by its uniqueName. What is here and not used
// goes; but as long as mounted tells to wait it is reported as it was (reported),
// and looked at again.
func planNode(v view) (p plan) {
	for _, u := range v.uses {
		switch a := find(v.here, u.volume.Name); {
		case a == nil && !shared(u.volume) && find(v.elsewhere, u.volume.Name) != nil:
			p.blocked = append(p.blocked, u)
		case a == nil:
			p.attach = append(p.attach, attachment(v.name, u.volume))
		case a.DeletionTimestamp == nil && a.Status.Attached:
			p.attached = append(p.attached, corev1.AttachedVolume{Name: uniqueName(u.volume), DevicePath: a.Status.AttachmentMetadata["devicePath"]})
		}
	}
	for _, a := range v.here {
		name := source(a)
		if slices.ContainsFunc(v.uses, func(u use) bool { return u.volume.Name == name }) || a.DeletionTimestamp != nil {
			continue
		}
		if wait := v.mounted(a); wait > 0 {
			p.again = cmp.Or(min(p.again, wait), wait)
			p.attached = append(p.attached, v.reported(a)...)
			continue
		}
		p.detach = append(p.detach, a)
	}
	slices.SortFunc(p.attached, func(a, b corev1.AttachedVolume) int { return cmp.Compare(a.Name, b.Name) })
	return p
}

// mounted says how long to wait until the kubelet has let go of a volume; 0 if
// it has, or nobody waits for it any more.
func (v view) mounted(a *storagev1.VolumeAttachment) time.Duration {
	if v.node == nil || outOfService(v.node) || !slices.ContainsFunc(v.node.Status.VolumesInUse, func(name corev1.UniqueVolumeName) bool { return is(name, a) }) {
		return 0
	}
	left := v.since(a).Add(patience).Sub(v.now)
	if ready(v.node) { // it will say so itself, whenever that is
		return max(left, time.Minute)
	}
	return max(left, 0)
}

// reported is what the node's status says of an attachment, kept as it is.
func (v view) reported(a *storagev1.VolumeAttachment) []corev1.AttachedVolume {
	for _, attached := range v.node.Status.VolumesAttached {
		if is(attached.Name, a) {
			return []corev1.AttachedVolume{attached}
		}
	}
	return nil
}

func ready(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

func outOfService(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

// shared: the volume may be on several nodes at once. One whose access modes
// are not known is left to the driver to refuse.
func shared(volume *corev1.PersistentVolume) bool {
	return len(volume.Spec.AccessModes) == 0 || slices.ContainsFunc(volume.Spec.AccessModes, func(m corev1.PersistentVolumeAccessMode) bool {
		return m == corev1.ReadWriteMany || m == corev1.ReadOnlyMany
	})
}

func source(a *storagev1.VolumeAttachment) string {
	if a.Spec.Source.PersistentVolumeName == nil {
		return ""
	}
	return *a.Spec.Source.PersistentVolumeName
}

func find(attachments []*storagev1.VolumeAttachment, volume string) *storagev1.VolumeAttachment {
	for _, a := range attachments {
		if source(a) == volume {
			return a
		}
	}
	return nil
}

// uniqueName is how kubelet and controllers call a driver's volume.
func uniqueName(volume *corev1.PersistentVolume) corev1.UniqueVolumeName {
	return corev1.UniqueVolumeName("kubernetes.io/csi/" + volume.Spec.CSI.Driver + "^" + volume.Spec.CSI.VolumeHandle)
}

// is says whether a unique name is that of an attachment's volume. The volume
// may be gone, so the name is compared by what the attachment's name is made of.
func is(name corev1.UniqueVolumeName, a *storagev1.VolumeAttachment) bool {
	rest, isCSI := strings.CutPrefix(string(name), "kubernetes.io/csi/"+a.Spec.Attacher+"^")
	return isCSI && attachmentName(rest, a.Spec.Attacher, a.Spec.NodeName) == a.Name
}

// attachmentName is known to drivers' sidecars and the kubelet, which looks for
// it by name.
//
// Upstream: kubernetes pkg/volume/csi getAttachmentName
func attachmentName(handle, driver, node string) string {
	sum := sha256.Sum256([]byte(handle + driver + node))
	return "csi-" + hex.EncodeToString(sum[:])
}

func attachment(node string, volume *corev1.PersistentVolume) *storagev1.VolumeAttachment {
	name := volume.Name
	return &storagev1.VolumeAttachment{
		ObjectMeta: metav1.ObjectMeta{Name: attachmentName(volume.Spec.CSI.VolumeHandle, volume.Spec.CSI.Driver, node)},
		Spec: storagev1.VolumeAttachmentSpec{Attacher: volume.Spec.CSI.Driver, NodeName: node,
			Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &name}},
	}
}

// multiAttach is what the user of a volume that another node has is told. Names
// of other namespaces' pods are not shown.
func multiAttach(volume string, pod *corev1.Pod, users []*corev1.Pod) string {
	var names []string
	others := 0
	for _, user := range users {
		if user.Namespace == pod.Namespace {
			names = append(names, user.Name)
		} else {
			others++
		}
	}
	text := fmt.Sprintf("Multi-Attach error for volume %q ", volume)
	switch {
	case len(users) == 0:
		return text + "Volume is already exclusively attached to one node and can't be attached to another"
	case len(names) == 0:
		return text + fmt.Sprintf("Volume is already used by %d pod(s) in different namespaces", others)
	case others == 0:
		return text + "Volume is already used by pod(s) " + strings.Join(names, ", ")
	}
	return text + fmt.Sprintf("Volume is already used by pod(s) %s and %d pod(s) in different namespaces", strings.Join(names, ", "), others)
}
