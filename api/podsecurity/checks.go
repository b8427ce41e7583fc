package podsecurity

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// finding is what a check has against a pod: the reason in two words, and who
// must change what. The zero value is nothing.
type finding struct{ reason, detail string }

// pod is what a check sees.
type pod struct {
	meta  *metav1.ObjectMeta
	spec  *corev1.PodSpec
	minor int // the version of the standard
}

// check is one requirement of a level.
type check struct {
	level Level
	since int    // the minor version that introduced it
	id    string // baseline checks come before restricted ones, each by id
	// replaces is the baseline check that a stricter one makes superfluous.
	replaces string
	look     func(p *pod) finding
}

// checks in the order in which findings are reported.
var checks = []check{
	{Baseline, 0, "appArmorProfile", "", appArmorProfile},
	{Baseline, 0, "capabilities_baseline", "", capabilitiesBaseline},
	{Baseline, 0, "hostNamespaces", "", hostNamespaces},
	{Baseline, 0, "hostPathVolumes", "", hostPathVolumes},
	{Baseline, 0, "hostPorts", "", hostPorts},
	{Baseline, 34, "hostProbesAndHostLifecycle", "", hostProbes},
	{Baseline, 0, "privileged", "", privileged},
	{Baseline, 0, "procMount", "", procMountBaseline},
	{Baseline, 0, "seLinuxOptions", "", seLinuxOptions},
	{Baseline, 0, "seccompProfile_baseline", "", seccompBaseline},
	{Baseline, 0, "sysctls", "", sysctls},
	{Baseline, 0, "windowsHostProcess", "", windowsHostProcess},
	{Restricted, 8, "allowPrivilegeEscalation", "", allowPrivilegeEscalation},
	{Restricted, 22, "capabilities_restricted", "capabilities_baseline", capabilitiesRestricted},
	{Restricted, 35, "procMount_restricted", "procMount", procMount},
	{Restricted, 0, "restrictedVolumes", "hostPathVolumes", restrictedVolumes},
	{Restricted, 0, "runAsNonRoot", "", runAsNonRoot},
	{Restricted, 23, "runAsUser", "", runAsUser},
	{Restricted, 19, "seccompProfile_restricted", "seccompProfile_baseline", seccompRestricted},
}

// Violations are a pod's offences against a rule. Reasons and Details have one
// entry for each.
type Violations struct {
	Reasons, Details []string
}

// Evaluate judges a pod by a rule.
func Evaluate(rule Rule, meta *metav1.ObjectMeta, spec *corev1.PodSpec) Violations {
	var out Violations
	p := &pod{meta, spec, rule.minor}
	var replaced []string
	for _, c := range checks {
		if c.level == rule.Level && rule.minor >= c.since && c.replaces != "" {
			replaced = append(replaced, c.replaces)
		}
	}
	for _, c := range checks {
		if c.level.Stricter(rule.Level) || rule.minor < c.since || slices.Contains(replaced, c.id) {
			continue
		}
		if f := c.look(p); f.reason != "" {
			out.Reasons = append(out.Reasons, f.reason)
			out.Details = append(out.Details, f.detail)
		}
	}
	return out
}

// None reports whether the pod is fine.
func (v Violations) None() bool { return len(v.Reasons) == 0 }

// Reason names the offences.
func (v Violations) Reason() string { return strings.Join(v.Reasons, ", ") }

// String names the offences and what would mend each.
func (v Violations) String() string {
	parts := make([]string, len(v.Reasons))
	for i, reason := range v.Reasons {
		parts[i] = reason
		if v.Details[i] != "" {
			parts[i] += " (" + v.Details[i] + ")"
		}
	}
	return strings.Join(parts, ", ")
}

// each shows the containers of all sorts.
func (p *pod) each(see func(c *corev1.Container)) {
	for i := range p.spec.InitContainers {
		see(&p.spec.InitContainers[i])
	}
	for i := range p.spec.Containers {
		see(&p.spec.Containers[i])
	}
	for i := range p.spec.EphemeralContainers {
		c := corev1.Container(p.spec.EphemeralContainers[i].EphemeralContainerCommon)
		see(&c)
	}
}

// which returns the names of the containers that a condition holds for.
func (p *pod) which(holds func(c *corev1.Container) bool) []string {
	var names []string
	p.each(func(c *corev1.Container) {
		if holds(c) {
			names = append(names, c.Name)
		}
	})
	return names
}

// context is a container's security context, never nil.
func context(c *corev1.Container) *corev1.SecurityContext {
	if c.SecurityContext == nil {
		return &corev1.SecurityContext{}
	}
	return c.SecurityContext
}

// context is the pod's, never nil.
func (p *pod) context() *corev1.PodSecurityContext {
	if p.spec.SecurityContext == nil {
		return &corev1.PodSecurityContext{}
	}
	return p.spec.SecurityContext
}

// windows pods are exempt, since 1.25, from what only Linux has.
func (p *pod) windows() bool {
	return p.minor >= 25 && p.spec.OS != nil && p.spec.OS.Name == corev1.Windows
}

// ownUsers reports, since 1.35, a pod whose root is not the node's root.
func (p *pod) ownUsers() bool {
	return p.minor >= 35 && p.spec.HostUsers != nil && !*p.spec.HostUsers
}

// containers is `container "a"` or `containers "a", "b"`.
func containers(names []string) string { return count("container", len(names)) + " " + quoted(names) }

// setters joins the pod itself, if it is to blame, and containers.
func setters(itself bool, names []string) string {
	var parts []string
	if itself {
		parts = append(parts, "pod")
	}
	if len(names) > 0 {
		parts = append(parts, containers(names))
	}
	return strings.Join(parts, " and ")
}

func count(noun string, n int) string {
	if n == 1 {
		return noun
	}
	return noun + "s"
}

// uses is the verb for n subjects.
func uses(n int) string {
	if n == 1 {
		return "uses"
	}
	return "use"
}

func quoted(list []string) string { return `"` + strings.Join(list, `", "`) + `"` }

// set collects values to be reported once each, in order.
type set map[string]bool

func (s set) list() []string { return slices.Sorted(maps.Keys(s)) }

func is(p *bool, value bool) bool { return p != nil && *p == value }

// blame is a finding about whoever set something, or none.
func blame(reason string, itself bool, names []string, format string, args ...any) finding {
	who := setters(itself, names)
	if who == "" {
		return finding{}
	}
	return finding{reason, who + " " + fmt.Sprintf(format, args...)}
}
