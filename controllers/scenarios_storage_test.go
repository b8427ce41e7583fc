package controllers

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/api/claims"
	"tinykube/client"
)

// The part of the fault-pattern matrix that is about storage.

func volume(name, size string) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name, Finalizers: []string{"kubernetes.io/pv-protection"}}, Spec: corev1.PersistentVolumeSpec{
		Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
	}}
}

func claim(name, size string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Finalizers: []string{"kubernetes.io/pvc-protection"}}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: ptr(""),
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}},
	}}
}

// usingClaim is a pod that has a node already.
func usingClaim(name string, source corev1.VolumeSource) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: meta1(name), Spec: corev1.PodSpec{NodeName: "node-0", Containers: []corev1.Container{{Name: "c", Image: "v1"}},
		Volumes: []corev1.Volume{{Name: "data", VolumeSource: source}}}}
}

func claimSource(name string) corev1.VolumeSource {
	return corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}
}

// bound says whether claim and volume have found each other.
func (c *cluster) bound(claim, volume string) string {
	p, v := get(c, client.PersistentVolumeClaims, ns, claim), get(c, client.PersistentVolumes, "", volume)
	if p.Spec.VolumeName != volume || !claims.Bound(p) || p.Status.Phase != corev1.ClaimBound || v.Status.Phase != corev1.VolumeBound ||
		v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID != p.UID {
		return fmt.Sprintf("claim %s: volume %q, %s; volume %s: %s, %v", claim, p.Spec.VolumeName, p.Status.Phase, volume, v.Status.Phase, v.Spec.ClaimRef)
	}
	return ""
}

var storageScenarios = []scenario{
	{
		name: "persistentvolume-binder", controllers: []string{"persistentvolume-binder", "pvc-protection"},
		start: func(c *cluster) {
			// Of a class of their own, or b would take large if it comes before small.
			small, b := volume("small", "1Gi"), claim("b", "1Gi")
			small.Spec.StorageClassName, b.Spec.StorageClassName = "tiny", ptr("tiny")
			create(c, client.PersistentVolumes, small)
			create(c, client.PersistentVolumes, volume("large", "5Gi"))
			create(c, client.PersistentVolumeClaims, claim("a", "2Gi"))
			create(c, client.PersistentVolumeClaims, b)
			create(c, client.PersistentVolumeClaims, claim("c", "9Gi")) // for which there is none
		},
		change: func(c *cluster) {
			_ = client.For(c.client, client.PersistentVolumeClaims).Delete(c.t.Context(), ns, "a", metav1.DeleteOptions{})
		},
		wrong: func(c *cluster) string {
			left := list(c, client.PersistentVolumeClaims, ns)
			if v := get(c, client.PersistentVolumes, "", "large"); len(left) != 2 || v.Status.Phase != corev1.VolumeReleased {
				return fmt.Sprintf("%d claims, the volume is %s", len(left), v.Status.Phase)
			}
			if p := get(c, client.PersistentVolumeClaims, ns, "c"); p.Status.Phase != corev1.ClaimPending || p.Spec.VolumeName != "" {
				return fmt.Sprintf("claim c is %s, with volume %q", p.Status.Phase, p.Spec.VolumeName)
			}
			return c.bound("b", "small")
		},
	},
	{
		name: "protection of claims, volumes and classes", controllers: []string{"pvc-protection", "pv-protection", "volumeattributesclass-protection-controller"},
		start: func(c *cluster) {
			fast := claim("fast", "1Gi")
			fast.Spec.VolumeAttributesClassName = ptr("fast")
			create(c, client.PersistentVolumeClaims, fast)
			for _, name := range []string{"fast", "slow"} {
				create(c, client.VolumeAttributesClasses, &storagev1.VolumeAttributesClass{ObjectMeta: metav1.ObjectMeta{Name: name, Finalizers: []string{"kubernetes.io/vac-protection"}}, DriverName: "disks.example"})
			}
			create(c, client.PersistentVolumes, volume("old", "1Gi"))
			create(c, client.PersistentVolumeClaims, claim("a", "1Gi"))
			create(c, client.PersistentVolumeClaims, claim("b", "1Gi"))
			create(c, client.Pods, usingClaim("one", claimSource("a")))
			create(c, client.Pods, usingClaim("two", claimSource("b")))
		},
		change: func(c *cluster) {
			ctx, now := c.t.Context(), metav1.DeleteOptions{GracePeriodSeconds: new(int64)}
			_ = client.For(c.client, client.PersistentVolumes).Delete(ctx, "", "old", now)
			_ = client.For(c.client, client.VolumeAttributesClasses).Delete(ctx, "", "fast", now)
			_ = client.For(c.client, client.VolumeAttributesClasses).Delete(ctx, "", "slow", now)
			_ = client.For(c.client, client.PersistentVolumeClaims).Delete(ctx, ns, "a", now)
			_ = client.For(c.client, client.PersistentVolumeClaims).Delete(ctx, ns, "b", now)
			_ = client.For(c.client, client.Pods).Delete(ctx, ns, "one", now)
		},
		wrong: func(c *cluster) string {
			left := names(list(c, client.PersistentVolumeClaims, ns))
			if volumes := list(c, client.PersistentVolumes, ""); len(volumes) != 0 || fmt.Sprint(left) != "[b fast]" {
				return fmt.Sprintf("%d volumes and the claims %v are left, want only b, which is used, and fast", len(volumes), left)
			}
			if classes := names(list(c, client.VolumeAttributesClasses, "")); fmt.Sprint(classes) != "[fast]" {
				return fmt.Sprintf("the classes %v are left, want only fast, which is used", classes)
			}
			return ""
		},
	},
	{
		name: "ephemeral-volume", controllers: []string{"ephemeral-volume"},
		start: func(c *cluster) {
			template := &corev1.PersistentVolumeClaimTemplate{Spec: claim("", "1Gi").Spec}
			create(c, client.Pods, usingClaim("one", corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: template}}))
		},
		wrong: func(c *cluster) string {
			all := list(c, client.PersistentVolumeClaims, ns)
			if len(all) != 1 || all[0].Name != "one-data" || !metav1.IsControlledBy(all[0], get(c, client.Pods, ns, "one")) {
				return fmt.Sprintf("claims %v", names(all))
			}
			return ""
		},
		creates: map[string]int{"persistentvolumeclaims": 1},
	},
	{
		name: "persistentvolume-expander", controllers: []string{"persistentvolume-expander"},
		start: func(c *cluster) {
			data := claim("data", "1Gi")
			data.Spec.VolumeName = "disk"
			data.Status = corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound, Capacity: data.Spec.Resources.Requests.DeepCopy()}
			data = create(c, client.PersistentVolumeClaims, data)
			disk := volume("disk", "1Gi")
			disk.Spec.ClaimRef = &corev1.ObjectReference{Namespace: ns, Name: "data", UID: data.UID}
			create(c, client.PersistentVolumes, disk)
		},
		change: func(c *cluster) {
			change(c, client.PersistentVolumeClaims, ns, "data", func(p *corev1.PersistentVolumeClaim) {
				p.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse("2Gi")
			})
		},
		wrong: func(c *cluster) string {
			for _, e := range list(c, client.Events, ns) {
				if e.Reason == "ExternalExpanding" && e.InvolvedObject.Name == "data" && e.Message == "waiting for an external controller to expand this PVC" {
					return ""
				}
			}
			return "nobody says who enlarges the volume"
		},
	},
	{
		name: "attachdetach", controllers: []string{"attachdetach"}, nodes: 2,
		start: func(c *cluster) {
			disk := volume("disk", "1Gi")
			disk.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: "disks.example", VolumeHandle: "d1"}
			data := claim("data", "1Gi")
			data.Spec.VolumeName, data.Annotations = "disk", map[string]string{claims.BindCompleted: "yes"}
			data = create(c, client.PersistentVolumeClaims, data)
			disk.Spec.ClaimRef = &corev1.ObjectReference{Namespace: ns, Name: "data", UID: data.UID}
			create(c, client.PersistentVolumes, disk)
			create(c, client.Pods, usingClaim("one", claimSource("data")))
			c.background(c.playAttacher, 10*time.Minute)
		},
		change: func(c *cluster) {
			_ = client.For(c.client, client.Pods).Delete(c.t.Context(), ns, "one", metav1.DeleteOptions{GracePeriodSeconds: new(int64)})
			two := usingClaim("two", claimSource("data"))
			two.Spec.NodeName = "node-1"
			create(c, client.Pods, two)
		},
		wrong: func(c *cluster) string {
			attachments := list(c, client.VolumeAttachments, "")
			if len(attachments) != 1 || attachments[0].Spec.NodeName != "node-1" || !attachments[0].Status.Attached {
				return fmt.Sprintf("%d attachments: %v", len(attachments), names(attachments))
			}
			if zero, one := c.node("node-0").Status.VolumesAttached, c.node("node-1").Status.VolumesAttached; len(zero) != 0 || len(one) != 1 || one[0].Name != "kubernetes.io/csi/disks.example^d1" {
				return fmt.Sprintf("node-0 has %v, node-1 %v", zero, one)
			}
			return ""
		},
		creates: map[string]int{"volumeattachments": 2},
	},
}

// playAttacher is a driver's: what is asked for is attached a second later.
func (c *cluster) playAttacher() bool {
	time.Sleep(time.Second)
	attachments := client.For(c.client, client.VolumeAttachments)
	all, err := attachments.List(c.t.Context(), "", metav1.ListOptions{})
	if err != nil {
		return true
	}
	for _, a := range all.Items {
		if !a.Status.Attached && a.DeletionTimestamp == nil {
			a.Status.Attached = true
			_, _ = attachments.UpdateStatus(c.t.Context(), a)
		}
	}
	return true
}
