package apiserver

import (
	"slices"

	"tinykube/apiserver/resources"
)

// Admission is what the cluster, not the kind, thinks of a write: it completes
// objects (a pod's service account, its tolerations) and refuses some. A
// plugin is one small file, admission_*.go, and one line here.

// admission is a write before it is validated. A plugin may change obj.
type admission struct {
	server *Server
	*request
	obj resources.Object // the new state; nil for a delete
	old resources.Object // the present state; nil for a create
}

// plugin looks at a write.
type plugin struct {
	name  string
	admit func(a *admission) error
}

// plugins in their order, which is upstream's.
// Upstream: kubernetes@v1.36 pkg/kubeapiserver/options/plugins.go AllOrderedPlugins
var plugins = []plugin{
	{"NamespaceLifecycle", admitNamespaceLifecycle},
	{"ServiceAccount", admitServiceAccount},
	{"NodeRestriction", admitNodeRestriction},
	{"TaintNodesByCondition", admitTaintNodes},
	{"Priority", admitPriority},
	{"DefaultTolerationSeconds", admitDefaultTolerations},
	{"DefaultStorageClass", admitDefaultStorageClass},
}

// KnownAdmission lists the plugins we have, for flags to check against.
func KnownAdmission() []string {
	var names []string
	for _, p := range plugins {
		names = append(names, p.name)
	}
	return names
}

// admit shows a create (old is nil) or an update to the plugins.
func (s *Server) admit(q *request, obj, old resources.Object) error {
	return s.askPlugins(&admission{server: s, request: q, obj: obj, old: old})
}

// admitDelete shows a delete to the plugins.
func (s *Server) admitDelete(q *request, obj resources.Object) error {
	return s.askPlugins(&admission{server: s, request: q, old: obj})
}

func (s *Server) askPlugins(a *admission) error {
	for _, p := range plugins {
		if slices.Contains(s.cfg.DisabledAdmission, p.name) {
			continue
		}
		if err := p.admit(a); err != nil {
			return err
		}
	}
	return nil
}

// creates reports whether a new object of a core kind is being made.
func (a *admission) creates(plural string) bool {
	return a.old == nil && a.subresource == "" && a.row.Group == "" && a.row.Plural == plural
}
