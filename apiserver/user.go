package apiserver

import (
	"slices"
	"strings"
)

// Names that authentication gives out and authorization knows.
const (
	userAnonymous        = "system:anonymous"
	groupUnauthenticated = "system:unauthenticated"
	groupAuthenticated   = "system:authenticated"
	groupMasters         = "system:masters"
	serviceAccountPrefix = "system:serviceaccount:"
	groupServiceAccounts = "system:serviceaccounts"
	nodeUserPrefix       = "system:node:"
	groupNodes           = "system:nodes"
	userSelf             = "system:apiserver" // us
)

// user is who sent a request, as far as we could prove it.
type user struct {
	name, uid string
	groups    []string
	extra     map[string][]string
}

func (u *user) in(group string) bool { return slices.Contains(u.groups, group) }

var anonymous = &user{name: userAnonymous, groups: []string{groupUnauthenticated}}

// serviceAccountUser is a service account as a user.
func serviceAccountUser(namespace, name, uid string) *user {
	return &user{
		name: serviceAccountPrefix + namespace + ":" + name, uid: uid,
		groups: []string{groupServiceAccounts, groupServiceAccounts + ":" + namespace, groupAuthenticated},
	}
}

// serviceAccount takes a service account's user name apart.
func (u *user) serviceAccount() (namespace, name string, ok bool) {
	rest, ok := strings.CutPrefix(u.name, serviceAccountPrefix)
	if !ok {
		return "", "", false
	}
	return strings.Cut(rest, ":")
}

// nodeName is the node whose kubelet a user is.
func nodeName(u *user) (string, bool) {
	name, ok := strings.CutPrefix(u.name, nodeUserPrefix)
	return name, ok && u.in(groupNodes)
}
