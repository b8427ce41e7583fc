package apiserver

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/yaml"

	"tinykube/apiserver/resources"
)

// Server-side apply lets several people each state a part of an object. Who
// stated which field is kept in metadata.managedFields:
//
//	manager  operation  fields
//	kubectl  Apply      f:spec: {f:replicas, f:template: …}
//	hpa      Update     f:spec: {f:replicas}             ← Apply now conflicts
//
// An apply merges what the manager states into the object, takes away what it
// stated last time and no longer does, and refuses to change what another
// manager owns, unless forced. What counts as one field (an item of a list, a
// key of a map) is in the schema. The algebra is apimachinery's; here it is
// tied to rows.

// fieldTracker has a field manager for each kind and subresource.
type fieldTracker struct {
	schemas *openAPI

	mu       sync.Mutex // guards managers
	managers map[managerKey]*managedfields.FieldManager
}

type managerKey struct {
	row         *resources.Row
	subresource string
}

func newFieldTracker() *fieldTracker {
	return &fieldTracker{managers: map[managerKey]*managedfields.FieldManager{}}
}

// manager returns the field manager of a request's endpoint.
func (f *fieldTracker) manager(q *request) (*managedfields.FieldManager, error) {
	return f.managerOf(q.row, q.subresource, resetFields(q))
}

func (f *fieldTracker) managerOf(row *resources.Row, subresource string, reset map[fieldpath.APIVersion]fieldpath.Filter) (*managedfields.FieldManager, error) {
	key := managerKey{row, subresource}
	f.mu.Lock()
	defer f.mu.Unlock()
	if m := f.managers[key]; m != nil {
		return m, nil
	}
	types, make := managedfields.TypeConverter(nil), managedfields.NewDefaultFieldManager
	var err error
	if row.Custom != nil {
		types, err = customConverter(row)
		make = managedfields.NewDefaultCRDFieldManager
	} else {
		types, err = f.schemas.typeConverter()
	}
	if err != nil {
		return nil, err
	}
	kind := rowKind{row}
	m, err := make(types, kind, kind, kind, row.GVK(), row.GVK().GroupVersion(), subresource, reset)
	if err == nil {
		f.managers[key] = m
	}
	return m, err
}

// forget drops the managers of rows that are no longer served.
func (f *fieldTracker) forget(rows []*resources.Row) {
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.managers, func(key managerKey, _ *managedfields.FieldManager) bool { return slices.Contains(rows, key.row) })
}

// resetFields are the fields that an endpoint does not let anybody change, so
// that nobody comes to own them by sending them along.
func resetFields(q *request) map[fieldpath.APIVersion]fieldpath.Filter {
	var ignored *fieldpath.Set
	switch {
	case q.subresource == "status" && q.row.Custom != nil:
		ignored = fieldpath.NewSet(fieldpath.MakePathOrDie("spec"), fieldpath.MakePathOrDie("metadata"))
	case q.subresource == "status":
		ignored = fieldpath.NewSet(fieldpath.MakePathOrDie("spec"))
	case q.row.Status:
		ignored = fieldpath.NewSet(fieldpath.MakePathOrDie("status"))
	default:
		return nil
	}
	version := fieldpath.APIVersion(q.row.GVK().GroupVersion().String())
	return map[fieldpath.APIVersion]fieldpath.Filter{
		version: fieldpath.NewExcludeSetFilter(ignored),
	}
}

// created notes who made a new object.
func (f *fieldTracker) created(q *request, obj resources.Object) {
	if q.applying {
		return // apply has done it already
	}
	if !tracked(q) {
		obj.SetManagedFields(nil)
		return
	}
	f.update(q, obj, q.row.New())
}

// updated notes who changed what.
func (f *fieldTracker) updated(q *request, obj, old resources.Object) {
	if q.applying {
		return // apply has done it already
	}
	if len(old.GetManagedFields()) == 0 {
		obj.SetManagedFields(nil)
		return
	}
	f.update(q, obj, old)
}

func (f *fieldTracker) update(q *request, obj, old resources.Object) {
	m, err := f.manager(q)
	if err != nil {
		return
	}
	gvk := q.row.GVK()
	obj.GetObjectKind().SetGroupVersionKind(gvk)
	if old.GetObjectKind().GroupVersionKind() != gvk { // a fresh one, not a cached one
		old.GetObjectKind().SetGroupVersionKind(gvk)
	}
	m.UpdateNoErrors(old, obj, q.options.fieldManager)
}

// tracked reports whether the fields of a new object are tracked.
//
// Simplified: not those of what the server makes itself (reading every schema
// would double the time of a start), nor of an object that is made in another
// form than it is stored in (autoscaling/v1, events.k8s.io). If it is applied
// after all, its earlier fields belong to "before-first-apply".
func tracked(q *request) bool {
	return q.row.Stored() && (q.row.StoredAs == nil || q.row.Custom != nil) && q.user.name != userSelf
}

// apply answers PATCH with an apply patch.
func (s *Server) apply(q *request) error {
	data, err := q.readBody()
	if err != nil {
		return err
	}
	q.audit.patched(data, bodyMediaType(q.Request))
	if q.subresource == "scale" {
		return s.applyScale(q, data)
	}
	patch, err := q.appliedObject(data, q.row)
	if err != nil {
		return err
	}
	m, err := s.fields.manager(q)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	q.applying = true
	merge := func(old resources.Object) (resources.Object, error) {
		// The manager may change what it is given.
		live, applied := old.DeepCopyObject(), patch.DeepCopy()
		live.GetObjectKind().SetGroupVersionKind(q.row.GVK())
		merged, err := m.Apply(live, applied, q.options.fieldManager, q.options.force)
		if err != nil {
			return nil, err
		}
		return merged.(resources.Object), nil
	}
	item, err := s.updateObject(q, merge)
	if apierrors.IsNotFound(err) && q.subresource == "" {
		return s.applyNew(q, merge)
	} else if err != nil {
		return q.named(err)
	}
	return q.sendItem(http.StatusOK, item)
}

// applyNew is an apply to an object that does not exist.
func (s *Server) applyNew(q *request, merge func(resources.Object) (resources.Object, error)) error {
	asked := q.target
	asked.verb = "create"
	if err := s.authorize(q.Context(), q.user, asked); err != nil {
		return err
	}
	empty := q.row.New()
	empty.SetName(q.name)
	empty.SetNamespace(q.namespace)
	obj, err := merge(empty)
	if err != nil {
		return err
	}
	if obj.GetUID() != "" {
		return q.conflict(fmt.Errorf("uid mismatch: the provided object specified uid %s, and no existing object was found", obj.GetUID()))
	}
	item, err := s.createObject(q, obj)
	if err != nil {
		return err
	}
	return q.sendItem(http.StatusCreated, item)
}

// appliedObject reads what a manager states, with nothing filled in: a field
// that is not there must not look like one that is empty.
func (q *request) appliedObject(data []byte, row *resources.Row) (*unstructured.Unstructured, error) {
	content := map[string]any{}
	converted, err := yaml.YAMLToJSON(data)
	if err != nil {
		err = fmt.Errorf("error converting YAML to JSON: %w", err)
	} else { // whole numbers stay whole: nothing else will make them so in a custom object
		err = kjson.UnmarshalCaseSensitivePreserveInts(converted, &content)
	}
	if err != nil {
		return nil, apierrors.NewBadRequest("error decoding YAML: " + err.Error())
	}
	obj := &unstructured.Unstructured{Object: content}
	if gvk := obj.GroupVersionKind(); gvk != row.GVK() {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid object type: %v", gvk))
	}
	if name := obj.GetName(); name != "" && name != q.name {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", name, q.name))
	}
	// Unknown fields are not in the schema, of which the manager speaks.
	return obj, q.strictness(repeated(data), func(err error) error {
		return apierrors.NewBadRequest("error strict decoding YAML: " + err.Error())
	})
}

func repeated(data []byte) []error {
	if err := yaml.UnmarshalStrict(data, &map[string]any{}); err != nil {
		return []error{err}
	}
	return nil
}

// rowKind is what the field manager must know about a kind: how to make one,
// and that there is only one version of it.
type rowKind struct{ row *resources.Row }

func (k rowKind) New(schema.GroupVersionKind) (runtime.Object, error) {
	obj := k.row.New()
	obj.GetObjectKind().SetGroupVersionKind(k.row.GVK())
	return obj, nil
}

func (k rowKind) Default(obj runtime.Object) {
	if typed, ok := obj.(resources.Object); ok && k.row.Strategy.Default != nil {
		k.row.Strategy.Default(typed)
	}
}

func (k rowKind) Convert(in, out, context any) error {
	return fmt.Errorf("%s has one version and nothing to convert", k.row.Kind)
}

// ConvertToVersion turns what the merge made, a map, back into the Go type.
func (k rowKind) ConvertToVersion(in runtime.Object, to runtime.GroupVersioner) (runtime.Object, error) {
	merged, ok := in.(*unstructured.Unstructured)
	if !ok {
		return in, nil
	}
	if k.row.Custom != nil { // versions of a custom kind differ in this only
		out := merged.DeepCopy()
		if kind, ok := to.KindForGroupVersionKinds([]schema.GroupVersionKind{out.GroupVersionKind()}); ok {
			out.SetGroupVersionKind(kind)
		}
		return out, nil
	}
	obj := k.row.New()
	return obj, runtime.DefaultUnstructuredConverter.FromUnstructured(merged.Object, obj)
}

func (k rowKind) ConvertFieldLabel(_ schema.GroupVersionKind, label, value string) (string, string, error) {
	return label, value, nil
}
