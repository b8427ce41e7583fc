package resources

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"

	"tinykube/api/validation"
)

func serviceRow() *Row {
	return kind[corev1.Service, corev1.ServiceList](Row{
		ShortNames: names("svc"), Categories: all, Namespaced: true, Status: true,
		Prefix: "services/specs",
		Subresources: []Subresource{
			{Name: "proxy", Kind: "ServiceProxyOptions", Verbs: proxyVerbs},
		},
		Strategy: lifecycle(false).
			afterCreate(on(prepareService)).
			afterUpdate(onUpdate(prepareServiceUpdate)).
			with(func(s *Strategy) { s.CreateOnUpdate = true }),
		SelectableFields: selectable(func(svc *corev1.Service) fields.Set {
			return fields.Set{"spec.clusterIP": svc.Spec.ClusterIP, "spec.type": string(svc.Spec.Type)}
		}),
	}).prints(serviceColumns, cells(serviceCells)).warns(always(validation.ServiceWarnings)).returnsDeleted().
		named(validation.ServiceName).
		validates(check(validation.Service), checkUpdate(validation.ServiceUpdate)).
		validatesStatus(checkUpdate(validation.ServiceStatusUpdate))
}

// prepareService keeps clusterIP and clusterIPs in step and fills in the IP
// families. The address and the node ports themselves come from the allocator.
//
// Simplified: the cluster has one family, IPv4, unless the service names an
// IPv6 address.
func prepareService(svc *corev1.Service) {
	spec := &svc.Spec
	if spec.Type == corev1.ServiceTypeExternalName {
		return
	}
	if spec.ClusterIP != "" && len(spec.ClusterIPs) == 0 {
		spec.ClusterIPs = []string{spec.ClusterIP}
	}
	// A headless service without selector can have endpoints of any family.
	anyFamily := spec.ClusterIP == corev1.ClusterIPNone && len(spec.Selector) == 0
	if spec.IPFamilyPolicy == nil {
		policy := corev1.IPFamilyPolicySingleStack
		if anyFamily {
			policy = corev1.IPFamilyPolicyRequireDualStack
		}
		spec.IPFamilyPolicy = &policy
	}
	if len(spec.IPFamilies) == 0 {
		spec.IPFamilies = []corev1.IPFamily{familyOf(spec.ClusterIP)}
	}
	if anyFamily && len(spec.IPFamilies) == 1 && *spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack {
		spec.IPFamilies = append(spec.IPFamilies, otherFamily(spec.IPFamilies[0]))
	}
}

func familyOf(ip string) corev1.IPFamily {
	if strings.Contains(ip, ":") {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

func otherFamily(family corev1.IPFamily) corev1.IPFamily {
	if family == corev1.IPv4Protocol {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

// prepareServiceUpdate carries over what was allocated and the client did not
// repeat, and drops what the new type has no use for, unless the client just
// set it: that is validation's to refuse.
//
// Upstream: kubernetes@v1.36 pkg/registry/core/service/storage/storage.go
// patchAllocatedValues, ../strategy.go dropTypeDependentFields
func prepareServiceUpdate(svc, old *corev1.Service) {
	spec, was := &svc.Spec, &old.Spec
	if slices.Equal(spec.ClusterIPs, was.ClusterIPs) && spec.ClusterIP != was.ClusterIP {
		spec.ClusterIPs = nil // only the singular was written; it decides
		if spec.ClusterIP != "" {
			spec.ClusterIPs = []string{spec.ClusterIP}
		}
	}
	switch {
	case needsClusterIP(old) && needsClusterIP(svc):
		if spec.ClusterIP == "" {
			spec.ClusterIP = was.ClusterIP
		}
		if len(spec.ClusterIPs) == 0 {
			spec.ClusterIPs = was.ClusterIPs
		}
		if spec.IPFamilyPolicy == nil {
			spec.IPFamilyPolicy = was.IPFamilyPolicy
		}
		if len(spec.IPFamilies) == 0 {
			spec.IPFamilies = was.IPFamilies
		}
	case needsClusterIP(old):
		if spec.ClusterIP == was.ClusterIP && slices.Equal(spec.ClusterIPs, was.ClusterIPs) {
			spec.ClusterIP, spec.ClusterIPs = "", nil
		}
		if slices.Equal(spec.IPFamilies, was.IPFamilies) {
			spec.IPFamilies = nil
		}
		if same(spec.IPFamilyPolicy, was.IPFamilyPolicy) {
			spec.IPFamilyPolicy = nil
		}
	}
	prepareService(svc)
	keepNodePorts(svc, old)
	dropForeignFields(svc, old)
}

func needsClusterIP(svc *corev1.Service) bool { return svc.Spec.Type != corev1.ServiceTypeExternalName }

func needsNodePort(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeNodePort || svc.Spec.Type == corev1.ServiceTypeLoadBalancer
}

func needsHealthCheckPort(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeLoadBalancer &&
		svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// keepNodePorts gives each port the node port that the port of the same name
// had, or clears them if the type uses none.
func keepNodePorts(svc, old *corev1.Service) {
	held := map[string]int32{} // by port name
	var heldPorts, named []int32
	for _, p := range old.Spec.Ports {
		if p.NodePort != 0 {
			held[p.Name] = p.NodePort
			heldPorts = append(heldPorts, p.NodePort)
		}
	}
	for _, p := range svc.Spec.Ports {
		if p.NodePort != 0 {
			named = append(named, p.NodePort)
		}
	}
	switch {
	case needsNodePort(old) && needsNodePort(svc):
		for i := range svc.Spec.Ports {
			if p := &svc.Spec.Ports[i]; p.NodePort == 0 && !slices.Contains(named, held[p.Name]) {
				p.NodePort = held[p.Name]
			}
		}
	case needsNodePort(old):
		added := slices.ContainsFunc(named, func(port int32) bool { return !slices.Contains(heldPorts, port) })
		for i := range svc.Spec.Ports {
			if !added {
				svc.Spec.Ports[i].NodePort = 0
			}
		}
	}
}

func dropForeignFields(svc, old *corev1.Service) {
	spec, was := &svc.Spec, &old.Spec
	switch {
	case needsHealthCheckPort(old) && needsHealthCheckPort(svc) && spec.HealthCheckNodePort == 0:
		spec.HealthCheckNodePort = was.HealthCheckNodePort
	case needsHealthCheckPort(old) && !needsHealthCheckPort(svc) && spec.HealthCheckNodePort == was.HealthCheckNodePort:
		spec.HealthCheckNodePort = 0
	}
	if was.Type == corev1.ServiceTypeLoadBalancer && spec.Type != corev1.ServiceTypeLoadBalancer {
		if same(spec.AllocateLoadBalancerNodePorts, was.AllocateLoadBalancerNodePorts) {
			spec.AllocateLoadBalancerNodePorts = nil
		}
		if same(spec.LoadBalancerClass, was.LoadBalancerClass) {
			spec.LoadBalancerClass = nil
		}
	}
	external := len(spec.ExternalIPs) > 0 && needsClusterIP(svc)
	if !needsNodePort(svc) && !external && spec.ExternalTrafficPolicy == was.ExternalTrafficPolicy {
		spec.ExternalTrafficPolicy = ""
	}
	if !needsClusterIP(svc) && same(spec.InternalTrafficPolicy, was.InternalTrafficPolicy) {
		spec.InternalTrafficPolicy = nil
	}
	if spec.Type != corev1.ServiceTypeLoadBalancer {
		svc.Status.LoadBalancer = corev1.LoadBalancerStatus{}
	}
}

// same compares two optional values.
func same[T comparable](a, b *T) bool {
	return a == b || (a != nil && b != nil && *a == *b)
}
