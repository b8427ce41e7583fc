package apiserver

import (
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	storagev1 "k8s.io/api/storage/v1"

	"tinykube/apiserver/resources"
)

// defaultClassKey marks the class of claims that name none.
const defaultClassKey = "storageclass.kubernetes.io/is-default-class"

// admitDefaultStorageClass gives a claim the default class.
func admitDefaultStorageClass(a *admission) error {
	if !a.creates("persistentvolumeclaims") {
		return nil
	}
	claim := a.obj.(*corev1.PersistentVolumeClaim)
	if _, old := claim.Annotations[corev1.BetaStorageClassAnnotation]; old || claim.Spec.StorageClassName != nil {
		return nil
	}
	classes := allCached[*storagev1.StorageClass](a.server, storagev1.GroupName, "storageclasses", "")
	if name := defaultClass(classes, defaultClassKey); name != "" {
		claim.Spec.StorageClassName = &name
	}
	return nil
}

// defaultClass is the class with the annotation, "" if there is none. Of
// several the newest counts, since a default is replaced by adding the new one
// first; of those of the same second, the first by name.
func defaultClass[T resources.Object](classes []T, annotation string) string {
	var chosen resources.Object
	for _, class := range classes {
		if class.GetAnnotations()[annotation] != "true" {
			continue
		}
		if chosen == nil {
			chosen = class
			continue
		}
		made, newest := class.GetCreationTimestamp(), chosen.GetCreationTimestamp()
		if newest.Before(&made) || made.Equal(&newest) && class.GetName() < chosen.GetName() {
			chosen = class
		}
	}
	if chosen == nil {
		return ""
	}
	return chosen.GetName()
}

// ingressClassKey is how an Ingress named its class before it had a field.
const ingressClassKey = "kubernetes.io/ingress.class"

// admitDefaultIngressClass does the same for Ingresses.
func admitDefaultIngressClass(a *admission) error {
	ingress, ok := a.obj.(*networkingv1.Ingress)
	if !ok || a.old != nil || ingress.Spec.IngressClassName != nil {
		return nil
	}
	if _, old := ingress.Annotations[ingressClassKey]; old {
		return nil
	}
	classes := allCached[*networkingv1.IngressClass](a.server, networkingv1.GroupName, "ingressclasses", "")
	if name := defaultClass(classes, networkingv1.AnnotationIsDefaultIngressClass); name != "" {
		ingress.Spec.IngressClassName = &name
	}
	return nil
}
