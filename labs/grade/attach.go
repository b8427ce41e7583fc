package grade

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"tinykube/api/claims"
	"tinykube/client"
)

const attachedToNode = "what a pod uses is attached to its node, once"

// attachChecks are the second half of lab 22.
var attachChecks = []Check{
	{
		Name: attachedToNode, Points: 2, run: racked("attach", attachOnce),
		Hint: "used and not here: attachment(v.name, u.volume)",
	},
	{
		Name: "the node is told what is attached, when it is", Points: 2, Needs: []string{attachedToNode}, run: racked("told", toldWhenAttached),
		Hint: "a.Status.Attached; p.attached is all that the node is told, not only what is new",
	},
	{
		Name: "what no pod uses any more is detached", Points: 2, Needs: []string{attachedToNode}, run: racked("detach", detachUnused),
		Hint: "here and not used: p.detach",
	},
	{
		Name: "but not as long as the kubelet has it in use", Points: 2, Needs: []string{attachedToNode}, run: racked("mounted", notWhileMounted),
		Hint: "v.mounted says how long to wait; until then it is reported as it was",
	},
	{
		Name: "nobody waits for a node that is out of service", Points: 1, Needs: []string{attachedToNode}, run: racked("dead", outOfService),
		Hint: "v.mounted knows, status.volumesInUse alone does not",
	},
	{
		Name: "what one node has another does not get before it is given back", Points: 2, Needs: []string{attachedToNode}, run: racked("exclusive", oneAtATime),
		Hint: "v.elsewhere: p.blocked, unless shared",
	},
	{
		Name: "what may be shared is attached to both", Points: 1, Needs: []string{attachedToNode}, run: racked("shared", bothAtOnce),
		Hint: "shared",
	},
	{
		Name: "what is being detached is neither attached nor missing", Points: 2, Needs: []string{attachedToNode}, run: racked("going", going),
		Hint: "DeletionTimestamp: it is not reported, not deleted again, and not made before it is gone",
	},
}

// rack is a node, and pods on it with a volume each. The kubelet, the scheduler
// and the driver's attacher are the check.
type rack struct {
	*bench
	name        string // of the check, and of its first node
	nodes       *client.Resource[*corev1.Node]
	pods        *client.Resource[*corev1.Pod]
	attachments *client.Resource[*storagev1.VolumeAttachment]
	markers     int
}

const driverName = "check.csi.example.com"

func racked(name string, check func(context.Context, *rack) error) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		if !b.attaches {
			b.manager.command.Process.Kill()
			<-b.manager.ended
			if err := b.startManager(ctx, "manager-attaches", "--controllers=persistentvolume-attach-detach-controller"); err != nil {
				return err
			}
			b.attaches = true
		}
		r := &rack{b, name, client.For(b.straight, client.Nodes), client.For(b.straight, client.Pods), client.For(b.straight, client.VolumeAttachments), 0}
		if err := r.node(ctx, name); err != nil {
			return err
		}
		return check(ctx, r)
	}
}

func (r *rack) node(ctx context.Context, name string) error {
	_, err := r.nodes.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
	if err != nil {
		return err
	}
	_, err = r.nodes.Patch(ctx, "", name, types.StrategicMergePatchType, []byte(`{"status":{"conditions":[{"type":"Ready","status":"True","reason":"Check"}]}}`), "status")
	return err
}

// volume makes a claim with a volume, bound to each other.
func (r *rack) volume(ctx context.Context, name string, mode corev1.PersistentVolumeAccessMode) error {
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	_, err := client.For(r.straight, client.PersistentVolumes).Create(ctx, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{
		Capacity: size, AccessModes: []corev1.PersistentVolumeAccessMode{mode}, ClaimRef: &corev1.ObjectReference{Namespace: namespace, Name: name},
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: driverName, VolumeHandle: name}}}})
	if err != nil {
		return err
	}
	none := ""
	_, err = client.For(r.straight, client.PersistentVolumeClaims).Create(ctx, &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Annotations: map[string]string{claims.BindCompleted: "yes"}},
		Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &none, VolumeName: name, AccessModes: []corev1.PersistentVolumeAccessMode{mode},
			Resources: corev1.VolumeResourceRequirements{Requests: size}}})
	return err
}

// pod puts a pod with a volume on a node.
func (r *rack) pod(ctx context.Context, name, node, volume string) error {
	_, err := r.pods.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.PodSpec{NodeName: node,
		Containers: []corev1.Container{{Name: "c", Image: "i"}}, Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: volume}}}}}})
	return err
}

func (r *rack) ends(ctx context.Context, pod string) error {
	now := int64(0)
	return r.pods.Delete(ctx, namespace, pod, metav1.DeleteOptions{GracePeriodSeconds: &now})
}

// found are the attachments of a volume to a node.
func (r *rack) found(ctx context.Context, node, volume string) ([]*storagev1.VolumeAttachment, error) {
	all, err := r.attachments.List(ctx, "", metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all.Items, func(a *storagev1.VolumeAttachment) bool {
		return a.Spec.NodeName != node || a.Spec.Attacher != driverName || a.Spec.Source.PersistentVolumeName == nil || *a.Spec.Source.PersistentVolumeName != volume
	}), nil
}

// has waits until a volume is, or is not, to be attached to a node.
func (r *rack) has(ctx context.Context, node, volume string, want int) error {
	return r.until(ctx, func() error {
		found, err := r.found(ctx, node, volume)
		if err == nil && len(found) != want {
			err = fmt.Errorf("there are %d VolumeAttachments of %s to node %s, and should be %d", len(found), volume, node, want)
		}
		return err
	})
}

// attach says that the driver has attached a volume.
func (r *rack) attach(ctx context.Context, node, volume string) error {
	if err := r.has(ctx, node, volume, 1); err != nil {
		return err
	}
	found, err := r.found(ctx, node, volume)
	if err != nil {
		return err
	}
	_, err = r.attachments.Patch(ctx, "", found[0].Name, types.MergePatchType, []byte(`{"status":{"attached":true}}`), "status")
	return err
}

// says has the node's kubelet say what it has in use.
func (r *rack) says(ctx context.Context, node string, volumes ...string) error {
	quoted := []string{}
	for _, v := range volumes {
		quoted = append(quoted, fmt.Sprintf("%q", unique(v)))
	}
	_, err := r.nodes.Patch(ctx, "", node, types.MergePatchType, fmt.Appendf(nil, `{"status":{"volumesInUse":[%s]}}`, strings.Join(quoted, ",")), "status")
	return err
}

func unique(volume string) string { return "kubernetes.io/csi/" + driverName + "^" + volume }

// told waits until a node's status names just these volumes as attached.
func (r *rack) told(ctx context.Context, node string, want ...string) error {
	return r.until(ctx, func() error {
		n, err := r.nodes.Get(ctx, "", node)
		if err != nil {
			return err
		}
		var got []string
		for _, a := range n.Status.VolumesAttached {
			got = append(got, strings.TrimPrefix(string(a.Name), unique("")))
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			err = fmt.Errorf("status.volumesAttached of node %s is %v, and should be %v", node, got, want)
		}
		return err
	})
}

// used attaches a volume to a node for a pod, all the way.
func (r *rack) used(ctx context.Context, pod, node, volume string) error {
	if err := r.volume(ctx, volume, corev1.ReadWriteOnce); err != nil {
		return err
	}
	if err := r.pod(ctx, pod, node, volume); err != nil {
		return err
	}
	if err := r.says(ctx, node, volume); err != nil {
		return err
	}
	if err := r.attach(ctx, node, volume); err != nil {
		return err
	}
	return r.told(ctx, node, volume)
}

// settled waits until the manager has seen all that was done before, and has
// decided the node on it: a pod comes, and its volume goes the whole way, after
// which the node has it and these.
func (r *rack) settled(ctx context.Context, node string, also ...string) error {
	r.markers++
	marker := fmt.Sprintf("%s-marker-%d", r.name, r.markers)
	if err := r.volume(ctx, marker, corev1.ReadWriteOnce); err != nil {
		return err
	}
	if err := r.pod(ctx, marker, node, marker); err != nil {
		return err
	}
	if err := r.attach(ctx, node, marker); err != nil {
		return err
	}
	return r.told(ctx, node, append(also, marker)...)
}

func attachOnce(ctx context.Context, r *rack) error {
	if err := r.volume(ctx, "attach-data", corev1.ReadWriteOnce); err != nil {
		return err
	}
	for _, pod := range []string{"attach-a", "attach-b"} {
		if err := r.pod(ctx, pod, r.name, "attach-data"); err != nil {
			return err
		}
	}
	// A third pod, and by the time that its volume is asked for all is decided.
	if err := r.volume(ctx, "attach-more", corev1.ReadWriteOnce); err != nil {
		return err
	}
	if err := r.pod(ctx, "attach-c", r.name, "attach-more"); err != nil {
		return err
	}
	for _, volume := range []string{"attach-more", "attach-data"} {
		if err := r.has(ctx, r.name, volume, 1); err != nil {
			return err
		}
	}
	return nil
}

func toldWhenAttached(ctx context.Context, r *rack) error {
	if err := r.volume(ctx, "told-data", corev1.ReadWriteOnce); err != nil {
		return err
	}
	if err := r.pod(ctx, "told", r.name, "told-data"); err != nil {
		return err
	}
	if err := r.settled(ctx, r.name); err != nil {
		return fmt.Errorf("the driver has not attached told-data yet: %w", err)
	}
	if err := r.attach(ctx, r.name, "told-data"); err != nil {
		return err
	}
	return r.told(ctx, r.name, "told-data", "told-marker-1")
}

func detachUnused(ctx context.Context, r *rack) error {
	if err := r.used(ctx, "detach", r.name, "detach-data"); err != nil {
		return err
	}
	if err := r.says(ctx, r.name); err != nil {
		return err
	}
	if err := r.settled(ctx, r.name, "detach-data"); err != nil { // a pod uses it still
		return err
	}
	if err := r.ends(ctx, "detach"); err != nil {
		return err
	}
	if err := r.has(ctx, r.name, "detach-data", 0); err != nil {
		return err
	}
	return r.told(ctx, r.name, "detach-marker-1")
}

func notWhileMounted(ctx context.Context, r *rack) error {
	if err := r.used(ctx, "mounted", r.name, "mounted-data"); err != nil {
		return err
	}
	if err := r.ends(ctx, "mounted"); err != nil {
		return err
	}
	if err := r.settled(ctx, r.name, "mounted-data"); err != nil {
		return fmt.Errorf("the pod is gone, and the kubelet has not unmounted its volume: %w", err)
	}
	if err := r.has(ctx, r.name, "mounted-data", 1); err != nil {
		return err
	}
	if err := r.says(ctx, r.name); err != nil {
		return err
	}
	return r.has(ctx, r.name, "mounted-data", 0)
}

func outOfService(ctx context.Context, r *rack) error {
	if err := r.used(ctx, "dead", r.name, "dead-data"); err != nil {
		return err
	}
	if err := r.ends(ctx, "dead"); err != nil {
		return err
	}
	_, err := r.nodes.Patch(ctx, "", r.name, types.MergePatchType, []byte(`{"spec":{"taints":[{"key":"node.kubernetes.io/out-of-service","effect":"NoExecute"}]}}`))
	if err != nil {
		return err
	}
	return r.has(ctx, r.name, "dead-data", 0)
}

func oneAtATime(ctx context.Context, r *rack) error {
	if err := r.used(ctx, "exclusive-a", r.name, "exclusive-data"); err != nil {
		return err
	}
	if err := r.node(ctx, "exclusive-2"); err != nil {
		return err
	}
	if err := r.pod(ctx, "exclusive-b", "exclusive-2", "exclusive-data"); err != nil {
		return err
	}
	if err := r.settled(ctx, "exclusive-2"); err != nil {
		return err
	}
	if err := r.has(ctx, "exclusive-2", "exclusive-data", 0); err != nil {
		return err
	}
	if err := r.ends(ctx, "exclusive-a"); err != nil {
		return err
	}
	if err := r.says(ctx, r.name); err != nil {
		return err
	}
	return r.has(ctx, "exclusive-2", "exclusive-data", 1)
}

func bothAtOnce(ctx context.Context, r *rack) error {
	if err := r.node(ctx, "shared-2"); err != nil {
		return err
	}
	if err := r.volume(ctx, "shared-data", corev1.ReadWriteMany); err != nil {
		return err
	}
	for _, node := range []string{r.name, "shared-2"} {
		if err := r.pod(ctx, "on-"+node, node, "shared-data"); err != nil {
			return err
		}
		if err := r.attach(ctx, node, "shared-data"); err != nil {
			return err
		}
		if err := r.told(ctx, node, "shared-data"); err != nil {
			return err
		}
	}
	return nil
}

// going has an attacher that takes its time.
func going(ctx context.Context, r *rack) error {
	if err := r.used(ctx, "going", r.name, "going-data"); err != nil {
		return err
	}
	found, err := r.found(ctx, r.name, "going-data")
	if err != nil {
		return err
	}
	finalizers := func(list string) error {
		_, err := r.attachments.Patch(ctx, "", found[0].Name, types.MergePatchType, []byte(`{"metadata":{"finalizers":`+list+`}}`))
		return err
	}
	if err := finalizers(`["example.com/attacher"]`); err != nil {
		return err
	}
	if err := r.says(ctx, r.name); err != nil {
		return err
	}
	if err := r.ends(ctx, "going"); err != nil {
		return err
	}
	if err := r.until(ctx, func() error {
		a, err := r.attachments.Get(ctx, "", found[0].Name)
		if err == nil && a.DeletionTimestamp == nil {
			err = fmt.Errorf("no pod uses going-data, and it is not detached")
		}
		return err
	}); err != nil {
		return err
	}
	if err := r.settled(ctx, r.name); err != nil {
		return fmt.Errorf("going-data is being detached: %w", err)
	}
	if err := r.pod(ctx, "again", r.name, "going-data"); err != nil {
		return err
	}
	if err := r.settled(ctx, r.name, "going-marker-1"); err != nil {
		return fmt.Errorf("going-data is being detached, and a pod wants it again: %w", err)
	}
	deleted := len(r.wire.wrote("DELETE /apis/storage.k8s.io/v1/volumeattachments/" + found[0].Name))
	if deleted > 1 {
		return fmt.Errorf("going-data was detached %d times", deleted)
	}
	if err := finalizers("null"); err != nil {
		return err
	}
	return r.attach(ctx, r.name, "going-data")
}
