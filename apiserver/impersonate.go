package apiserver

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Who may impersonate acts as somebody else, and is judged as that one. Every
// part of the other identity is a permission of its own: the verb impersonate
// on a user, on each group, on a UID, and on each value of an extra field.
//
// Spec: Kubernetes, "User impersonation".
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
	for _, part := range impersonatedParts(other) {
		if err := s.authorize(q.Context(), q.user, part); err != nil {
			return nil, err
		}
	}
	return other.completed(), nil
}

// impersonatedParts are the permissions that it takes to be that user.
func impersonatedParts(other *user) []target {
	part := func(group, resource, name string) target {
		return target{verb: "impersonate", isResource: true, group: group, version: "v1", resource: resource, name: name}
	}
	parts := []target{part("", "users", other.name)}
	if namespace, account, ok := other.serviceAccount(); ok {
		parts[0] = part("", "serviceaccounts", account)
		parts[0].namespace = namespace
	}
	for _, group := range other.groups {
		parts = append(parts, part("", "groups", group))
	}
	const authentication = "authentication.k8s.io"
	if other.uid != "" {
		parts = append(parts, part(authentication, "uids", other.uid))
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
// is in.
func (u *user) completed() *user {
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
