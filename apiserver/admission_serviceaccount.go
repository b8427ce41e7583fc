package apiserver

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/rand"

	"tinykube/apiserver/storage"
)

const (
	// tokenMountPath is where programs look for their token.
	tokenMountPath = "/var/run/secrets/kubernetes.io/serviceaccount"
	// rootCAConfigMap is published into every namespace by a controller.
	rootCAConfigMap = "kube-root-ca.crt"
	mirrorPodKey    = corev1.MirrorPodAnnotationKey
)

// A pod may be created right behind its namespace, before the controller has
// made the default account there. So its absence is looked at again.
//
// Upstream: kubernetes/kubernetes@v1.36 plugin/pkg/admission/serviceaccount
// waits as long.
const (
	defaultAccount         = "default"
	defaultAccountAttempts = 10
	defaultAccountPause    = 150 * time.Millisecond
)

func accountOf(a *admission, name string) (*corev1.ServiceAccount, bool) {
	for attempt := 1; ; attempt++ {
		account, ok := current[*corev1.ServiceAccount](a.Context(), a.server, "", "serviceaccounts", storage.Key(a.namespace, name))
		if ok || name != defaultAccount || attempt == defaultAccountAttempts {
			return account, ok
		}
		select {
		case <-a.Context().Done():
			return nil, false
		case <-time.After(defaultAccountPause):
		}
	}
}

// admitServiceAccount gives every pod an identity: a service account, and
// unless somebody declines, a volume with its token, the cluster's CA and its
// namespace. The kubelet fetches the token; it is never in the API.
func admitServiceAccount(a *admission) error {
	if !a.creates("pods") {
		return nil
	}
	pod := a.obj.(*corev1.Pod)
	if _, mirror := pod.Annotations[mirrorPodKey]; mirror {
		if pod.Spec.ServiceAccountName != "" {
			return a.refuse(fmt.Errorf("a mirror pod may not reference service accounts"))
		}
		if slices.ContainsFunc(podReferences(pod), func(r podReference) bool { return r.resource == "secrets" }) {
			return a.refuse(fmt.Errorf("a mirror pod may not reference secrets"))
		}
		if strings.HasPrefix(apiReference(pod), "serviceaccounts") {
			return a.refuse(fmt.Errorf("a mirror pod may not use ServiceAccountToken volume projections"))
		}
		return nil
	}
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = defaultAccount
	}
	pod.Spec.DeprecatedServiceAccount = pod.Spec.ServiceAccountName
	account, ok := accountOf(a, pod.Spec.ServiceAccountName)
	if !ok {
		return a.refuse(fmt.Errorf("error looking up service account %s/%s: serviceaccount %q not found",
			a.namespace, pod.Spec.ServiceAccountName, pod.Spec.ServiceAccountName))
	}
	if len(pod.Spec.ImagePullSecrets) == 0 {
		pod.Spec.ImagePullSecrets = append(pod.Spec.ImagePullSecrets, account.ImagePullSecrets...)
	}
	mount := true
	for _, choice := range []*bool{account.AutomountServiceAccountToken, pod.Spec.AutomountServiceAccountToken} {
		if choice != nil { // the pod has the last word
			mount = *choice
		}
	}
	if mount {
		mountToken(pod)
	}
	return nil
}

// refuse is a 403 about the object.
func (a *admission) refuse(err error) error {
	name := a.name
	if a.obj != nil {
		name = a.obj.GetName()
	} else if a.old != nil {
		name = a.old.GetName()
	}
	return apierrors.NewForbidden(a.row.GVR().GroupResource(), name, err)
}

// mountToken adds the volume, and mounts it where nothing else is mounted.
func mountToken(pod *corev1.Pod) {
	name := "kube-api-access-" + rand.String(5)
	used := false
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			if !mountsTokenPath(&containers[i]) {
				containers[i].VolumeMounts = append(containers[i].VolumeMounts, corev1.VolumeMount{
					Name: name, ReadOnly: true, MountPath: tokenMountPath,
				})
				used = true
			}
		}
	}
	if used {
		pod.Spec.Volumes = append(pod.Spec.Volumes, tokenVolume(name))
	}
}

func mountsTokenPath(c *corev1.Container) bool {
	for _, mount := range c.VolumeMounts {
		if mount.MountPath == tokenMountPath {
			return true
		}
	}
	return false
}

func tokenVolume(name string) corev1.Volume {
	seconds, mode := int64(projectedExpiry.Seconds()), corev1.ProjectedVolumeSourceDefaultMode
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		DefaultMode: &mode,
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &seconds}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: rootCAConfigMap},
				Items:                []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
				{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"}},
			}}},
		},
	}}}
}
