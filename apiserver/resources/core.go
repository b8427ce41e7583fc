package resources

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"tinykube/api/validation"
)

// coreRows are the kinds of the legacy group, served below /api/v1.
func coreRows() []*Row {
	return group("", "v1",
		review[corev1.Binding](Row{Namespaced: true}),
		kind[corev1.ConfigMap, corev1.ConfigMapList](Row{
			ShortNames: names("cm"), Namespaced: true,
		}).prints(configMapColumns, cells(configMapCells)).
			validates(check(validation.ConfigMap), checkUpdate(validation.ConfigMapUpdate)),
		kind[corev1.Endpoints, corev1.EndpointsList](Row{
			Plural: "endpoints", Singular: "endpoints", ShortNames: names("ep"), Namespaced: true,
			Prefix:     "services/endpoints",
			Strategy:   Strategy{CreateOnUpdate: true},
			Deprecated: "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
		}).prints(endpointsColumns, cells(endpointsCells)).warns(always(validation.EndpointsWarnings)).
			validates(check(validation.Endpoints), nil),
		eventRow(),
		kind[corev1.LimitRange, corev1.LimitRangeList](Row{
			ShortNames: names("limits"), Namespaced: true,
			Strategy: Strategy{CreateOnUpdate: true},
		}).
			validates(check(validation.LimitRange), nil),
		namespaceRow(),
		nodeRow(),
		kind[corev1.PersistentVolumeClaim, corev1.PersistentVolumeClaimList](Row{
			ShortNames: names("pvc"), Namespaced: true, Status: true,
			Strategy: lifecycle(false).
				afterCreate(on(func(claim *corev1.PersistentVolumeClaim) {
					claim.Status.Phase = corev1.ClaimPending
					dropOtherSource(&claim.Spec)
					mirrorDataSource(&claim.Spec)
				})).
				afterUpdate(onUpdate(func(claim, _ *corev1.PersistentVolumeClaim) { mirrorDataSource(&claim.Spec) })),
		}).prints(claimColumns, cells(claimCells)).warns(always(validation.ClaimWarnings)).returnsDeleted().
			validates(check(validation.PersistentVolumeClaim), checkUpdate(validation.PersistentVolumeClaimUpdate)),
		kind[corev1.PersistentVolume, corev1.PersistentVolumeList](Row{
			ShortNames: names("pv"), Status: true,
			Strategy: lifecycle(false).
				afterCreate(on(func(pv *corev1.PersistentVolume) {
					now := metav1.Now()
					pv.Status = corev1.PersistentVolumeStatus{Phase: corev1.VolumePending, LastPhaseTransitionTime: &now}
				})).
				afterStatus(onUpdate(stampPhase)),
		}).prints(volumeColumns, cells(volumeCells)).warns(always(validation.VolumeWarnings)).returnsDeleted().
			validates(check(validation.PersistentVolume), checkUpdate(validation.PersistentVolumeUpdate)),
		podRow(),
		kind[corev1.PodTemplate, corev1.PodTemplateList](Row{
			Namespaced: true,
			Strategy:   lifecycle(true),
		}).prints(templateColumns, cells(podTemplateCells)).warns(onChange(false, podTemplateAdvice)).returnsDeleted().
			validates(check(validation.PodTemplate), nil),
		replicationControllerRow(),
		kind[corev1.ResourceQuota, corev1.ResourceQuotaList](Row{
			ShortNames: names("quota"), Namespaced: true, Status: true,
			Strategy: lifecycle(false),
		}).prints(quotaColumns, cells(quotaCells)).returnsDeleted().
			validates(check(validation.ResourceQuota), checkUpdate(validation.ResourceQuotaUpdate)),
		kind[corev1.Secret, corev1.SecretList](Row{
			Namespaced: true,
			SelectableFields: selectable(func(s *corev1.Secret) fields.Set {
				return fields.Set{"type": string(s.Type)}
			}),
		}).prints(secretColumns, cells(secretCells)).warns(always(validation.SecretWarnings)).
			validates(check(validation.Secret), checkUpdate(validation.SecretUpdate)),
		kind[corev1.ServiceAccount, corev1.ServiceAccountList](Row{
			ShortNames: names("sa"), Namespaced: true,
			Subresources: []Subresource{
				{Name: "token", Group: "authentication.k8s.io", Version: "v1", Kind: "TokenRequest", Verbs: []string{"create"}},
			},
		}).prints(nameAndAgeColumns, nameAndAge).warns(serviceAccountAdvice).returnsDeleted(),
		serviceRow(),
	)
}

var proxyVerbs = []string{"create", "delete", "get", "patch", "update"}

// dropOtherSource takes away what the old field cannot say: anything but a
// claim or a snapshot. The new one is there for that.
// Upstream: kubernetes@v1.36 pkg/api/persistentvolumeclaim/util.go EnforceDataSourceBackwardsCompatibility
func dropOtherSource(spec *corev1.PersistentVolumeClaimSpec) {
	from := spec.DataSource
	if from == nil || spec.DataSourceRef != nil {
		return
	}
	group := deref(from.APIGroup, "")
	if !(group == "" && from.Kind == "PersistentVolumeClaim") && !(group == "snapshot.storage.k8s.io" && from.Kind == "VolumeSnapshot") {
		spec.DataSource = nil
	}
}

// mirrorDataSource keeps dataSource and its successor dataSourceRef alike; a
// source in another namespace fits only the new field.
func mirrorDataSource(spec *corev1.PersistentVolumeClaimSpec) {
	switch from, ref := spec.DataSource, spec.DataSourceRef; {
	case from != nil && ref == nil:
		spec.DataSourceRef = &corev1.TypedObjectReference{APIGroup: from.APIGroup, Kind: from.Kind, Name: from.Name}
	case from == nil && ref != nil && (ref.Namespace == nil || *ref.Namespace == ""):
		spec.DataSource = &corev1.TypedLocalObjectReference{APIGroup: ref.APIGroup, Kind: ref.Kind, Name: ref.Name}
	}
}

// stampPhase dates a volume's change of phase, unless the writer has.
func stampPhase(pv, old *corev1.PersistentVolume) {
	at, was := pv.Status.LastPhaseTransitionTime, old.Status.LastPhaseTransitionTime
	switch {
	case pv.Status.Phase == old.Status.Phase && at == nil:
		pv.Status.LastPhaseTransitionTime = was
	case pv.Status.Phase != old.Status.Phase && (at == nil || at.Equal(was)):
		now := metav1.Now()
		pv.Status.LastPhaseTransitionTime = &now
	}
}
