package apiserver

import (
	"fmt"
	"slices"
	"strings"

	"tinykube/apiserver/resources"
)

// Admission is what the cluster, not the kind, thinks of a write: it completes
// objects (a pod's service account, its tolerations) and refuses some. A
// plugin is one small file, admission_*.go, and one line here.

// admission is a write on its way. A plugin may change obj before it is
// validated.
type admission struct {
	server *Server
	*request
	obj resources.Object // the new state; nil for a delete
	old resources.Object // the present state; nil for a create
}

// plugin looks at a write, twice: before it is validated, when it may still be
// completed, and after. Either may be nil.
type plugin struct {
	name     string
	complete func(a *admission) error
	check    func(a *admission) error
}

// allPlugins in their order, which is upstream's. All are on by default there,
// but NodeRestriction.
// Upstream: kubernetes@v1.36 pkg/kubeapiserver/options/plugins.go AllOrderedPlugins
var allPlugins = []plugin{
	{name: "NamespaceLifecycle", complete: admitNamespaceLifecycle},
	{name: "LimitRanger", complete: limitDefaults, check: checkLimits},
	{name: "ServiceAccount", complete: admitServiceAccount},
	{name: "NodeRestriction", complete: admitNodeRestriction},
	{name: "TaintNodesByCondition", complete: admitTaintNodes},
	{name: "PodSecurity", check: admitPodSecurity},
	{name: "Priority", complete: admitPriority, check: checkPriorityClass},
	{name: "DefaultTolerationSeconds", complete: admitDefaultTolerations},
	{name: "DefaultStorageClass", complete: admitDefaultStorageClass},
	{name: "StorageObjectInUseProtection", complete: admitProtection},
	{name: "PersistentVolumeClaimResize", check: admitClaimResize},
	{name: "CertificateApproval", check: admitApproval},
	{name: "CertificateSigning", check: admitSigning},
	{name: "CertificateSubjectRestriction", check: admitSubject},
	{name: "RuntimeClass", complete: admitRuntimeClass, check: checkOverhead},
	{name: "DefaultIngressClass", complete: admitDefaultIngressClass},
	{name: "PodResizeValidator", check: admitPodResize},
	{name: quotaPlugin}, // decided within the write: admission_quota.go
}

// offByDefault must be asked for, here as upstream: it means something only to
// clusters whose nodes have identities.
const offByDefault = "NodeRestriction"

// otherPlugins are upstream's that we have not got. Those that are on by
// default there can be named without effect, if that is harmless; the others
// promise something that we would not keep.
var otherPlugins = map[string]bool{
	"AlwaysAdmit": true, "NamespaceExists": true, "PodGroupProtection": true, "ClusterTrustBundleAttest": true,
	"PodTopologyLabels": true, "PodGroupWorkloadExists": true, "NodeDeclaredFeatureValidator": true, "JobValidation": true,
	"MutatingAdmissionPolicy": true, "MutatingAdmissionWebhook": true,
	"ValidatingAdmissionPolicy": true, "ValidatingAdmissionWebhook": true,

	"NamespaceAutoProvision": false, "LimitPodHardAntiAffinityTopology": false, "AlwaysPullImages": false,
	"ImagePolicyWebhook": false, "PodNodeSelector": false, "PodTolerationRestriction": false, "EventRateLimit": false,
	"ExtendedResourceToleration": false, "OwnerReferencesPermissionEnforcement": false,
	"DenyServiceExternalIPs": false, "AlwaysDeny": false,
}

// pluginSet is the plugins that are on.
type pluginSet []plugin

// choosePlugins reads the two flags. Missing are those that were asked for, and
// that only upstream has.
func choosePlugins(enabled, disabled []string) (on pluginSet, missing []string, err error) {
	for _, name := range slices.Concat(enabled, disabled) {
		harmless, other := otherPlugins[name]
		switch {
		case !other && !slices.ContainsFunc(allPlugins, func(p plugin) bool { return p.name == name }):
			return nil, nil, fmt.Errorf("admission plugin %q is unknown", name)
		case slices.Contains(enabled, name) && slices.Contains(disabled, name):
			return nil, nil, fmt.Errorf("%s in enable-admission-plugins and disable-admission-plugins overlapped", name)
		case other && !harmless && slices.Contains(enabled, name):
			return nil, nil, fmt.Errorf("admission plugin %s is not implemented: what it promises would not be kept", name)
		case other && slices.Contains(enabled, name):
			missing = append(missing, name)
		}
	}
	for _, p := range allPlugins {
		if !slices.Contains(disabled, p.name) && (p.name != offByDefault || slices.Contains(enabled, p.name)) {
			on = append(on, p)
		}
	}
	return on, missing, nil
}

// CheckAdmissionPlugins checks the values of the two flags, and returns those
// plugins that will have no effect.
func CheckAdmissionPlugins(enabled, disabled []string) (missing []string, err error) {
	_, missing, err = choosePlugins(enabled, disabled)
	return missing, err
}

// AdmissionPlugins is the help text of the flags.
func AdmissionPlugins() string {
	var names []string
	for _, p := range allPlugins {
		if p.name != offByDefault {
			names = append(names, p.name)
		}
	}
	return strings.Join(names, ", ")
}

func (s pluginSet) enabled(name string) bool {
	return slices.ContainsFunc(s, func(p plugin) bool { return p.name == name })
}

// admit shows a create (old is nil) or an update to the plugins, before it is
// validated.
func (s *Server) admit(q *request, obj, old resources.Object) error {
	return s.askPlugins(&admission{server: s, request: q, obj: obj, old: old})
}

// admitDelete shows a delete to the plugins.
func (s *Server) admitDelete(q *request, obj resources.Object) error {
	return s.askPlugins(&admission{server: s, request: q, old: obj})
}

func (s *Server) askPlugins(a *admission) error {
	for _, p := range s.plugins {
		if p.complete == nil {
			continue
		}
		if err := p.complete(a); err != nil {
			return err
		}
	}
	return nil
}

// admitValid shows a create or an update to the plugins once more, when it is
// what will be stored.
func (s *Server) admitValid(q *request, obj, old resources.Object) error {
	a := &admission{server: s, request: q, obj: obj, old: old}
	if err := a.confirmRights(); err != nil {
		return err
	}
	for _, p := range s.plugins {
		if p.check == nil {
			continue
		}
		if err := p.check(a); err != nil {
			return err
		}
	}
	return nil
}

// creates reports whether a new object of a core kind is being made.
func (a *admission) creates(plural string) bool {
	return a.old == nil && a.subresource == "" && a.row.Group == "" && a.row.Plural == plural
}

// subject is what a write is about: its new state if it has one.
func (a *admission) subject() resources.Object {
	if a.obj != nil {
		return a.obj
	}
	return a.old
}
