package journey

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
)

// pod follows a volume to a pod: the node, the attachment, the mount.
func (j *journey) pod(pod *corev1.Pod, v *corev1.PersistentVolume) {
	node := pod.Spec.NodeName
	if node == "" {
		j.say("pod %s", pod.Name)
		j.wait("node", "the scheduler to choose a node", j.unplaced(pod)...)
		j.later("attached", "mounted")
		return
	}
	j.say("pod %s, on %s", pod.Name, node)
	j.notes(j.silent(node))
	switch {
	case v.Spec.CSI == nil: // a folder of the node: there is nobody to ask
	case !j.registered(node, v.Spec.CSI.Driver):
		j.wait("driver", fmt.Sprintf("driver %s to be registered on %s (GetInfo and NodeGetInfo, by the kubelet)", v.Spec.CSI.Driver, node),
			fmt.Sprintf("CSINode %s names %s", node, j.drivers(node)))
		j.later("attached", "mounted")
		return
	case !j.attached(pod, v, node):
		j.later("mounted")
		return
	}
	j.mounted(pod, v)
}

// silent is a note about a node whose kubelet is not heard: who waits for it may
// wait for ever.
func (j *journey) silent(name string) []string {
	node := find(j.Nodes, name)
	if node == nil {
		return []string{"node " + name + ": there is none"}
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
			return []string{fmt.Sprintf("node %s is not ready: %s. If it never comes back, say so: kubectl taint node %s node.kubernetes.io/out-of-service=nodeshutdown:NoExecute", name, strings.TrimSuffix(c.Message, "."), name)}
		}
	}
	return nil
}

// unplaced is why the scheduler has not placed a pod, in its words.
func (j *journey) unplaced(pod *corev1.Pod) []string {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Message != "" {
			return []string{c.Reason + ": " + c.Message, "tinykube explain pod " + pod.Name + " -n " + pod.Namespace + " says more"}
		}
	}
	return []string{"the scheduler has not said anything yet: does it run?"}
}

// registered: the kubelet has written into CSINode that it knows the driver.
func (j *journey) registered(node, driver string) bool {
	n := find(j.CSINodes, node)
	return n != nil && slices.ContainsFunc(n.Spec.Drivers, func(d storagev1.CSINodeDriver) bool { return d.Name == driver })
}

func (j *journey) drivers(node string) string {
	n := find(j.CSINodes, node)
	if n == nil || len(n.Spec.Drivers) == 0 {
		return "no driver"
	}
	names := ""
	for _, d := range n.Spec.Drivers {
		names += " " + d.Name
	}
	return "only" + names
}

// attached follows the handshake of attach/detach controller, driver and kubelet.
func (j *journey) attached(pod *corev1.Pod, v *corev1.PersistentVolume, node string) bool {
	name := v.Spec.CSI.Driver
	if driver := find(j.Drivers, name); driver != nil && driver.Spec.AttachRequired != nil && !*driver.Spec.AttachRequired {
		j.pass("attached", "need not be: attachRequired of CSIDriver %s is false", name)
		return true
	}
	var here, elsewhere *storagev1.VolumeAttachment
	for _, a := range j.Attachments {
		switch {
		case source(a) != v.Name:
		case a.Spec.NodeName == node:
			here = a
		default:
			elsewhere = a
		}
	}
	switch {
	case here == nil && elsewhere != nil && !shared(v):
		j.detach(v, elsewhere, j.said(pod, "FailedAttachVolume")...)
	case here == nil:
		j.wait("attached", "a VolumeAttachment, which the attach/detach controller (kube-controller-manager) makes", j.said(pod, "FailedAttachVolume")...)
	case here.DeletionTimestamp != nil:
		j.detach(v, here)
	case !here.Status.Attached:
		var why []string
		if e := here.Status.AttachError; e != nil {
			why = append(why, "attachError: "+e.Message)
		}
		j.wait("attached", "ControllerPublishVolume, which the attacher says to driver "+name, append(why, "VolumeAttachment "+here.Name)...)
	default:
		return j.handedOver(v, node)
	}
	return false
}

// handedOver: node.status has to say that the volume is there, and that it is
// in use, before the kubelet does anything with it.
func (j *journey) handedOver(v *corev1.PersistentVolume, name string) bool {
	node := find(j.Nodes, name)
	if node == nil {
		j.wait("attached", "node "+name+": there is none")
		return false
	}
	unique := corev1.UniqueVolumeName("kubernetes.io/csi/" + v.Spec.CSI.Driver + "^" + v.Spec.CSI.VolumeHandle)
	switch {
	case !slices.Contains(node.Status.VolumesInUse, unique):
		j.wait("attached", "the kubelet of "+name+" to write status.volumesInUse: without that it may be detached again")
		return false
	case !slices.ContainsFunc(node.Status.VolumesAttached, func(a corev1.AttachedVolume) bool { return a.Name == unique }):
		j.wait("attached", "the attach/detach controller (kube-controller-manager) to write status.volumesAttached of node "+name)
		return false
	}
	j.pass("attached", "ControllerPublishVolume; the node's status names it as attached and in use")
	return true
}

// detach: nothing goes on before a node has let the volume go.
func (j *journey) detach(v *corev1.PersistentVolume, a *storagev1.VolumeAttachment, why ...string) {
	node := find(j.Nodes, a.Spec.NodeName)
	if e := a.Status.DetachError; e != nil {
		why = append(why, "detachError: "+e.Message)
	}
	unique := corev1.UniqueVolumeName("kubernetes.io/csi/" + v.Spec.CSI.Driver + "^" + v.Spec.CSI.VolumeHandle)
	if node != nil && slices.Contains(node.Status.VolumesInUse, unique) {
		j.wait("detached", "NodeUnpublishVolume and NodeUnstageVolume, which the kubelet of "+a.Spec.NodeName+" says to its driver (status.volumesInUse)", append(why, j.silent(a.Spec.NodeName)...)...)
		return
	}
	j.wait("detached", fmt.Sprintf("ControllerUnpublishVolume, which the attacher says to driver %s, for node %s", v.Spec.CSI.Driver, a.Spec.NodeName), why...)
}

// mounted is seen by what comes after it: a container runs only with all its
// volumes. Which of the two calls is missing only the kubelet's complaints say.
func (j *journey) mounted(pod *corev1.Pod, v *corev1.PersistentVolume) {
	started := slices.ContainsFunc(slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses), func(s corev1.ContainerStatus) bool {
		return s.State.Running != nil || s.State.Terminated != nil || s.LastTerminationState.Terminated != nil
	})
	staged, published := "NodeStageVolume and NodePublishVolume", "NodePublishVolume"
	if v.Spec.CSI == nil {
		staged, published = "the kubelet to find the folder", "the kubelet to find the folder"
	}
	failures := []string{"FailedMount", "FailedMapVolume"}
	complaint := j.event(pod, v.Name, failures...) // the last one about this volume
	switch {
	case started && pod.DeletionTimestamp != nil:
		j.pass("mounted", "and the pod is being deleted; when its containers have ended: NodeUnpublishVolume, NodeUnstageVolume")
		j.end = "It is still mounted: the pod is on its way out."
	case started:
		j.pass("mounted", "%s: the pod's containers have been started", staged)
		j.end = "It is mounted."
	case complaint != nil && strings.Contains(complaint.Message, "MountDevice"):
		j.wait("mounted", "NodeStageVolume, which the kubelet of "+pod.Spec.NodeName+" says to its driver", j.said(pod, failures...)...)
	case complaint != nil:
		j.wait("mounted", published+", which the kubelet of "+pod.Spec.NodeName+" says to its driver", j.said(pod, failures...)...)
	default:
		j.wait("mounted", staged+", which the kubelet of "+pod.Spec.NodeName+" says to its driver", append(j.said(pod, failures...), waitingFor(pod)...)...)
	}
}

// waitingFor is what the kubelet says that the containers wait for.
func waitingFor(pod *corev1.Pod) []string {
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if w := s.State.Waiting; w != nil {
			return []string{"container " + s.Name + ": " + w.Reason + " " + w.Message}
		}
	}
	return []string{"the kubelet has not said anything of the pod yet"}
}

func source(a *storagev1.VolumeAttachment) string {
	if a.Spec.Source.PersistentVolumeName == nil {
		return ""
	}
	return *a.Spec.Source.PersistentVolumeName
}

// shared: the volume may be attached to several nodes.
func shared(v *corev1.PersistentVolume) bool {
	return slices.Contains(v.Spec.AccessModes, corev1.ReadWriteMany) || slices.Contains(v.Spec.AccessModes, corev1.ReadOnlyMany)
}
