package apiserver

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Who may impersonate acts as somebody else, and is judged as that one. There
// are several ways, tried in this order; the first that is allowed counts, and
// if none is, the first refusal is the answer:
//
//	associated-node   a pod's service account as the node on which it runs
//	arbitrary-node    as any node
//	serviceaccount    as a service account
//	user-info         as anybody else, with groups and all
//	the oldest        as whomever
//
// The new ways take two permissions: impersonate:WAY on whom, and
// impersonate-on:WAY:VERB on what the request is about, so that somebody can be
// let list pods as a node and nothing else. The oldest takes impersonate alone,
// for any request. Every part of the other identity is a permission of its own:
// the user, each group, the UID, and each value of an extra field.
//
// Spec: Kubernetes, "User impersonation"; KEP-5284.
// Upstream: kubernetes@v1.36 k8s.io/apiserver/pkg/endpoints/filters/impersonation/mode.go
const (
	impersonateUser  = "Impersonate-User"
	impersonateUID   = "Impersonate-Uid"
	impersonateGroup = "Impersonate-Group"
	impersonateExtra = "Impersonate-Extra-"
)

// impersonate returns whom the request is to be judged as.
func (s *Server) impersonate(q *request) (*user, error) {
	extra := impersonatedExtra(q.Header)
	name := q.Header.Get(impersonateUser)
	if name == "" {
		if q.Header.Get(impersonateGroup) != "" || q.Header.Get(impersonateUID) != "" || len(extra) > 0 {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("requested &user.DefaultInfo{Name:%q, UID:%q, Groups:%#v, Extra:%#v} without impersonating a user name",
				"", q.Header.Get(impersonateUID), q.Header.Values(impersonateGroup), extra))
		}
		return q.user, nil
	}
	other := &user{name: name, groups: slices.Clone(q.Header.Values(impersonateGroup)), uid: q.Header.Get(impersonateUID), extra: extra}
	var refused error
	for _, way := range impersonationWays {
		if way.fits != nil && !way.fits(q.user, other) {
			continue
		}
		err := s.mayImpersonate(q, way.name, other)
		if err == nil {
			if way.name != "" {
				q.audit.constrained("impersonate:" + way.name)
			}
			return other.completed(way.name != ""), nil
		}
		refused = cmp.Or(refused, err)
	}
	q.w.Header().Set("X-Content-Type-Options", "nosniff")
	return nil, refused
}

// impersonationWays are the ways and whom they are for; nil is everybody.
var impersonationWays = []struct {
	name string
	fits func(who, other *user) bool
}{
	{"associated-node", func(who, other *user) bool {
		node := other.node()
		_, _, account := who.serviceAccount()
		return node != "" && other.onlyNamed() && account && slices.Equal(who.extra["authentication.kubernetes.io/node-name"], []string{node})
	}},
	{"arbitrary-node", func(_, other *user) bool { return other.node() != "" && other.onlyNamed() }},
	{"serviceaccount", func(_, other *user) bool {
		_, _, account := other.serviceAccount()
		return account && other.onlyNamed()
	}},
	{"user-info", func(_, other *user) bool {
		_, _, account := other.serviceAccount()
		return !account && other.node() == ""
	}},
	{"", nil},
}

// node is the node whose name the user bears; "" if it is not one's.
func (u *user) node() string {
	name, ok := strings.CutPrefix(u.name, nodeUserPrefix)
	if !ok || len(validation.IsDNS1123Subdomain(name)) > 0 {
		return ""
	}
	return name
}

func (u *user) onlyNamed() bool { return u.uid == "" && len(u.groups) == 0 && len(u.extra) == 0 }

// mayImpersonate returns why the request may not be made as other in one way.
func (s *Server) mayImpersonate(q *request, way string, other *user) error {
	verb := "impersonate"
	if way != "" {
		verb += ":" + way
		on := q.target
		on.verb = "impersonate-on:" + way + ":" + q.verb
		if err := s.authorize(q.Context(), q.user, on); err != nil {
			return err
		}
	}
	for _, part := range impersonatedParts(other, way) {
		part.verb = verb
		if what := neverImpersonated(part); way != "" && what != "" {
			return forbidden(q.user, part, "impersonating the "+what+" is not allowed")
		}
		if err := s.authorize(q.Context(), q.user, part); err != nil {
			return err
		}
	}
	return nil
}

// neverImpersonated names what only the oldest way can make of somebody.
func neverImpersonated(part target) string {
	switch {
	case part.resource == "groups" && part.name == groupMasters:
		return groupMasters + " group"
	case part.resource == "groups" && part.name == "":
		return "empty string group"
	case part.resource == "userextras" && part.name == "":
		return "empty string value in extra"
	}
	return ""
}

// impersonatedParts are what one must be allowed to be that user.
func impersonatedParts(other *user, way string) []target {
	part := func(group, resource, name string) target {
		return target{isResource: true, group: group, version: "v1", resource: resource, name: name}
	}
	const authentication = "authentication.k8s.io"
	of := "" // where users and groups are thought to be
	if way != "" {
		of = authentication
	}
	parts := []target{part(of, "users", other.name)}
	namespace, account, isAccount := other.serviceAccount()
	switch {
	case isAccount:
		parts[0] = part(of, "serviceaccounts", account)
		parts[0].namespace = namespace
	case way == "associated-node": // whichever it is
		parts[0] = part(of, "nodes", "*")
	case way != "" && other.node() != "":
		parts[0] = part(of, "nodes", other.node())
	}
	if other.uid != "" {
		parts = append(parts, part(authentication, "uids", other.uid))
	}
	for _, group := range other.groups {
		parts = append(parts, part(of, "groups", group))
	}
	for key, values := range other.extra {
		for _, value := range values {
			extra := part(authentication, "userextras", value)
			extra.subresource = key
			parts = append(parts, extra)
		}
	}
	return parts
}

// completed gives an impersonated user the groups that everybody of that sort
// is in. In the oldest way a node is nobody special.
func (u *user) completed(constrained bool) *user {
	if constrained && u.node() != "" {
		u.groups = []string{groupNodes}
	}
	if namespace, _, ok := u.serviceAccount(); ok && len(u.groups) == 0 {
		u.groups = []string{groupServiceAccounts, groupServiceAccounts + ":" + namespace}
	}
	group := groupAuthenticated
	if u.name == userAnonymous {
		group = groupUnauthenticated
	}
	if !u.in(group) && !u.in(groupUnauthenticated) {
		u.groups = append(u.groups, group)
	}
	return u
}

// impersonatedExtra reads the headers Impersonate-Extra-KEY, KEY being escaped
// like a URL and, as all header names, in any case.
func impersonatedExtra(header http.Header) map[string][]string {
	var extra map[string][]string
	for name, values := range header {
		rest, ok := cutPrefixFold(name, impersonateExtra)
		if !ok {
			continue
		}
		key := strings.ToLower(rest)
		if plain, err := url.PathUnescape(key); err == nil {
			key = plain
		}
		if extra == nil {
			extra = map[string][]string{}
		}
		extra[key] = append(extra[key], values...)
	}
	return extra
}
