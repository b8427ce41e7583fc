package validation

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"tinykube/api/requests"
)

// What a pod may ask of its node: an operating system, a kernel's profiles, a
// user namespace, and resources for all its containers together.

// checkOS: what only the other system has is refused if the pod says which one
// it is made for.
//
// Simplified: of pods for Windows, only the process on the host is looked at;
// no node here could run one.
func checkOS(r *report, at *field.Path, s *corev1.PodSpec) {
	if s.OS != nil {
		oneOf(r, at.Child("os"), s.OS.Name, corev1.Linux, corev1.Windows)
	}
	forbid := func(at *field.Path, options *corev1.WindowsSecurityContextOptions) (onHost bool) {
		if s.OS != nil && s.OS.Name == corev1.Linux && options != nil {
			r.add(field.Forbidden(at.Child("securityContext", "windowsOptions"), "windows options cannot be set for a linux pod"))
		}
		return options != nil && deref(options.HostProcess)
	}
	onHost := false
	if s.SecurityContext != nil {
		onHost = forbid(at, s.SecurityContext.WindowsOptions)
	}
	for _, list := range []struct {
		name       string
		containers []corev1.Container
	}{{"initContainers", s.InitContainers}, {"containers", s.Containers}} {
		for i, c := range list.containers {
			if c.SecurityContext != nil && forbid(at.Child(list.name).Index(i), c.SecurityContext.WindowsOptions) {
				onHost = true
			}
		}
	}
	if onHost && !s.HostNetwork {
		r.invalid(at.Child("hostNetwork"), false, "hostNetwork must be true if pod contains any hostProcess containers")
	}
}

// checkHostUsers: users of its own and namespaces of the host do not go
// together. The names in capitals are upstream's.
func checkHostUsers(r *report, at *field.Path, s *corev1.PodSpec) {
	if s.HostUsers == nil || *s.HostUsers {
		return
	}
	const message = "when `hostUsers` is false"
	for name, shared := range map[string]bool{"hostNetwork": s.HostNetwork, "HostPID": s.HostPID, "HostIPC": s.HostIPC} {
		if shared {
			r.add(field.Forbidden(at.Child(name), message))
		}
	}
	for i, c := range s.Containers {
		if len(c.VolumeDevices) > 0 {
			r.add(field.Forbidden(at.Child("containers").Index(i).Child("volumeDevices"), message))
		}
	}
}

const maxSysctlName = 253

var sysctlName = regexp.MustCompile(`^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`)

func checkSysctls(r *report, at *field.Path, sysctls []corev1.Sysctl) {
	seen := map[string]bool{}
	for i, sysctl := range sysctls {
		at := at.Index(i).Child("name")
		name := strings.ReplaceAll(sysctl.Name, "/", ".")
		switch {
		case sysctl.Name == "":
			r.add(field.Required(at, ""))
		case len(sysctl.Name) > maxSysctlName || !sysctlName.MatchString(sysctl.Name):
			r.invalid(at, sysctl.Name, fmt.Sprintf("must have at most %d characters and match regex %s", maxSysctlName, sysctlName))
		case seen[name]:
			r.add(field.Duplicate(at, sysctl.Name))
		}
		seen[name] = true
	}
}

func checkAppArmor(r *report, at *field.Path, p *corev1.AppArmorProfile) {
	if p == nil {
		return
	}
	profile := at.Child("localhostProfile")
	switch p.Type {
	case corev1.AppArmorProfileTypeLocalhost:
		switch name := deref(p.LocalhostProfile); {
		case strings.TrimSpace(name) != name:
			r.invalid(profile, name, "must not be padded with whitespace")
		case name == "":
			r.add(field.Required(profile, "must be set when AppArmor type is Localhost"))
		}
	case corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined:
		if p.LocalhostProfile != nil {
			r.invalid(profile, p.LocalhostProfile, "can only be set when AppArmor type is Localhost")
		}
	case "":
		r.add(field.Required(at.Child("type"), "type is required when appArmorProfile is set"))
	default:
		ifSet(r, at.Child("type"), p.Type, corev1.AppArmorProfileTypeLocalhost, corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined)
	}
}

// checkPodResources: what a pod asks for as a whole holds its containers.
func checkPodResources(r *report, at *field.Path, s *corev1.PodSpec) {
	if s.Resources == nil {
		return
	}
	if s.Resources.Claims != nil {
		r.add(field.Forbidden(at.Child("claims"), "claims may not be set for Resources at pod-level"))
	}
	checkAmounts(r, at, s.Resources, func(at *field.Path, name corev1.ResourceName) {
		if name != corev1.ResourceCPU && name != corev1.ResourceMemory && !isHugePages(name) {
			r.add(field.NotSupported(at, name, []string{"cpu", "hugepages-", "memory"}))
		}
	})
	alone := s.DeepCopy()
	alone.Resources, alone.Overhead = nil, nil
	sum := requests.Pod(&corev1.Pod{Spec: *alone})
	for _, name := range sortedNames(sum) {
		asked, all := s.Resources.Requests[name], sum[name]
		if _, set := s.Resources.Requests[name]; set && all.Cmp(asked) > 0 {
			r.invalid(at.Child("requests").Key(string(name)), asked.String(),
				"must be greater than or equal to aggregate container requests of "+all.String())
		}
	}
	for i, c := range s.Containers {
		for _, name := range sortedNames(c.Resources.Limits) {
			limit, most := c.Resources.Limits[name], s.Resources.Limits[name]
			if _, set := s.Resources.Limits[name]; set && limit.Cmp(most) > 0 {
				r.invalid(at.Child("containers").Index(i).Key(string(name)).Child("limits"), limit.String(),
					"must be less than or equal to pod limits of "+most.String())
			}
		}
	}
}

// checkHugePages: they come in pages of the size in their name.
func checkHugePages(r *report, at *field.Path, name corev1.ResourceName, q resource.Quantity) {
	if !isHugePages(name) {
		return
	}
	size, err := resource.ParseQuantity(strings.TrimPrefix(string(name), corev1.ResourceHugePagesPrefix))
	if err != nil || size.Value() <= 0 || q.Value()%size.Value() != 0 {
		r.invalid(at, q.String(), fmt.Sprintf("%s is not positive integer multiple of %s", q.String(), name))
	}
}

// checkSpreadPolicies checks what a spread constraint counts.
func checkSpreadPolicies(r *report, at *field.Path, c *corev1.TopologySpreadConstraint) {
	for name, policy := range map[string]*corev1.NodeInclusionPolicy{"nodeAffinityPolicy": c.NodeAffinityPolicy, "nodeTaintsPolicy": c.NodeTaintsPolicy} {
		if policy != nil && !slices.Contains([]corev1.NodeInclusionPolicy{corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore}, *policy) {
			r.add(field.NotSupported(at.Child(name), policy, []corev1.NodeInclusionPolicy{corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore}))
		}
	}
	if len(c.MatchLabelKeys) > 0 && c.LabelSelector == nil {
		r.add(field.Forbidden(at.Child("matchLabelKeys"), "must not be specified when labelSelector is not set"))
	}
	for i, key := range c.MatchLabelKeys {
		r.labelName(at.Child("matchLabelKeys").Index(i), key)
	}
}

// checkSeccompAnnotation: what nobody reads any more must still be well formed.
func checkSeccompAnnotation(r *report, at *field.Path, profile string) {
	switch local, isLocal := strings.CutPrefix(profile, corev1.SeccompLocalhostProfileNamePrefix); {
	case isLocal:
		r.descending(at, local)
	case profile != corev1.SeccompProfileRuntimeDefault && profile != corev1.DeprecatedSeccompProfileDockerDefault && profile != corev1.SeccompProfileNameUnconfined:
		r.invalid(at, profile, "must be a valid seccomp profile")
	}
}
