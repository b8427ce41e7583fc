package validation

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// endpointIP refuses addresses that traffic must not be sent to: the node's
// own and the network's (CVE-2021-25737 and its like).
func (r *report) endpointIP(at *field.Path, ip string) {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return // reported as no address at all
	}
	switch {
	case addr.IsUnspecified():
		r.invalid(at, ip, "may not be unspecified ("+ip+")")
	case addr.IsLoopback():
		r.invalid(at, ip, "may not be in the loopback range (127.0.0.0/8, ::1/128)")
	case addr.IsLinkLocalUnicast():
		r.invalid(at, ip, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")
	case addr.IsLinkLocalMulticast():
		r.invalid(at, ip, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
	}
}

// Endpoints checks a service's addresses in the old form.
func Endpoints(e *corev1.Endpoints) field.ErrorList {
	r := &report{}
	for i, s := range e.Subsets {
		at := field.NewPath("subsets").Index(i)
		if len(s.Addresses)+len(s.NotReadyAddresses) == 0 {
			r.add(field.Required(at, "must specify `addresses` or `notReadyAddresses`"))
		}
		checkAddresses(r, at.Child("addresses"), s.Addresses)
		checkAddresses(r, at.Child("notReadyAddresses"), s.NotReadyAddresses)
		for j, p := range s.Ports {
			at := at.Child("ports").Index(j)
			switch {
			case p.Name != "":
				r.label(at.Child("name"), p.Name)
			case len(s.Ports) > 1:
				r.add(field.Required(at.Child("name"), ""))
			}
			r.port(at.Child("port"), p.Port)
			oneOf(r, at.Child("protocol"), p.Protocol, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)
		}
	}
	return r.errs
}

func checkAddresses(r *report, at *field.Path, addresses []corev1.EndpointAddress) {
	for i, a := range addresses {
		at := at.Index(i)
		r.ip(at.Child("ip"), a.IP)
		r.endpointIP(at.Child("ip"), a.IP)
		if a.Hostname != "" {
			r.label(at.Child("hostname"), a.Hostname)
		}
		if a.NodeName != nil {
			r.subdomain(at.Child("nodeName"), *a.NodeName)
		}
	}
}

// Limits of one slice.
const (
	maxEndpoints  = 1000
	maxPorts      = 20_000
	maxSliceAddrs = 100
)

// EndpointSlice checks a slice of a service's addresses.
func EndpointSlice(s *discoveryv1.EndpointSlice) field.ErrorList {
	r := &report{}
	oneOf(r, field.NewPath("addressType"), s.AddressType, discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6)
	if len(s.Endpoints) > maxEndpoints {
		r.add(field.TooMany(field.NewPath("endpoints"), len(s.Endpoints), maxEndpoints))
	}
	for i := range s.Endpoints {
		checkEndpoint(r, field.NewPath("endpoints").Index(i), &s.Endpoints[i], s.AddressType)
	}
	if len(s.Ports) > maxPorts {
		r.add(field.TooMany(field.NewPath("ports"), len(s.Ports), maxPorts))
	}
	names := map[string]bool{}
	for i, p := range s.Ports {
		at := field.NewPath("ports").Index(i)
		name := deref(p.Name)
		if name != "" {
			r.label(at.Child("name"), name)
		}
		if names[name] {
			r.add(field.Duplicate(at.Child("name"), name))
		}
		names[name] = true
		oneOf(r, at.Child("protocol"), deref(p.Protocol), corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)
		if p.AppProtocol != nil {
			r.messages(at.Child("appProtocol"), *p.AppProtocol, validation.IsQualifiedName(*p.AppProtocol))
		}
	}
	return r.errs
}

func checkEndpoint(r *report, at *field.Path, e *discoveryv1.Endpoint, kind discoveryv1.AddressType) {
	switch {
	case len(e.Addresses) == 0:
		r.add(field.Required(at.Child("addresses"), "must contain at least 1 address"))
	case len(e.Addresses) > maxSliceAddrs:
		r.add(field.TooMany(at.Child("addresses"), len(e.Addresses), maxSliceAddrs))
	}
	addresses := at.Child("addresses")
	for i, a := range e.Addresses {
		at := addresses.Index(i)
		if kind == discoveryv1.AddressTypeFQDN {
			r.add(validation.IsFullyQualifiedDomainName(at, a)...)
			continue
		}
		addr, err := netip.ParseAddr(a)
		switch {
		case err != nil:
			r.ip(at, a)
		case addr.Is4() && kind == discoveryv1.AddressTypeIPv6: // upstream does not say which
			r.invalid(addresses, a, "must be an IPv6 address")
		case addr.Is6() && kind == discoveryv1.AddressTypeIPv4:
			r.invalid(addresses, a, "must be an IPv4 address")
		}
		r.endpointIP(at, a)
	}
	if e.NodeName != nil {
		r.subdomain(at.Child("nodeName"), *e.NodeName)
	}
	if e.Hostname != nil {
		r.label(at.Child("hostname"), *e.Hostname)
	}
}

// EndpointSliceUpdate checks a change of a slice.
func EndpointSliceUpdate(s, old *discoveryv1.EndpointSlice) field.ErrorList {
	r := &report{errs: EndpointSlice(s)}
	r.unchanged(field.NewPath("addressType"), s.AddressType, old.AddressType)
	return r.errs
}

// NetworkPolicy checks a network policy.
func NetworkPolicy(p *networkingv1.NetworkPolicy) field.ErrorList {
	r := &report{}
	at := field.NewPath("spec")
	r.selector(at.Child("podSelector"), &p.Spec.PodSelector)
	for i, rule := range p.Spec.Ingress {
		at := at.Child("ingress").Index(i)
		checkPolicyPorts(r, at.Child("ports"), rule.Ports)
		checkPeers(r, at.Child("from"), rule.From)
	}
	for i, rule := range p.Spec.Egress {
		at := at.Child("egress").Index(i)
		checkPolicyPorts(r, at.Child("ports"), rule.Ports)
		checkPeers(r, at.Child("to"), rule.To)
	}
	if len(p.Spec.PolicyTypes) > 2 {
		r.invalid(at.Child("policyTypes"), p.Spec.PolicyTypes, "may not specify more than two policyTypes")
		return r.errs
	}
	for i, t := range p.Spec.PolicyTypes {
		if t != networkingv1.PolicyTypeIngress && t != networkingv1.PolicyTypeEgress {
			r.add(field.NotSupported(at.Child("policyTypes").Index(i), t,
				[]networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}))
		}
	}
	return r.errs
}

func checkPolicyPorts(r *report, at *field.Path, ports []networkingv1.NetworkPolicyPort) {
	for i, p := range ports {
		at := at.Index(i)
		if p.Protocol != nil {
			ifSet(r, at.Child("protocol"), *p.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
		}
		end := at.Child("endPort")
		switch {
		case p.Port == nil && p.EndPort != nil:
			r.invalid(end, *p.EndPort, "may not be specified when `port` is not specified")
		case p.Port == nil:
		case p.Port.Type == intstr.String:
			if p.EndPort != nil {
				r.invalid(end, *p.EndPort, "may not be specified when `port` is non-numeric")
			}
			r.messages(at.Child("port"), p.Port.StrVal, validation.IsValidPortName(p.Port.StrVal))
		default:
			r.port(at.Child("port"), p.Port.IntVal)
			if p.EndPort != nil {
				if *p.EndPort < p.Port.IntVal {
					r.invalid(end, p.Port.IntVal, "must be greater than or equal to `port`")
				}
				r.port(end, *p.EndPort)
			}
		}
	}
}

func checkPeers(r *report, at *field.Path, peers []networkingv1.NetworkPolicyPeer) {
	for i, p := range peers {
		at := at.Index(i)
		r.selector(at.Child("podSelector"), p.PodSelector)
		r.selector(at.Child("namespaceSelector"), p.NamespaceSelector)
		selected := p.PodSelector != nil || p.NamespaceSelector != nil
		switch {
		case p.IPBlock == nil && !selected:
			r.add(field.Required(at, "must specify a peer"))
		case p.IPBlock != nil:
			if selected {
				r.add(field.Forbidden(at, "may not specify both ipBlock and another peer"))
			}
			checkIPBlock(r, at.Child("ipBlock"), p.IPBlock)
		}
	}
}

func checkIPBlock(r *report, at *field.Path, b *networkingv1.IPBlock) {
	if !r.required(at.Child("cidr"), b.CIDR) {
		return
	}
	r.cidr(at.Child("cidr"), b.CIDR)
	outer, err := netip.ParsePrefix(b.CIDR)
	if err != nil {
		return
	}
	if outer.Masked() != outer {
		r.invalid(at.Child("cidr"), b.CIDR, "must not have bits set beyond the prefix length")
	}
	for i, except := range b.Except {
		at := at.Child("except").Index(i)
		r.cidr(at, except)
		inner, err := netip.ParsePrefix(except)
		if err == nil && (!outer.Contains(inner.Addr()) || outer.Bits() >= inner.Bits()) {
			r.invalid(at, except, "must be a strict subset of `cidr`")
		}
	}
}

// Ingress checks a new ingress, whose class is said once.
func Ingress(i *networkingv1.Ingress) field.ErrorList {
	const class = "kubernetes.io/ingress.class"
	r := &report{errs: IngressUpdate(i, nil)}
	if old, said := i.Annotations[class]; said && i.Spec.IngressClassName != nil && *i.Spec.IngressClassName != old {
		r.invalid(field.NewPath("annotations").Child(class), old, "must match `ingressClassName` when both are specified")
	}
	return r.errs
}

// IngressUpdate checks an ingress at any time.
func IngressUpdate(i, _ *networkingv1.Ingress) field.ErrorList {
	r := &report{}
	at, s := field.NewPath("spec"), &i.Spec
	if len(s.Rules) == 0 && s.DefaultBackend == nil {
		r.invalid(at, s.Rules, "either `defaultBackend` or `rules` must be specified")
	}
	if s.DefaultBackend != nil {
		checkBackend(r, at.Child("defaultBackend"), s.DefaultBackend)
	}
	for i := range s.Rules {
		checkIngressRule(r, at.Child("rules").Index(i), &s.Rules[i])
	}
	for i, t := range s.TLS {
		at := at.Child("tls").Index(i)
		for j, host := range t.Hosts {
			checkHost(r, at.Child("hosts").Index(j), host)
		}
		if t.SecretName != "" {
			r.subdomain(at.Child("secretName"), t.SecretName)
		}
	}
	if s.IngressClassName != nil {
		r.subdomain(at.Child("ingressClassName"), *s.IngressClassName)
	}
	return r.errs
}

func checkHost(r *report, at *field.Path, host string) {
	if strings.Contains(host, "*") {
		r.messages(at, host, validation.IsWildcardDNS1123Subdomain(host))
	} else {
		r.subdomain(at, host)
	}
}

func checkIngressRule(r *report, at *field.Path, rule *networkingv1.IngressRule) {
	if rule.Host != "" {
		if _, err := netip.ParseAddr(rule.Host); err == nil {
			r.invalid(at.Child("host"), rule.Host, "must be a DNS name, not an IP address")
		}
		checkHost(r, at.Child("host"), rule.Host)
	}
	if rule.HTTP == nil {
		return
	}
	at = at.Child("http", "paths")
	if len(rule.HTTP.Paths) == 0 {
		r.add(field.Required(at, ""))
	}
	for i := range rule.HTTP.Paths {
		p := &rule.HTTP.Paths[i]
		checkIngressPath(r, at.Index(i), p)
		if p.PathType != nil { // upstream looks no further without
			checkBackend(r, at.Index(i).Child("backend"), &p.Backend)
		}
	}
}

func checkIngressPath(r *report, at *field.Path, p *networkingv1.HTTPIngressPath) {
	if p.PathType == nil {
		r.add(field.Required(at.Child("pathType"), "pathType must be specified"))
		return
	}
	switch *p.PathType {
	case networkingv1.PathTypeExact, networkingv1.PathTypePrefix:
		if !strings.HasPrefix(p.Path, "/") {
			r.invalid(at.Child("path"), p.Path, "must be an absolute path")
		}
		for _, bad := range []string{"//", "/./", "/../", "%2f", "%2F"} {
			if strings.Contains(p.Path, bad) {
				r.invalid(at.Child("path"), p.Path, "must not contain '"+bad+"'")
			}
		}
		for _, bad := range []string{"/..", "/."} {
			if strings.HasSuffix(p.Path, bad) {
				r.invalid(at.Child("path"), p.Path, "cannot end with '"+bad+"'")
			}
		}
	case networkingv1.PathTypeImplementationSpecific:
		if p.Path != "" && !strings.HasPrefix(p.Path, "/") {
			r.invalid(at.Child("path"), p.Path, "must be an absolute path")
		}
	default:
		r.add(field.NotSupported(at.Child("pathType"), *p.PathType, []networkingv1.PathType{
			networkingv1.PathTypeExact, networkingv1.PathTypeImplementationSpecific, networkingv1.PathTypePrefix}))
	}
}

func checkBackend(r *report, at *field.Path, b *networkingv1.IngressBackend) {
	switch {
	case b.Service != nil && b.Resource != nil:
		r.invalid(at, "", "cannot set both resource and service backends")
	case b.Resource != nil:
		r.required(at.Child("resource", "kind"), b.Resource.Kind)
		r.required(at.Child("resource", "name"), b.Resource.Name)
	case b.Service == nil:
		r.invalid(at, "", "resource or service backend is required")
	default:
		if r.required(at.Child("service", "name"), b.Service.Name) {
			r.messages(at.Child("service", "name"), b.Service.Name, ServiceName(b.Service.Name))
		}
		port := b.Service.Port
		switch {
		case port.Name != "" && port.Number != 0:
			r.invalid(at, "", "cannot set both port name & port number")
		case port.Name != "":
			r.messages(at.Child("service", "port", "name"), port.Name, validation.IsValidPortName(port.Name))
		case port.Number != 0:
			r.port(at.Child("service", "port", "number"), port.Number)
		default:
			r.add(field.Required(at, "port name or number is required"))
		}
	}
}

// IngressClass checks an ingress class.
func IngressClass(c *networkingv1.IngressClass) field.ErrorList {
	r := &report{}
	r.add(validation.IsDomainPrefixedPath(field.NewPath("spec", "controller"), c.Spec.Controller)...)
	if c.Spec.Parameters != nil {
		checkClassParameters(r, field.NewPath("spec", "parameters"), c.Spec.Parameters)
	}
	return r.errs
}

func checkClassParameters(r *report, at *field.Path, p *networkingv1.IngressClassParametersReference) {
	if p.APIGroup != nil {
		r.subdomain(at.Child("apiGroup"), *p.APIGroup)
	}
	if r.required(at.Child("kind"), p.Kind) {
		r.messages(at.Child("kind"), p.Kind, PathName(p.Kind))
	}
	if r.required(at.Child("name"), p.Name) {
		r.messages(at.Child("name"), p.Name, PathName(p.Name))
	}
	switch scope := deref(p.Scope); {
	case scope == networkingv1.IngressClassParametersReferenceScopeNamespace && p.Namespace == nil:
		r.add(field.Required(at.Child("namespace"), "`parameters.scope` is set to 'Namespace'"))
	case scope == networkingv1.IngressClassParametersReferenceScopeNamespace:
		r.label(at.Child("namespace"), *p.Namespace)
	case scope == networkingv1.IngressClassParametersReferenceScopeCluster && p.Namespace != nil:
		r.add(field.Forbidden(at.Child("namespace"), "`parameters.scope` is set to 'Cluster'"))
	default:
		ifSet(r, at.Child("scope"), scope, networkingv1.IngressClassParametersReferenceScopeCluster, networkingv1.IngressClassParametersReferenceScopeNamespace)
	}
}

// IngressClassUpdate checks a change of an ingress class.
func IngressClassUpdate(c, old *networkingv1.IngressClass) field.ErrorList {
	r := &report{errs: IngressClass(c)}
	r.unchanged(field.NewPath("spec", "controller"), c.Spec.Controller, old.Spec.Controller)
	return r.errs
}

// ServiceCIDR checks a range of service addresses.
func ServiceCIDR(c *networkingv1.ServiceCIDR) field.ErrorList {
	r := &report{}
	at := field.NewPath("spec", "cidrs")
	if len(c.Spec.CIDRs) == 0 {
		r.add(field.Required(at, "at least one CIDR required"))
	}
	if len(c.Spec.CIDRs) > 2 {
		r.invalid(at, c.Spec, "may only hold up to 2 values")
		return r.errs
	}
	for i, cidr := range c.Spec.CIDRs {
		r.cidr(at.Index(i), cidr)
	}
	return r.errs
}

// ServiceCIDRUpdate: a range stays what it is, but for a second family.
func ServiceCIDRUpdate(c, old *networkingv1.ServiceCIDR) field.ErrorList {
	r := &report{errs: ServiceCIDR(c)}
	if n := len(old.Spec.CIDRs); len(c.Spec.CIDRs) < n || !slices.Equal(c.Spec.CIDRs[:n], old.Spec.CIDRs) {
		r.invalid(field.NewPath("spec", "cidrs"), c.Spec.CIDRs, immutable)
	}
	return r.errs
}

// IPAddress checks the record of who holds an address.
func IPAddress(ip *networkingv1.IPAddress) field.ErrorList {
	r := &report{}
	at, ref := field.NewPath("spec", "parentRef"), ip.Spec.ParentRef
	if ref == nil {
		r.add(field.Required(at, ""))
		return r.errs
	}
	r.required(at.Child("resource"), ref.Resource)
	r.required(at.Child("name"), ref.Name)
	return r.errs
}

// IPAddressUpdate: an address does not change hands.
func IPAddressUpdate(ip, old *networkingv1.IPAddress) field.ErrorList {
	r := &report{}
	r.unchanged(field.NewPath("spec", "parentRef"), ip.Spec.ParentRef, old.Spec.ParentRef)
	return r.errs
}
