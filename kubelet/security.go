package kubelet

import (
	"cmp"
	"fmt"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Paths of /proc and /sys that tell or change too much of the host. A
// container with procMount Unmasked (only in a user namespace, by validation)
// sees them all; so does a privileged one, by the runtime.
//
// Upstream: kubernetes@v1.36 pkg/securitycontext/util.go defaultMaskedPaths.
var (
	maskedPaths = []string{"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys",
		"/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi",
		"/sys/firmware", "/sys/devices/virtual/powercap"}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// effectiveSecurity merges the pod's security context into the container's:
// what the container says wins.
func effectiveSecurity(pod *corev1.Pod, c *corev1.Container) corev1.SecurityContext {
	var out corev1.SecurityContext
	if c.SecurityContext != nil {
		out = *c.SecurityContext
	}
	p := pod.Spec.SecurityContext
	if p == nil {
		return out
	}
	out.RunAsUser = cmp.Or(out.RunAsUser, p.RunAsUser)
	out.RunAsGroup = cmp.Or(out.RunAsGroup, p.RunAsGroup)
	out.RunAsNonRoot = cmp.Or(out.RunAsNonRoot, p.RunAsNonRoot)
	out.SeccompProfile = cmp.Or(out.SeccompProfile, p.SeccompProfile)
	out.AppArmorProfile = cmp.Or(out.AppArmorProfile, p.AppArmorProfile)
	out.SELinuxOptions = cmp.Or(out.SELinuxOptions, p.SELinuxOptions)
	return out
}

// containerSecurity is the container's security context as CRI takes it.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/kuberuntime/security_context.go.
func (k *Kubelet) containerSecurity(pod *corev1.Pod, c *corev1.Container, image *runtimeapi.Image, userns *runtimeapi.UserNamespace) (*runtimeapi.LinuxContainerSecurityContext, error) {
	sc := effectiveSecurity(pod, c)
	if err := verifyNonRoot(pod, c, sc, image); err != nil {
		return nil, err
	}
	out := &runtimeapi.LinuxContainerSecurityContext{
		NamespaceOptions:   namespaceOptions(pod, userns),
		Privileged:         isTrue(sc.Privileged),
		ReadonlyRootfs:     isTrue(sc.ReadOnlyRootFilesystem),
		NoNewPrivs:         sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation,
		RunAsUser:          int64Value(sc.RunAsUser),
		SupplementalGroups: supplementalGroups(pod),
	}
	// Without a user in the spec the image's counts, and it is passed on so
	// that the runtime and our check cannot disagree.
	if sc.RunAsUser == nil && image.GetUid() != nil {
		out.RunAsUser = image.Uid
	} else if sc.RunAsUser == nil {
		out.RunAsUsername = image.GetUsername()
	}
	if sc.RunAsGroup != nil && (out.RunAsUser != nil || out.RunAsUsername != "") {
		out.RunAsGroup = int64Value(sc.RunAsGroup)
	} else if sc.RunAsGroup != nil {
		out.RunAsUser, out.RunAsGroup = &runtimeapi.Int64Value{}, int64Value(sc.RunAsGroup)
	}
	if sc.Capabilities != nil {
		out.Capabilities = &runtimeapi.Capability{}
		for _, name := range sc.Capabilities.Add {
			out.Capabilities.AddCapabilities = append(out.Capabilities.AddCapabilities, string(name))
		}
		for _, name := range sc.Capabilities.Drop {
			out.Capabilities.DropCapabilities = append(out.Capabilities.DropCapabilities, string(name))
		}
	}
	if sc.ProcMount == nil || *sc.ProcMount == corev1.DefaultProcMount {
		out.MaskedPaths, out.ReadonlyPaths = maskedPaths, readonlyPaths
	}
	if o := sc.SELinuxOptions; o != nil {
		out.SelinuxOptions = &runtimeapi.SELinuxOption{User: o.User, Role: o.Role, Type: o.Type, Level: o.Level}
	}
	if p := pod.Spec.SecurityContext; p != nil && p.SupplementalGroupsPolicy != nil {
		out.SupplementalGroupsPolicy = runtimeapi.SupplementalGroupsPolicy(
			runtimeapi.SupplementalGroupsPolicy_value[string(*p.SupplementalGroupsPolicy)])
	}
	var err error
	if out.Seccomp, err = k.seccompProfile(sc.SeccompProfile); err != nil {
		return nil, err
	}
	out.Apparmor, err = appArmorProfile(sc.AppArmorProfile)
	return out, err
}

// seccompProfile maps the profile. An empty Localhost profile is an error: it
// once meant "unconfined", which nobody who writes Localhost wants.
func (k *Kubelet) seccompProfile(p *corev1.SeccompProfile) (*runtimeapi.SecurityProfile, error) {
	switch {
	case p == nil && k.cfg.SeccompDefault, p != nil && p.Type == corev1.SeccompProfileTypeRuntimeDefault:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}, nil
	case p == nil || p.Type == corev1.SeccompProfileTypeUnconfined:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}, nil
	case p.LocalhostProfile == nil || *p.LocalhostProfile == "":
		return nil, fmt.Errorf("localhostProfile must be set if seccompProfile type is Localhost.")
	}
	if !filepath.IsLocal(*p.LocalhostProfile) {
		return nil, fmt.Errorf("seccomp profile %q is not below the node's profile directory", *p.LocalhostProfile)
	}
	return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost,
		LocalhostRef: filepath.Join(k.cfg.RootDir, "seccomp", *p.LocalhostProfile)}, nil
}

func appArmorProfile(p *corev1.AppArmorProfile) (*runtimeapi.SecurityProfile, error) {
	switch {
	case p == nil:
		return nil, nil
	case p.Type == corev1.AppArmorProfileTypeUnconfined:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}, nil
	case p.Type == corev1.AppArmorProfileTypeRuntimeDefault:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}, nil
	case p.LocalhostProfile == nil || *p.LocalhostProfile == "":
		return nil, fmt.Errorf("localhostProfile must be set if appArmorProfile type is Localhost.")
	}
	return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: *p.LocalhostProfile}, nil
}

// verifyNonRoot keeps the promise of runAsNonRoot before anything runs.
func verifyNonRoot(pod *corev1.Pod, c *corev1.Container, sc corev1.SecurityContext, image *runtimeapi.Image) error {
	if !isTrue(sc.RunAsNonRoot) {
		return nil
	}
	where := fmt.Sprintf("(pod: %q, container: %s)", podTitle(pod), c.Name)
	switch {
	case sc.RunAsUser != nil && *sc.RunAsUser == 0:
		return fmt.Errorf("container's runAsUser breaks non-root policy %s", where)
	case sc.RunAsUser != nil:
		return nil
	case image.GetUid() != nil && image.Uid.Value == 0, image.GetUid() == nil && image.GetUsername() == "":
		return fmt.Errorf("container has runAsNonRoot and image will run as root %s", where)
	case image.GetUid() == nil && strings.TrimSpace(image.GetUsername()) != "":
		return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root %s",
			image.Username, where)
	}
	return nil
}

// podTitle names a pod in messages as upstream's do: name_namespace(uid).
func podTitle(pod *corev1.Pod) string {
	return fmt.Sprintf("%s_%s(%s)", pod.Name, pod.Namespace, pod.UID)
}
