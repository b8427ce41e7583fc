package apiserver

import (
	"cmp"
	"maps"
	"net/http"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/version"

	"tinykube/apiserver/resources"
)

// What a server serves changes while it runs: definitions add rows, and other
// servers serve groups of their own. All that follows from the set of rows (the
// map in which requests look, discovery, OpenAPI) is made anew when it changes,
// and put in place at once; a request sees one set or the next, never a mix.

// served is one set of rows with what follows from it. It never changes.
type served struct {
	byKey     map[rowKey]*resources.Row
	discovery *discovery
	openAPI   *openAPI
	remote    map[string]*remoteServer // by group and version
}

// extra is what is served beside the built-in rows.
type extra struct {
	custom map[string][]*resources.Row // by definition
	// remote are other servers, by group and version, and listed what they have.
	remote map[string]*remoteServer
	listed []*resources.Row
	// priority of groups in discovery; those without have customPriority.
	priority map[string]int32
}

// customPriority is the place of custom groups in discovery.
// Upstream: kubernetes@v1.36 k8s.io/apiextensions-apiserver/pkg/apiserver/customresource_discovery_controller.go sync
const customPriority = 1000

// serve puts the built-in rows and extra in place.
func (s *Server) install(e extra) {
	var rows, listed []*resources.Row
	for _, name := range slices.Sorted(maps.Keys(e.custom)) {
		for _, row := range e.custom[name] {
			if !row.Custom.NotServed {
				rows = append(rows, row)
			}
		}
	}
	next := &served{remote: e.remote, byKey: make(map[rowKey]*resources.Row, len(s.allRows)+len(rows))}
	for _, row := range append(rows[:len(rows):len(rows)], s.allRows...) { // what is built in wins
		next.byKey[rowKey{row.Group, row.Version, row.Plural}] = row
	}
	listed = append(rows[:len(rows):len(rows)], e.listed...)
	slices.SortStableFunc(listed, func(a, b *resources.Row) int {
		return cmp.Or(
			cmp.Compare(e.priorityOf(b.Group), e.priorityOf(a.Group)),
			strings.Compare(a.Group, b.Group),
			-version.CompareKubeAwareVersionStrings(a.Version, b.Version),
		)
	})
	next.discovery = newDiscovery(append(s.allRows[:len(s.allRows):len(s.allRows)], listed...))
	next.openAPI = s.openAPI.with(rows)
	s.served.Store(next)
}

func (e *extra) priorityOf(group string) int32 {
	if p, ok := e.priority[group]; ok {
		return p
	}
	return customPriority
}

// lookUp finds the row that a path names.
func (s *Server) lookUp(t target) *resources.Row {
	return s.served.Load().byKey[rowKey{t.group, t.version, t.resource}]
}

// serveDiscovery answers /api, /apis and what lies below.
func (s *Server) serveDiscovery(w http.ResponseWriter, r *http.Request) {
	s.served.Load().discovery.ServeHTTP(w, r)
}

// serveOpenAPI answers /openapi/v2, /openapi/v3 and what lies below.
func (s *Server) serveOpenAPI(w http.ResponseWriter, r *http.Request) {
	s.served.Load().openAPI.ServeHTTP(w, r)
}
