package podsecurity

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

func appArmorProfile(p *pod) finding {
	bad := set{}
	forbidden := func(profile *corev1.AppArmorProfile) bool {
		if profile == nil || profile.Type == corev1.AppArmorProfileTypeRuntimeDefault || profile.Type == corev1.AppArmorProfileTypeLocalhost {
			return false
		}
		bad[string(profile.Type)] = true
		return true
	}
	who := setters(forbidden(p.context().AppArmorProfile), p.which(func(c *corev1.Container) bool { return forbidden(context(c).AppArmorProfile) }))
	values := bad.list()
	annotations := set{}
	for key, value := range p.meta.Annotations { // the old way to say the same
		if strings.HasPrefix(key, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix) && value != "" &&
			value != corev1.DeprecatedAppArmorBetaProfileRuntimeDefault && !strings.HasPrefix(value, corev1.DeprecatedAppArmorBetaProfileNamePrefix) {
			annotations[fmt.Sprintf("%s=%q", key, value)] = true
		}
	}
	if len(annotations) > 0 {
		values = append(values, annotations.list()...)
		if who != "" {
			who += " and "
		}
		who += count("annotation", len(annotations))
	}
	if who == "" {
		return finding{}
	}
	return finding{count("forbidden AppArmor profile", len(values)), who + " must not set AppArmor profile type to " + quoted(values)}
}

// defaultCapabilities are those that a runtime gives to every container.
var defaultCapabilities = []corev1.Capability{"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD",
	"NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"}

func capabilitiesBaseline(p *pod) finding {
	names, added := addedCapabilities(p, defaultCapabilities)
	return blame("non-default capabilities", false, names, "must not include %s in securityContext.capabilities.add", quoted(added))
}

// addedCapabilities finds the containers that add other capabilities than these.
func addedCapabilities(p *pod, allowed []corev1.Capability) (names, added []string) {
	bad := set{}
	names = p.which(func(c *corev1.Container) bool {
		found := false
		if context(c).Capabilities != nil {
			for _, capability := range c.SecurityContext.Capabilities.Add {
				if !slices.Contains(allowed, capability) {
					bad[string(capability)], found = true, true
				}
			}
		}
		return found
	})
	return names, bad.list()
}

func hostNamespaces(p *pod) finding {
	var shared []string
	for _, one := range []struct {
		name string
		set  bool
	}{{"hostNetwork", p.spec.HostNetwork}, {"hostPID", p.spec.HostPID}, {"hostIPC", p.spec.HostIPC}} {
		if one.set {
			shared = append(shared, one.name+"=true")
		}
	}
	if len(shared) == 0 {
		return finding{}
	}
	return finding{"host namespaces", strings.Join(shared, ", ")}
}

func hostPathVolumes(p *pod) finding {
	var names []string
	for _, volume := range p.spec.Volumes {
		if volume.HostPath != nil {
			names = append(names, volume.Name)
		}
	}
	if len(names) == 0 {
		return finding{}
	}
	return finding{"hostPath volumes", count("volume", len(names)) + " " + quoted(names)}
}

func hostPorts(p *pod) finding {
	ports := set{}
	names := p.which(func(c *corev1.Container) bool {
		found := false
		for _, port := range c.Ports {
			if port.HostPort != 0 {
				ports[strconv.Itoa(int(port.HostPort))], found = true, true
			}
		}
		return found
	})
	return blame("hostPort", false, names, "%s %s %s", uses(len(names)), count("hostPort", len(ports)), strings.Join(ports.list(), ", "))
}

// hostProbes finds probes and hooks that make the kubelet call another host.
func hostProbes(p *pod) finding {
	hosts, bad := set{}, set{}
	p.each(func(c *corev1.Container) {
		look := func(get *corev1.HTTPGetAction, socket *corev1.TCPSocketAction) {
			if get != nil && get.Host != "" {
				hosts[get.Host], bad[c.Name] = true, true
			}
			if socket != nil && socket.Host != "" {
				hosts[socket.Host], bad[c.Name] = true, true
			}
		}
		for _, probe := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
			if probe != nil {
				look(probe.HTTPGet, probe.TCPSocket)
			}
		}
		if c.Lifecycle == nil {
			return
		}
		for _, hook := range []*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
			if hook != nil {
				look(hook.HTTPGet, hook.TCPSocket)
			}
		}
	})
	return blame("probe or lifecycle host", false, bad.list(), "%s %s %s", uses(len(bad)), count("probe or lifecycle host", len(hosts)), quoted(hosts.list()))
}

func privileged(p *pod) finding {
	names := p.which(func(c *corev1.Container) bool { return is(context(c).Privileged, true) })
	return blame("privileged", false, names, "must not set securityContext.privileged=true")
}

func procMountBaseline(p *pod) finding {
	if p.ownUsers() {
		return finding{}
	}
	return procMount(p)
}

func procMount(p *pod) finding {
	bad := set{}
	names := p.which(func(c *corev1.Container) bool {
		mount := context(c).ProcMount
		if mount == nil || *mount == corev1.DefaultProcMount {
			return false
		}
		bad[string(*mount)] = true
		return true
	})
	return blame("procMount", false, names, "must not set securityContext.procMount to %s", quoted(bad.list()))
}

func seLinuxOptions(p *pod) finding {
	allowed := []string{"", "container_t", "container_init_t", "container_kvm_t"}
	if p.minor >= 31 {
		allowed = append(allowed, "container_engine_t")
	}
	types, user, role := set{}, false, false
	forbidden := func(o *corev1.SELinuxOptions) bool {
		if o == nil {
			return false
		}
		badType := !slices.Contains(allowed, o.Type)
		if badType {
			types[o.Type] = true
		}
		user, role = user || o.User != "", role || o.Role != ""
		return badType || o.User != "" || o.Role != ""
	}
	itself := forbidden(p.context().SELinuxOptions)
	names := p.which(func(c *corev1.Container) bool { return forbidden(context(c).SELinuxOptions) })
	var what []string
	if len(types) > 0 {
		what = append(what, count("type", len(types))+" "+quoted(types.list()))
	}
	if user {
		what = append(what, "user may not be set")
	}
	if role {
		what = append(what, "role may not be set")
	}
	return blame("seLinuxOptions", itself, names, "set forbidden securityContext.seLinuxOptions: %s", strings.Join(what, "; "))
}

// seccompBaseline forbids switching seccomp off. Before 1.19 it was said in
// annotations.
func seccompBaseline(p *pod) finding {
	if p.minor < 19 {
		return seccompAnnotations(p)
	}
	bad := set{}
	itself := badSeccomp(p.context().SeccompProfile, bad)
	names := p.which(func(c *corev1.Container) bool { return badSeccomp(context(c).SeccompProfile, bad) })
	return blame("seccompProfile", itself, names, "must not set securityContext.seccompProfile.type to %s", quoted(bad.list()))
}

// badSeccomp reports a profile that is neither the runtime's nor a file.
func badSeccomp(profile *corev1.SeccompProfile, bad set) bool {
	if profile == nil || profile.Type == corev1.SeccompProfileTypeLocalhost || profile.Type == corev1.SeccompProfileTypeRuntimeDefault {
		return false
	}
	bad[string(profile.Type)] = true
	return true
}

func seccompAnnotations(p *pod) finding {
	bad := set{}
	look := func(key string) {
		value, ok := p.meta.Annotations[key]
		if ok && value != corev1.SeccompProfileRuntimeDefault && value != corev1.DeprecatedSeccompProfileDockerDefault &&
			!strings.HasPrefix(value, corev1.SeccompLocalhostProfileNamePrefix) {
			bad[fmt.Sprintf("%s=%q", key, value)] = true
		}
	}
	look("seccomp.security.alpha.kubernetes.io/pod")
	p.each(func(c *corev1.Container) { look("container.seccomp.security.alpha.kubernetes.io/" + c.Name) })
	if len(bad) == 0 {
		return finding{}
	}
	return finding{"seccompProfile", "forbidden " + count("annotation", len(bad)) + " " + strings.Join(bad.list(), ", ")}
}

// safeSysctls belong to the pod's own namespaces; the number is the minor
// version since which they count as such.
var safeSysctls = map[string]int{
	"kernel.shm_rmid_forced": 0, "net.ipv4.ip_local_port_range": 0, "net.ipv4.tcp_syncookies": 0,
	"net.ipv4.ping_group_range": 0, "net.ipv4.ip_unprivileged_port_start": 0,
	"net.ipv4.ip_local_reserved_ports": 27,
	"net.ipv4.tcp_keepalive_time":      29, "net.ipv4.tcp_fin_timeout": 29,
	"net.ipv4.tcp_keepalive_intvl": 29, "net.ipv4.tcp_keepalive_probes": 29,
	"net.ipv4.tcp_rmem": 32, "net.ipv4.tcp_wmem": 32,
}

func sysctls(p *pod) finding {
	var bad []string
	for _, sysctl := range p.context().Sysctls {
		if since, ok := safeSysctls[sysctl.Name]; !ok || p.minor < since {
			bad = append(bad, sysctl.Name)
		}
	}
	if len(bad) == 0 {
		return finding{}
	}
	return finding{"forbidden sysctls", strings.Join(bad, ", ")}
}

func windowsHostProcess(p *pod) finding {
	host := func(o *corev1.WindowsSecurityContextOptions) bool { return o != nil && is(o.HostProcess, true) }
	names := p.which(func(c *corev1.Container) bool { return host(context(c).WindowsOptions) })
	return blame("hostProcess", host(p.context().WindowsOptions), names, "must not set securityContext.windowsOptions.hostProcess=true")
}
