package podsecurity

import (
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

func allowPrivilegeEscalation(p *pod) finding {
	if p.windows() {
		return finding{}
	}
	names := p.which(func(c *corev1.Container) bool { return !is(context(c).AllowPrivilegeEscalation, false) })
	return blame("allowPrivilegeEscalation != false", false, names, "must set securityContext.allowPrivilegeEscalation=false")
}

func capabilitiesRestricted(p *pod) finding {
	if p.windows() {
		return finding{}
	}
	var details []string
	keeps := p.which(func(c *corev1.Container) bool {
		return context(c).Capabilities == nil || !slices.Contains(c.SecurityContext.Capabilities.Drop, "ALL")
	})
	if len(keeps) > 0 {
		details = append(details, containers(keeps)+` must set securityContext.capabilities.drop=["ALL"]`)
	}
	if names, added := addedCapabilities(p, []corev1.Capability{"NET_BIND_SERVICE"}); len(names) > 0 {
		details = append(details, containers(names)+" must not include "+quoted(added)+" in securityContext.capabilities.add")
	}
	if len(details) == 0 {
		return finding{}
	}
	return finding{"unrestricted capabilities", strings.Join(details, "; ")}
}

// harmlessVolumes hold nothing of the node's, or what an administrator made.
var harmlessVolumes = []string{"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret"}

func restrictedVolumes(p *pod) finding {
	var names []string
	kinds := set{}
	for _, volume := range p.spec.Volumes {
		if kind := volumeKind(&volume.VolumeSource); !slices.Contains(harmlessVolumes, kind) {
			names = append(names, volume.Name)
			kinds[kind] = true
		}
	}
	if len(names) == 0 {
		return finding{}
	}
	return finding{"restricted volume types", count("volume", len(names)) + " " + quoted(names) + " " + uses(len(names)) + " " +
		count("restricted volume type", len(kinds)) + " " + quoted(kinds.list())}
}

// volumeKind is the name of the one field that is set.
func volumeKind(source *corev1.VolumeSource) string {
	value := reflect.ValueOf(source).Elem()
	for i := range value.NumField() {
		if !value.Field(i).IsNil() {
			name, _, _ := strings.Cut(value.Type().Field(i).Tag.Get("json"), ",")
			return name
		}
	}
	return "unknown"
}

func runAsNonRoot(p *pod) finding {
	if p.ownUsers() {
		return finding{}
	}
	const reason = "runAsNonRoot != true"
	said := p.context().RunAsNonRoot
	roots := p.which(func(c *corev1.Container) bool { return is(context(c).RunAsNonRoot, false) })
	if f := blame(reason, is(said, false), roots, "must not set securityContext.runAsNonRoot=false"); f.reason != "" {
		return f
	}
	silent := p.which(func(c *corev1.Container) bool { return context(c).RunAsNonRoot == nil && !is(said, true) })
	if len(silent) == 0 {
		return finding{}
	}
	return finding{reason, "pod or " + containers(silent) + " must set securityContext.runAsNonRoot=true"}
}

func runAsUser(p *pod) finding {
	if p.ownUsers() {
		return finding{}
	}
	root := func(user *int64) bool { return user != nil && *user == 0 }
	names := p.which(func(c *corev1.Container) bool { return root(context(c).RunAsUser) })
	return blame("runAsUser=0", root(p.context().RunAsUser), names, "must not set runAsUser=0")
}

func seccompRestricted(p *pod) finding {
	if p.windows() {
		return finding{}
	}
	if f := seccompBaseline(p); f.reason != "" {
		return f
	}
	if p.context().SeccompProfile != nil {
		return finding{}
	}
	silent := p.which(func(c *corev1.Container) bool { return context(c).SeccompProfile == nil })
	if len(silent) == 0 {
		return finding{}
	}
	return finding{"seccompProfile", "pod or " + containers(silent) + ` must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost"`}
}
