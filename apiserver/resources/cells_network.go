package resources

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

const (
	serviceColumns       = "Name|Type|Cluster-IP|External-IP|Port(s)|Age|+Selector"
	endpointsColumns     = "Name|Endpoints|Age"
	endpointSliceColumns = "Name|AddressType|Ports|Endpoints|Age"
	ingressColumns       = "Name|Class|Hosts|Address|Ports|Age"
	ingressClassColumns  = "Name|Controller|Parameters|Age"
	networkPolicyColumns = "Name|Pod-Selector|Age"
	serviceCIDRColumns   = "Name|CIDRs|Age"
	ipAddressColumns     = "Name|ParentRef" // upstream forgot the age, which is a cell
)

func serviceCells(s *corev1.Service, now time.Time) []any {
	ip := none
	if len(s.Spec.ClusterIPs) > 0 {
		ip = s.Spec.ClusterIPs[0]
	}
	var ports []string
	for _, p := range s.Spec.Ports {
		port := fmt.Sprintf("%d/%s", p.Port, p.Protocol)
		if p.NodePort > 0 {
			port = fmt.Sprintf("%d:%d/%s", p.Port, p.NodePort, p.Protocol)
		}
		ports = append(ports, port)
	}
	return []any{
		s.Name, string(s.Spec.Type), ip, externalIP(s), or(strings.Join(ports, ","), none), age(s, now),
		formatLabels(s.Spec.Selector),
	}
}

func externalIP(s *corev1.Service) string {
	external := strings.Join(s.Spec.ExternalIPs, ",")
	switch s.Spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort:
		return or(external, none)
	case corev1.ServiceTypeLoadBalancer:
		var points []string
		for _, i := range s.Status.LoadBalancer.Ingress {
			points = append(points, or(i.IP, i.Hostname))
		}
		return or(strings.Join(append(unique(points), s.Spec.ExternalIPs...), ","), "<pending>")
	case corev1.ServiceTypeExternalName:
		return s.Spec.ExternalName
	}
	return unknown
}

// unique sorts and drops what is empty or twice there.
func unique(list []string) []string {
	slices.Sort(list)
	return slices.DeleteFunc(slices.Compact(list), func(s string) bool { return s == "" })
}

func endpointsCells(e *corev1.Endpoints, now time.Time) []any {
	var list []string
	for _, subset := range e.Subsets {
		if len(subset.Ports) == 0 { // a headless service without ports
			for _, a := range subset.Addresses {
				list = append(list, a.IP)
			}
		}
		for _, p := range subset.Ports {
			for _, a := range subset.Addresses {
				list = append(list, net.JoinHostPort(a.IP, strconv.Itoa(int(p.Port))))
			}
		}
	}
	cell := atMost(3, list, ",")
	if len(e.Subsets) == 0 {
		cell = none
	}
	return []any{e.Name, cell, age(e, now)}
}

func endpointSliceCells(s *discoveryv1.EndpointSlice, now time.Time) []any {
	var ports, addresses []string
	for _, p := range s.Ports {
		switch {
		case p.Port != nil:
			ports = append(ports, strconv.Itoa(int(*p.Port)))
		default:
			ports = append(ports, deref(p.Name, "*"))
		}
	}
	for _, e := range s.Endpoints {
		addresses = append(addresses, e.Addresses...)
	}
	return []any{s.Name, string(s.AddressType), or(atMost(3, ports, ","), unset), or(atMost(3, addresses, ","), unset), age(s, now)}
}

func ingressCells(i *networkingv1.Ingress, now time.Time) []any {
	var points []string
	for _, p := range i.Status.LoadBalancer.Ingress {
		points = append(points, or(p.IP, p.Hostname))
	}
	ports := "80"
	if len(i.Spec.TLS) > 0 {
		ports = "80, 443"
	}
	return []any{
		i.Name, deref(i.Spec.IngressClassName, none), ingressHosts(i.Spec.Rules), strings.Join(unique(points), ","), ports, age(i, now),
	}
}

// ingressHosts counts rules, not hosts, when there are more than three.
func ingressHosts(rules []networkingv1.IngressRule) string {
	var hosts []string
	more := false
	for _, r := range rules {
		if len(hosts) == 3 {
			more = true
		} else if r.Host != "" {
			hosts = append(hosts, r.Host)
		}
	}
	list := or(strings.Join(hosts, ","), "*")
	if more {
		return fmt.Sprintf("%s + %d more...", list, len(rules)-3)
	}
	return list
}

func ingressClassCells(c *networkingv1.IngressClass, now time.Time) []any {
	name := c.Name
	if c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true" {
		name += " (default)"
	}
	parameters := none
	if p := c.Spec.Parameters; p != nil {
		parameters = p.Kind
		if p.APIGroup != nil {
			parameters += "." + *p.APIGroup
		}
		parameters += "/" + p.Name
	}
	return []any{name, c.Spec.Controller, parameters, age(c, now)}
}

func networkPolicyCells(p *networkingv1.NetworkPolicy, now time.Time) []any {
	return []any{p.Name, metav1.FormatLabelSelector(&p.Spec.PodSelector), age(p, now)}
}

func serviceCIDRCells(c *networkingv1.ServiceCIDR, now time.Time) []any {
	return []any{c.Name, strings.Join(c.Spec.CIDRs, ","), age(c, now)}
}

func ipAddressCells(ip *networkingv1.IPAddress, now time.Time) []any {
	parent := none
	if ref := ip.Spec.ParentRef; ref != nil {
		parent = strings.ToLower(schema.GroupResource{Group: ref.Group, Resource: ref.Resource}.String())
		if ref.Namespace != "" {
			parent += "/" + ref.Namespace
		}
		parent += "/" + ref.Name
	}
	return []any{ip.Name, parent, age(ip, now)}
}
