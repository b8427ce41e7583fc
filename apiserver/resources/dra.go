package resources

import (
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/fields"
)

const (
	deviceClaimColumns = "Name|State|Age"
	deviceSliceColumns = "Name|Node|Driver|Pool|Age"
)

// resourceRows are stored for clients that must find them: a real
// kube-scheduler waits for three of these lists before it schedules anything,
// and `kubectl describe node` reads the slices.
//
// Simplified: no driver and no allocation here; a claim is never answered.
func resourceRows() []*Row {
	return group("resource.k8s.io", "v1",
		kind[resourcev1.DeviceClass, resourcev1.DeviceClassList](Row{Plural: "deviceclasses", Strategy: lifecycle(true)}).
			prints(nameAndAgeColumns, nameAndAge).returnsDeleted(),
		kind[resourcev1.ResourceClaim, resourcev1.ResourceClaimList](Row{Namespaced: true, Status: true, Strategy: lifecycle(false).keepsMetadata()}).
			prints(deviceClaimColumns, cells(deviceClaimCells)).returnsDeleted(),
		kind[resourcev1.ResourceClaimTemplate, resourcev1.ResourceClaimTemplateList](Row{Namespaced: true}).
			prints(nameAndAgeColumns, nameAndAge).returnsDeleted(),
		kind[resourcev1.ResourceSlice, resourcev1.ResourceSliceList](Row{
			Strategy: lifecycle(true),
			SelectableFields: selectable(func(s *resourcev1.ResourceSlice) fields.Set {
				return fields.Set{"spec.nodeName": deref(s.Spec.NodeName, ""), "spec.driver": s.Spec.Driver}
			}),
		}).
			prints(deviceSliceColumns, cells(deviceSliceCells)).returnsDeleted(),
	)
}

func deviceClaimCells(c *resourcev1.ResourceClaim, now time.Time) []any {
	state := "pending"
	switch {
	case c.DeletionTimestamp != nil:
		state = "deleted"
	case len(c.Status.ReservedFor) > 0:
		state = "allocated,reserved"
	case c.Status.Allocation != nil:
		state = "allocated"
	}
	return []any{c.Name, state, age(c, now)}
}

func deviceSliceCells(s *resourcev1.ResourceSlice, now time.Time) []any {
	return []any{s.Name, deref(s.Spec.NodeName, ""), s.Spec.Driver, s.Spec.Pool.Name, age(s, now)}
}
