package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kjson "sigs.k8s.io/json"
)

// Resource is one resource of one API server, typed.
type Resource[T Object] struct {
	Kind   Kind[T]
	client *Client
	accept string
	// watchAccept is for watches if that is not the same.
	watchAccept string
}

// List is a typed list answer.
type List[T Object] struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []T `json:"items"`
}

// For binds a Kind to a Client. With T = *metav1.PartialObjectMetadata the
// server sends metadata only, whatever the kind.
func For[T Object](c *Client, k Kind[T]) *Resource[T] {
	r := &Resource[T]{Kind: k, client: c, accept: jsonType}
	if _, ok := any(r.new()).(*metav1.PartialObjectMetadata); ok {
		r.accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
	}
	return r
}

// new returns a new zero object to decode into.
func (r *Resource[T]) new() T {
	return reflect.New(reflect.TypeFor[T]().Elem()).Interface().(T)
}

// Path is the URL path of the collection, or of one object when name is set.
// An empty namespace means all of them.
func (r *Resource[T]) Path(namespace, name string, subresources ...string) string {
	var b strings.Builder
	if r.Kind.Group == "" {
		b.WriteString("/api/")
	} else {
		b.WriteString("/apis/" + r.Kind.Group + "/")
	}
	b.WriteString(r.Kind.Version)
	if namespace != "" && r.Kind.Namespaced {
		b.WriteString("/namespaces/" + namespace)
	}
	b.WriteString("/" + r.Kind.Plural)
	for _, part := range append([]string{name}, subresources...) {
		if part != "" {
			b.WriteString("/" + part)
		}
	}
	return b.String()
}

// Get reads one object, fresh.
func (r *Resource[T]) Get(ctx context.Context, namespace, name string) (T, error) {
	if name == "" { // would read the collection
		var none T
		return none, fmt.Errorf("get %s: a name is required", r.Kind.Plural)
	}
	return r.do(ctx, Request{Method: http.MethodGet, Path: r.Path(namespace, name)})
}

// Create stores a new object; its namespace is taken from the object.
func (r *Resource[T]) Create(ctx context.Context, obj T) (T, error) {
	return r.send(ctx, http.MethodPost, r.Path(obj.GetNamespace(), ""), obj)
}

// Update replaces an object if its resourceVersion is still the stored one;
// otherwise it fails with a Conflict.
func (r *Resource[T]) Update(ctx context.Context, obj T) (T, error) {
	return r.send(ctx, http.MethodPut, r.Path(obj.GetNamespace(), obj.GetName()), obj)
}

// UpdateStatus is Update for the status subresource.
func (r *Resource[T]) UpdateStatus(ctx context.Context, obj T) (T, error) {
	return r.UpdateSub(ctx, obj, "status")
}

// UpdateSub is Update for a subresource that takes and returns the object
// itself, such as status or a namespace's finalize.
func (r *Resource[T]) UpdateSub(ctx context.Context, obj T, subresource string) (T, error) {
	return r.send(ctx, http.MethodPut, r.Path(obj.GetNamespace(), obj.GetName(), subresource), obj)
}

// Patch changes one object, or its subresource.
func (r *Resource[T]) Patch(ctx context.Context, namespace, name string, pt types.PatchType, data []byte, subresources ...string) (T, error) {
	request := Request{Method: http.MethodPatch, Path: r.Path(namespace, name, subresources...), Body: data, ContentType: string(pt)}
	if pt == types.ApplyPatchType {
		request.Query = url.Values{"fieldManager": {"tinykube"}, "force": {"true"}}
	}
	return r.do(ctx, request)
}

// Delete asks for the deletion of one object.
func (r *Resource[T]) Delete(ctx context.Context, namespace, name string, options metav1.DeleteOptions) error {
	if name == "" { // would delete the collection
		return fmt.Errorf("delete %s: a name is required", r.Kind.Plural)
	}
	options.TypeMeta = metav1.TypeMeta{Kind: "DeleteOptions", APIVersion: "v1"}
	return r.client.DoInto(ctx, Request{Method: http.MethodDelete, Path: r.Path(namespace, name)}, options, nil)
}

// DeleteCollection asks for the deletion of all objects of a namespace that
// the list options select.
func (r *Resource[T]) DeleteCollection(ctx context.Context, namespace string, options metav1.DeleteOptions, list metav1.ListOptions) error {
	options.TypeMeta = metav1.TypeMeta{Kind: "DeleteOptions", APIVersion: "v1"}
	request := Request{Method: http.MethodDelete, Path: r.Path(namespace, ""), Query: listQuery(list)}
	return r.client.DoInto(ctx, request, options, nil)
}

// CreateSub posts to a subresource such as pods/binding; out may be nil.
func (r *Resource[T]) CreateSub(ctx context.Context, namespace, name, subresource string, in, out any) error {
	return r.client.DoInto(ctx, Request{Method: http.MethodPost, Path: r.Path(namespace, name, subresource)}, in, out)
}

// List reads a collection; an empty namespace means all of them. Without a
// resourceVersion in the options the answer is fresh; with "0" it is what the
// server's cache holds.
func (r *Resource[T]) List(ctx context.Context, namespace string, options metav1.ListOptions) (*List[T], error) {
	list := &List[T]{}
	request := Request{Method: http.MethodGet, Path: r.Path(namespace, ""), Query: listQuery(options), Accept: r.listAccept()}
	if err := r.client.DoInto(ctx, request, nil, list); err != nil {
		return nil, err
	}
	for _, item := range list.Items {
		r.setKind(item)
	}
	return list, nil
}

func (r *Resource[T]) listAccept() string {
	return strings.Replace(r.accept, "as=PartialObjectMetadata;", "as=PartialObjectMetadataList;", 1)
}

func (r *Resource[T]) send(ctx context.Context, method, path string, obj T) (T, error) {
	r.setKind(obj)
	body, err := json.Marshal(obj)
	if err != nil {
		var none T
		return none, fmt.Errorf("encode %s %s: %w", r.Kind.Kind, Key(obj), err)
	}
	return r.do(ctx, Request{Method: method, Path: path, Body: body})
}

func (r *Resource[T]) do(ctx context.Context, request Request) (T, error) {
	request.Accept = r.accept
	obj := r.new()
	if err := r.client.DoInto(ctx, request, nil, obj); err != nil {
		var none T
		return none, err
	}
	r.setKind(obj)
	return obj, nil
}

// setKind fills in kind and apiVersion, which list items lack on the wire and
// which owner references and events need.
func (r *Resource[T]) setKind(obj T) {
	if k := obj.GetObjectKind(); k.GroupVersionKind() != r.Kind.GVK() {
		k.SetGroupVersionKind(r.Kind.GVK())
	}
}

// decode reads JSON as the API server does: field names are case-sensitive and
// numbers without a type stay integers.
func decode(raw []byte, into any) error {
	return kjson.UnmarshalCaseSensitivePreserveInts(raw, into)
}

// listQuery encodes ListOptions as query parameters.
func listQuery(o metav1.ListOptions) url.Values {
	q := url.Values{}
	set := func(name, value string) {
		if value != "" {
			q.Set(name, value)
		}
	}
	set("labelSelector", o.LabelSelector)
	set("fieldSelector", o.FieldSelector)
	set("resourceVersion", o.ResourceVersion)
	set("resourceVersionMatch", string(o.ResourceVersionMatch))
	set("continue", o.Continue)
	if o.Limit > 0 {
		set("limit", fmt.Sprint(o.Limit))
	}
	if o.TimeoutSeconds != nil {
		set("timeoutSeconds", fmt.Sprint(*o.TimeoutSeconds))
	}
	if o.Watch {
		set("watch", "true")
	}
	if o.AllowWatchBookmarks {
		set("allowWatchBookmarks", "true")
	}
	if o.SendInitialEvents != nil {
		set("sendInitialEvents", fmt.Sprint(*o.SendInitialEvents))
	}
	return q
}

// Key is "namespace/name", or "name" for a cluster-scoped object.
func Key(obj metav1.Object) string {
	if obj.GetNamespace() == "" {
		return obj.GetName()
	}
	return obj.GetNamespace() + "/" + obj.GetName()
}

// SplitKey is the inverse of Key.
func SplitKey(key string) (namespace, name string) {
	if before, after, found := strings.Cut(key, "/"); found {
		return before, after
	}
	return "", key
}

// isInitialEventsEnd recognises the bookmark that ends a WatchList's list.
func isInitialEventsEnd(obj Object) bool {
	accessor, err := meta.Accessor(obj)
	return err == nil && accessor.GetAnnotations()[metav1.InitialEventsAnnotationKey] == "true"
}
