package apiserver

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
)

// RBAC only ever allows.
//
//	subject ──(Cluster)RoleBinding──▶ (Cluster)Role ──▶ rules: verbs × resources × names
//
// Evaluating it per request would walk all bindings. Instead the bindings are
// turned into an index, subject → grants, and the index is made anew when one
// of the four tables has changed since. It is a pure function of the tables.

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

// rbacIndex is the four tables in the shape in which they are asked.
type rbacIndex struct {
	server *Server

	mu  sync.Mutex // guards now while it is rebuilt
	now *grantIndex
}

// allows looks for a rule that allows, and says whose binding brought it.
func (x *rbacIndex) allows(_ context.Context, u *user, t target) decision {
	var d decision
	var missing []error
	x.visit(u, t.namespace, func(g *grant, rules []rbacv1.PolicyRule) bool {
		d.allowed = slices.ContainsFunc(rules, func(rule rbacv1.PolicyRule) bool { return ruleAllows(&rule, t) })
		if d.allowed {
			d.reason = "RBAC: allowed by " + g.from
		}
		if rules == nil && g.missing != nil {
			missing = append(missing, g.missing)
		}
		return !d.allowed
	})
	if !d.allowed && len(missing) > 0 {
		d.reason = fmt.Sprintf("RBAC: %v", utilerrors.NewAggregate(missing))
	}
	return d
}

// rulesFor are all rules that apply to a user in a namespace.
func (x *rbacIndex) rulesFor(u *user, namespace string) []rbacv1.PolicyRule {
	var all []rbacv1.PolicyRule
	x.visit(u, namespace, func(_ *grant, rules []rbacv1.PolicyRule) bool {
		all = append(all, rules...)
		return true
	})
	return all
}

// visit shows each grant that applies to a user in a namespace, with its
// rules, until told to stop. The rules are nil if the role does not exist.
func (x *rbacIndex) visit(u *user, namespace string, see func(*grant, []rbacv1.PolicyRule) bool) {
	index := x.current()
	for _, subject := range subjectsOf(u) {
		for i := range index.grants[subject] {
			g := &index.grants[subject][i]
			if (g.namespace == "" || g.namespace == namespace) && !see(g, index.roles[g.role]) {
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
	from      string // the binding, in words
	missing   error  // set if there is no such role
}

// grantIndex is rbacIndex at one moment. It does not change.
type grantIndex struct {
	versions [4]int64 // of the tables it was made from
	grants   map[subjectKey][]grant
	roles    map[roleKey][]rbacv1.PolicyRule
}

var rbacTables = [4]string{"roles", "clusterroles", "rolebindings", "clusterrolebindings"}

// current returns the index, made anew if a table has changed.
func (x *rbacIndex) current() *grantIndex {
	var versions [4]int64
	for i, plural := range rbacTables {
		versions[i] = x.server.tableOf(rbacv1.GroupName, plural).Changed()
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.now == nil || x.now.versions != versions {
		x.now = x.server.buildIndex()
		x.now.versions = versions
	}
	return x.now
}

func (s *Server) buildIndex() *grantIndex {
	index := &grantIndex{grants: map[subjectKey][]grant{}, roles: map[roleKey][]rbacv1.PolicyRule{}}
	clusterRoles := allCached[*rbacv1.ClusterRole](s, rbacv1.GroupName, "clusterroles", "")
	for _, role := range clusterRoles {
		index.roles[roleKey{"", role.Name}] = gathered(role, clusterRoles, nil)
	}
	for _, role := range allCached[*rbacv1.Role](s, rbacv1.GroupName, "roles", "") {
		index.roles[roleKey{role.Namespace, role.Name}] = role.Rules
	}
	for _, b := range allCached[*rbacv1.ClusterRoleBinding](s, rbacv1.GroupName, "clusterrolebindings", "") {
		index.bind("", fmt.Sprintf("ClusterRoleBinding %q", b.Name), b.RoleRef, b.Subjects)
	}
	for _, b := range allCached[*rbacv1.RoleBinding](s, rbacv1.GroupName, "rolebindings", "") {
		index.bind(b.Namespace, fmt.Sprintf("RoleBinding %q", b.Name+"/"+b.Namespace), b.RoleRef, b.Subjects)
	}
	return index
}

// bind adds one binding; namespace "" is everywhere.
func (x *grantIndex) bind(namespace, binding string, ref rbacv1.RoleRef, subjects []rbacv1.Subject) {
	g := grant{namespace: namespace, role: roleKey{"", ref.Name}}
	if ref.Kind == "Role" {
		g.role.namespace = namespace
	}
	if _, ok := x.roles[g.role]; !ok {
		g.missing = fmt.Errorf("%s.%s %q not found", strings.ToLower(ref.Kind), rbacv1.GroupName, ref.Name)
	}
	for _, subject := range subjects {
		key, shown := subjectKey{subject.Kind, subject.Name}, subject.Name
		if subject.Kind == rbacv1.ServiceAccountKind {
			from := subject.Namespace
			if from == "" {
				from = namespace
			}
			key = subjectKey{rbacv1.UserKind, serviceAccountPrefix + from + ":" + subject.Name}
			shown += "/" + from
		}
		g.from = fmt.Sprintf("%s of %s %q to %s %q", binding, ref.Kind, ref.Name, subject.Kind, shown)
		x.grants[key] = append(x.grants[key], g)
	}
}

// gathered is a role's rules, or those of the roles it gathers by label, which
// may gather themselves: admin gathers edit, which gathers view. A controller
// writes the same rules into the role, for people to read; what counts is
// decided here, so that it counts at once.
func gathered(role *rbacv1.ClusterRole, all []*rbacv1.ClusterRole, above []string) []rbacv1.PolicyRule {
	if role.AggregationRule == nil {
		return append([]rbacv1.PolicyRule{}, role.Rules...)
	}
	rules := []rbacv1.PolicyRule{}
	above = append(above, role.Name)
	for _, selector := range role.AggregationRule.ClusterRoleSelectors {
		matcher, err := metav1.LabelSelectorAsSelector(&selector)
		if err != nil {
			continue
		}
		for _, other := range all {
			if !slices.Contains(above, other.Name) && matcher.Matches(labelSet(other.Labels)) {
				rules = append(rules, gathered(other, all, above)...)
			}
		}
	}
	return rules
}
