package resources

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/fields"

	"tinykube/api/validation"
)

// nodeRow is the Node itself. Its status endpoint may change all metadata:
// flannel keeps its leases in annotations that it writes through /status.
func nodeRow() *Row {
	return kind[corev1.Node, corev1.NodeList](Row{
		ShortNames: names("no"), Status: true, Prefix: "minions",
		Strategy: lifecycle(false).with(func(s *Strategy) {
			// A kubelet registers its node together with the first status.
			s.PrepareCreate = nil
		}),
		Subresources: []Subresource{
			{Name: "proxy", Kind: "NodeProxyOptions", Verbs: proxyVerbs},
		},
		SelectableFields: selectable(func(n *corev1.Node) fields.Set {
			return fields.Set{"spec.unschedulable": strconv.FormatBool(n.Spec.Unschedulable)}
		}),
	}).prints(nodeColumns, cells(nodeCells)).warns(always(validation.NodeWarnings)).
		validates(check(validation.Node), checkUpdate(validation.NodeUpdate)).
		validatesStatus(checkUpdate(validation.NodeUpdate))
}

// nodeRows is the group node.k8s.io.
func nodeRows() []*Row {
	return group("node.k8s.io", "v1",
		kind[nodev1.RuntimeClass, nodev1.RuntimeClassList](Row{
			Plural:   "runtimeclasses",
			Strategy: Strategy{CreateOnUpdate: true, RequireResourceVersion: true},
		}).prints(runtimeClassColumns, cells(runtimeClassCells)).warns(always(validation.RuntimeClassWarnings)).
			validates(check(validation.RuntimeClass), checkUpdate(validation.RuntimeClassUpdate)),
	)
}
