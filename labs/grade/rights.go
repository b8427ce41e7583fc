package grade

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
)

// rights judges the rule matching of lab 06. Each check gives a user one role
// and then asks the API server, who should know, what that user may do: as
// much of what must be refused as of what must be allowed.
var rights = suite{
	programs: []string{"kube-apiserver"},
	open:     func(ctx context.Context, b *bench) error { return b.oneServer(ctx) },
	checks: []Check{
		{
			Name: listed, Points: 1, run: asked([]rbacv1.PolicyRule{rule("get,list", "", "pods")},
				"yes get pods", "yes list pods", "no delete pods", "no get secrets", "no get /metrics"),
			Hint: "a rule must list the verb, the group and the resource, all three",
		},
		{
			Name: "a group is a part of the name: pods of another group are other things", Points: 1, Needs: []string{listed},
			run: asked([]rbacv1.PolicyRule{rule("get", "apps", "deployments"), rule("get", "", "pods")},
				"yes get deployments.apps", "no get deployments", "no get deployments.extensions", "yes get pods", "no get pods.metrics.k8s.io"),
			Hint: `the core group is "", and only "*" stands for others`,
		},
		{
			Name: "* stands for any verb, any group, any resource", Points: 2, Needs: []string{listed},
			run: asked([]rbacv1.PolicyRule{rule("*", "", "pods"), rule("watch", "*", "deployments"), rule("get", "batch", "*")},
				"yes deletecollection pods", "yes watch deployments.apps", "yes watch deployments.extensions", "yes get jobs.batch", "yes get jobs.batch/status",
				"no deletecollection deployments.apps", "no watch jobs.batch", "no get jobs", "no get /metrics"),
			Hint: "* means any, in the list in which it stands",
		},
		{
			Name: "a subresource is a thing of its own", Points: 3, Needs: []string{listed},
			run: asked([]rbacv1.PolicyRule{rule("get", "", "pods,nodes/proxy"), rule("update", "*", "*/scale"), rule("create", "", "services/*")},
				"yes get pods", "no get pods/log", "yes get nodes/proxy", "no get nodes", "yes update deployments.apps/scale", "yes update replicationcontrollers/scale",
				"no update deployments.apps", "no update deployments.apps/status", "no create services/proxy", "no create services"),
			Hint: `"*" before the slash is any resource; after it, or at the end of "services/*", it means nothing`,
		},
		{
			Name: "names narrow a rule to objects that the request names", Points: 2, Needs: []string{listed},
			run: asked([]rbacv1.PolicyRule{{Verbs: []string{"get", "list", "create"}, APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{"mine", "*"}}},
				"yes get configmaps mine", "yes list configmaps mine", "no get configmaps yours", "no list configmaps", "no create configmaps"),
			Hint: "no names in the rule: any object. No name in the request: none of them. * is no name",
		},
		{
			Name: "paths are allowed by rules about paths", Points: 2,
			run: asked([]rbacv1.PolicyRule{{Verbs: []string{"get"}, NonResourceURLs: []string{"/metrics", "/debug/*"}}, rule("*", "*", "*")},
				"yes get /metrics", "yes get /debug/pprof/heap", "no post /metrics", "no get /metrics/slis", "no get /debug", "no get /logs", "yes get secrets"),
			Hint: "a path matches whole, or up to a * at its end; rules about resources do not count",
		},
		{
			Name: "a service account does what it may, and gets 403 for the rest", Points: 2, run: serviceAccount,
			Hint: "the last check is a real request with a real token; look at what differs",
		},
	},
}

const listed = "a rule allows what it lists, and nothing else"

// rule is one rule about resources; its lists are separated by commas.
func rule(verbs, groups, resources string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: strings.Split(verbs, ","), APIGroups: strings.Split(groups, ","), Resources: strings.Split(resources, ",")}
}

// grant gives a subject rules, and makes sure that the server has seen it.
func (b *bench) grant(ctx context.Context, name string, subject rbacv1.Subject, rules []rbacv1.PolicyRule) error {
	roles, bindings := client.For(b.straight, client.ClusterRoles), client.For(b.straight, client.ClusterRoleBindings)
	if _, err := roles.Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}); err != nil {
		return fmt.Errorf("create a role: %w", err)
	}
	_, err := bindings.Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name}, Subjects: []rbacv1.Subject{subject}})
	if err != nil {
		return fmt.Errorf("bind it: %w", err)
	}
	// A default read is fresh: after it the server's cache has what was read,
	// and rights are looked up in the cache.
	_, roleErr := roles.Get(ctx, "", name)
	_, bindingErr := bindings.Get(ctx, "", name)
	return errors.Join(roleErr, bindingErr)
}

// asked is a check that grants rules to somebody new and asks what they allow:
// "yes get pods/log", "no update deployments.apps web", "no get /metrics".
func asked(rules []rbacv1.PolicyRule, questions ...string) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		b.users++
		who := fmt.Sprintf("user-%d", b.users)
		if err := b.grant(ctx, who, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: who}, rules); err != nil {
			return err
		}
		var wrong []error
		for _, question := range questions {
			answer, request, _ := strings.Cut(question, " ")
			if allowed, err := b.may(ctx, who, request); err != nil {
				return err
			} else if allowed != (answer == "yes") {
				wrong = append(wrong, fmt.Errorf("%q is allowed: %v", request, allowed))
			}
		}
		if wrong != nil {
			return fmt.Errorf("%w\nby these rules:\n%s", errors.Join(wrong...), readOut(rules))
		}
		return nil
	}
}

// readOut writes rules as one would read them out.
func readOut(rules []rbacv1.PolicyRule) string {
	var lines []string
	for _, r := range rules {
		line := strings.Join(r.Verbs, ",")
		if len(r.NonResourceURLs) > 0 {
			line += " paths " + strings.Join(r.NonResourceURLs, ",")
		} else {
			line += fmt.Sprintf(" resources %s of groups %q", strings.Join(r.Resources, ","), r.APIGroups)
		}
		if len(r.ResourceNames) > 0 {
			line += " names " + strings.Join(r.ResourceNames, ",")
		}
		lines = append(lines, "  "+line)
	}
	return strings.Join(lines, "\n")
}

// may asks the API server whether somebody may do something.
func (b *bench) may(ctx context.Context, who, request string) (bool, error) {
	words := strings.Fields(request)
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: who}}
	if strings.HasPrefix(words[1], "/") {
		review.Spec.NonResourceAttributes = &authorizationv1.NonResourceAttributes{Verb: words[0], Path: words[1]}
	} else {
		resource, subresource, _ := strings.Cut(words[1], "/")
		resource, group, _ := strings.Cut(resource, ".")
		review.Spec.ResourceAttributes = &authorizationv1.ResourceAttributes{Namespace: namespace, Verb: words[0], Group: group, Resource: resource, Subresource: subresource}
		if len(words) > 2 {
			review.Spec.ResourceAttributes.Name = words[2]
		}
	}
	err := b.straight.DoInto(ctx, client.Request{Method: http.MethodPost, Path: "/apis/authorization.k8s.io/v1/subjectaccessreviews"}, review, review)
	return review.Status.Allowed, err
}

func serviceAccount(ctx context.Context, b *bench) error {
	const name = "robot"
	accounts := client.For(b.straight, client.ServiceAccounts)
	if _, err := accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}); err != nil {
		return fmt.Errorf("create a service account: %w", err)
	}
	subject := rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: name}
	if err := b.grant(ctx, name, subject, []rbacv1.PolicyRule{rule("get,list", "", "configmaps")}); err != nil {
		return err
	}
	token := &authenticationv1.TokenRequest{}
	if err := accounts.CreateSub(ctx, namespace, name, "token", token, token); err != nil {
		return fmt.Errorf("ask for a token: %w", err)
	}
	config := *b.config
	config.CertFile, config.CertData, config.KeyFile, config.KeyData = "", nil, "", nil
	config.BearerToken = token.Status.Token
	robot, err := client.New(&config)
	if err != nil {
		return err
	}
	if _, err := client.For(robot, client.ConfigMaps).List(ctx, namespace, metav1.ListOptions{}); err != nil {
		return fmt.Errorf("list configmaps: %w", err)
	}
	if _, err := client.For(robot, client.Secrets).List(ctx, namespace, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		return unexpected(err, "for a list of secrets 403 Forbidden")
	}
	err = client.For(robot, client.ConfigMaps).Delete(ctx, namespace, "any", metav1.DeleteOptions{})
	if !apierrors.IsForbidden(err) {
		return unexpected(err, "for a delete 403 Forbidden, though there is no such object")
	}
	return nil
}
