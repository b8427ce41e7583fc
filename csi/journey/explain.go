package journey

import (
	"fmt"
	"io"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"tinykube/api/claims"
)

// Explain prints where a claim stands, and what it waits for.
func Explain(out io.Writer, w *World, namespace, name string) error {
	j := &journey{World: w}
	switch {
	case w.Claim != nil:
		j.claim()
	case j.leftover(namespace, name):
	default:
		return fmt.Errorf("persistentvolumeclaims %q not found in namespace %q", name, namespace)
	}
	_, err := io.WriteString(out, strings.Join(j.lines, "\n")+"\n\n"+j.verdict()+"\n")
	return err
}

// journey is what has been found out.
type journey struct {
	*World
	lines []string
	// waits is the first call, or write, that is missing; end is where the way
	// leads to if none is.
	waits, end string
}

// Signs of a station: passed, reached and not passed, not reached.
const (
	passed  = "✓"
	reached = "▸"
	ahead   = "·"
)

func (j *journey) say(format string, args ...any) {
	j.lines = append(j.lines, fmt.Sprintf(format, args...))
}

// pass says that a station has been passed.
func (j *journey) pass(station, format string, args ...any) {
	j.say("%s %-9s %s", passed, station, fmt.Sprintf(format, args...))
}

// wait says that a station has been reached, what has to happen there, and
// what is known of why it has not.
func (j *journey) wait(station, what string, why ...string) {
	j.say("%s %-9s waits for %s", reached, station, what)
	j.notes(why)
	if j.waits == "" {
		j.waits = what
	}
}

func (j *journey) notes(notes []string) {
	for _, note := range notes {
		j.say("  %-9s %s", "", note)
	}
}

// later names the stations that come after one that was not passed.
func (j *journey) later(stations ...string) {
	for _, station := range stations {
		j.say("%s %s", ahead, station)
	}
}

func (j *journey) verdict() string {
	if j.waits != "" {
		return "It waits for " + j.waits + "."
	}
	return j.end
}

// claim follows a claim from its class to its pods.
func (j *journey) claim() {
	c := j.Claim
	text := fmt.Sprintf("claim %s/%s: %s, wants %s %s %s", c.Namespace, c.Name, orNone(string(c.Status.Phase)),
		c.Spec.Resources.Requests.Storage(), modes(c.Spec.AccessModes), claims.Mode(c.Spec.VolumeMode))
	if from := c.Spec.DataSource; from != nil {
		text += fmt.Sprintf(", as a copy of %s %s", from.Kind, from.Name)
	}
	j.say("%s", text)
	if c.DeletionTimestamp != nil {
		j.deletion()
	}
	class := find(j.Classes, claims.Class(c))
	j.class(class)
	volume := j.bound(class)
	if volume == nil {
		return
	}
	users := j.users(false)
	if len(users) == 0 {
		j.end = "It is bound, and no pod uses it."
	}
	for _, pod := range users {
		j.pod(pod, volume)
	}
	j.resize(volume)
}

// users are the pods that use the claim and have not ended; placed ones, or all.
func (j *journey) users(placed bool) (users []*corev1.Pod) {
	for _, pod := range j.Pods {
		if !placed && (pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed) || placed && pod.Spec.NodeName == "" {
			continue
		}
		if slices.Contains(claims.Names(pod), j.Claim.Name) {
			users = append(users, pod)
		}
	}
	return users
}

// deletion says who holds a claim that is to go. A pod that has ended holds it
// as well, as long as it is there.
func (j *journey) deletion() {
	for _, finalizer := range j.Claim.Finalizers {
		switch finalizer {
		case "kubernetes.io/pvc-protection":
			var names []string
			for _, pod := range j.users(true) {
				names = append(names, pod.Name)
			}
			if len(names) > 0 {
				j.wait("deleted", "the end of "+plural("pod", names)+" "+strings.Join(names, ", "), "finalizer "+finalizer+": no claim goes while a pod uses it")
			} else {
				j.wait("deleted", "pvc-protection (kube-controller-manager) to take its finalizer "+finalizer+" off: no pod uses it")
			}
		case "snapshot.storage.kubernetes.io/pvc-as-source-protection":
			j.wait("deleted", "the snapshot controller to take its finalizer "+finalizer+" off, when no snapshot is being made of it any more")
		case "provisioner.storage.kubernetes.io/cloning-protection":
			j.wait("deleted", "the provisioner to take its finalizer "+finalizer+" off, when no copy is being made of it any more")
		default:
			j.wait("deleted", "whoever has put the finalizer "+finalizer+" there")
		}
	}
	j.notes(j.said(j.Claim, "DeletionBlocked"))
}

func (j *journey) class(class *storagev1.StorageClass) {
	name := claims.Class(j.Claim)
	switch {
	case class != nil:
		mode, policy := storagev1.VolumeBindingImmediate, corev1.PersistentVolumeReclaimDelete
		if class.VolumeBindingMode != nil {
			mode = *class.VolumeBindingMode
		}
		if class.ReclaimPolicy != nil {
			policy = *class.ReclaimPolicy
		}
		j.pass("class", "%s: provisioner %s, %s, %s", name, class.Provisioner, mode, policy)
	case name != "":
		j.say("%s %-9s %s: no such StorageClass, so nobody makes a volume; one of that class may be made by hand", reached, "class", name)
	case j.Claim.Spec.StorageClassName == nil && !claims.Bound(j.Claim):
		j.say("%s %-9s none is named, and none is the default one", reached, "class")
	default:
		j.pass("class", "none: only a volume that somebody has made by hand will do")
	}
}

// bound follows a claim to its volume, which it returns if both are bound.
func (j *journey) bound(class *storagev1.StorageClass) *corev1.PersistentVolume {
	c := j.Claim
	rest := []string{"bound", "attached", "mounted"}
	volume := j.volumeOf(c.Namespace, c.Name, string(c.UID))
	switch {
	case claims.Bound(c):
		return j.stillBound()
	case volume != nil:
		j.volume(volume)
		j.wait("bound", "the binder (kube-controller-manager) to write volumeName and pv.kubernetes.io/bind-completed into the claim", j.said(c, "VolumeMismatch", "FailedBinding")...)
		j.later(rest[1:]...)
		return nil
	case c.Spec.VolumeName != "":
		j.wait("volume", "volume "+c.Spec.VolumeName+", which the claim names, to be there and fit", j.unfit(c.Spec.VolumeName)...)
	case claims.WaitsForPod(class) && c.Annotations[claims.SelectedNode] == "":
		j.consumer()
		rest = append([]string{"volume"}, rest...)
	case class == nil || strings.HasPrefix(class.Provisioner, "kubernetes.io/"):
		j.wait("volume", "a volume that fits, which nobody makes but you", j.unfit("")...)
	case c.Annotations[claims.Provisioner] == "" && c.Annotations[claims.BetaProvisioner] == "":
		j.wait("volume", "the binder (persistentvolume-binder of kube-controller-manager) to ask the provisioner, by the annotation "+claims.Provisioner)
	default:
		j.provisioner(class)
	}
	j.later(rest...)
	return nil
}

// consumer: a volume is made where a pod will be, so a pod must be placed first.
func (j *journey) consumer() {
	users := j.users(false)
	if len(users) == 0 {
		j.wait("node", "a pod that uses it: class "+claims.Class(j.Claim)+" is WaitForFirstConsumer")
		return
	}
	pod := users[0]
	if pod.Spec.NodeName != "" {
		j.wait("node", "the scheduler to write "+claims.SelectedNode+", which it will not do",
			fmt.Sprintf("pod %s was given node %s by hand (spec.nodeName), so the scheduler has nothing to do with it", pod.Name, pod.Spec.NodeName))
		return
	}
	why := append(j.unplaced(pod), j.said(j.Claim, "ProvisioningFailed")...)
	for _, capacity := range j.Capacities {
		if capacity.StorageClassName == claims.Class(j.Claim) {
			why = append(why, fmt.Sprintf("room at %s: %s, at most %s for one volume", metav1.FormatLabelSelector(capacity.NodeTopology), orUnknown(capacity.Capacity), orUnknown(capacity.MaximumVolumeSize)))
		}
	}
	j.wait("node", fmt.Sprintf("the scheduler to choose a node for pod %s, and write %s", pod.Name, claims.SelectedNode), why...)
}

func orUnknown(size *resource.Quantity) string {
	if size == nil {
		return "not said"
	}
	return size.String()
}

// source says what has to happen to what the claim is to be a copy of; "" if
// nothing has.
func (j *journey) source() (what string, why []string) {
	from := j.Claim.Spec.DataSource
	switch {
	case from == nil:
		return "", nil
	case from.Kind == "PersistentVolumeClaim" && j.SourceClaim == nil, from.Kind == snapshots.Kind && j.SourceSnapshot == nil:
		return fmt.Sprintf("%s %s, of which it is to be a copy, to be made", from.Kind, from.Name), []string{"there is none of that name in namespace " + j.Claim.Namespace}
	case j.SourceClaim != nil && !claims.Bound(j.SourceClaim):
		return "claim " + from.Name + ", of which it is to be a copy, to be bound", []string{"tinykube explain pvc " + from.Name + " -n " + j.Claim.Namespace + " says more"}
	case j.SourceSnapshot != nil:
		if ready, _, _ := unstructured.NestedBool(j.SourceSnapshot.Object, "status", "readyToUse"); ready {
			return "", nil
		}
		if message, has, _ := unstructured.NestedString(j.SourceSnapshot.Object, "status", "error", "message"); has {
			why = append(why, "VolumeSnapshot "+from.Name+": "+message)
		} else if content, _, _ := unstructured.NestedString(j.SourceSnapshot.Object, "status", "boundVolumeSnapshotContentName"); content == "" {
			why = append(why, "it has no VolumeSnapshotContent yet: does the snapshot controller run?")
		}
		return "VolumeSnapshot " + from.Name + " to be ready (CreateSnapshot, which the snapshotter says to its driver)", why
	}
	return "", nil
}

func (j *journey) provisioner(class *storagev1.StorageClass) {
	c := j.Claim
	node := c.Annotations[claims.SelectedNode]
	switch {
	case node != "" && claims.WaitsForPod(class):
		j.pass("node", "%s, chosen by the scheduler (%s)", node, claims.SelectedNode)
	case node != "":
		j.pass("node", "%s, whose provisioner has taken it (%s)", node, claims.SelectedNode)
	}
	if what, why := j.source(); what != "" {
		j.wait("source", what, why...)
		j.later("volume")
		return
	}
	why := j.said(c, "ProvisioningFailed", "Provisioning")
	if len(why) == 0 {
		why = append(why, "the provisioner has not said anything yet: does it run? (csi-provisioner, beside the driver)")
	}
	if node != "" && !j.registered(node, class.Provisioner) {
		why = append(why, fmt.Sprintf("CSINode %s does not name the driver: it is not registered there", node))
	} else if !slices.ContainsFunc(j.CSINodes, func(n *storagev1.CSINode) bool { return j.registered(n.Name, class.Provisioner) }) {
		why = append(why, "no CSINode names the driver: it is registered on no node")
	}
	if len(class.AllowedTopologies) > 0 {
		why = append(why, fmt.Sprintf("class %s allows only certain places (allowedTopologies)", class.Name))
	}
	j.wait("volume", fmt.Sprintf("CreateVolume, which the provisioner says to driver %s", class.Provisioner), why...)
}

// stillBound looks whether what was bound still is.
func (j *journey) stillBound() *corev1.PersistentVolume {
	volume := find(j.Volumes, j.Claim.Spec.VolumeName)
	switch {
	case volume == nil:
		j.lost("volume", "volume "+j.Claim.Spec.VolumeName+" is gone")
		return nil
	case volume.Spec.ClaimRef == nil || volume.Spec.ClaimRef.UID != j.Claim.UID:
		j.volume(volume)
		j.lost("bound", "volume "+volume.Name+" is another claim's by now")
		return nil
	}
	j.volume(volume)
	j.pass("bound", "both name each other")
	return volume
}

// lost: the binder never looks for another volume, which would have other data.
func (j *journey) lost(station, why string) {
	j.say("%s %-9s %s", reached, station, why)
	j.end = "It waits for nothing any more: a claim that has lost its volume is Lost for good. Delete it, and make another."
}

func (j *journey) volume(v *corev1.PersistentVolume) {
	what := "made by hand"
	if v.Spec.CSI != nil {
		what = "driver " + v.Spec.CSI.Driver + ", " + v.Spec.CSI.VolumeHandle
	}
	j.pass("volume", "%s: %s %s, %s", v.Name, v.Spec.Capacity.Storage(), modes(v.Spec.AccessModes), what)
	if place := reachableFrom(v); place != "" {
		j.notes([]string{"reachable from nodes with " + place})
	}
}

// volumeOf is the volume that names a claim.
func (j *journey) volumeOf(namespace, name, uid string) *corev1.PersistentVolume {
	for _, v := range j.Volumes {
		if ref := v.Spec.ClaimRef; ref != nil && ref.Namespace == namespace && ref.Name == name && (uid == "" || ref.UID == "" || string(ref.UID) == uid) {
			return v
		}
	}
	return nil
}

// resize says how far a claim is that has asked for more than it has.
func (j *journey) resize(volume *corev1.PersistentVolume) {
	asked, has := j.Claim.Spec.Resources.Requests.Storage(), j.Claim.Status.Capacity.Storage()
	if asked.Cmp(*has) <= 0 {
		return
	}
	var why []string
	for _, c := range j.Claim.Status.Conditions {
		if c.Status == corev1.ConditionTrue && c.Message != "" {
			why = append(why, string(c.Type)+": "+c.Message)
		}
	}
	why = append(why, j.said(j.Claim, "VolumeResizeFailed", "ExternalExpanding")...)
	if volume.Spec.Capacity.Storage().Cmp(*asked) < 0 {
		what := "somebody to enlarge it: it has no driver that could"
		if volume.Spec.CSI != nil {
			what = "ControllerExpandVolume, which the resizer says to driver " + volume.Spec.CSI.Driver
		}
		j.wait("larger", fmt.Sprintf("%s (it has %s)", what, has), why...)
		return
	}
	for _, pod := range j.users(true) {
		why = append(why, j.said(pod, "VolumeResizeFailed")...)
	}
	j.wait("larger", fmt.Sprintf("NodeExpandVolume, which the kubelet says where a pod uses it (the volume has %s, the claim %s)", volume.Spec.Capacity.Storage(), has), why...)
}

// leftover follows the volume of a claim that is gone.
func (j *journey) leftover(namespace, name string) bool {
	v := j.volumeOf(namespace, name, "")
	if v == nil {
		return false
	}
	j.say("claim %s/%s: gone", namespace, name)
	j.volume(v)
	at := slices.IndexFunc(j.Attachments, func(a *storagev1.VolumeAttachment) bool { return source(a) == v.Name })
	switch {
	case v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRetain:
		j.end = fmt.Sprintf("Its volume is kept (%s): nobody deletes it, and nobody else gets it unless you take spec.claimRef away.", v.Spec.PersistentVolumeReclaimPolicy)
	case v.Spec.CSI == nil:
		j.wait("deleted", "you: no driver has made it, so none deletes it", j.said(v, "VolumeFailedDelete", "VolumeFailedRecycle")...)
	case v.Status.Phase != corev1.VolumeReleased && v.Status.Phase != corev1.VolumeFailed:
		j.wait("deleted", "the binder (kube-controller-manager) to release the volume")
	case at >= 0:
		j.detach(v, j.Attachments[at])
	default:
		j.wait("deleted", "DeleteVolume, which the provisioner says to driver "+v.Spec.CSI.Driver, j.said(v, "VolumeFailedDelete")...)
	}
	return true
}

func orNone(text string) string {
	if text == "" {
		return "no phase yet"
	}
	return text
}

func plural(word string, all []string) string {
	if len(all) == 1 {
		return word
	}
	return word + "s"
}
