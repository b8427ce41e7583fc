package resources

import (
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"tinykube/api/validation"
)

func networkingRows() []*Row {
	return group("networking.k8s.io", "v1",
		kind[networkingv1.IngressClass, networkingv1.IngressClassList](Row{
			Plural: "ingressclasses", Strategy: lifecycle(true),
		}).prints(ingressClassColumns, cells(ingressClassCells)).
			validates(check(validation.IngressClass), checkUpdate(validation.IngressClassUpdate)),
		kind[networkingv1.Ingress, networkingv1.IngressList](Row{
			Plural: "ingresses", ShortNames: names("ing"), Namespaced: true, Status: true,
			Prefix:   "ingress",
			Strategy: lifecycle(true),
		}).prints(ingressColumns, cells(ingressCells)).warns(onCreate(validation.IngressWarnings)).
			validates(check(validation.Ingress), checkUpdate(validation.IngressUpdate)),
		kind[networkingv1.IPAddress, networkingv1.IPAddressList](Row{
			Plural: "ipaddresses", ShortNames: names("ip"),
		}).prints(ipAddressColumns, cells(ipAddressCells)).
			named(validation.IPAddressName).
			validates(check(validation.IPAddress), checkUpdate(validation.IPAddressUpdate)),
		kind[networkingv1.NetworkPolicy, networkingv1.NetworkPolicyList](Row{
			Plural: "networkpolicies", ShortNames: names("netpol"), Namespaced: true,
			Strategy: lifecycle(true),
		}).prints(networkPolicyColumns, cells(networkPolicyCells)).warns(always(validation.NetworkPolicyWarnings)).
			validates(check(validation.NetworkPolicy), nil),
		kind[networkingv1.ServiceCIDR, networkingv1.ServiceCIDRList](Row{
			Status: true, Strategy: lifecycle(false).keepsMetadata(),
		}).prints(serviceCIDRColumns, cells(serviceCIDRCells)).
			validates(check(validation.ServiceCIDR), checkUpdate(validation.ServiceCIDRUpdate)),
	)
}

func discoveryRows() []*Row {
	return group("discovery.k8s.io", "v1",
		kind[discoveryv1.EndpointSlice, discoveryv1.EndpointSliceList](Row{
			Namespaced: true,
			// Labels count as content: they name the service.
			Strategy: lifecycle(true).afterUpdate(func(obj, old Object) {
				if obj.GetGeneration() == old.GetGeneration() && !equality.Semantic.DeepEqual(obj.GetLabels(), old.GetLabels()) {
					obj.SetGeneration(old.GetGeneration() + 1)
				}
			}),
		}).prints(endpointSliceColumns, cells(endpointSliceCells)).
			validates(check(validation.EndpointSlice), checkUpdate(validation.EndpointSliceUpdate)),
	)
}
