package resources

import (
	"time"

	resourcev1 "k8s.io/api/resource/v1"
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
		kind[resourcev1.ResourceSlice, resourcev1.ResourceSliceList](Row{Strategy: lifecycle(true)}).
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
	node := ""
	if s.Spec.NodeName != nil {
		node = *s.Spec.NodeName
	}
	return []any{s.Name, node, s.Spec.Driver, s.Spec.Pool.Name, age(s, now)}
}
