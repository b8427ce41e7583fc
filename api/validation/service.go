package validation

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Service checks a service.
func Service(svc *corev1.Service) field.ErrorList {
	r := &report{}
	at, s := field.NewPath("spec"), &svc.Spec
	headless := s.ClusterIP == corev1.ClusterIPNone
	if len(s.Ports) == 0 && !headless && s.Type != corev1.ServiceTypeExternalName {
		r.add(field.Required(at.Child("ports"), ""))
	}
	checkServiceType(r, at, s, headless)
	checkServicePorts(r, at.Child("ports"), s)
	r.labels(at.Child("selector"), s.Selector)
	checkSessionAffinity(r, at, s)
	checkClusterIPs(r, at, s)
	for i, ip := range s.ExternalIPs {
		at := at.Child("externalIPs").Index(i)
		r.ip(at, ip)
		r.endpointIP(at, ip)
	}
	checkBalancer(r, at, s)
	checkTrafficPolicies(r, at, svc)
	return r.errs
}

// ServiceUpdate checks a change of a service: an address, once given, stays.
func ServiceUpdate(svc, old *corev1.Service) field.ErrorList {
	r := &report{}
	at, s, was := field.NewPath("spec"), &svc.Spec, &old.Spec
	named := s.Type != corev1.ServiceTypeExternalName && was.Type != corev1.ServiceTypeExternalName
	headless := s.ClusterIP == corev1.ClusterIPNone
	if named && !(headless && was.ClusterIP == corev1.ClusterIPNone) {
		for i, ip := range was.ClusterIPs {
			switch {
			case i == 0 && len(s.ClusterIPs) == 0:
				r.invalid(at.Child("clusterIPs").Index(0), s.ClusterIPs, "primary clusterIP can not be unset")
			case i < len(s.ClusterIPs) && s.ClusterIPs[i] != ip:
				r.invalid(at.Child("clusterIPs").Index(i), s.ClusterIPs, "may not change once set")
			}
		}
	}
	if named && !headless && was.ClusterIP != corev1.ClusterIPNone &&
		len(was.IPFamilies) > 0 && len(s.IPFamilies) > 0 && was.IPFamilies[0] != s.IPFamilies[0] {
		r.invalid(at.Child("ipFamilies").Index(0), s.IPFamilies, "may not change once set")
	}
	balanced := s.Type == corev1.ServiceTypeLoadBalancer && was.Type == s.Type
	if balanced && deref(s.LoadBalancerClass) != deref(was.LoadBalancerClass) {
		r.invalid(at.Child("loadBalancerClass"), s.LoadBalancerClass, "may not change once set")
	}
	r.add(Service(svc)...)
	return r.errs
}

// ServiceStatusUpdate checks what a load balancer says of itself.
func ServiceStatusUpdate(svc, _ *corev1.Service) field.ErrorList {
	r := &report{}
	at := field.NewPath("status", "loadBalancer", "ingress")
	if len(svc.Status.LoadBalancer.Ingress) > 0 && svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		r.add(field.Forbidden(at, "may only be used when `spec.type` is 'LoadBalancer'"))
		return r.errs
	}
	for i, ingress := range svc.Status.LoadBalancer.Ingress {
		at := at.Index(i)
		if ingress.IP != "" {
			r.ip(at.Child("ip"), ingress.IP)
		}
		switch mode := ingress.IPMode; {
		case mode == nil && ingress.IP != "":
			r.add(field.Required(at.Child("ipMode"), "must be specified when `ip` is set"))
		case mode != nil && ingress.IP == "":
			r.add(field.Forbidden(at.Child("ipMode"), "may not be specified when `ip` is not set"))
		case mode != nil:
			ifSet(r, at.Child("ipMode"), *mode, corev1.LoadBalancerIPModeProxy, corev1.LoadBalancerIPModeVIP)
		}
		if ingress.Hostname != "" {
			r.subdomain(at.Child("hostname"), ingress.Hostname)
		}
	}
	return r.errs
}

func checkServiceType(r *report, at *field.Path, s *corev1.ServiceSpec, headless bool) {
	oneOf(r, at.Child("type"), s.Type, corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName,
		corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort)
	switch s.Type {
	case corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort:
		if headless {
			r.invalid(at.Child("clusterIPs").Index(0), s.ClusterIP, fmt.Sprintf("may not be set to 'None' for %s services", s.Type))
		}
	case corev1.ServiceTypeExternalName:
		const message = "may not be set for ExternalName services"
		if len(s.ClusterIPs) > 0 || s.ClusterIP != "" {
			r.add(field.Forbidden(at.Child("clusterIPs"), message))
		}
		if len(s.IPFamilies) > 0 {
			r.add(field.Forbidden(at.Child("ipFamilies"), message))
		}
		if s.IPFamilyPolicy != nil {
			r.add(field.Forbidden(at.Child("ipFamilyPolicy"), message))
		}
		if name := strings.TrimSuffix(s.ExternalName, "."); r.required(at.Child("externalName"), name) {
			r.subdomain(at.Child("externalName"), name)
		}
	}
}

func checkServicePorts(r *report, at *field.Path, s *corev1.ServiceSpec) {
	type key struct {
		protocol corev1.Protocol
		port     int32
	}
	names, ports, nodePorts := map[string]bool{}, map[key]bool{}, map[key]bool{}
	for i, p := range s.Ports {
		at := at.Index(i)
		switch {
		case p.Name == "" && len(s.Ports) > 1:
			r.add(field.Required(at.Child("name"), ""))
		case p.Name != "":
			r.label(at.Child("name"), p.Name)
			if names[p.Name] {
				r.add(field.Duplicate(at.Child("name"), p.Name))
			}
			names[p.Name] = true
		}
		r.port(at.Child("port"), p.Port)
		oneOf(r, at.Child("protocol"), p.Protocol, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)
		r.portOrName(at.Child("targetPort"), p.TargetPort)
		if p.AppProtocol != nil {
			r.messages(at.Child("appProtocol"), *p.AppProtocol, validation.IsQualifiedName(*p.AppProtocol))
		}
		if p.NodePort != 0 && s.Type == corev1.ServiceTypeClusterIP {
			r.add(field.Forbidden(at.Child("nodePort"), "may not be used when `type` is 'ClusterIP'"))
		}
		if k := (key{p.Protocol, p.NodePort}); p.NodePort != 0 {
			if nodePorts[k] {
				r.add(field.Duplicate(at.Child("nodePort"), p.NodePort))
			}
			nodePorts[k] = true
		}
		k := key{p.Protocol, p.Port}
		if ports[k] {
			r.add(field.Duplicate(at, corev1.ServicePort{Protocol: p.Protocol, Port: p.Port}))
		}
		ports[k] = true
	}
}

func checkSessionAffinity(r *report, at *field.Path, s *corev1.ServiceSpec) {
	oneOf(r, at.Child("sessionAffinity"), s.SessionAffinity, corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)
	at, config := at.Child("sessionAffinityConfig"), s.SessionAffinityConfig
	switch s.SessionAffinity {
	case corev1.ServiceAffinityNone:
		if config != nil {
			r.add(field.Forbidden(at, "must not be set when session affinity is None"))
		}
	case corev1.ServiceAffinityClientIP:
		if config == nil || config.ClientIP == nil || config.ClientIP.TimeoutSeconds == nil {
			r.add(field.Required(at, "when session affinity type is ClientIP"))
			return
		}
		const longest = 24 * 60 * 60
		if t := *config.ClientIP.TimeoutSeconds; t <= 0 || t > longest {
			r.invalid(at.Child("clientIP", "timeoutSeconds"), t, fmt.Sprintf("must be greater than 0 and less than %d", longest))
		}
	}
}

func checkClusterIPs(r *report, at *field.Path, s *corev1.ServiceSpec) {
	if s.Type == corev1.ServiceTypeExternalName {
		return
	}
	ips := at.Child("clusterIPs")
	switch {
	case s.ClusterIP == "" && len(s.ClusterIPs) > 0:
		r.invalid(ips, s.ClusterIPs, "must be empty when `clusterIP` is not specified")
	case s.ClusterIP != "" && len(s.ClusterIPs) == 0:
		r.add(field.Required(ips, ""))
	case s.ClusterIP != "" && s.ClusterIPs[0] != s.ClusterIP:
		r.invalid(ips, s.ClusterIPs, "first value must match `clusterIP`")
	}
	for i, family := range s.IPFamilies {
		ifSet(r, at.Child("ipFamilies").Index(i), family, corev1.IPv4Protocol, corev1.IPv6Protocol)
		if slices.Contains(s.IPFamilies[:i], family) {
			r.add(field.Duplicate(at.Child("ipFamilies").Index(i), family))
		}
	}
	if s.IPFamilyPolicy != nil {
		ifSet(r, at.Child("ipFamilyPolicy"), *s.IPFamilyPolicy,
			corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicySingleStack)
	}
	if len(s.ClusterIPs) > 2 {
		r.invalid(ips, s.ClusterIPs, "may only hold up to 2 values")
	}
	for i, ip := range s.ClusterIPs {
		if ip != corev1.ClusterIPNone {
			r.ip(ips.Index(i), ip)
		} else if i > 0 || len(s.ClusterIPs) > 1 {
			r.invalid(ips, s.ClusterIPs, "'None' must be the first and only value")
		}
	}
}

func checkBalancer(r *report, at *field.Path, s *corev1.ServiceSpec) {
	for i, cidr := range s.LoadBalancerSourceRanges {
		r.cidr(at.Child("LoadBalancerSourceRanges").Index(i), strings.TrimSpace(cidr))
	}
	if s.Type == corev1.ServiceTypeLoadBalancer {
		return
	}
	const message = "may only be used when `type` is 'LoadBalancer'"
	if len(s.LoadBalancerSourceRanges) > 0 {
		r.add(field.Forbidden(at.Child("LoadBalancerSourceRanges"), message))
	}
	if s.AllocateLoadBalancerNodePorts != nil {
		r.add(field.Forbidden(at.Child("allocateLoadBalancerNodePorts"), message))
	}
	if s.LoadBalancerClass != nil {
		r.add(field.Forbidden(at.Child("loadBalancerClass"), message))
	}
}

func checkTrafficPolicies(r *report, at *field.Path, svc *corev1.Service) {
	s := &svc.Spec
	external := s.Type == corev1.ServiceTypeNodePort || s.Type == corev1.ServiceTypeLoadBalancer ||
		s.Type == corev1.ServiceTypeClusterIP && len(s.ExternalIPs) > 0
	if external {
		oneOf(r, at.Child("externalTrafficPolicy"), s.ExternalTrafficPolicy,
			corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)
	} else if s.ExternalTrafficPolicy != "" {
		r.invalid(at.Child("externalTrafficPolicy"), s.ExternalTrafficPolicy, "may only be set for externally-accessible services")
	}
	checked := s.Type == corev1.ServiceTypeLoadBalancer && s.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	if !checked && s.HealthCheckNodePort != 0 {
		r.invalid(at.Child("healthCheckNodePort"), s.HealthCheckNodePort,
			"may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'")
	}
	if s.InternalTrafficPolicy != nil {
		ifSet(r, at.Child("internalTrafficPolicy"), *s.InternalTrafficPolicy,
			corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)
	}
	if s.TrafficDistribution != nil {
		ifSet(r, at.Child("trafficDistribution"), *s.TrafficDistribution,
			corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameNode, corev1.ServiceTrafficDistributionPreferSameZone)
	}
}
