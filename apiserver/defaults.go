package apiserver

import (
	_ "embed"
	"strings"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/apiserver/resources"
)

// What every cluster has from its first second: four namespaces, two priority
// classes, and the roles of the parts that make up a control plane.

// rbacDefaults is a table in a notation of its own:
//
//	role NAME [in NAMESPACE]            a ClusterRole, or a Role
//	  VERBS  GROUPS  RESOURCES [NAMES]  lists by comma; "core" is the group ""
//	  VERBS  /PATH,/PATH                a rule about paths
//	  to KIND:NAME …                    who gets it: user, group, account (in kube-system)
//	bind NAME ROLE to KIND:NAME …       a ClusterRoleBinding by itself
//
//go:embed defaults_rbac.txt
var rbacDefaults string

// defaultObjects are created at start if they are missing, and left alone if
// they are not: who changed them had a reason.
//
// Simplified: upstream also mends roles that lack a default rule.
func defaultObjects() []resources.Object {
	var out []resources.Object
	for _, name := range []string{"kube-system", "kube-public", "kube-node-lease", "default"} {
		out = append(out, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{corev1.LabelMetadataName: name},
		}})
	}
	never := corev1.PreemptLowerPriority
	for name, value := range systemPriorities {
		out = append(out, &schedulingv1.PriorityClass{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value, PreemptionPolicy: &never,
			Description: systemPriorityTexts[name],
		})
	}
	return append(out, parseRoles(rbacDefaults)...)
}

// The priorities that admission knows without looking.
var systemPriorities = map[string]int32{
	"system-cluster-critical": 2000000000,
	"system-node-critical":    2000001000,
}

var systemPriorityTexts = map[string]string{
	"system-cluster-critical": "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
	"system-node-critical":    "Used for system critical pods that must not be moved from their current node.",
}

// nodeRules are what the node authorizer gives every node.
var nodeRules = rulesOf("system:node")

func rulesOf(name string) []rbacv1.PolicyRule {
	for _, obj := range parseRoles(rbacDefaults) {
		if role, ok := obj.(*rbacv1.ClusterRole); ok && role.Name == name {
			return role.Rules
		}
	}
	return nil
}

// parseRoles reads the notation of rbacDefaults.
func parseRoles(text string) []resources.Object {
	var out []resources.Object
	var rules *[]rbacv1.PolicyRule
	var ref rbacv1.RoleRef
	var meta metav1.ObjectMeta
	for line := range strings.SplitSeq(text, "\n") {
		words := strings.Fields(line)
		switch {
		case len(words) == 0 || strings.HasPrefix(words[0], "#"):
		case words[0] == "role":
			meta = defaultMeta(words[1])
			if len(words) == 4 {
				meta.Namespace = words[3]
				role := &rbacv1.Role{ObjectMeta: meta}
				rules, ref = &role.Rules, roleRef("Role", meta.Name)
				out = append(out, role)
				continue
			}
			role := &rbacv1.ClusterRole{ObjectMeta: meta}
			rules, ref = &role.Rules, roleRef("ClusterRole", meta.Name)
			out = append(out, role)
		case words[0] == "bind":
			out = append(out, bindingOf(metav1.ObjectMeta{Name: words[1]}, roleRef("ClusterRole", words[2]), words[4:]))
		case words[0] == "to":
			out = append(out, bindingOf(meta, ref, words[1:]))
		default:
			*rules = append(*rules, parseRule(words))
		}
	}
	return out
}

func defaultMeta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name:        name,
		Labels:      map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"},
		Annotations: map[string]string{"rbac.authorization.kubernetes.io/autoupdate": "true"},
	}
}

func roleRef(kind, name string) rbacv1.RoleRef {
	return rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: name}
}

func bindingOf(role metav1.ObjectMeta, ref rbacv1.RoleRef, to []string) resources.Object {
	meta := defaultMeta(role.Name)
	meta.Namespace = role.Namespace
	var subjects []rbacv1.Subject
	for _, subject := range to {
		kind, name, _ := strings.Cut(subject, ":")
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
		if !strings.Contains(meta.Name, "::") && !strings.HasPrefix(meta.Name, "system:controller:") {
			meta.Name = "system::" + meta.Name
		}
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
