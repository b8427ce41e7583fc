package apiserver

import (
	"context"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// May they? The configured modes are asked in their order, and the first yes
// counts. Nobody ever says no: a request is refused because nobody allows it.
//
//	system:masters   everything, whatever the modes: the way back in
//	AlwaysAllow      everything, for a lab
//	Node             what the pods on a node need (authz_node.go)
//	RBAC             what roles and bindings say (rbac.go)

// decision is the answer and why. Reasons of those who had no opinion are what
// the 403 ends with.
type decision struct {
	allowed bool
	reason  string
}

// authorizer decides by the configured modes.
type authorizer struct {
	server *Server
	modes  []authorizationMode
	roles  rbacIndex
	pods   nodePods
	// alwaysAllow is set if that is one of the modes.
	alwaysAllow bool
}

// authorizationMode answers about one user and one target.
type authorizationMode func(ctx context.Context, u *user, t target) decision

// KnownAuthorizationModes are the values of --authorization-mode.
var KnownAuthorizationModes = []string{"AlwaysAllow", "Node", "RBAC"}

func newAuthorizer(s *Server) (*authorizer, error) {
	a := &authorizer{server: s}
	a.roles.server, a.pods.server = s, s
	for _, mode := range s.cfg.AuthorizationModes {
		switch mode {
		case "AlwaysAllow":
			a.alwaysAllow = true
			a.modes = append(a.modes, func(context.Context, *user, target) decision { return decision{allowed: true} })
		case "Node":
			a.modes = append(a.modes, a.allowsNode)
		case "RBAC":
			a.modes = append(a.modes, a.roles.allows)
		default:
			return nil, fmt.Errorf("authorization mode %q is not one of %s", mode, strings.Join(KnownAuthorizationModes, ", "))
		}
	}
	return a, nil
}

// has reports whether a mode is configured.
func (a *authorizer) has(mode string) bool {
	return slices.Contains(a.server.cfg.AuthorizationModes, mode)
}

// authorize returns nil, or the 403 that says who may not do what.
func (s *Server) authorize(ctx context.Context, u *user, t target) error {
	if d := s.authz.decide(ctx, u, t); !d.allowed {
		return forbidden(u, t, d.reason)
	}
	return nil
}

func (a *authorizer) decide(ctx context.Context, u *user, t target) decision {
	if u.in(groupMasters) {
		return decision{allowed: true}
	}
	select {
	case <-a.server.store.Ready():
	default:
		// Nobody's rights are known yet; the probes of the machine's owner
		// must still be answered.
		return decision{allowed: a.alwaysAllow || !t.isResource && isPublicPath(t.path)}
	}
	var reasons []string
	for _, mode := range a.modes {
		d := mode(ctx, u, t)
		if d.allowed {
			return d
		}
		if d.reason != "" {
			reasons = append(reasons, d.reason)
		}
	}
	return decision{reason: strings.Join(reasons, "\n")}
}

// allows is decide for those who do not ask why.
func (a *authorizer) allows(ctx context.Context, u *user, t target) bool {
	return a.decide(ctx, u, t).allowed
}

// forbidden is upstream's sentence, which kubectl prints as it is.
func forbidden(u *user, t target, reason string) error {
	if reason != "" {
		reason = ": " + reason
	}
	if !t.isResource {
		return apierrors.NewForbidden(schema.GroupResource{}, "", fmt.Errorf("User %q cannot %s path %q%s", u.name, t.verb, t.path, reason))
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
		fmt.Errorf("User %q cannot %s resource %q in API group %q %s%s", u.name, t.verb, resource, t.group, where, reason))
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
