package apiserver

import (
	"net/http"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/apiserver/resources"
)

// handler answers a request about a resource.
type handler func(*Server, *request) error

// verbs maps a verb to its handler.
type verbHandlers map[string]handler

// The whole REST map. A row's own verbs decide which of these it has.
func restMap() (stored, updated verbHandlers, named map[string]verbHandlers) {
	// What every stored kind can do.
	stored = verbHandlers{
		"get": (*Server).get, "list": (*Server).list, "watch": (*Server).watch,
		"create": (*Server).create, "update": (*Server).update, "patch": (*Server).patch,
		"delete": (*Server).delete, "deletecollection": (*Server).deleteCollection,
	}
	// /status, and every subresource with a Prepare: other ways to update.
	updated = verbHandlers{"get": (*Server).get, "update": (*Server).update, "patch": (*Server).patch}
	// Subresources that do something of their own, and kinds that are only
	// ever created, because creating them is asking.
	all := func(handle handler) verbHandlers {
		return verbHandlers{"get": handle, "create": handle, "update": handle, "patch": handle, "delete": handle}
	}
	named = map[string]verbHandlers{
		"*/scale":          {"get": (*Server).getScale, "update": (*Server).updateScale, "patch": (*Server).patch},
		"pods/log":         {"get": (*Server).podLog},
		"pods/exec":        {"get": (*Server).execPod, "create": (*Server).execPod},
		"pods/attach":      {"get": (*Server).attachPod, "create": (*Server).attachPod},
		"pods/portforward": {"get": (*Server).forwardPort, "create": (*Server).forwardPort},
		"nodes/proxy":      all((*Server).proxyNode),
		"pods/proxy":       all((*Server).proxyPod),
		"services/proxy":   all((*Server).proxyService),
		"pods/binding":     {"create": (*Server).bindPod},
		"bindings":         {"create": (*Server).bindPod},
		"pods/eviction":    {"create": (*Server).evictPod},

		"serviceaccounts/token":     {"create": (*Server).createToken},
		"tokenreviews":              {"create": (*Server).reviewToken},
		"selfsubjectreviews":        {"create": (*Server).reviewSelf},
		"subjectaccessreviews":      {"create": (*Server).reviewAccess},
		"localsubjectaccessreviews": {"create": (*Server).reviewAccess},
		"selfsubjectaccessreviews":  {"create": (*Server).reviewAccess},
		"selfsubjectrulesreviews":   {"create": (*Server).reviewRules},
	}
	return stored, updated, named
}

// rowKey names a row in a path.
type rowKey struct{ group, version, resource string }

// route finds the row, the table and the handler of a resource request.
func (s *Server) route(q *request) (handler, error) {
	q.row = s.lookUp(q.target)
	if q.row == nil && q.group != "" && !s.extended() {
		return nil, errNotExtended
	}
	if q.row == nil && !slices.ContainsFunc(s.allRows, func(r *resources.Row) bool { return r.Group == q.group }) {
		return nil, errNoGroup
	}
	if q.row == nil || !q.row.Namespaced && q.namespace != "" && q.resource != "namespaces" {
		return nil, errNoPath
	}
	if !q.row.Namespaced {
		q.namespace = "" // a namespace is not inside itself
	}
	select {
	case <-s.store.Ready():
	default:
		return nil, apierrors.NewServiceUnavailable("the API server is still reading its storage")
	}
	q.table = s.store.Table(q.row)
	handlers, verbs := s.handlersFor(q)
	if handlers == nil {
		return nil, errNoPath
	}
	handle, ok := handlers[q.verb]
	if !ok || !slices.Contains(verbs, q.verb) || misplaced(q) {
		return nil, errNoMethod
	}
	if q.verb == "create" && q.row.Namespaced && q.namespace == "" || q.Method == http.MethodHead {
		return nil, errNoMethod
	}
	return handle, nil
}

// misplaced reports a request that makes an object in the place of one, or
// changes one without naming it.
func misplaced(q *request) bool {
	switch q.verb {
	case "create":
		return q.subresource == "" && q.name != ""
	case "update", "patch":
		return q.name == ""
	}
	return false
}

// handlersFor returns what can be done at the request's path, and the verbs
// that its row allows there.
func (s *Server) handlersFor(q *request) (verbHandlers, []string) {
	row := q.row
	if q.subresource == "" {
		if !row.Stored() && row.StoredAs == nil {
			return s.named[row.Plural], verbs(row)
		}
		return s.stored, verbs(row)
	}
	for _, sub := range subresources(row) {
		if sub.Name != q.subresource || q.name == "" {
			continue
		}
		for _, name := range []string{row.Plural + "/" + sub.Name, "*/" + sub.Name} {
			if named, ok := s.named[name]; ok {
				return named, sub.Verbs
			}
		}
		if sub.Name == "status" || sub.Prepare != nil {
			return s.updated, sub.Verbs
		}
	}
	return nil, nil
}

// errNoPath is what a path that leads nowhere answers.
var errNoPath = &apierrors.StatusError{ErrStatus: metav1.Status{
	Status: metav1.StatusFailure, Code: http.StatusNotFound, Reason: metav1.StatusReasonNotFound,
	Message: "the server could not find the requested resource", Details: &metav1.StatusDetails{},
}}

// errNoGroup is errNoPath for groups that are not built in, of which upstream's
// last server in the chain knows nothing to say.
var errNoGroup = &plainError{http.StatusNotFound, "404 page not found"}

// errNoMethod is what a path answers to a method that it does not have.
var errNoMethod = &apierrors.StatusError{ErrStatus: metav1.Status{
	Status: metav1.StatusFailure, Code: http.StatusMethodNotAllowed, Reason: metav1.StatusReasonMethodNotAllowed,
	Message: "the server does not allow this method on the requested resource", Details: &metav1.StatusDetails{},
}}

// servePaths builds the tree of everything that is not a resource.
func (s *Server) servePaths() http.Handler {
	mux := http.NewServeMux()
	for _, path := range []string{"/api", "/api/", "/apis", "/apis/"} {
		mux.HandleFunc(path, s.serveDiscovery)
	}
	s.servePlain(mux)
	return mux
}
