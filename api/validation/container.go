package validation

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// checkContainers checks all containers of a pod and that their names differ.
func checkContainers(r *report, at *field.Path, s *corev1.PodSpec, volumes map[string]corev1.VolumeSource) {
	c := &containerCheck{report: r, pod: s, volumes: volumes, names: map[string]bool{}}
	if len(s.Containers) == 0 {
		r.add(field.Required(at.Child("containers"), ""))
	}
	for i := range s.Containers {
		at, container := at.Child("containers").Index(i), &s.Containers[i]
		c.common(at, container)
		c.unique(at, container.Name, true)
		c.running(at, container)
	}
	c.hostPorts(at.Child("containers"), s.Containers)
	for i := range s.InitContainers {
		at, container := at.Child("initContainers").Index(i), &s.InitContainers[i]
		c.common(at, container)
		c.unique(at, container.Name, false)
		c.hostPorts(at, s.InitContainers[i:i+1]) // they run one by one
		if deref(container.RestartPolicy) == corev1.ContainerRestartPolicyAlways {
			c.running(at, container)
		} else {
			c.notRunning(at, container)
		}
	}
	for i := range s.EphemeralContainers {
		at, e := at.Child("ephemeralContainers").Index(i), &s.EphemeralContainers[i]
		target := e.TargetContainerName
		if target != "" && !c.names[target] {
			r.add(field.NotFound(at.Child("targetContainerName"), target))
		}
		container := corev1.Container(e.EphemeralContainerCommon)
		c.common(at, &container)
		c.unique(at, e.Name, true)
		c.ephemeral(at, &container)
	}
}

// containerCheck carries what a container is checked against.
type containerCheck struct {
	*report
	pod     *corev1.PodSpec
	volumes map[string]corev1.VolumeSource
	names   map[string]bool
}

// unique: of an init container without a name, only the lack is reported.
func (c *containerCheck) unique(at *field.Path, name string, evenEmpty bool) {
	if c.names[name] {
		c.add(field.Duplicate(at.Child("name"), name))
	} else if name != "" || evenEmpty {
		c.names[name] = true
	}
}

// common is what holds for containers of all three kinds.
func (c *containerCheck) common(at *field.Path, k *corev1.Container) {
	if c.required(at.Child("name"), k.Name) {
		c.label(at.Child("name"), k.Name)
	}
	c.required(at.Child("image"), k.Image)
	oneOf(c.report, at.Child("terminationMessagePolicy"), k.TerminationMessagePolicy,
		corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)
	c.ports(at.Child("ports"), k.Ports)
	c.env(at.Child("env"), k.Env)
	c.envFrom(at.Child("envFrom"), k.EnvFrom)
	c.mounts(at, k)
	oneOf(c.report, at.Child("imagePullPolicy"), k.ImagePullPolicy, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)
	checkResources(c.report, at.Child("resources"), &k.Resources)
	checkSecurityContext(c.report, at.Child("securityContext"), k.SecurityContext)
	if sc := k.SecurityContext; sc != nil && deref(sc.ProcMount) == corev1.UnmaskedProcMount && (c.pod.HostUsers == nil || *c.pod.HostUsers) {
		c.invalid(at.Child("securityContext", "procMount"), *sc.ProcMount, "`hostUsers` must be false to use `Unmasked`")
	}
	if k.RestartPolicy != nil {
		ifSet(c.report, at.Child("restartPolicy"), *k.RestartPolicy, corev1.ContainerRestartPolicyAlways,
			corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure)
	}
	c.restartRules(at, k)
	for i, p := range k.ResizePolicy {
		at := at.Child("resizePolicy")
		oneOf(c.report, at, p.ResourceName, corev1.ResourceCPU, corev1.ResourceMemory)
		oneOf(c.report, at, p.RestartPolicy, corev1.NotRequired, corev1.RestartContainer)
		if c.pod.RestartPolicy == corev1.RestartPolicyNever && p.RestartPolicy != corev1.NotRequired {
			c.invalid(at, p.RestartPolicy, "must be 'NotRequired' when pod `restartPolicy` is 'Never'")
		}
		for _, earlier := range k.ResizePolicy[:i] {
			if earlier.ResourceName == p.ResourceName {
				c.add(field.Duplicate(at.Index(i), p.ResourceName))
			}
		}
	}
}

// restartRules checks what a container's exit codes shall lead to.
func (c *containerCheck) restartRules(at *field.Path, k *corev1.Container) {
	rules := k.RestartPolicyRules
	if len(rules) > 0 && k.RestartPolicy == nil {
		c.add(field.Required(at.Child("restartPolicy"), "must specify restartPolicy when restart rules are used"))
	}
	at = at.Child("restartPolicyRules")
	const most, mostCodes = 20, 255
	if len(rules) > most {
		c.add(field.TooMany(at, len(rules), most))
	}
	for i, rule := range rules {
		at := at.Index(i)
		c.anyOf(at.Child("action"), string(rule.Action), string(corev1.ContainerRestartRuleActionRestart), string(corev1.ContainerRestartRuleActionRestartAllContainers))
		if rule.ExitCodes == nil {
			c.add(field.Required(at.Child("exitCodes"), "must be specified"))
			continue
		}
		at = at.Child("exitCodes")
		c.anyOf(at.Child("operator"), string(rule.ExitCodes.Operator), string(corev1.ContainerRestartRuleOnExitCodesOpIn), string(corev1.ContainerRestartRuleOnExitCodesOpNotIn))
		if len(rule.ExitCodes.Values) > mostCodes {
			c.add(field.TooMany(at.Child("values"), len(rule.ExitCodes.Values), mostCodes))
		}
	}
}

// anyOf reports a value that is not among those allowed, or missing.
func (c *containerCheck) anyOf(at *field.Path, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		c.add(field.NotSupported(at, value, allowed))
	}
}

// running is what only containers have that keep running.
func (c *containerCheck) running(at *field.Path, k *corev1.Container) {
	if l := k.Lifecycle; l != nil {
		if l.PostStart != nil {
			c.handler(at.Child("lifecycle", "postStart"), lifecycleHandler(l.PostStart))
		}
		if l.PreStop != nil {
			c.handler(at.Child("lifecycle", "preStop"), lifecycleHandler(l.PreStop))
		}
	}
	c.onceProbe(at.Child("livenessProbe"), k.LivenessProbe)
	c.probe(at.Child("readinessProbe"), k.ReadinessProbe)
	if p := k.ReadinessProbe; p != nil && p.TerminationGracePeriodSeconds != nil {
		c.invalid(at.Child("readinessProbe", "terminationGracePeriodSeconds"), p.TerminationGracePeriodSeconds, "must not be set for readinessProbes")
	}
	c.onceProbe(at.Child("startupProbe"), k.StartupProbe)
}

// onceProbe checks a probe whose first success is enough.
func (c *containerCheck) onceProbe(at *field.Path, p *corev1.Probe) {
	c.probe(at, p)
	if p != nil && p.SuccessThreshold != 1 {
		c.invalid(at.Child("successThreshold"), p.SuccessThreshold, "must be 1")
	}
}

func (c *containerCheck) notRunning(at *field.Path, k *corev1.Container) {
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"lifecycle", k.Lifecycle != nil}, {"livenessProbe", k.LivenessProbe != nil},
		{"readinessProbe", k.ReadinessProbe != nil}, {"startupProbe", k.StartupProbe != nil},
	} {
		if f.set {
			c.add(field.Forbidden(at.Child(f.name), "may not be set for init containers without restartPolicy=Always"))
		}
	}
}

func (c *containerCheck) ephemeral(at *field.Path, k *corev1.Container) {
	const message = "cannot be set for an Ephemeral Container"
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"ports", len(k.Ports) > 0}, {"lifecycle", k.Lifecycle != nil}, {"livenessProbe", k.LivenessProbe != nil},
		{"readinessProbe", k.ReadinessProbe != nil}, {"startupProbe", k.StartupProbe != nil},
		{"resources", len(k.Resources.Limits)+len(k.Resources.Requests) > 0}, {"resizePolicy", len(k.ResizePolicy) > 0},
	} {
		if f.set {
			c.add(field.Forbidden(at.Child(f.name), message))
		}
	}
	for i, m := range k.VolumeMounts {
		if m.SubPath != "" {
			c.add(field.Forbidden(at.Child("volumeMounts").Index(i).Child("subPath"), message))
		}
	}
}

func (c *containerCheck) ports(at *field.Path, ports []corev1.ContainerPort) {
	names := map[string]bool{}
	for i, p := range ports {
		at := at.Index(i)
		if p.Name != "" {
			if messages := validation.IsValidPortName(p.Name); len(messages) > 0 {
				c.messages(at.Child("name"), p.Name, messages)
			} else if names[p.Name] {
				c.add(field.Duplicate(at.Child("name"), p.Name))
			}
			names[p.Name] = true
		}
		if p.ContainerPort == 0 {
			c.add(field.Required(at.Child("containerPort"), ""))
		} else {
			c.port(at.Child("containerPort"), p.ContainerPort)
		}
		if p.HostPort != 0 {
			c.port(at.Child("hostPort"), p.HostPort)
		}
		oneOf(c.report, at.Child("protocol"), p.Protocol, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)
	}
}

// hostPorts reports a node's port that two containers want.
func (c *containerCheck) hostPorts(at *field.Path, containers []corev1.Container) {
	taken := map[string]bool{}
	for i, k := range containers {
		for j, p := range k.Ports {
			if p.HostPort == 0 {
				continue
			}
			name := fmt.Sprintf("%s/%s/%d", p.Protocol, p.HostIP, p.HostPort)
			if taken[name] {
				c.add(field.Duplicate(at.Index(i).Child("ports").Index(j).Child("hostPort"), name))
			}
			taken[name] = true
		}
	}
}

func (c *containerCheck) env(at *field.Path, vars []corev1.EnvVar) {
	for i, v := range vars {
		at := at.Index(i)
		if c.required(at.Child("name"), v.Name) {
			c.messages(at.Child("name"), v.Name, validation.IsRelaxedEnvVarName(v.Name))
		}
		if v.ValueFrom != nil {
			c.envSource(at.Child("valueFrom"), v)
		}
	}
}

func (c *containerCheck) envSource(at *field.Path, v corev1.EnvVar) {
	sources, from := 0, v.ValueFrom
	if ref := from.FieldRef; ref != nil {
		sources++
		checkFieldRef(c.report, at.Child("fieldRef"), ref, envFields)
	}
	if ref := from.ResourceFieldRef; ref != nil {
		sources++
		checkResourceRef(c.report, at.Child("resourceFieldRef"), ref, false)
	}
	if ref := from.ConfigMapKeyRef; ref != nil {
		sources++
		c.keyRef(at.Child("configMapKeyRef"), ref.Name, ref.Key)
	}
	if ref := from.SecretKeyRef; ref != nil {
		sources++
		c.keyRef(at.Child("secretKeyRef"), ref.Name, ref.Key)
	}
	if ref := from.FileKeyRef; ref != nil {
		sources++
		c.fileRef(at.Child("fileKeyRef"), ref)
	}
	switch {
	case sources == 0:
		c.invalid(at, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`")
	case v.Value != "":
		c.invalid(at, "", "may not be specified when `value` is not empty")
	case sources > 1:
		c.invalid(at, "", "may not have more than one field specified at a time")
	}
}

func (c *containerCheck) keyRef(at *field.Path, name, key string) {
	c.subdomain(at.Child("name"), name)
	if c.required(at.Child("key"), key) {
		c.messages(at.Child("key"), key, validation.IsConfigMapKey(key))
	}
}

func (c *containerCheck) envFrom(at *field.Path, sources []corev1.EnvFromSource) {
	for i, s := range sources {
		item := at.Index(i)
		if s.Prefix != "" {
			c.messages(item.Child("prefix"), s.Prefix, validation.IsRelaxedEnvVarName(s.Prefix))
		}
		switch {
		case s.ConfigMapRef == nil && s.SecretRef == nil:
			c.invalid(at, "", "must specify one of: `configMapRef` or `secretRef`")
		case s.ConfigMapRef != nil && s.SecretRef != nil:
			c.invalid(at, "", "may not have more than one field specified at a time")
		case s.ConfigMapRef != nil:
			c.required(item.Child("configMapRef", "name"), s.ConfigMapRef.Name)
		default:
			c.required(item.Child("secretRef", "name"), s.SecretRef.Name)
		}
	}
}

// handlers are the ways to act on a container, of which one is to be chosen.
type handlers struct {
	exec  *corev1.ExecAction
	http  *corev1.HTTPGetAction
	tcp   *corev1.TCPSocketAction
	grpc  *corev1.GRPCAction
	sleep *corev1.SleepAction
}

func lifecycleHandler(h *corev1.LifecycleHandler) handlers {
	return handlers{exec: h.Exec, http: h.HTTPGet, tcp: h.TCPSocket, sleep: h.Sleep}
}

func (c *containerCheck) probe(at *field.Path, p *corev1.Probe) {
	if p == nil {
		return
	}
	c.handler(at, handlers{exec: p.Exec, http: p.HTTPGet, tcp: p.TCPSocket, grpc: p.GRPC})
	notNegative(c.report, at.Child("initialDelaySeconds"), p.InitialDelaySeconds)
	notNegative(c.report, at.Child("timeoutSeconds"), p.TimeoutSeconds)
	notNegative(c.report, at.Child("periodSeconds"), p.PeriodSeconds)
	notNegative(c.report, at.Child("successThreshold"), p.SuccessThreshold)
	notNegative(c.report, at.Child("failureThreshold"), p.FailureThreshold)
	if s := p.TerminationGracePeriodSeconds; s != nil && *s <= 0 {
		c.invalid(at.Child("terminationGracePeriodSeconds"), *s, "must be greater than 0")
	}
}

func (c *containerCheck) handler(at *field.Path, h handlers) {
	chosen := false
	choose := func(name string, set bool, check func(at *field.Path)) {
		switch {
		case set && chosen:
			c.add(field.Forbidden(at.Child(name), "may not specify more than 1 handler type"))
		case set:
			chosen = true
			check(at.Child(name))
		}
	}
	choose("exec", h.exec != nil, func(at *field.Path) {
		if len(h.exec.Command) == 0 {
			c.add(field.Required(at.Child("command"), ""))
		}
	})
	choose("httpGet", h.http != nil, func(at *field.Path) {
		c.required(at.Child("path"), h.http.Path)
		c.portOrName(at.Child("port"), h.http.Port)
		oneOf(c.report, at.Child("scheme"), h.http.Scheme, corev1.URISchemeHTTP, corev1.URISchemeHTTPS)
		for _, header := range h.http.HTTPHeaders {
			c.messages(at.Child("httpHeaders"), header.Name, validation.IsHTTPHeaderName(header.Name))
		}
	})
	choose("tcpSocket", h.tcp != nil, func(at *field.Path) { c.portOrName(at.Child("port"), h.tcp.Port) })
	choose("grpc", h.grpc != nil, func(at *field.Path) { c.portOrName(at.Child("port"), intstr.FromInt32(h.grpc.Port)) })
	choose("sleep", h.sleep != nil, func(at *field.Path) {
		if grace := c.pod.TerminationGracePeriodSeconds; grace != nil && (h.sleep.Seconds < 0 || h.sleep.Seconds > *grace) {
			c.invalid(at, h.sleep.Seconds,
				fmt.Sprintf("must be non-negative and less than terminationGracePeriodSeconds (%d)", *grace))
		}
	})
	if !chosen {
		c.add(field.Required(at, "must specify a handler type"))
	}
}

func checkSecurityContext(r *report, at *field.Path, s *corev1.SecurityContext) {
	if s == nil {
		return
	}
	checkID(r, at.Child("runAsUser"), s.RunAsUser)
	checkID(r, at.Child("runAsGroup"), s.RunAsGroup)
	if s.ProcMount != nil {
		oneOf(r, at.Child("procMount"), *s.ProcMount, corev1.DefaultProcMount, corev1.UnmaskedProcMount)
	}
	checkSeccomp(r, at.Child("seccompProfile"), s.SeccompProfile)
	checkAppArmor(r, at.Child("appArmorProfile"), s.AppArmorProfile)
	if s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation {
		return
	}
	if deref(s.Privileged) {
		r.invalid(at, s, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true")
	}
	if s.Capabilities != nil {
		for _, capability := range s.Capabilities.Add {
			if capability == "CAP_SYS_ADMIN" {
				r.invalid(at, s, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN")
			}
		}
	}
}

// fileRef checks a variable that a file in one of the pod's emptyDirs holds.
func (c *containerCheck) fileRef(at *field.Path, ref *corev1.FileKeySelector) {
	if c.required(at.Child("key"), ref.Key) {
		c.messages(at.Child("key"), ref.Key, validation.IsRelaxedEnvVarName(ref.Key))
	}
	if c.required(at.Child("path"), ref.Path) {
		c.noBacksteps(at.Child("path"), ref.Path)
	}
	at = at.Child("volumeName")
	if !c.required(at, ref.VolumeName) {
		return
	}
	c.label(at, ref.VolumeName)
	if volume, found := c.volumes[ref.VolumeName]; !found {
		c.add(field.NotFound(at, ref.VolumeName))
	} else if volume.EmptyDir == nil {
		c.invalid(at, ref.VolumeName, "referenced volume must be of type emptyDir")
	}
}
