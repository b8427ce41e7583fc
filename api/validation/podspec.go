package validation

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Limits of resolv.conf as a pod may set it.
const (
	maxNameservers     = 3
	maxSearchPaths     = 32
	maxSearchListChars = 2048
)

// Pod checks a new pod.
func Pod(p *corev1.Pod) field.ErrorList {
	r := &report{}
	at := field.NewPath("spec")
	checkPod(r, p)
	if len(p.Spec.EphemeralContainers) > 0 {
		r.add(field.Forbidden(at.Child("ephemeralContainers"), "cannot be set on create"))
	}
	if p.Spec.NodeName != "" && len(p.Spec.SchedulingGates) > 0 {
		r.add(field.Forbidden(at.Child("nodeName"), "cannot be set until all schedulingGates have been cleared"))
	}
	return r.errs
}

// checkPod is what holds for a pod at any time.
func checkPod(r *report, p *corev1.Pod) {
	at := field.NewPath("spec")
	checkPodSpec(r, at, &p.Spec, true)
	for name, containers := range map[string][]corev1.Container{"containers": p.Spec.Containers, "initContainers": p.Spec.InitContainers} {
		for i, c := range containers {
			if strings.TrimSpace(c.Image) != c.Image { // a template may still say " "
				r.invalid(at.Child(name).Index(i).Child("image"), c.Image, "must not have leading or trailing whitespace")
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.Annotations)) {
		if name == corev1.SeccompPodAnnotationKey || strings.HasPrefix(name, corev1.SeccompContainerAnnotationKeyPrefix) {
			checkSeccompAnnotation(r, field.NewPath("metadata", "annotations").Child(name), p.Annotations[name])
		}
	}
	for i, v := range p.Spec.Volumes { // a template may still say nothing
		if v.Image != nil {
			r.required(at.Child("volumes").Index(i).Child("image", "reference"), v.Image.Reference)
		}
	}
	if p.Spec.ServiceAccountName != "" {
		return
	}
	for i, v := range p.Spec.Volumes {
		for j, source := range sourcesOf(v) {
			if source.ServiceAccountToken != nil {
				r.add(field.Forbidden(at.Child("volumes").Index(i).Child("projected", "sources").Index(j).Child("serviceAccountToken"),
					"must not be specified when serviceAccountName is not set"))
			}
		}
	}
}

func sourcesOf(v corev1.Volume) []corev1.VolumeProjection {
	if v.Projected == nil {
		return nil
	}
	return v.Projected.Sources
}

// podTemplate checks what controllers make pods from.
func podTemplate(r *report, at *field.Path, t *corev1.PodTemplateSpec) {
	r.labels(at.Child("labels"), t.Labels)
	checkPodSpec(r, at.Child("spec"), &t.Spec, false)
	if len(t.Spec.EphemeralContainers) > 0 {
		r.add(field.Forbidden(at.Child("spec", "ephemeralContainers"), "ephemeral containers not allowed in pod template"))
	}
}

func checkPodSpec(r *report, at *field.Path, s *corev1.PodSpec, isPod bool) {
	volumes := checkVolumes(r, at.Child("volumes"), s.Volumes)
	checkContainers(r, at, s, volumes)
	checkHostPorts(r, at, s, isPod)
	oneOf(r, at.Child("restartPolicy"), s.RestartPolicy,
		corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)
	checkDNS(r, at, s)
	r.labels(at.Child("nodeSelector"), s.NodeSelector)
	checkAffinity(r, at.Child("affinity"), s.Affinity)
	checkTolerations(r, at.Child("tolerations"), s.Tolerations)
	checkSpread(r, at.Child("topologySpreadConstraints"), s.TopologySpreadConstraints)
	checkPodSecurity(r, at.Child("securityContext"), s.SecurityContext)
	checkPodNames(r, at, s)
	checkOS(r, at, s)
	checkHostUsers(r, at, s)
	checkPodResources(r, at.Child("resources"), s)
	if s.TerminationGracePeriodSeconds == nil {
		r.add(field.Required(at.Child("terminationGracePeriodSeconds"), ""))
	}
	if d := s.ActiveDeadlineSeconds; d != nil && (*d < 1 || *d > math.MaxInt32) {
		r.invalid(at.Child("activeDeadlineSeconds"), *d, validation.InclusiveRangeError(1, math.MaxInt32))
	}
	if s.PreemptionPolicy != nil {
		oneOf(r, at.Child("preemptionPolicy"), *s.PreemptionPolicy, corev1.PreemptLowerPriority, corev1.PreemptNever)
	}
	for i, gate := range s.ReadinessGates {
		r.messages(at.Child("readinessGates").Index(i).Child("conditionType"), string(gate.ConditionType),
			validation.IsQualifiedName(string(gate.ConditionType)))
	}
	gates := map[string]bool{}
	for i, gate := range s.SchedulingGates {
		at := at.Child("schedulingGates").Index(i)
		r.messages(at, gate.Name, validation.IsQualifiedName(gate.Name))
		if gates[gate.Name] {
			r.add(field.Duplicate(at, gate.Name))
		}
		gates[gate.Name] = true
	}
	for name, q := range s.Overhead {
		r.quantity(at.Child("overhead").Key(string(name)), name, q)
	}
}

// checkPodNames checks references by name and the pod's own host name.
func checkPodNames(r *report, at *field.Path, s *corev1.PodSpec) {
	optional := func(check func(*field.Path, string), name, value string) {
		if value != "" {
			check(at.Child(name), value)
		}
	}
	optional(r.subdomain, "serviceAccountName", s.ServiceAccountName)
	optional(r.subdomain, "nodeName", s.NodeName)
	optional(r.label, "hostname", s.Hostname)
	optional(r.label, "subdomain", s.Subdomain)
	optional(r.subdomain, "priorityClassName", s.PriorityClassName)
	if at := at.Child("hostnameOverride"); s.HostnameOverride != nil {
		if deref(s.SetHostnameAsFQDN) {
			r.add(field.Forbidden(at, "may not be specified when setHostnameAsFQDN is true"))
		}
		if s.HostNetwork {
			r.add(field.Forbidden(at, "may not be specified when hostNetwork is true"))
		}
		if len(*s.HostnameOverride) > 64 {
			r.add(field.TooLong(at, "", 64))
		}
		r.subdomain(at, *s.HostnameOverride)
	}
	if s.RuntimeClassName != nil {
		r.subdomain(at.Child("runtimeClassName"), *s.RuntimeClassName)
	}
	for i, alias := range s.HostAliases {
		at := at.Child("hostAliases").Index(i)
		r.ip(at.Child("ip"), alias.IP)
		for j, name := range alias.Hostnames {
			r.subdomain(at.Child("hostnames").Index(j), name)
		}
	}
}

// checkHostPorts: in the node's network a port is where it is.
func checkHostPorts(r *report, at *field.Path, s *corev1.PodSpec, isPod bool) {
	if !s.HostNetwork {
		return
	}
	for i, c := range s.Containers {
		for j, p := range c.Ports {
			if p.HostPort != p.ContainerPort && (isPod || p.HostPort != 0) {
				r.invalid(at.Child("containers").Index(i).Child("ports").Index(j).Child("hostPort"), p.HostPort,
					"must match `containerPort` when `hostNetwork` is true")
			}
		}
	}
}

func checkDNS(r *report, at *field.Path, s *corev1.PodSpec) {
	oneOf(r, at.Child("dnsPolicy"), s.DNSPolicy,
		corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone)
	at = at.Child("dnsConfig")
	c := s.DNSConfig
	if c == nil {
		if s.DNSPolicy == corev1.DNSNone {
			r.add(field.Required(at, "must provide `dnsConfig` when `dnsPolicy` is None"))
		}
		return
	}
	if s.DNSPolicy == corev1.DNSNone && len(c.Nameservers) == 0 {
		r.add(field.Required(at.Child("nameservers"), "must provide at least one DNS nameserver when `dnsPolicy` is None"))
		return
	}
	if len(c.Nameservers) > maxNameservers {
		r.invalid(at.Child("nameservers"), c.Nameservers, fmt.Sprintf("must not have more than %d nameservers", maxNameservers))
	}
	for i, ip := range c.Nameservers {
		r.ip(at.Child("nameservers").Index(i), ip)
	}
	if len(c.Searches) > maxSearchPaths {
		r.invalid(at.Child("searches"), c.Searches, fmt.Sprintf("must not have more than %d search paths", maxSearchPaths))
	}
	if len(strings.Join(c.Searches, " ")) > maxSearchListChars {
		r.invalid(at.Child("searches"), c.Searches,
			fmt.Sprintf("must not have more than %d characters (including spaces) in the search list", maxSearchListChars))
	}
	for i, search := range c.Searches {
		if search = strings.TrimSuffix(search, "."); search != "" {
			r.messages(at.Child("searches").Index(i), search, validation.IsDNS1123SubdomainWithUnderscore(search))
		}
	}
	for i, option := range c.Options {
		if option.Name == "" {
			r.add(field.Required(at.Child("options").Index(i), "must not be empty"))
		}
	}
}

func checkPodSecurity(r *report, at *field.Path, s *corev1.PodSecurityContext) {
	if s == nil {
		return
	}
	checkID(r, at.Child("fsGroup"), s.FSGroup)
	checkID(r, at.Child("runAsUser"), s.RunAsUser)
	checkID(r, at.Child("runAsGroup"), s.RunAsGroup)
	for i, group := range s.SupplementalGroups {
		checkID(r, at.Child("supplementalGroups").Index(i), &group)
	}
	checkSysctls(r, at.Child("sysctls"), s.Sysctls)
	if s.FSGroupChangePolicy != nil {
		ifSet(r, at.Child("fsGroupChangePolicy"), *s.FSGroupChangePolicy, corev1.FSGroupChangeAlways, corev1.FSGroupChangeOnRootMismatch)
	}
	checkSeccomp(r, at.Child("seccompProfile"), s.SeccompProfile)
	checkAppArmor(r, at.Child("appArmorProfile"), s.AppArmorProfile)
}

func checkID(r *report, at *field.Path, id *int64) {
	if id != nil {
		for _, m := range validation.IsValidUserID(*id) {
			r.invalid(at, *id, m)
		}
	}
}

func checkSeccomp(r *report, at *field.Path, p *corev1.SeccompProfile) {
	if p == nil {
		return
	}
	oneOf(r, at.Child("type"), p.Type,
		corev1.SeccompProfileTypeLocalhost, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)
	at = at.Child("localhostProfile")
	switch {
	case p.Type == corev1.SeccompProfileTypeLocalhost && deref(p.LocalhostProfile) == "":
		r.add(field.Required(at, "must be set when seccomp type is Localhost"))
	case p.Type == corev1.SeccompProfileTypeLocalhost:
		r.descending(at, *p.LocalhostProfile)
	case p.LocalhostProfile != nil:
		r.invalid(at, p, "can only be set when seccomp type is Localhost")
	}
}

// isOvercommitted says whether more of a resource may be limited than
// requested: of Kubernetes' own resources, all but huge pages.
func isOvercommitted(name corev1.ResourceName) bool {
	return !isExtended(name) && !isHugePages(name)
}

func isHugePages(name corev1.ResourceName) bool {
	return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

func checkResources(r *report, at *field.Path, res *corev1.ResourceRequirements) {
	checkAmounts(r, at, res, func(at *field.Path, name corev1.ResourceName) { checkContainerResourceName(r, at, name) })
}

func checkAmounts(r *report, at *field.Path, res *corev1.ResourceRequirements, checkName func(*field.Path, corev1.ResourceName)) {
	for _, list := range []struct {
		name      string
		resources corev1.ResourceList
	}{{"limits", res.Limits}, {"requests", res.Requests}} {
		for _, name := range sortedNames(list.resources) {
			at := at.Child(list.name).Key(string(name))
			checkName(at, name)
			r.quantity(at, name, list.resources[name])
			checkHugePages(r, at, name, list.resources[name])
		}
	}
	for _, name := range sortedNames(res.Requests) {
		request := res.Requests[name]
		limit, limited := res.Limits[name]
		switch {
		case !limited && !isOvercommitted(name):
			r.add(field.Required(at.Child("limits"), "Limit must be set for non overcommitable resources"))
		case limited && !isOvercommitted(name) && request.Cmp(limit) != 0:
			r.invalid(at.Child("requests"), request.String(), fmt.Sprintf("must be equal to %s limit of %s", name, limit.String()))
		case limited && request.Cmp(limit) > 0:
			r.invalid(at.Child("requests"), request.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", name, limit.String()))
		}
	}
}

func sortedNames(list corev1.ResourceList) []corev1.ResourceName {
	var names []corev1.ResourceName
	for name := range list {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func checkContainerResourceName(r *report, at *field.Path, name corev1.ResourceName) {
	if messages := validation.IsQualifiedName(string(name)); len(messages) > 0 {
		for _, m := range messages {
			r.invalid(at, name, m)
		}
		return
	}
	if strings.Contains(string(name), "/") {
		return
	}
	switch name {
	case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
	default:
		if !isHugePages(name) {
			if !standardResources[name] {
				r.invalid(at, name, "must be a standard resource type or fully qualified")
			}
			r.invalid(at, name, "must be a standard resource for containers")
		}
	}
}

// standardResources are Kubernetes' own names without a domain.
var standardResources = map[corev1.ResourceName]bool{
	corev1.ResourceCPU: true, corev1.ResourceMemory: true, corev1.ResourceEphemeralStorage: true,
	corev1.ResourceRequestsCPU: true, corev1.ResourceRequestsMemory: true, corev1.ResourceRequestsEphemeralStorage: true,
	corev1.ResourceLimitsCPU: true, corev1.ResourceLimitsMemory: true, corev1.ResourceLimitsEphemeralStorage: true,
	corev1.ResourcePods: true, corev1.ResourceQuotas: true, corev1.ResourceServices: true,
	corev1.ResourceReplicationControllers: true, corev1.ResourceSecrets: true, corev1.ResourceConfigMaps: true,
	corev1.ResourcePersistentVolumeClaims: true, corev1.ResourceStorage: true, corev1.ResourceRequestsStorage: true,
	corev1.ResourceServicesNodePorts: true, corev1.ResourceServicesLoadBalancers: true,
}
