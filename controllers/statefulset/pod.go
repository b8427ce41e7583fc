package statefulset

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"tinykube/client"
	"tinykube/controllers/harness"
)

// revisionLabel of a pod holds the name of the revision it was made of;
// hashLabel of a revision holds its hash.
const (
	revisionLabel = appsv1.StatefulSetRevisionLabel // controller-revision-hash
	hashLabel     = "controller.kubernetes.io/hash"
)

func podName(set *appsv1.StatefulSet, ordinal int) string {
	return fmt.Sprintf("%s-%d", set.Name, ordinal)
}

// newPod makes the pod of an ordinal. Its host name and subdomain are what
// makes web-0.web.default.svc.cluster.local resolve.
func (s snapshot) newPod(ordinal int) *corev1.Pod {
	revision := s.revisionFor(ordinal)
	pod := harness.NewPod(s.set, client.StatefulSets.GVK(), revision.template)
	pod.GenerateName = s.set.Name + "-"
	s.identify(pod, ordinal)
	pod.Labels[revisionLabel] = revision.name
	pod.Spec.Hostname, pod.Spec.Subdomain = pod.Name, s.set.Spec.ServiceName
	return pod
}

// identify gives a pod what makes it this ordinal's: name, labels, claims.
func (s snapshot) identify(pod *corev1.Pod, ordinal int) {
	pod.Name = podName(s.set, ordinal)
	pod.Labels = maps.Clone(pod.Labels)
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	pod.Labels[appsv1.StatefulSetPodNameLabel] = pod.Name
	pod.Labels[appsv1.PodIndexLabel] = strconv.Itoa(ordinal)
	var volumes []corev1.Volume
	for _, template := range s.set.Spec.VolumeClaimTemplates {
		volumes = append(volumes, corev1.Volume{Name: template.Name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claimName(s.set, template.Name, ordinal)},
		}})
	}
	for _, volume := range pod.Spec.Volumes {
		if !slices.ContainsFunc(volumes, func(v corev1.Volume) bool { return v.Name == volume.Name }) {
			volumes = append(volumes, volume)
		}
	}
	pod.Spec.Volumes = volumes
}

// withIdentity returns pod with the labels of its ordinal put back, or nil if
// nothing is amiss. A pod's volumes cannot be changed by anyone.
func (s snapshot) withIdentity(pod *corev1.Pod) *corev1.Pod {
	ordinal, _ := ordinalOf(s.set, pod)
	if pod.Labels[appsv1.StatefulSetPodNameLabel] == pod.Name && pod.Labels[appsv1.PodIndexLabel] == strconv.Itoa(ordinal) {
		return nil
	}
	fixed := pod.DeepCopy()
	volumes := fixed.Spec.Volumes
	s.identify(fixed, ordinal)
	fixed.Spec.Volumes = volumes
	return fixed
}
