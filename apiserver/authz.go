package apiserver

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"tinykube/apiserver/storage"
)

// May they? RBAC only ever allows: a request is refused when no rule allows it.
//
//	subject ──(Cluster)RoleBinding──▶ (Cluster)Role ──▶ rules: verbs × resources × names
//
// Evaluating it per request would walk all bindings. Instead the bindings are
// turned into an index, subject → grants, and the index is made anew when one
// of the four tables has changed since. It is a pure function of the tables.

// authorizer decides by the configured modes, in order; the first yes counts.
type authorizer struct {
	server      *Server
	alwaysAllow bool
	node, rbac  bool

	mu    sync.Mutex // guards index while it is rebuilt
	index *grantIndex
}

func newAuthorizer(s *Server) (*authorizer, error) {
	a := &authorizer{server: s}
	for _, mode := range s.cfg.AuthorizationModes {
		switch mode {
		case "AlwaysAllow":
			a.alwaysAllow = true
		case "Node":
			a.node = true
		case "RBAC":
			a.rbac = true
		default:
			return nil, fmt.Errorf("authorization mode %q is not one of Node, RBAC, AlwaysAllow", mode)
		}
	}
	return a, nil
}

// authorize returns nil, or the 403 that says who may not do what.
func (s *Server) authorize(u *user, t target) error {
	if s.authz.allows(u, t) {
		return nil
	}
	return forbidden(u, t)
}

func (a *authorizer) allows(u *user, t target) bool {
	if a.alwaysAllow || u.in(groupMasters) {
		return true
	}
	select {
	case <-a.server.store.Ready():
	default:
		// Nobody's rights are known yet; the probes of the machine's owner
		// must still be answered.
		return !t.isResource && isPublicPath(t.path)
	}
	allowed := false
	a.visit(u, t.namespace, func(rules []rbacv1.PolicyRule) bool {
		allowed = slices.ContainsFunc(rules, func(rule rbacv1.PolicyRule) bool { return ruleAllows(&rule, t) })
		return !allowed
	})
	return allowed
}

// visit shows the rules that apply to a user in a namespace, until told to
// stop.
func (a *authorizer) visit(u *user, namespace string, see func(rules []rbacv1.PolicyRule) bool) {
	// Simplified: every node may do what some node may. Without the graph of
	// what a node's pods use, a node can read other nodes' secrets.
	if a.node && u.in(groupNodes) && strings.HasPrefix(u.name, nodeUserPrefix) && !see(nodeRules) {
		return
	}
	if !a.rbac {
		return
	}
	index := a.current()
	for _, subject := range subjectsOf(u) {
		for _, g := range index.grants[subject] {
			if g.namespace != "" && g.namespace != namespace {
				continue
			}
			if rules, ok := index.roles[g.role]; ok && !see(rules) {
				return
			}
		}
	}
}

// subjectKey is a subject of a binding; service accounts are users here.
type subjectKey struct{ kind, name string }

// subjectsOf lists the subjects that a user is.
func subjectsOf(u *user) []subjectKey {
	out := make([]subjectKey, 0, len(u.groups)+1)
	out = append(out, subjectKey{rbacv1.UserKind, u.name})
	for _, group := range u.groups {
		out = append(out, subjectKey{rbacv1.GroupKind, group})
	}
	return out
}

// roleKey is a Role, or a ClusterRole if namespace is "".
type roleKey struct{ namespace, name string }

// grant gives a role in one namespace, or in all and beyond for "".
type grant struct {
	namespace string
	role      roleKey
}

// grantIndex is the four tables in the shape in which they are asked.
type grantIndex struct {
	versions [4]int64 // of the tables it was made from
	grants   map[subjectKey][]grant
	roles    map[roleKey][]rbacv1.PolicyRule
}

var rbacTables = [4]string{"roles", "clusterroles", "rolebindings", "clusterrolebindings"}

// current returns the index, made anew if a table has changed.
func (a *authorizer) current() *grantIndex {
	var versions [4]int64
	for i, plural := range rbacTables {
		versions[i] = a.server.tableOf(rbacv1.GroupName, plural).Changed()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.index == nil || a.index.versions != versions {
		a.index = a.server.buildIndex()
		a.index.versions = versions
	}
	return a.index
}

func (s *Server) buildIndex() *grantIndex {
	index := &grantIndex{grants: map[subjectKey][]grant{}, roles: map[roleKey][]rbacv1.PolicyRule{}}
	clusterRoles := allCached[*rbacv1.ClusterRole](s, rbacv1.GroupName, "clusterroles", "")
	for _, role := range clusterRoles {
		index.roles[roleKey{"", role.Name}] = aggregated(role, clusterRoles)
	}
	for _, role := range allCached[*rbacv1.Role](s, rbacv1.GroupName, "roles", "") {
		index.roles[roleKey{role.Namespace, role.Name}] = role.Rules
	}
	for _, binding := range allCached[*rbacv1.ClusterRoleBinding](s, rbacv1.GroupName, "clusterrolebindings", "") {
		index.bind("", binding.RoleRef, binding.Subjects)
	}
	for _, binding := range allCached[*rbacv1.RoleBinding](s, rbacv1.GroupName, "rolebindings", "") {
		index.bind(binding.Namespace, binding.RoleRef, binding.Subjects)
	}
	return index
}

// bind adds one binding; namespace "" is everywhere.
func (x *grantIndex) bind(namespace string, ref rbacv1.RoleRef, subjects []rbacv1.Subject) {
	role := roleKey{"", ref.Name}
	if ref.Kind == "Role" {
		role.namespace = namespace
	}
	for _, subject := range subjects {
		key := subjectKey{subject.Kind, subject.Name}
		if subject.Kind == rbacv1.ServiceAccountKind {
			from := subject.Namespace
			if from == "" {
				from = namespace
			}
			key = subjectKey{rbacv1.UserKind, serviceAccountPrefix + from + ":" + subject.Name}
		}
		x.grants[key] = append(x.grants[key], grant{namespace, role})
	}
}

// aggregated is a role's rules, or those of the roles it gathers by label.
//
// Simplified: the rules of an aggregated role are gathered here and not written
// into it; kubectl describe does not show them.
func aggregated(role *rbacv1.ClusterRole, all []*rbacv1.ClusterRole) []rbacv1.PolicyRule {
	if role.AggregationRule == nil {
		return role.Rules
	}
	var rules []rbacv1.PolicyRule
	for _, selector := range role.AggregationRule.ClusterRoleSelectors {
		matcher, err := metav1.LabelSelectorAsSelector(&selector)
		if err != nil {
			continue
		}
		for _, other := range all {
			if other.Name != role.Name && matcher.Matches(labelSet(other.Labels)) {
				rules = append(rules, other.Rules...)
			}
		}
	}
	return rules
}

// ruleAllows is RBAC's one sentence: a rule allows what it lists, in every
// respect; an empty list of names means any.
//
// LAB 06 rule: a rule that names paths is about paths, one that names resources
// about those. "*" stands for any verb, group or resource, and at the end of a
// path for the rest. Names narrow a rule to objects that the request names.
func ruleAllows(rule *rbacv1.PolicyRule, t target) bool {
	if !has(rule.Verbs, t.verb) {
		return false
	}
	if !t.isResource {
		return slices.ContainsFunc(rule.NonResourceURLs, func(url string) bool {
			prefix, wild := strings.CutSuffix(url, "*")
			return url == t.path || wild && strings.HasPrefix(t.path, prefix)
		})
	}
	return has(rule.APIGroups, t.group) && ruleHasResource(rule.Resources, t) &&
		(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, t.name))
}

func has(list []string, value string) bool {
	return slices.Contains(list, value) || slices.Contains(list, "*")
}

// ruleHasResource reports whether a list of resources has the one of a request.
//
// LAB 06 resource: "pods" is not "pods/log", nor the other way round. "*" is
// every resource and subresource, "*/scale" this subresource of any resource.
func ruleHasResource(list []string, t target) bool {
	combined := t.resource
	if t.subresource != "" {
		combined += "/" + t.subresource
	}
	return has(list, combined) || t.subresource != "" && slices.Contains(list, "*/"+t.subresource)
}

// forbidden is upstream's sentence, which kubectl prints as it is.
func forbidden(u *user, t target) error {
	if !t.isResource {
		return apierrors.NewForbidden(schema.GroupResource{}, "", fmt.Errorf("User %q cannot %s path %q", u.name, t.verb, t.path))
	}
	resource := t.resource
	if t.subresource != "" {
		resource += "/" + t.subresource
	}
	where := "at the cluster scope"
	if t.namespace != "" {
		where = fmt.Sprintf("in the namespace %q", t.namespace)
	}
	return apierrors.NewForbidden(schema.GroupResource{Group: t.group, Resource: t.resource}, t.name,
		fmt.Errorf("User %q cannot %s resource %q in API group %q %s", u.name, t.verb, resource, t.group, where))
}

// isPublicPath reports whether a path is a health check or the version.
func isPublicPath(path string) bool {
	for _, public := range []string{"/healthz", "/livez", "/readyz", "/version"} {
		if path == public || strings.HasPrefix(path, public+"/") {
			return true
		}
	}
	return false
}

var _ = storage.Key
