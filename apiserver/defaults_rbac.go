package apiserver

import (
	"context"
	_ "embed"
	"slices"
	"strings"
	"sync"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/apiserver/resources"
	"tinykube/apiserver/storage"
)

// rbacDefaults is a table in a notation of its own:
//
//	role NAME [in NAMESPACE] [LABEL …]  a ClusterRole, or a Role; labels say who gathers it
//	  gathers LABEL                     its rules are those of the roles with that label
//	  VERBS  GROUPS  RESOURCES [NAMES]  lists by comma; "core" is the group ""
//	  VERBS  /PATH,/PATH                a rule about paths
//	  to KIND:NAME … [as NAME]          who gets it: user, group, account (in kube-system)
//	bind NAME ROLE to KIND:NAME …       a ClusterRoleBinding by itself
//
// Upstream: kubernetes@v1.36 plugin/pkg/auth/authorizer/rbac/bootstrappolicy
//
//go:embed defaults_rbac.txt
var rbacDefaults string

const (
	autoupdateKey     = "rbac.authorization.kubernetes.io/autoupdate"
	aggregationPrefix = "rbac.authorization.k8s.io/"
)

// defaultRBAC reads the table, once. Copy before changing.
var defaultRBAC = sync.OnceValue(func() []resources.Object { return parseRoles(rbacDefaults) })

// rulesOf are the rules of a default ClusterRole.
func rulesOf(name string) []rbacv1.PolicyRule {
	for _, obj := range defaultRBAC() {
		if role, ok := obj.(*rbacv1.ClusterRole); ok && role.Name == name {
			return role.Rules
		}
	}
	return nil
}

// parseRoles reads the notation of rbacDefaults.
func parseRoles(text string) []resources.Object {
	var out []resources.Object
	var role *rbacv1.ClusterRole // or, with a namespace, to become a Role
	finish := func() {
		if role == nil {
			return
		}
		if role.Namespace != "" {
			out = append(out, &rbacv1.Role{ObjectMeta: role.ObjectMeta, Rules: role.Rules})
		} else {
			out = append(out, role)
		}
	}
	for line := range strings.SplitSeq(text, "\n") {
		words := strings.Fields(line)
		switch {
		case len(words) == 0 || strings.HasPrefix(words[0], "#"):
		case words[0] == "role":
			finish()
			role = parseRole(words[1:])
		case words[0] == "bind":
			out = append(out, bindingOf(defaultMeta(words[1]), words[2], words[4:]))
		case words[0] == "to":
			out = append(out, bindingOf(*role.ObjectMeta.DeepCopy(), role.Name, words[1:]))
		case words[0] == "gathers":
			selector := metav1.LabelSelector{MatchLabels: map[string]string{aggregationPrefix + words[1]: "true"}}
			role.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{selector}}
		default:
			role.Rules = append(role.Rules, parseRule(words))
		}
	}
	finish()
	return out
}

// parseRole reads NAME [in NAMESPACE] [LABEL …].
func parseRole(words []string) *rbacv1.ClusterRole {
	role := &rbacv1.ClusterRole{ObjectMeta: defaultMeta(words[0])}
	words = words[1:]
	if len(words) > 1 && words[0] == "in" {
		role.Namespace, words = words[1], words[2:]
	}
	for _, label := range words {
		role.Labels[aggregationPrefix+label] = "true"
	}
	return role
}

func defaultMeta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name:        name,
		Labels:      map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"},
		Annotations: map[string]string{autoupdateKey: "true"},
	}
}

// bindingOf makes the binding of a role in the namespace of meta, or the
// ClusterRoleBinding if it has none.
func bindingOf(meta metav1.ObjectMeta, role string, to []string) resources.Object {
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role}
	meta.Labels = defaultMeta("").Labels
	if n := len(to); n > 1 && to[n-2] == "as" {
		meta.Name, to = to[n-1], to[:n-2]
	}
	var subjects []rbacv1.Subject
	for _, word := range to {
		kind, name, _ := strings.Cut(word, ":")
		switch kind {
		case "user":
			subjects = append(subjects, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name})
		case "group":
			subjects = append(subjects, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: name})
		case "account":
			subjects = append(subjects, rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: "kube-system", Name: name})
		}
	}
	if meta.Namespace != "" {
		ref.Kind = "Role"
		return &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects}
	}
	return &rbacv1.ClusterRoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects}
}

func parseRule(words []string) rbacv1.PolicyRule {
	list := func(i int) []string {
		if i >= len(words) {
			return nil
		}
		out := strings.Split(words[i], ",")
		for i := range out {
			if out[i] == "core" {
				out[i] = ""
			}
		}
		return out
	}
	if strings.HasPrefix(words[1], "/") || words[1] == "*" && len(words) == 2 {
		return rbacv1.PolicyRule{Verbs: list(0), NonResourceURLs: list(1)}
	}
	return rbacv1.PolicyRule{Verbs: list(0), APIGroups: list(1), Resources: list(2), ResourceNames: list(3)}
}

// reconcileRBAC makes a default role or binding whole again: what it lacks is
// added, what somebody has added stays. Who wants it left alone says so in its
// autoupdate annotation. A binding to another role is made anew, since the role
// of a binding cannot change.
//
// Upstream: kubernetes@v1.36 component-helpers/auth/rbac/reconciliation
func (s *Server) reconcileRBAC(ctx context.Context, want resources.Object) error {
	q := s.internal(ctx, s.rowFor(want), want.GetNamespace(), want.GetName())
	item := q.table.Cached(q.key())
	if item == nil {
		return s.ensure(ctx, want.DeepCopyObject().(resources.Object))
	}
	have, err := item.Object()
	if err != nil || have.GetAnnotations()[autoupdateKey] == "false" {
		return err
	}
	if otherRole(have, want) {
		_, err := q.table.Update(ctx, q.key(), func(*storage.Item) (*storage.Change, error) { return &storage.Change{}, nil })
		if err != nil {
			return err
		}
		_, err = s.createObject(q, want.DeepCopyObject().(resources.Object))
		return err
	}
	if !completeRBAC(have.DeepCopyObject().(resources.Object), want) {
		return nil
	}
	_, err = s.updateObject(q, func(old resources.Object) (resources.Object, error) {
		whole := old.DeepCopyObject().(resources.Object)
		completeRBAC(whole, want)
		return whole, nil
	})
	return err
}

// otherRole reports whether two bindings are of different roles.
func otherRole(have, want resources.Object) bool {
	switch have := have.(type) {
	case *rbacv1.RoleBinding:
		return have.RoleRef != want.(*rbacv1.RoleBinding).RoleRef
	case *rbacv1.ClusterRoleBinding:
		return have.RoleRef != want.(*rbacv1.ClusterRoleBinding).RoleRef
	}
	return false
}

// completeRBAC adds to have what want has, and reports whether it changed.
func completeRBAC(have, want resources.Object) (changed bool) {
	switch have := have.(type) {
	case *rbacv1.Role:
		changed = addRules(&have.Rules, want.(*rbacv1.Role).Rules)
	case *rbacv1.ClusterRole:
		whole := want.(*rbacv1.ClusterRole)
		// The rules of one that gathers are its controller's business.
		if changed = whole.AggregationRule != nil && have.AggregationRule == nil; changed {
			have.AggregationRule = whole.AggregationRule.DeepCopy()
		}
		if whole.AggregationRule == nil {
			changed = addRules(&have.Rules, whole.Rules)
		}
	case *rbacv1.RoleBinding:
		changed = addSubjects(&have.Subjects, want.(*rbacv1.RoleBinding).Subjects)
	case *rbacv1.ClusterRoleBinding:
		changed = addSubjects(&have.Subjects, want.(*rbacv1.ClusterRoleBinding).Subjects)
	}
	labels, moreLabels := withAll(have.GetLabels(), want.GetLabels())
	annotations, moreAnnotations := withAll(have.GetAnnotations(), want.GetAnnotations())
	have.SetLabels(labels)
	have.SetAnnotations(annotations)
	return changed || moreLabels || moreAnnotations
}

func addRules(have *[]rbacv1.PolicyRule, want []rbacv1.PolicyRule) bool {
	missing := compactRules(uncovered(*have, want))
	*have = append(*have, missing...)
	return len(missing) > 0
}

func addSubjects(have *[]rbacv1.Subject, want []rbacv1.Subject) bool {
	before := len(*have)
	for _, subject := range want {
		if !slices.Contains(*have, subject) {
			*have = append(*have, subject)
		}
	}
	return len(*have) > before
}

// withAll is a map with all entries of another one that it lacks.
func withAll(have, want map[string]string) (map[string]string, bool) {
	changed := false
	for key, value := range want {
		if _, ok := have[key]; !ok {
			if have == nil {
				have = map[string]string{}
			}
			have[key], changed = value, true
		}
	}
	return have, changed
}
