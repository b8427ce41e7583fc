package clusterroleaggregation

import (
	"cmp"
	"context"
	"slices"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"tinykube/client"
	"tinykube/controllers/harness"
)

type controller struct {
	*harness.Scope
	roles *harness.Store[*rbacv1.ClusterRole]
}

// Register adds the controller to a manager.
func Register(m *harness.Manager) {
	s := m.Scope(harness.Identity{Name: "clusterrole-aggregation-controller", Account: "clusterrole-aggregation-controller", Source: "clusterrole-aggregation-controller"})
	c := &controller{Scope: s, roles: harness.StoreOf(s, client.ClusterRoles)}
	loop := harness.NewLoop(s, 5, c.reconcile)
	harness.Watch(loop, c.roles, func(_, _ *rbacv1.ClusterRole) []string {
		var keys []string // any role may be part of any of these
		for _, role := range c.roles.List() {
			if role.AggregationRule != nil {
				keys = append(keys, role.Name)
			}
		}
		return keys
	})
}

func (c *controller) reconcile(ctx context.Context, name string) (time.Duration, error) {
	role, ok := c.roles.Get("", name)
	if !ok || role.AggregationRule == nil {
		return 0, nil
	}
	rules := gather(role, c.roles.List())
	if equality.Semantic.DeepEqual(rules, role.Rules) {
		return 0, nil
	}
	updated := role.DeepCopy()
	updated.Rules = rules
	_, err := c.roles.Update(ctx, updated)
	return 0, err
}

// gather collects the rules of the roles that role selects, each rule once, in
// the order of the selectors and of the roles' names.
func gather(role *rbacv1.ClusterRole, all []*rbacv1.ClusterRole) []rbacv1.PolicyRule {
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b *rbacv1.ClusterRole) int { return cmp.Compare(a.Name, b.Name) })
	var rules []rbacv1.PolicyRule
	for i := range role.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&role.AggregationRule.ClusterRoleSelectors[i])
		if err != nil {
			continue // the server does not let such a one in
		}
		for _, part := range all {
			if part.Name == role.Name || !selector.Matches(labels.Set(part.Labels)) {
				continue
			}
			for _, rule := range part.Rules {
				if !slices.ContainsFunc(rules, func(have rbacv1.PolicyRule) bool { return equality.Semantic.DeepEqual(have, rule) }) {
					rules = append(rules, rule)
				}
			}
		}
	}
	return rules
}
