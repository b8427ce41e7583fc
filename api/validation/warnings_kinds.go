package validation

import (
	"crypto/tls"
	"fmt"
	"maps"
	"slices"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func sortedKeys[V any](set map[string]V) []string { return slices.Sorted(maps.Keys(set)) }

// portAt is a container port and where it is written.
type portAt struct {
	at   *field.Path
	port corev1.ContainerPort
}

// containers looks at each container and, since all containers of a pod share
// one network, at the ports of all.
func (a *advice) containers(at *field.Path, s *corev1.PodSpec) {
	type place struct {
		at *field.Path
		*corev1.Container
	}
	var all []place
	for i := range s.InitContainers {
		all = append(all, place{at.Child("initContainers").Index(i), &s.InitContainers[i]})
	}
	for i := range s.Containers {
		all = append(all, place{at.Child("containers").Index(i), &s.Containers[i]})
	}
	var ports []portAt
	for _, c := range all {
		a.fractions(c.at.Child("resources", "limits"), c.Resources.Limits, corev1.ResourceMemory)
		a.fractions(c.at.Child("resources", "requests"), c.Resources.Requests, corev1.ResourceMemory)
		a.fractions(c.at.Child("resources", "limits"), c.Resources.Limits, corev1.ResourceEphemeralStorage)
		a.fractions(c.at.Child("resources", "requests"), c.Resources.Requests, corev1.ResourceEphemeralStorage)
		a.hidden(c.at.Child("env"), c.Env)
		for i, p := range c.Ports {
			ports = append(ports, portAt{c.at.Child("ports").Index(i), p})
		}
	}
	a.ports(ports)
}

// hidden reports variables that are defined again without use of what they
// were: apply, which merges by name, may keep only one.
func (a *advice) hidden(at *field.Path, env []corev1.EnvVar) {
	for i, v := range env {
		same := func(earlier corev1.EnvVar) bool { return earlier.Name == v.Name }
		if !slices.ContainsFunc(env[:i], same) {
			continue
		}
		itself := "$(" + v.Name + ")"
		if v.ValueFrom != nil || v.Value == itself || !strings.Contains(v.Value, itself) {
			a.say(at.Index(i), "hides previous definition of %q, which may be dropped when using apply", v.Name)
		}
	}
}

func (a *advice) ports(ports []portAt) {
	for i, p := range ports {
		if p.port.HostIP != "" && p.port.HostPort == 0 {
			a.say(p.at, "hostIP set without hostPort: %+v", p.port)
		}
		for _, o := range ports[:i] {
			if o.port.ContainerPort != p.port.ContainerPort || o.port.Protocol != p.port.Protocol {
				continue
			}
			switch {
			case p.port.HostIP == o.port.HostIP && p.port.HostPort == o.port.HostPort:
				a.say(p.at, "duplicate port definition with %s", o.at)
			case p.port.HostPort == 0 || o.port.HostPort == 0:
				a.say(p.at, "overlapping port definition with %s", o.at)
			case p.port.HostPort == o.port.HostPort && (p.port.HostIP == "") != (o.port.HostIP == ""):
				a.say(p.at, "dangerously ambiguous port definition with %s", o.at)
			}
		}
	}
	first := map[string]*field.Path{}
	for _, p := range ports {
		switch o := first[p.port.Name]; {
		case p.port.Name == "":
		case o != nil:
			a.say(p.at, "duplicate port name %q with %s, services and probes that select ports by name will use %s", p.port.Name, o, o)
		default:
			first[p.port.Name] = p.at
		}
	}
}

// JobWarnings are about a job's specification.
func JobWarnings(at *field.Path, s *batchv1.JobSpec) []string {
	a := &advice{}
	if deref(s.CompletionMode) == batchv1.IndexedCompletion && deref(s.Completions) > 100_000 && deref(s.Parallelism) > 10_000 {
		a.say(at, "In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, "+
			"Kubernetes might not be able to track completedIndexes when a big number of indexes fail")
	}
	return append(a.list, TemplateWarnings(at.Child("template"), &s.Template)...)
}

// ClaimWarnings are about a claim.
func ClaimWarnings(c *corev1.PersistentVolumeClaim) []string {
	a := &advice{}
	if _, there := c.Annotations[corev1.BetaStorageClassAnnotation]; there {
		a.say(field.NewPath("metadata", "annotations").Key(corev1.BetaStorageClassAnnotation), `deprecated since v1.8; use "storageClassName" attribute instead`)
	}
	a.claim(field.NewPath("spec"), &c.Spec)
	return a.list
}

// ClaimTemplateWarnings are about a claim that a set makes for each pod.
func ClaimTemplateWarnings(at *field.Path, s *corev1.PersistentVolumeClaimSpec) []string {
	a := &advice{}
	a.claim(at, s)
	return a.list
}

// VolumeWarnings are about a volume.
func VolumeWarnings(v *corev1.PersistentVolume) []string {
	a := &advice{}
	for _, old := range []struct{ key, message string }{
		{corev1.BetaStorageClassAnnotation, `deprecated since v1.8; use "storageClassName" attribute instead`},
		{corev1.MountOptionAnnotation, `deprecated since v1.31; use "mountOptions" attribute instead`},
	} {
		if _, there := v.Annotations[old.key]; there {
			a.say(field.NewPath("metadata", "annotations").Key(old.key), "%s", old.message)
		}
	}
	if v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		a.say(field.NewPath("spec", "persistentVolumeReclaimPolicy"),
			"The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.")
	}
	if n := v.Spec.NodeAffinity; n != nil && n.Required != nil {
		a.nodeTerms(field.NewPath("spec", "nodeAffinity", "required", "nodeSelectorTerms"), n.Required.NodeSelectorTerms)
	}
	return a.list
}

// StorageClassWarnings are about where a class's volumes may be.
func StorageClassWarnings(c *storagev1.StorageClass) []string {
	a := &advice{}
	for i, topology := range c.AllowedTopologies {
		for j, e := range topology.MatchLabelExpressions {
			if message, old := oldNodeLabels[e.Key]; old {
				a.say(field.NewPath("allowedTopologies").Index(i).Child("matchLabelExpressions").Index(j).Child("key"), "%s", message)
			}
		}
	}
	return a.list
}

// RuntimeClassWarnings are about the nodes that a class is for.
func RuntimeClassWarnings(c *nodev1.RuntimeClass) []string {
	a := &advice{}
	if c.Scheduling != nil {
		for _, key := range sortedKeys(c.Scheduling.NodeSelector) {
			if message, old := oldNodeLabels[key]; old {
				a.say(field.NewPath("scheduling", "nodeSelector"), "%s", message)
			}
		}
	}
	return a.list
}

// ServiceWarnings are about a service.
func ServiceWarnings(svc *corev1.Service) []string {
	a, s, at := &advice{}, &svc.Spec, field.NewPath("spec")
	plain := func(text string) { a.list = append(a.list, text) }
	if _, there := svc.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]; there {
		plain(fmt.Sprintf("annotation %s is deprecated, please use %s instead", corev1.DeprecatedAnnotationTopologyAwareHints, corev1.AnnotationTopologyMode))
	}
	headless := s.Type == corev1.ServiceTypeClusterIP && s.ClusterIP == corev1.ClusterIPNone
	if s.ClusterIP != "" && s.ClusterIP != corev1.ClusterIPNone {
		for i, ip := range s.ClusterIPs {
			a.ip(at.Child("clusterIPs").Index(i), ip)
		}
	}
	for _, ignored := range []struct {
		name string
		set  bool
	}{
		{"loadBalancerIP", s.LoadBalancerIP != ""}, {"externalIPs", len(s.ExternalIPs) > 0},
		{"SessionAffinity", s.SessionAffinity != corev1.ServiceAffinityNone},
	} {
		if headless && ignored.set {
			plain("spec." + ignored.name + " is ignored for headless services")
		}
	}
	for i, ip := range s.ExternalIPs {
		a.ip(at.Child("externalIPs").Index(i), ip)
	}
	external := s.Type == corev1.ServiceTypeExternalName
	if len(s.ExternalIPs) > 0 && !headless && !external {
		plain("spec.externalIPs is deprecated and may no longer be implemented in some clusters")
	}
	if s.LoadBalancerIP != "" {
		a.ip(at.Child("loadBalancerIP"), s.LoadBalancerIP)
	}
	for i, cidr := range s.LoadBalancerSourceRanges {
		a.list = append(a.list, validation.GetWarningsForCIDR(at.Child("loadBalancerSourceRanges").Index(i), cidr)...)
	}
	if external && len(s.ExternalIPs) > 0 {
		plain(`spec.externalIPs is ignored when spec.type is "ExternalName"`)
	}
	if !external && s.ExternalName != "" {
		plain(`spec.externalName is ignored when spec.type is not "ExternalName"`)
	}
	if deref(s.TrafficDistribution) == corev1.ServiceTrafficDistributionPreferClose {
		plain(`spec.trafficDistribution: "PreferClose" is deprecated; use "PreferSameZone"`)
	}
	return a.list
}

// IngressWarnings are about a new ingress.
func IngressWarnings(i *networkingv1.Ingress) []string {
	const old = "kubernetes.io/ingress.class"
	if _, there := i.Annotations[old]; there && i.Spec.IngressClassName == nil {
		return []string{fmt.Sprintf("annotation %q is deprecated, please use 'spec.ingressClassName' instead", old)}
	}
	return nil
}

// NetworkPolicyWarnings are about ranges that are not written as they should.
func NetworkPolicyWarnings(p *networkingv1.NetworkPolicy) []string {
	var list []string
	block := func(at *field.Path, b *networkingv1.IPBlock) {
		if b == nil {
			return
		}
		list = append(list, validation.GetWarningsForCIDR(at.Child("cidr"), b.CIDR)...)
		for i, except := range b.Except {
			list = append(list, validation.GetWarningsForCIDR(at.Child("except").Index(i), except)...)
		}
	}
	for i, rule := range p.Spec.Ingress {
		for j, peer := range rule.From {
			block(field.NewPath("spec", "ingress").Index(i).Child("from").Index(j).Child("ipBlock"), peer.IPBlock)
		}
	}
	for i, rule := range p.Spec.Egress {
		for j, peer := range rule.To {
			block(field.NewPath("spec", "egress").Index(i).Child("to").Index(j).Child("ipBlock"), peer.IPBlock)
		}
	}
	return list
}

// SecretWarnings: a certificate should fit its key.
func SecretWarnings(s *corev1.Secret) []string {
	if s.Type != corev1.SecretTypeTLS {
		return nil
	}
	if _, err := tls.X509KeyPair(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey]); err != nil {
		return []string{err.Error()}
	}
	return nil
}

// ServiceAccountWarnings are about an annotation that nothing enforces now.
func ServiceAccountWarnings(account, old *corev1.ServiceAccount) []string {
	const annotation = "kubernetes.io/enforce-mountable-secrets"
	_, there := account.Annotations[annotation]
	if old != nil {
		if _, before := old.Annotations[annotation]; before {
			return nil
		}
	}
	if !there {
		return nil
	}
	return []string{"metadata.annotations[" + annotation + "]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"}
}

// NodeWarnings are about fields of nodes that mean nothing any more.
func NodeWarnings(n *corev1.Node) []string {
	a := &advice{}
	if n.Spec.ConfigSource != nil {
		a.say(field.NewPath("spec", "configSource"), "the feature is removed")
	}
	if n.Spec.DoNotUseExternalID != "" {
		a.say(field.NewPath("spec", "externalID"), "this field is deprecated, and is unused by Kubernetes")
	}
	for i, cidr := range n.Spec.PodCIDRs {
		a.list = append(a.list, validation.GetWarningsForCIDR(field.NewPath("spec", "podCIDRs").Index(i), cidr)...)
	}
	return a.list
}

// EndpointsWarnings are about addresses that are not written as they should.
func EndpointsWarnings(e *corev1.Endpoints) []string {
	a := &advice{}
	for i, s := range e.Subsets {
		at := field.NewPath("subsets").Index(i)
		for j, address := range s.Addresses {
			a.ip(at.Child("addresses").Index(j).Child("ip"), address.IP)
		}
		for j, address := range s.NotReadyAddresses {
			a.ip(at.Child("notReadyAddresses").Index(j).Child("ip"), address.IP)
		}
	}
	return a.list
}

// CSIDriverWarnings: tokens are written to logs by drivers that print what they
// are given.
func CSIDriverWarnings(d *storagev1.CSIDriver) []string {
	if len(d.Spec.TokenRequests) == 0 || d.Spec.ServiceAccountTokenInSecrets != nil {
		return nil
	}
	return []string{"spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes"}
}
