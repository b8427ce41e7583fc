package apiserver

import (
	"net/http"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/fields"
)

// target is what a request is about, read from its method and path alone:
//
//	/api/v1/namespaces/{namespace}/{resource}/{name}/{subresource}/{rest…}
//	/apis/{group}/{version}/{resource}/{name}
//
// Authorization speaks of nothing else, so this must be decided before any
// row is looked up, and for paths that do not exist as well.
type target struct {
	verb                     string // get list watch create update patch delete deletecollection
	path                     string
	isResource               bool
	group, version, resource string
	subresource, namespace   string
	name                     string
	rest                     string // what follows …/proxy/
	// fields is the field selector of a collection; nil if there is none.
	fields fields.Selector
}

// selects reports whether the target is only what has this value in a field.
func (t *target) selects(field, value string) bool {
	if t.fields == nil {
		return false
	}
	only, ok := t.fields.RequiresExactMatch(field)
	return ok && only == value
}

// verbOf is the verb of a method on a resource path with a name.
var verbOf = map[string]string{
	http.MethodGet: "get", http.MethodHead: "get", http.MethodPost: "create",
	http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete",
}

// parseTarget reads a request's method, path and, because they change the
// verb, two of its parameters.
func parseTarget(r *http.Request) target {
	t := target{verb: strings.ToLower(r.Method), path: r.URL.Path}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case len(parts) >= 3 && parts[0] == "api":
		t.version, parts = parts[1], parts[2:]
	case len(parts) >= 4 && parts[0] == "apis":
		t.group, t.version, parts = parts[1], parts[2], parts[3:]
	default:
		return t
	}
	if slices.Contains(parts[:min(len(parts), 4)], "") {
		return t // "/api/v1//x" leads nowhere
	}
	t.isResource = true
	t.verb = verbOf[r.Method]
	// Before watch was a parameter it was a part of the path; that is still
	// served, and says "watch" also of one object.
	oldWatch := parts[0] == "watch" && len(parts) > 1 && t.verb == "get"
	if oldWatch {
		t.verb, parts = "watch", parts[1:]
	}
	// "namespaces/x/pods" is about pods; "namespaces/x" and its subresources
	// are about the namespace, which is then its own scope.
	if parts[0] == "namespaces" && len(parts) > 1 {
		t.namespace = parts[1]
		if len(parts) > 2 && !slices.Contains([]string{"status", "finalize"}, parts[2]) {
			parts = parts[2:]
		}
	}
	t.resource = parts[0]
	if len(parts) > 1 {
		t.name = parts[1]
	}
	if len(parts) > 2 {
		t.subresource = parts[2]
		t.rest = "/" + strings.Join(parts[3:], "/")
		if len(parts) > 3 && strings.HasSuffix(r.URL.Path, "/") {
			t.rest += "/"
		}
	}
	if t.name == "" && !oldWatch {
		t.collection(r)
	}
	return t
}

// collection refines the verb of a request that names no object.
func (t *target) collection(r *http.Request) {
	switch t.verb {
	case "get":
		t.verb = "list"
		query := r.URL.Query()
		if watch := query.Get("watch"); watch == "true" || watch == "1" {
			t.verb = "watch"
		}
	case "delete":
		t.verb = "deletecollection"
	default:
		return
	}
	if text := r.URL.Query().Get("fieldSelector"); text != "" {
		if selector, err := fields.ParseSelector(text); err == nil {
			// Whoever may only see one object may list and watch that one.
			t.name, _ = selector.RequiresExactMatch("metadata.name")
			t.fields = selector
		}
	}
}
