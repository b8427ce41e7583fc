package apiserver

// The operations of one row, as OpenAPI 3.0 path items.

import (
	"cmp"
	"reflect"
	"slices"
	"strings"
	"sync"

	authenticationv1 "k8s.io/api/authentication/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeschema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"tinykube/apiserver/resources"
	"tinykube/apiserver/schema"
)

// operation is what one method of one path does.
type operation struct {
	Tags        []string                 `json:"tags"`
	Description string                   `json:"description"`
	OperationID string                   `json:"operationId"`
	Parameters  []parameter              `json:"parameters,omitempty"`
	RequestBody *content                 `json:"requestBody,omitempty"`
	Responses   map[string]content       `json:"responses"`
	Action      string                   `json:"x-kubernetes-action,omitempty"`
	Kind        *metav1.GroupVersionKind `json:"x-kubernetes-group-version-kind,omitempty"`
}

type parameter struct {
	Name        string      `json:"name"`
	In          string      `json:"in"`
	Description string      `json:"description,omitempty"`
	Required    bool        `json:"required,omitempty"`
	Schema      spec.Schema `json:"schema"`
}

type content struct {
	Description string               `json:"description,omitempty"`
	Content     map[string]mediaType `json:"content,omitempty"`
	Required    bool                 `json:"required,omitempty"`
}

type mediaType struct {
	Schema spec.Schema `json:"schema"`
}

// pathItem is the methods of a path and, as "parameters", what they share.
type pathItem map[string]any

// sharedBodies are sent or answered by every stored resource.
var sharedBodies = []struct {
	kind  string
	value any
}{
	{"DeleteOptions", &metav1.DeleteOptions{}},
	{"Status", &metav1.Status{}},
}

// connectOptions are the query parameters of subresources that are streams.
var connectOptions = map[string]any{
	"attach": &corev1.PodAttachOptions{}, "exec": &corev1.PodExecOptions{}, "portforward": &corev1.PodPortForwardOptions{},
	"log": &corev1.PodLogOptions{},
}

var (
	bodyTypes  = []string{"application/json", "application/vnd.kubernetes.protobuf", "application/yaml"}
	watchTypes = []string{"application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"}
	patchTypes = []string{
		"application/apply-patch+yaml", "application/json-patch+json",
		"application/merge-patch+json", "application/strategic-merge-patch+json",
	}
)

// documentV3 is the document of one group and version.
func documentV3(group string, v *versionOfRows) map[string]any {
	components := componentsOf(v.rows)
	if slices.ContainsFunc(v.rows, (*resources.Row).Stored) {
		components["io.k8s.apimachinery.pkg.apis.meta.v1.Patch"] = &spec.Schema{SchemaProps: spec.SchemaProps{
			Type: []string{"object"}, Description: "Patch is the body of a PATCH request.",
		}}
	}
	components.Add(reflect.TypeFor[metav1.APIResourceList]())
	p := &pathBuilder{base: versionPath(group, v.name), tag: tagOf(group, v.name), id: idOf(group, v.name), paths: map[string]pathItem{}}
	p.paths[p.base+"/"] = pathItem{"get": &operation{
		Tags: []string{p.tag}, Description: "get available resources", OperationID: "get" + p.id + "APIResources",
		Responses: responses(refTo(&metav1.APIResourceList{}), bodyTypes, "200"),
	}}
	for _, row := range v.rows {
		p.addRow(row)
	}
	return newDocument(components, p.paths)
}

// tagOf is "core_v1", idOf is "CoreV1": how upstream names a version.
func tagOf(group, version string) string {
	name := strings.TrimSuffix(cmp.Or(group, "core"), ".k8s.io")
	first, rest, dotted := strings.Cut(name, ".")
	if dotted {
		first += upperFirst(rest)
	}
	return first + "_" + version
}

func idOf(group, version string) string {
	tag, _, _ := strings.Cut(tagOf(group, version), "_")
	return upperFirst(tag) + upperFirst(version)
}

func upperFirst(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// pathBuilder collects the paths of one group and version.
type pathBuilder struct {
	base, tag, id string
	paths         map[string]pathItem
}

func (p *pathBuilder) addRow(row *resources.Row) {
	collection, scope := p.base+"/"+row.Plural, ""
	shared := []parameter{queryParameter("pretty", "string", "If 'true', then the output is pretty printed.")}
	if row.Namespaced {
		if slices.Contains(verbs(row), "list") {
			p.paths[collection] = pathItem{
				"get":        p.operation(row, "list", "list", "", row.Kind+"ForAllNamespaces", listOf(row)),
				"parameters": append(optionsParameters[metav1.ListOptions](), shared...),
			}
		}
		collection, scope = p.base+"/namespaces/{namespace}/"+row.Plural, "Namespaced"
		shared = append(shared, pathParameter("namespace", "object name and auth scope, such as for teams and projects"))
	}
	item := append(slices.Clone(shared), pathParameter("name", "name of the "+row.Kind))
	one := collection + "/{name}"
	for _, verb := range verbs(row) {
		switch verb {
		case "list":
			p.put(collection, "get", p.operation(row, "list", "list", scope, row.Kind, listOf(row), optionsParameters[metav1.ListOptions]()...), shared)
		case "create":
			op := p.operation(row, "create", "post", scope, row.Kind, bodyOf(row), optionsParameters[metav1.CreateOptions]()...)
			op.RequestBody = body(bodyOf(row))
			p.put(collection, "post", op, shared)
		case "deletecollection":
			op := p.operation(row, "delete", "deletecollection", "Collection"+scope, row.Kind, &metav1.Status{}, deleteCollectionParameters()...)
			op.RequestBody = body(&metav1.DeleteOptions{})
			p.put(collection, "delete", op, shared)
		case "delete":
			var deleted any = &metav1.Status{}
			if row.Strategy.ReturnsDeleted {
				deleted = row.New()
			}
			op := p.operation(row, "delete", "delete", scope, row.Kind, deleted, optionsParameters[metav1.DeleteOptions]()...)
			op.RequestBody = body(&metav1.DeleteOptions{})
			p.put(one, "delete", op, item)
		default:
			p.itemVerb(row, verb, one, scope+row.Kind, bodyOf(row), row.GVK(), item)
		}
	}
	for _, sub := range subresources(row) {
		p.addSubresource(row, sub, one, scope, item)
	}
}

// itemVerb adds get, update or patch of an object or one of its subresources.
func (p *pathBuilder) itemVerb(row *resources.Row, verb, path, name string, obj any, kind runtimeschema.GroupVersionKind, shared []parameter) {
	var op *operation
	method := verb
	switch verb {
	case "get":
		op = p.operation(row, "read", "get", "", name, obj)
	case "update":
		method = "put"
		op = p.operation(row, "replace", "put", "", name, obj, optionsParameters[metav1.UpdateOptions]()...)
		op.RequestBody = body(obj)
	case "patch":
		op = p.operation(row, "patch", "patch", "", name, obj, optionsParameters[metav1.PatchOptions]()...)
		patch := spec.Schema{SchemaProps: spec.SchemaProps{Ref: spec.MustCreateRef(schema.RefPrefix + "io.k8s.apimachinery.pkg.apis.meta.v1.Patch")}}
		op.RequestBody = &content{Required: true, Content: map[string]mediaType{}}
		for _, media := range patchTypes {
			if row.Custom != nil && media == string(types.StrategicMergePatchType) {
				continue // what has no type says nowhere how its lists merge
			}
			op.RequestBody.Content[media] = mediaType{patch}
		}
	default:
		return // watch is a parameter of list
	}
	op.Kind = &metav1.GroupVersionKind{Group: kind.Group, Version: kind.Version, Kind: kind.Kind}
	p.put(path, method, op, shared)
}

func (p *pathBuilder) addSubresource(row *resources.Row, sub resources.Subresource, one, scope string, item []parameter) {
	path, name := one+"/"+sub.Name, scope+row.Kind+upperFirst(sub.Name)
	kind := subresourceKind(row, sub)
	obj := subresourceBody(row, sub)
	if options, stream := connectOptions[sub.Name]; stream {
		item = append(slices.Clone(item), parametersOf(reflect.TypeOf(options).Elem())...)
		if sub.Name != "log" {
			item = item[1:] // no "pretty": what is streamed is not ours to print
		}
	}
	for _, verb := range sub.Verbs {
		switch {
		case obj == nil: // a stream: no body that a schema could describe
			op := p.operation(row, "connect", "connect", upperFirst(verbMethod(verb)), name, nil)
			if sub.Name == "log" {
				op = p.operation(row, "read", "get", "", name, nil)
			}
			op.Kind = &metav1.GroupVersionKind{Group: kind.Group, Version: kind.Version, Kind: kind.Kind}
			p.put(path, verbMethod(verb), op, item)
		case verb == "create":
			op := p.operation(row, "create", "post", "", name, obj)
			op.Kind = &metav1.GroupVersionKind{Group: kind.Group, Version: kind.Version, Kind: kind.Kind}
			op.RequestBody = body(obj)
			p.put(path, "post", op, append(optionsParameters[metav1.CreateOptions](), item...))
		default:
			p.itemVerb(row, verb, path, name, obj, kind, item)
		}
	}
}

func verbMethod(verb string) string {
	switch verb {
	case "create":
		return "post"
	case "update":
		return "put"
	}
	return verb
}

// operation makes an operation that answers with obj, or with any text.
func (p *pathBuilder) operation(row *resources.Row, does, action, scope, name string, obj any, parameters ...parameter) *operation {
	codes := []string{"200"}
	switch action {
	case "post":
		codes = append(codes, "201", "202")
	case "put", "patch":
		codes = append(codes, "201")
	case "delete":
		codes = append(codes, "202")
	}
	op := &operation{
		Tags: []string{p.tag}, OperationID: does + p.id + scope + name, Action: action, Parameters: parameters,
		Description: does + " " + row.Kind,
		Kind:        &metav1.GroupVersionKind{Group: row.Group, Version: row.Version, Kind: row.Kind},
	}
	switch {
	case obj == nil:
		text := spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"string"}}}
		op.Responses = responses(text, []string{"*/*"}, codes[0])
	case action == "list":
		op.Responses = responses(refTo(obj), append(slices.Clone(bodyTypes), watchTypes...), codes...)
	default:
		op.Responses = responses(refTo(obj), bodyTypes, codes...)
	}
	return op
}

func (p *pathBuilder) put(path, method string, op *operation, shared []parameter) {
	if p.paths[path] == nil {
		p.paths[path] = pathItem{"parameters": shared}
	}
	p.paths[path][method] = op
}

func responses(s spec.Schema, media []string, codes ...string) map[string]content {
	words := map[string]string{"200": "OK", "201": "Created", "202": "Accepted"}
	out := map[string]content{"401": {Description: "Unauthorized"}}
	for _, code := range codes {
		types := map[string]mediaType{}
		for _, m := range media {
			types[m] = mediaType{s}
		}
		out[code] = content{Description: words[code], Content: types}
	}
	return out
}

func body(obj any) *content {
	return &content{Content: map[string]mediaType{"*/*": {refTo(obj)}}}
}

func refTo(obj any) spec.Schema {
	name, custom := obj.(customModel)
	if !custom {
		name = customModel(schema.Name(reflect.TypeOf(obj).Elem()))
	}
	return spec.Schema{SchemaProps: spec.SchemaProps{Ref: spec.MustCreateRef(schema.RefPrefix + string(name))}}
}

// optionsParameters are the query parameters of an options type.
func optionsParameters[T any]() []parameter { return parametersOf(reflect.TypeFor[T]()) }

func parametersOf(t reflect.Type) []parameter {
	if known, ok := knownParameters.Load(t); ok {
		return slices.Clone(known.([]parameter))
	}
	c := schema.Components{}
	s := c[c.Add(t)]
	var out []parameter
	for name, property := range s.Properties {
		if len(property.Type) == 0 || name == "kind" || name == "apiVersion" {
			continue // preconditions have no form as a parameter
		}
		if name == "shardSelector" {
			continue // alpha upstream, not ours
		}
		kind := property.Type[0]
		if kind == "array" {
			kind = "string" // may be repeated
		}
		out = append(out, queryParameter(name, kind, property.Description))
	}
	slices.SortFunc(out, func(a, b parameter) int { return strings.Compare(a.Name, b.Name) })
	knownParameters.Store(t, slices.Clone(out))
	return out
}

// knownParameters keeps what parametersOf found: every row asks the same.
var knownParameters sync.Map // reflect.Type → []parameter

// deleteCollectionParameters: choose as a list does, delete as a delete does.
func deleteCollectionParameters() []parameter {
	list := slices.DeleteFunc(optionsParameters[metav1.ListOptions](), func(p parameter) bool {
		return p.Name == "watch" || p.Name == "allowWatchBookmarks"
	})
	return append(list, optionsParameters[metav1.DeleteOptions]()...)
}

func queryParameter(name, kind, description string) parameter {
	return parameter{Name: name, In: "query", Description: description, Schema: simple(kind)}
}

func pathParameter(name, description string) parameter {
	return parameter{Name: name, In: "path", Description: description, Required: true, Schema: simple("string")}
}

func simple(kind string) spec.Schema {
	return spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{kind}, UniqueItems: true}}
}

// subresourceKind fills in the row's group and version where a subresource
// names only a kind.
func subresourceKind(row *resources.Row, sub resources.Subresource) runtimeschema.GroupVersionKind {
	if sub.Version == "" {
		return row.GVK().GroupVersion().WithKind(sub.Kind)
	}
	return runtimeschema.GroupVersionKind{Group: sub.Group, Version: sub.Version, Kind: sub.Kind}
}

// subresourceBody is an object of a subresource's kind, or nil for a stream.
func subresourceBody(row *resources.Row, sub resources.Subresource) any {
	switch {
	case connectOptions[sub.Name] != nil:
		return nil
	case sub.Kind == row.Kind:
		return bodyOf(row)
	}
	switch sub.Kind {
	case "Scale":
		return &autoscalingv1.Scale{}
	case "Binding":
		return &corev1.Binding{}
	case "Eviction":
		return &policyv1.Eviction{}
	case "TokenRequest":
		return &authenticationv1.TokenRequest{}
	}
	return nil
}
