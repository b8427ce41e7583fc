package volumebinder

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/api/claims"
)

type change[T any] func(T)

func volume(name, size string, changes ...change[*corev1.PersistentVolume]) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{
		Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
	}, Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable}}
	for _, c := range changes {
		c(v)
	}
	return v
}

func claim(changes ...change[*corev1.PersistentVolumeClaim]) *corev1.PersistentVolumeClaim {
	none := ""
	p := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "data", UID: "u1", Annotations: map[string]string{}}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: &none,
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")}},
	}}
	for _, c := range changes {
		c(p)
	}
	return p
}

func ofClass(name string) change[*corev1.PersistentVolumeClaim] {
	return func(p *corev1.PersistentVolumeClaim) { p.Spec.StorageClassName = &name }
}

func annotated(key, value string) change[*corev1.PersistentVolumeClaim] {
	return func(p *corev1.PersistentVolumeClaim) { p.Annotations[key] = value }
}

func named(volume string) change[*corev1.PersistentVolumeClaim] {
	return func(p *corev1.PersistentVolumeClaim) { p.Spec.VolumeName = volume }
}

func TestPlanClaim(t *testing.T) {
	many := func(v *corev1.PersistentVolume) {
		v.Spec.AccessModes = append(v.Spec.AccessModes, corev1.ReadWriteMany)
	}
	mine := func(v *corev1.PersistentVolume) {
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "shop", Name: "data", UID: "u1"}
	}
	reserved := func(v *corev1.PersistentVolume) {
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "shop", Name: "data"}
	}
	others := func(v *corev1.PersistentVolume) {
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "shop", Name: "other", UID: "u2"}
	}
	predecessors := func(v *corev1.PersistentVolume) {
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "shop", Name: "data", UID: "u0"}
	}
	block := func(v *corev1.PersistentVolume) { mode := corev1.PersistentVolumeBlock; v.Spec.VolumeMode = &mode }
	released := func(v *corev1.PersistentVolume) { v.Status.Phase = corev1.VolumeReleased }
	fast := func(v *corev1.PersistentVolume) { v.Spec.StorageClassName = "fast" }
	noClass := func(p *corev1.PersistentVolumeClaim) { p.Spec.StorageClassName = nil }
	ssd := func(p *corev1.PersistentVolumeClaim) {
		p.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"disk": "ssd"}}
	}
	waits := storagev1.VolumeBindingWaitForFirstConsumer
	classes := []*storagev1.StorageClass{
		{ObjectMeta: metav1.ObjectMeta{Name: "fast"}, Provisioner: "hostpath.csi.k8s.io"},
		{ObjectMeta: metav1.ObjectMeta{Name: "late"}, Provisioner: "hostpath.csi.k8s.io", VolumeBindingMode: &waits},
		{ObjectMeta: metav1.ObjectMeta{Name: "by-hand"}, Provisioner: claims.NoProvisioner},
	}
	standard := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "standard", Annotations: map[string]string{claims.DefaultClass: "true"}}}
	type volumes = []*corev1.PersistentVolume
	for name, test := range map[string]struct {
		claim   *corev1.PersistentVolumeClaim
		volumes volumes
		classes []*storagev1.StorageClass
		pods    []string
		want    string
	}{
		"smallest that fits":           {claim: claim(), volumes: volumes{volume("tiny", "1Gi"), volume("huge", "9Gi"), volume("right", "3Gi")}, want: "bind right"},
		"what can do more comes later": {claim: claim(), volumes: volumes{volume("shared", "2Gi", many), volume("own", "5Gi")}, want: "bind own"},
		"reserved before all":          {claim: claim(), volumes: volumes{volume("right", "2Gi"), volume("reserved", "9Gi", reserved)}, want: "bind reserved"},
		"half bound goes on":           {claim: claim(), volumes: volumes{volume("right", "2Gi"), volume("begun", "9Gi", mine)}, want: "bind begun"},
		"nobody else's":                {claim: claim(), volumes: volumes{volume("a", "2Gi", others), volume("b", "2Gi", predecessors), volume("c", "2Gi", released), volume("d", "2Gi", block)}, want: "Pending FailedBinding"},
		"of its class only":            {claim: claim(ofClass("fast")), volumes: volumes{volume("plain", "2Gi"), volume("quick", "4Gi", fast)}, want: "bind quick"},
		"labels":                       {claim: claim(ssd), volumes: volumes{volume("plain", "2Gi")}, want: "Pending FailedBinding"},
		"a driver is asked":            {claim: claim(ofClass("fast")), want: "Pending ExternalProvisioning hostpath.csi.k8s.io"},
		"no such class":                {claim: claim(ofClass("nope")), want: "Pending ProvisioningFailed"},
		"nobody provisions":            {claim: claim(ofClass("by-hand")), want: "Pending ProvisioningFailed"},
		"waits for a pod":              {claim: claim(ofClass("late")), want: "Pending WaitForFirstConsumer"},
		"waits for its pod's node":     {claim: claim(ofClass("late")), pods: []string{"web"}, want: "Pending WaitForPodScheduled"},
		"the node is known":            {claim: claim(ofClass("late"), annotated(claims.SelectedNode, "n1")), want: "Pending ExternalProvisioning hostpath.csi.k8s.io"},
		"the default class":            {claim: claim(noClass), classes: []*storagev1.StorageClass{standard}, want: "class standard"},
		"no default class":             {claim: claim(noClass), want: "Pending FailedBinding"},
		"asked for by name":            {claim: claim(named("big")), volumes: volumes{volume("right", "2Gi"), volume("big", "9Gi")}, want: "bind big"},
		"by name, too small":           {claim: claim(named("tiny")), volumes: volumes{volume("tiny", "1Gi")}, want: "Pending VolumeMismatch"},
		"by name, taken":               {claim: claim(named("a")), volumes: volumes{volume("a", "2Gi", others)}, want: "Pending FailedBinding"},
		"by name, not there":           {claim: claim(named("a")), want: "Pending"},
		"bound":                        {claim: claim(named("a"), annotated(claims.BindCompleted, "yes")), volumes: volumes{volume("a", "2Gi", mine)}, want: "bind a"},
		"its volume is gone":           {claim: claim(named("a"), annotated(claims.BindCompleted, "yes")), want: "Lost ClaimLost"},
		"its volume is another's":      {claim: claim(named("a"), annotated(claims.BindCompleted, "yes")), volumes: volumes{volume("a", "2Gi", others)}, want: "Lost ClaimMisbound"},
	} {
		plan := planClaim(test.claim, world{volumes: test.volumes, classes: append(test.classes, classes...), waiting: test.pods})
		got := string(plan.phase)
		if plan.event != nil {
			got += " " + plan.event.reason
		}
		if plan.provisioner != "" {
			got += " " + plan.provisioner
		}
		if plan.bind != nil {
			got = "bind " + plan.bind.Name
		}
		if plan.class != "" {
			got = "class " + plan.class
		}
		if got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
}

func TestPlanVolume(t *testing.T) {
	ours := func(v *corev1.PersistentVolume) {
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "shop", Name: "data", UID: "u1"}
	}
	deletes := func(v *corev1.PersistentVolume) {
		v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimDelete
	}
	made := func(v *corev1.PersistentVolume) {
		v.Annotations = map[string]string{claims.ProvisionedBy: "hostpath.csi.k8s.io"}
		v.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: "hostpath.csi.k8s.io"}
	}
	recycles := func(v *corev1.PersistentVolume) {
		v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRecycle
	}
	for name, test := range map[string]struct {
		volume *corev1.PersistentVolume
		claim  *corev1.PersistentVolumeClaim
		want   string
	}{
		"new":                       {volume: volume("a", "1Gi"), want: "Available"},
		"reserved":                  {volume: volume("a", "1Gi", func(v *corev1.PersistentVolume) { v.Spec.ClaimRef = &corev1.ObjectReference{Name: "data"} }), want: "Available"},
		"bound":                     {volume: volume("a", "1Gi", ours), claim: claim(named("a")), want: "Bound"},
		"half bound":                {volume: volume("a", "1Gi", ours), claim: claim(), want: "look"},
		"claim took another":        {volume: volume("a", "1Gi", ours), claim: claim(named("b")), want: "Available unbind"},
		"made for it, not needed":   {volume: volume("a", "1Gi", ours, made, deletes), claim: claim(named("b")), want: "Released"},
		"claim gone":                {volume: volume("a", "1Gi", ours), want: "Released"},
		"claim gone, driver's":      {volume: volume("a", "1Gi", ours, made, deletes), want: "Released"},
		"claim gone, nobody's":      {volume: volume("a", "1Gi", ours, deletes), want: "Failed VolumeFailedDelete"},
		"claim gone, to be emptied": {volume: volume("a", "1Gi", ours, recycles), want: "Failed VolumeFailedRecycle"},
	} {
		plan := planVolume(test.volume, test.claim)
		got := string(plan.phase)
		if plan.unbind {
			got += " unbind"
		}
		if plan.look {
			got += "look"
		}
		if plan.event != nil {
			got += fmt.Sprint(" ", plan.event.reason)
		}
		if got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
}
