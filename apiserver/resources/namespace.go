package resources

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"

	"tinykube/api/validation"
)

// namespaceRow is the one kind whose spec carries finalizers of its own: the
// namespace stays until the namespace controller has emptied it and takes
// "kubernetes" away through /finalize.
func namespaceRow() *Row {
	return kind[corev1.Namespace, corev1.NamespaceList](Row{
		ShortNames: names("ns"), Status: true,
		Verbs: []string{"create", "delete", "get", "list", "patch", "update", "watch"},
		Subresources: []Subresource{
			{Name: "finalize", Kind: "Namespace", Verbs: []string{"update"}, Prepare: onUpdate(func(ns, old *corev1.Namespace) {
				ns.Status = old.Status
			})},
		},
		Strategy: lifecycle(false).
			afterCreate(on(prepareNamespace)).
			afterUpdate(onUpdate(func(ns, old *corev1.Namespace) {
				ns.Spec.Finalizers = old.Spec.Finalizers
			})),
		SelectableFields: selectable(func(ns *corev1.Namespace) fields.Set {
			return fields.Set{"status.phase": string(ns.Status.Phase)}
		}),
	}).prints(namespaceColumns, cells(namespaceCells)).
		named(validation.LabelName).
		validates(check(validation.Namespace), nil).
		validatesStatus(checkUpdate(validation.NamespaceStatusUpdate))
}

func prepareNamespace(ns *corev1.Namespace) {
	ns.Status.Phase = corev1.NamespaceActive
	if !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		ns.Spec.Finalizers = append(ns.Spec.Finalizers, corev1.FinalizerKubernetes)
	}
}
