package apiserver

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"tinykube/apiserver/resources"
	"tinykube/internal/reference"
)

func typeName(obj resources.Object) string { return reflect.TypeOf(obj).Elem().Name() }

// Every seeded role that upstream has as well says the same.
func TestDefaultRolesAreUpstreams(t *testing.T) {
	upstream := map[string][]string{}
	for _, file := range []string{"cluster-roles.yaml", "controller-roles.yaml", "namespace-roles.yaml"} {
		data, err := os.ReadFile(reference.Path(t, "golden/rbac/"+file))
		if err != nil {
			t.Fatal(err)
		}
		var list rbacv1.ClusterRoleList // a Role has the same fields
		if err := yaml.Unmarshal(data, &list); err != nil {
			t.Fatal(err)
		}
		for _, role := range list.Items {
			upstream[role.Namespace+"/"+role.Name] = flatten(role.Rules)
		}
	}
	compared := 0
	for _, obj := range defaultObjects() {
		var rules []rbacv1.PolicyRule
		switch role := obj.(type) {
		case *rbacv1.ClusterRole:
			rules = role.Rules
		case *rbacv1.Role:
			rules = role.Rules
		default:
			continue
		}
		want, ok := upstream[obj.GetNamespace()+"/"+obj.GetName()]
		if !ok {
			t.Errorf("upstream has no %s/%s", obj.GetNamespace(), obj.GetName())
			continue
		}
		compared++
		got := flatten(rules)
		for _, line := range got {
			if !slices.Contains(want, line) {
				t.Errorf("%s: too much: %s", obj.GetName(), line)
			}
		}
		for _, line := range want {
			if !slices.Contains(got, line) {
				t.Errorf("%s: missing: %s", obj.GetName(), line)
			}
		}
	}
	t.Logf("%d roles compared", compared)
}

// flatten writes rules one permission per line.
func flatten(rules []rbacv1.PolicyRule) []string {
	var out []string
	for _, rule := range rules {
		names := rule.ResourceNames
		if len(names) == 0 {
			names = []string{"*"}
		}
		for _, verb := range rule.Verbs {
			for _, url := range rule.NonResourceURLs {
				out = append(out, fmt.Sprintf("%s %s", verb, url))
			}
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					for _, name := range names {
						out = append(out, strings.Join([]string{verb, group, resource, name}, " "))
					}
				}
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
