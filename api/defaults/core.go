package defaults

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// coreRules are the kinds of the core group other than pods and volumes.
//
// Upstream: kubernetes@v1.36 pkg/apis/core/v1/defaults.go, conversion.go
func coreRules(into rules) {
	rule(into, roundUp)
	rule(into, func(cm *corev1.ConfigMap) {
		if cm.Data == nil {
			cm.Data = map[string]string{}
		}
	})
	rule(into, func(s *corev1.Secret) {
		set(&s.Type, corev1.SecretTypeOpaque)
		// stringData is for writing only: it overrides data and is gone.
		for key, value := range s.StringData {
			if s.Data == nil {
				s.Data = map[string][]byte{}
			}
			s.Data[key] = []byte(value)
		}
		s.StringData = nil
	})
	rule(into, func(ns *corev1.Namespace) {
		if ns.Name == "" { // still to be generated
			return
		}
		if ns.Labels == nil {
			ns.Labels = map[string]string{}
		}
		ns.Labels[corev1.LabelMetadataName] = ns.Name
	})
	rule(into, func(s *corev1.NamespaceStatus) { set(&s.Phase, corev1.NamespaceActive) })
	rule(into, func(s *corev1.NodeSpec) { s.PodCIDRs = follow(s.PodCIDR, s.PodCIDRs); first(&s.PodCIDR, s.PodCIDRs) })
	rule(into, func(s *corev1.NodeStatus) {
		if s.Allocatable == nil && s.Capacity != nil {
			s.Allocatable = s.Capacity.DeepCopy()
		}
	})
	rule(into, func(p *corev1.EndpointPort) { set(&p.Protocol, corev1.ProtocolTCP) })
	rule(into, service)
	rule(into, func(p *corev1.ServicePort) {
		set(&p.Protocol, corev1.ProtocolTCP)
		if p.TargetPort == intstr.FromInt32(0) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	})
	rule(into, limits)
	rule(into, func(rc *corev1.ReplicationController) {
		if t := rc.Spec.Template; t != nil && t.Labels != nil {
			if len(rc.Spec.Selector) == 0 {
				rc.Spec.Selector = maps.Clone(t.Labels)
			}
			if len(rc.Labels) == 0 {
				rc.Labels = maps.Clone(t.Labels)
			}
		}
		point(&rc.Spec.Replicas, 1)
	})
}

// roundUp keeps quantities on the milli scale, the finest that is served.
func roundUp(list *corev1.ResourceList) {
	for name, quantity := range *list {
		if quantity.RoundUp(resource.Milli) {
			continue // exact already
		}
		(*list)[name] = quantity
	}
}

// follow keeps a list in step with the single field it replaced: when both
// are given and differ, the old field wins.
func follow(single string, list []string) []string {
	if single != "" && (len(list) == 0 || list[0] != single) {
		return []string{single}
	}
	return list
}

// first sets the single field from the list.
func first(single *string, list []string) {
	if len(list) > 0 {
		*single = list[0]
	}
}

func service(s *corev1.Service) {
	spec := &s.Spec
	set(&spec.Type, corev1.ServiceTypeClusterIP)
	set(&spec.SessionAffinity, corev1.ServiceAffinityNone)
	switch spec.SessionAffinity {
	case corev1.ServiceAffinityNone:
		spec.SessionAffinityConfig = nil
	case corev1.ServiceAffinityClientIP:
		point(&spec.SessionAffinityConfig, corev1.SessionAffinityConfig{})
		point(&spec.SessionAffinityConfig.ClientIP, corev1.ClientIPConfig{})
		point(&spec.SessionAffinityConfig.ClientIP.TimeoutSeconds, corev1.DefaultClientIPServiceAffinitySeconds)
	}
	if spec.Type != corev1.ServiceTypeExternalName {
		point(&spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster)
	}
	if externallyAccessible(s) {
		set(&spec.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster)
	}
	if spec.Type == corev1.ServiceTypeLoadBalancer {
		point(&spec.AllocateLoadBalancerNodePorts, true)
		for i := range s.Status.LoadBalancer.Ingress {
			if ingress := &s.Status.LoadBalancer.Ingress[i]; ingress.IP != "" {
				point(&ingress.IPMode, corev1.LoadBalancerIPModeVIP)
			}
		}
	}
}

func externallyAccessible(s *corev1.Service) bool {
	switch s.Spec.Type {
	case corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer:
		return true
	case corev1.ServiceTypeClusterIP:
		return len(s.Spec.ExternalIPs) > 0
	}
	return false
}

// limits derives what a container limit leaves open: the default limit from
// the maximum, the default request from that limit or the minimum.
func limits(item *corev1.LimitRangeItem) {
	if item.Type != corev1.LimitTypeContainer {
		return
	}
	inherit(&item.Default, item.Max)
	if item.Default == nil {
		item.Default = corev1.ResourceList{}
	}
	inherit(&item.DefaultRequest, item.Default)
	inherit(&item.DefaultRequest, item.Min)
	if item.DefaultRequest == nil {
		item.DefaultRequest = corev1.ResourceList{}
	}
}

// inherit copies the quantities that the list does not have yet.
func inherit(list *corev1.ResourceList, from corev1.ResourceList) {
	for name, quantity := range from {
		if _, has := (*list)[name]; has {
			continue
		}
		if *list == nil {
			*list = corev1.ResourceList{}
		}
		(*list)[name] = quantity.DeepCopy()
	}
}
