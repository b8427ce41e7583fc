package apiserver

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
)

// podReference is an API object that a pod names: its node must be able to read it
// to run the pod.
type podReference struct{ resource, name string }

// podReferences lists the objects of its own namespace that a pod names.
//
// Upstream: kubernetes@v1.36 pkg/api/v1/pod/util.go VisitPodSecretNames,
// VisitPodConfigmapNames; plugin/pkg/auth/authorizer/node/graph.go AddPod
func podReferences(pod *corev1.Pod) []podReference {
	var out []podReference
	add := func(resource, name string) {
		if name != "" {
			out = append(out, podReference{resource, name})
		}
	}
	add("serviceaccounts", pod.Spec.ServiceAccountName)
	for _, secret := range pod.Spec.ImagePullSecrets {
		add("secrets", secret.Name)
	}
	eachContainer(&pod.Spec, func(_ string, c *corev1.Container) {
		for _, from := range c.EnvFrom {
			if from.SecretRef != nil {
				add("secrets", from.SecretRef.Name)
			}
			if from.ConfigMapRef != nil {
				add("configmaps", from.ConfigMapRef.Name)
			}
		}
		for _, env := range c.Env {
			if env.ValueFrom != nil && env.ValueFrom.SecretKeyRef != nil {
				add("secrets", env.ValueFrom.SecretKeyRef.Name)
			}
			if env.ValueFrom != nil && env.ValueFrom.ConfigMapKeyRef != nil {
				add("configmaps", env.ValueFrom.ConfigMapKeyRef.Name)
			}
		}
	})
	for i := range pod.Spec.Volumes {
		volumeReferences(pod, &pod.Spec.Volumes[i], add)
	}
	for _, claim := range pod.Spec.ResourceClaims {
		if claim.ResourceClaimName != nil {
			add("resourceclaims", *claim.ResourceClaimName)
		}
	}
	for _, claim := range pod.Status.ResourceClaimStatuses {
		if claim.ResourceClaimName != nil {
			add("resourceclaims", *claim.ResourceClaimName)
		}
	}
	if claim := pod.Status.ExtendedResourceClaimStatus; claim != nil {
		add("resourceclaims", claim.ResourceClaimName)
	}
	return out
}

func volumeReferences(pod *corev1.Pod, volume *corev1.Volume, add func(resource, name string)) {
	local := func(ref *corev1.LocalObjectReference) {
		if ref != nil {
			add("secrets", ref.Name)
		}
	}
	switch v := volume.VolumeSource; {
	case v.Secret != nil:
		add("secrets", v.Secret.SecretName)
	case v.ConfigMap != nil:
		add("configmaps", v.ConfigMap.Name)
	case v.Projected != nil:
		for _, source := range v.Projected.Sources {
			if source.Secret != nil {
				add("secrets", source.Secret.Name)
			}
			if source.ConfigMap != nil {
				add("configmaps", source.ConfigMap.Name)
			}
		}
	case v.PersistentVolumeClaim != nil:
		add("persistentvolumeclaims", v.PersistentVolumeClaim.ClaimName)
	case v.Ephemeral != nil:
		add("persistentvolumeclaims", pod.Name+"-"+volume.Name)
	case v.CSI != nil:
		local(v.CSI.NodePublishSecretRef)
	case v.AzureFile != nil:
		add("secrets", v.AzureFile.SecretName)
	case v.CephFS != nil:
		local(v.CephFS.SecretRef)
	case v.Cinder != nil:
		local(v.Cinder.SecretRef)
	case v.FlexVolume != nil:
		local(v.FlexVolume.SecretRef)
	case v.RBD != nil:
		local(v.RBD.SecretRef)
	case v.ScaleIO != nil:
		local(v.ScaleIO.SecretRef)
	case v.ISCSI != nil:
		local(v.ISCSI.SecretRef)
	case v.StorageOS != nil:
		local(v.StorageOS.SecretRef)
	}
}

// apiReference names something in a pod that leads to another API object, "" if
// nothing does: a static pod has to do without the API.
func apiReference(pod *corev1.Pod) string {
	if refs := podReferences(pod); len(refs) > 0 {
		return refs[0].resource
	}
	if len(pod.Spec.ResourceClaims) > 0 {
		return "resourceclaims"
	}
	for _, volume := range pod.Spec.Volumes {
		switch {
		case volume.CSI != nil:
			return "csidrivers (via CSI volumes)"
		case volume.Glusterfs != nil:
			return "endpoints (via glusterFS volumes)"
		case volume.Projected == nil:
			continue
		}
		for _, source := range volume.Projected.Sources {
			switch {
			case source.ServiceAccountToken != nil:
				return "serviceaccounts (via projected volumes)"
			case source.ClusterTrustBundle != nil:
				return "clustertrustbundles"
			case source.PodCertificate != nil:
				return "podcertificates"
			}
		}
	}
	return ""
}

// volumeSecrets lists the secrets, as namespace and name, that a node needs to
// mount a volume. Those for attaching it are not a node's business.
func volumeSecrets(volume *corev1.PersistentVolume) [][2]string {
	var out [][2]string
	add := func(ref *corev1.SecretReference) {
		if ref != nil {
			out = append(out, [2]string{ref.Namespace, ref.Name})
		}
	}
	switch v := volume.Spec.PersistentVolumeSource; {
	case v.CSI != nil:
		add(v.CSI.NodePublishSecretRef)
		add(v.CSI.NodeStageSecretRef)
		add(v.CSI.NodeExpandSecretRef)
	case v.CephFS != nil:
		add(v.CephFS.SecretRef)
	case v.Cinder != nil:
		add(v.Cinder.SecretRef)
	case v.FlexVolume != nil:
		add(v.FlexVolume.SecretRef)
	case v.RBD != nil:
		add(v.RBD.SecretRef)
	case v.ScaleIO != nil:
		add(v.ScaleIO.SecretRef)
	case v.ISCSI != nil:
		add(v.ISCSI.SecretRef)
	case v.AzureFile != nil:
		ref := corev1.SecretReference{Name: v.AzureFile.SecretName}
		if v.AzureFile.SecretNamespace != nil {
			ref.Namespace = *v.AzureFile.SecretNamespace
		}
		add(&ref)
	}
	if claim := volume.Spec.ClaimRef; claim != nil { // the claim's, unless it says otherwise
		for i := range out {
			if out[i][0] == "" {
				out[i][0] = claim.Namespace
			}
		}
	}
	return out
}

// eachContainer shows a pod's containers of all sorts, with the field each is
// in. Ephemeral ones are shown in the form of the others.
func eachContainer(spec *corev1.PodSpec, see func(field string, c *corev1.Container)) {
	for i := range spec.InitContainers {
		see("initContainers", &spec.InitContainers[i])
	}
	for i := range spec.Containers {
		see("containers", &spec.Containers[i])
	}
	for i := range spec.EphemeralContainers {
		c := corev1.Container(spec.EphemeralContainers[i].EphemeralContainerCommon)
		see("ephemeralContainers", &c)
	}
}

// wantsAudience reports whether a pod mounts a token for an audience, itself or
// by the driver of one of its volumes.
func (s *Server) wantsAudience(pod *corev1.Pod, audience string) bool {
	for i := range pod.Spec.Volumes {
		volume := &pod.Spec.Volumes[i]
		if volume.Projected != nil {
			for _, source := range volume.Projected.Sources {
				if source.ServiceAccountToken != nil && source.ServiceAccountToken.Audience == audience {
					return true
				}
			}
		}
		driver, ok := cached[*storagev1.CSIDriver](s, storagev1.GroupName, "csidrivers", s.driverOf(pod, volume))
		if ok && slices.ContainsFunc(driver.Spec.TokenRequests, func(r storagev1.TokenRequest) bool { return r.Audience == audience }) {
			return true
		}
	}
	return false
}

// driverOf is the CSI driver behind a pod's volume, "" if there is none.
func (s *Server) driverOf(pod *corev1.Pod, volume *corev1.Volume) string {
	claim := ""
	switch {
	case volume.CSI != nil:
		return volume.CSI.Driver
	case volume.PersistentVolumeClaim != nil:
		claim = volume.PersistentVolumeClaim.ClaimName
	case volume.Ephemeral != nil:
		claim = pod.Name + "-" + volume.Name
	}
	if bound := s.volumeOf(pod.Namespace, claim); bound != nil && bound.Spec.CSI != nil {
		return bound.Spec.CSI.Driver
	}
	return ""
}
