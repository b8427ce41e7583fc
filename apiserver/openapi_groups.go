package apiserver

import (
	"reflect"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"tinykube/apiserver/schema"
)

// What is no resource has documents as well: the lists of groups and versions,
// the version of the server, the keys of its tokens.

// signpost is a path with one GET.
type signpost struct {
	path, tag, id, description string
	// answer is nil for text.
	answer any
	media  []string
}

// addSignposts adds the documents beside those of groups and versions.
func (o *openAPI) addSignposts(groups []*groupOfRows) {
	posts := []signpost{
		{"api", "core", "getCoreAPIVersions", "get available API versions", &metav1.APIVersions{}, bodyTypes},
		{"apis", "apis", "getAPIVersions", "get available API versions", &metav1.APIGroupList{}, bodyTypes},
		{"version", "version", "getCodeVersion", "get the version information for this server", &apiversion.Info{}, bodyTypes[:1]},
		{"openid/v1/jwks", "openid", "getServiceAccountIssuerOpenIDKeyset", "get service account issuer OpenID JSON Web Key Set (contains public token verification keys)", nil, []string{"application/jwk-set+json"}},
	}
	for _, g := range groups {
		if g.name != "" {
			tag, _, _ := strings.Cut(tagOf(g.name, ""), "_")
			posts = append(posts, signpost{"apis/" + g.name, tag, "get" + upperFirst(tag) + "APIGroup", "get information of a group", &metav1.APIGroup{}, bodyTypes})
		}
	}
	for _, post := range posts {
		o.v3[post.path] = sync.OnceValue(func() *packed { return pack(post.document()) })
	}
}

func (p signpost) document() map[string]any {
	components := schema.Components{}
	body := *spec.StringProperty()
	if p.answer != nil {
		components.Add(reflect.TypeOf(p.answer).Elem())
		body = refTo(p.answer)
	}
	return newDocument(components, map[string]pathItem{"/" + p.path + "/": {"get": &operation{
		Tags: []string{p.tag}, Description: p.description, OperationID: p.id,
		Responses: responses(body, p.media, "200"),
	}}})
}

// newDocument is an OpenAPI document.
func newDocument(components schema.Components, paths map[string]pathItem) map[string]any {
	return map[string]any{
		"openapi":    "3.0.0",
		"info":       map[string]string{"title": "Kubernetes", "version": "unversioned"},
		"paths":      paths,
		"components": map[string]any{"schemas": components},
	}
}
