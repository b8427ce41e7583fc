package attachdetach

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var now = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func disk(name string, modes ...corev1.PersistentVolumeAccessMode) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{AccessModes: modes,
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "disks.example", VolumeHandle: "h-" + name}}}}
}

func attached(node, name string) *storagev1.VolumeAttachment {
	a := attachment(node, disk(name))
	a.Status.Attached = true
	return a
}

func node(isReady bool, inUse ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	if isReady {
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	}
	for _, name := range inUse {
		n.Status.VolumesInUse = append(n.Status.VolumesInUse, uniqueName(disk(name)))
		n.Status.VolumesAttached = append(n.Status.VolumesAttached, corev1.AttachedVolume{Name: uniqueName(disk(name))})
	}
	return n
}

func TestPlanNode(t *testing.T) {
	type attachments = []*storagev1.VolumeAttachment
	once, many := corev1.ReadWriteOnce, corev1.ReadWriteMany
	going := attached("n1", "a")
	going.DeletionTimestamp = &metav1.Time{Time: now}
	out := node(false, "a")
	out.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeOutOfService, Value: "nodeshutdown", Effect: corev1.TaintEffectNoExecute}}
	for name, test := range map[string]struct {
		node            *corev1.Node
		uses            []*corev1.PersistentVolume
		here, elsewhere attachments
		unwanted        time.Duration // for how long
		want            string
	}{
		"asked for":               {node: node(true), uses: []*corev1.PersistentVolume{disk("a", once)}, want: "attach a"},
		"not yet attached":        {node: node(true), uses: []*corev1.PersistentVolume{disk("a", once)}, here: attachments{attachment("n1", disk("a"))}, want: ""},
		"attached":                {node: node(true), uses: []*corev1.PersistentVolume{disk("a", once)}, here: attachments{attached("n1", "a")}, want: "report a"},
		"going, and wanted again": {node: node(true), uses: []*corev1.PersistentVolume{disk("a", once)}, here: attachments{going}, want: ""},
		"another node has it":     {node: node(true), uses: []*corev1.PersistentVolume{disk("a", once)}, elsewhere: attachments{attached("n2", "a")}, want: "blocked a"},
		"both may have it":        {node: node(true), uses: []*corev1.PersistentVolume{disk("a", many)}, elsewhere: attachments{attached("n2", "a")}, want: "attach a"},
		"not used any more":       {node: node(true), here: attachments{attached("n1", "a")}, want: "detach a"},
		"still mounted":           {node: node(true, "a"), here: attachments{attached("n1", "a")}, want: "report a again 6m0s"},
		"mounted, ready, late":    {node: node(true, "a"), here: attachments{attached("n1", "a")}, unwanted: time.Hour, want: "report a again 1m0s"},
		"mounted, silent":         {node: node(false, "a"), here: attachments{attached("n1", "a")}, unwanted: time.Minute, want: "report a again 5m0s"},
		"mounted, silent, late":   {node: node(false, "a"), here: attachments{attached("n1", "a")}, unwanted: 6 * time.Minute, want: "detach a"},
		"out of service":          {node: out, here: attachments{attached("n1", "a")}, want: "detach a"},
		"no such node":            {here: attachments{attached("n1", "a")}, want: "detach a"},
	} {
		v := view{name: "n1", node: test.node, here: test.here, elsewhere: test.elsewhere, now: now,
			since: func(*storagev1.VolumeAttachment) time.Time { return now.Add(-test.unwanted) }}
		for _, volume := range test.uses {
			v.uses = append(v.uses, use{volume: volume})
		}
		p := planNode(v)
		var got []string
		for _, a := range p.attached {
			got = append(got, "report "+strings.TrimPrefix(string(a.Name), "kubernetes.io/csi/disks.example^h-"))
		}
		for _, a := range p.detach {
			got = append(got, "detach "+source(a))
		}
		for _, a := range p.attach {
			got = append(got, "attach "+source(a))
		}
		for _, u := range p.blocked {
			got = append(got, "blocked "+u.volume.Name)
		}
		if p.again > 0 {
			got = append(got, fmt.Sprint("again ", p.again))
		}
		if text := strings.Join(got, " "); text != test.want {
			t.Errorf("%s: %q, want %q", name, text, test.want)
		}
	}
}

func TestMultiAttach(t *testing.T) {
	pod := func(namespace, name string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	}
	for want, users := range map[string][]*corev1.Pod{
		"Volume is already exclusively attached to one node and can't be attached to another": nil,
		"Volume is already used by pod(s) b, c":                                               {pod("x", "b"), pod("x", "c")},
		"Volume is already used by pod(s) b and 1 pod(s) in different namespaces":             {pod("x", "b"), pod("y", "c")},
		"Volume is already used by 2 pod(s) in different namespaces":                          {pod("z", "b"), pod("y", "c")},
	} {
		if got := multiAttach("pv", pod("x", "a"), users); got != `Multi-Attach error for volume "pv" `+want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
