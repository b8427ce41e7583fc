package apiserver

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"tinykube/apiserver/resources"
)

// Nobody gives away what they have not got: who writes a role must hold each of
// its rules, who binds a role must hold all of the role. Otherwise the right to
// write roles would be every right. Two verbs are the way around it, for those
// who are meant to have it: escalate on the role, bind on the role that is
// bound.
//
// Upstream: kubernetes@v1.36 pkg/registry/rbac/escalation_check.go

// confirmRights checks a write of a role or a binding; others pass. It is no
// plugin, since it cannot be switched off.
func (a *admission) confirmRights() error {
	if a.row.Group != rbacv1.GroupName || a.obj == nil || a.user.in(groupMasters) || a.onlyOwners() {
		return nil
	}
	switch obj := a.obj.(type) {
	case *rbacv1.Role:
		return a.confirmRole(obj.Rules, false)
	case *rbacv1.ClusterRole:
		old, _ := a.old.(*rbacv1.ClusterRole)
		return a.confirmRole(obj.Rules, gathers(obj) || gathers(old))
	case *rbacv1.RoleBinding:
		return a.confirmBinding(obj.RoleRef)
	case *rbacv1.ClusterRoleBinding:
		return a.confirmBinding(obj.RoleRef)
	}
	return nil
}

func gathers(role *rbacv1.ClusterRole) bool {
	return role != nil && role.AggregationRule != nil && len(role.AggregationRule.ClusterRoleSelectors) > 0
}

// onlyOwners reports an update that changes nothing but what the garbage
// collector needs: it must work for roles that it could not have written.
func (a *admission) onlyOwners() bool {
	if a.old == nil {
		return false
	}
	changed := a.obj.DeepCopyObject().(resources.Object)
	changed.SetOwnerReferences(a.old.GetOwnerReferences())
	changed.SetFinalizers(a.old.GetFinalizers())
	changed.SetManagedFields(a.old.GetManagedFields())
	return equality.Semantic.DeepEqual(changed, a.old)
}

// confirmRole is for a role with these rules; an aggregated one may come to
// hold any rule.
func (a *admission) confirmRole(rules []rbacv1.PolicyRule, aggregated bool) error {
	escalate := target{isResource: true, verb: "escalate", group: rbacv1.GroupName, version: "*", resource: a.row.Plural, namespace: a.namespace, name: a.name}
	if a.server.authz.allows(a.Context(), a.user, escalate) {
		return nil
	}
	if err := a.holds(rules); err != nil {
		return a.refuse(err)
	}
	if aggregated && a.holds(rulesOf("cluster-admin")) != nil {
		return a.refuse(errors.New("must have cluster-admin privileges to use the aggregationRule"))
	}
	return nil
}

// confirmBinding is for a binding to that role.
func (a *admission) confirmBinding(ref rbacv1.RoleRef) error {
	bind := target{isResource: true, verb: "bind", group: ref.APIGroup, version: "*", namespace: a.namespace, name: ref.Name}
	role := roleKey{"", ref.Name}
	switch ref.Kind {
	case "ClusterRole":
		bind.resource = "clusterroles"
	case "Role":
		bind.resource, role.namespace = "roles", a.namespace
	default:
		return nil // validation will say so
	}
	if a.server.authz.allows(a.Context(), a.user, bind) {
		return nil
	}
	rules, ok := a.server.authz.roles.current().roles[role]
	if !ok {
		return apierrors.NewNotFound(rbacv1.Resource(strings.TrimSuffix(bind.resource, "s")), ref.Name)
	}
	if err := a.holds(rules); err != nil {
		return a.refuse(err)
	}
	return nil
}

// holds reports what the user lacks of these rules.
func (a *admission) holds(rules []rbacv1.PolicyRule) error {
	missing := uncovered(a.server.authz.roles.rulesFor(a.user, a.namespace), rules)
	if len(missing) == 0 {
		return nil
	}
	var lines []string
	for _, rule := range compactRules(missing) {
		lines = append(lines, ruleText(rule))
	}
	slices.Sort(lines)
	return fmt.Errorf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s",
		a.user.name, a.user.groups, strings.Join(slices.Compact(lines), "\n"))
}

// uncovered takes rules apart into single permissions and returns those that
// no rule of the owner covers.
func uncovered(owner, rules []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	var missing []rbacv1.PolicyRule
	for _, rule := range rules {
		for _, single := range singles(rule) {
			if !slices.ContainsFunc(owner, func(held rbacv1.PolicyRule) bool { return covers(&held, &single) }) {
				missing = append(missing, single)
			}
		}
	}
	return missing
}

// singles are the rules with one element per list that a rule stands for.
func singles(rule rbacv1.PolicyRule) []rbacv1.PolicyRule {
	var out []rbacv1.PolicyRule
	for _, verb := range rule.Verbs {
		for _, url := range rule.NonResourceURLs {
			out = append(out, rbacv1.PolicyRule{Verbs: []string{verb}, NonResourceURLs: []string{url}})
		}
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				single := rbacv1.PolicyRule{Verbs: []string{verb}, APIGroups: []string{group}, Resources: []string{resource}}
				if len(rule.ResourceNames) == 0 {
					out = append(out, single)
				}
				for _, name := range rule.ResourceNames {
					single.ResourceNames = []string{name}
					out = append(out, single)
				}
			}
		}
	}
	return out
}

// covers asks whether a held rule allows a single permission. The permission is
// a question like any request's, but for one thing: it may be about all names,
// which only a rule without names allows.
func covers(held, single *rbacv1.PolicyRule) bool {
	t := target{verb: single.Verbs[0]}
	if len(single.NonResourceURLs) > 0 {
		t.path = single.NonResourceURLs[0]
		return ruleAllows(held, t)
	}
	t.isResource, t.group = true, single.APIGroups[0]
	t.resource, t.subresource, _ = strings.Cut(single.Resources[0], "/")
	if len(single.ResourceNames) == 0 {
		return len(held.ResourceNames) == 0 && ruleAllows(held, t)
	}
	t.name = single.ResourceNames[0]
	return ruleAllows(held, t)
}

// compactRules joins single permissions about the same thing, by their verbs.
func compactRules(list []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	var out []rbacv1.PolicyRule
	for _, single := range list {
		i := slices.IndexFunc(out, func(r rbacv1.PolicyRule) bool {
			return len(single.NonResourceURLs) == 0 && slices.Equal(r.APIGroups, single.APIGroups) &&
				slices.Equal(r.Resources, single.Resources) && slices.Equal(r.ResourceNames, single.ResourceNames)
		})
		if i < 0 {
			out = append(out, *single.DeepCopy())
			continue
		}
		if !slices.Contains(out[i].Verbs, single.Verbs[0]) {
			out[i].Verbs = append(out[i].Verbs, single.Verbs[0])
		}
	}
	return out
}

// ruleText is a rule on one line, as upstream writes it.
func ruleText(rule rbacv1.PolicyRule) string {
	var parts []string
	for _, list := range []struct {
		name   string
		values []string
	}{
		{"APIGroups", rule.APIGroups}, {"Resources", rule.Resources}, {"NonResourceURLs", rule.NonResourceURLs},
		{"ResourceNames", rule.ResourceNames}, {"Verbs", rule.Verbs},
	} {
		if len(list.values) > 0 {
			parts = append(parts, fmt.Sprintf("%s:%q", list.name, list.values))
		}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}
