package resources

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/version"

	"tinykube/api/extensions"
	"tinykube/apiserver/custom"
)

// A CustomResourceDefinition becomes rows, one for each version it serves:
// the one that is stored, and views of it. Conversion between versions changes
// apiVersion and nothing else; then each version's own schema prunes and
// defaults. So nothing downstream knows that these rows are younger than the
// server.
//
//	stored version   row with Prefix              ← objects in etcd, the table
//	other version    row with StoredAs that one   ← the same objects, shown anew

// Custom is what a row knows of its definition.
type Custom struct {
	Definition string         // its name
	Schema     *custom.Schema // nil keeps everything
	// OpenAPI is the schema as it was declared; nil if there is none.
	OpenAPI *extensions.JSONSchemaProps
	// PreserveUnknown is spec.preserveUnknownFields, from long ago.
	PreserveUnknown bool
	// Terminating refuses new objects: the definition is being deleted.
	Terminating bool
	// NotServed is set for a version that is stored and not to be seen.
	NotServed bool
	Versions  []*Row // of the same definition, this one among them
}

// FromDefinition makes the rows of a definition under its accepted names. The
// stored version is always among them, and first.
func FromDefinition(d *extensions.CustomResourceDefinition) ([]*Row, error) {
	storage := d.StorageVersion()
	var rows []*Row
	for i := range d.Spec.Versions {
		v := &d.Spec.Versions[i]
		if !v.Storage && (!v.Served || d.Spec.Conversion != nil && d.Spec.Conversion.Strategy == extensions.WebhookConverter) {
			continue // what a webhook would show is not ours to guess
		}
		row, err := customRow(d, v)
		if err != nil {
			return nil, fmt.Errorf("version %s of %s: %w", v.Name, d.Name, err)
		}
		if v.Storage {
			rows = slices.Insert(rows, 0, row)
			continue
		}
		row.StoredAs = &StoredAs{
			GroupVersionResource: row.GVK().GroupVersion().WithResource(row.Plural),
			From:                 func(stored Object) Object { return inVersion(row, stored) },
		}
		row.StoredAs.Version = storage
		rows = append(rows, row)
	}
	for _, row := range rows {
		if row.StoredAs != nil {
			stored := rows[0]
			row.StoredAs.To = func(view Object) Object { return inVersion(stored, view) }
		}
	}
	for _, row := range rows {
		row.Custom.Versions = slices.Clone(rows)
	}
	// Discovery lists a group's versions in this order, the preferred one first.
	slices.SortStableFunc(rows[min(1, len(rows)):], func(a, b *Row) int {
		return -version.CompareKubeAwareVersionStrings(a.Version, b.Version)
	})
	return rows, nil
}

// inVersion shows an object as another version has it.
func inVersion(row *Row, obj Object) Object {
	u := obj.(*unstructured.Unstructured).DeepCopy()
	u.SetGroupVersionKind(row.GVK())
	// What cannot be read is kept out of the store; what was stored before
	// that rule is shown as far as it goes.
	row.Custom.Schema.Prune(u, true)
	row.Custom.Schema.Default(u)
	return u
}

// customVerbs are listed in upstream's order.
// Upstream: kubernetes@v1.36 k8s.io/apiextensions-apiserver/pkg/apiserver/customresource_discovery_controller.go sync
var customVerbs = []string{"delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"}

func customRow(d *extensions.CustomResourceDefinition, v *extensions.CustomResourceDefinitionVersion) (*Row, error) {
	compiled, err := custom.Compile(v.Schema, d.Spec.PreserveUnknownFields)
	if err != nil {
		return nil, err
	}
	accepted := &d.Status.AcceptedNames
	row := &Row{
		Group: d.Spec.Group, Version: v.Name, Kind: accepted.Kind, ListKind: accepted.ListKind,
		Plural: accepted.Plural, Singular: accepted.Singular, ShortNames: accepted.ShortNames, Categories: accepted.Categories,
		Namespaced: d.Spec.Scope == extensions.NamespaceScoped,
		Prefix:     d.Spec.Group + "/" + accepted.Plural,
		Custom:     &Custom{Definition: d.Name, Schema: compiled, PreserveUnknown: d.Spec.PreserveUnknownFields, Terminating: d.Is(extensions.Terminating), NotServed: !v.Served},
		Status:     v.Subresources != nil && v.Subresources.Status != nil,
	}
	if v.Schema != nil {
		row.Custom.OpenAPI = v.Schema.OpenAPIV3Schema
	}
	if v.Deprecated {
		row.Deprecated = deprecation(d, v)
	}
	row.Verbs = customVerbs
	row.New = func() Object {
		u := &unstructured.Unstructured{}
		u.SetGroupVersionKind(row.GVK())
		return u
	}
	row.Read = func(data []byte) (Object, error) {
		u := &unstructured.Unstructured{}
		if err := utiljson.Unmarshal(data, &u.Object); err != nil {
			return nil, err
		}
		return inVersion(row, u), nil
	}
	var scale *custom.ScaleOf
	if v.Subresources != nil && v.Subresources.Scale != nil {
		scale = &custom.ScaleOf{CustomResourceSubresourceScale: v.Subresources.Scale}
		row.Scale = &Scale{
			Get: func(obj Object) (int32, int32, string) { return scale.Get(obj.(*unstructured.Unstructured)) },
			Set: func(obj Object, replicas int32) { scale.Set(obj.(*unstructured.Unstructured), replicas) },
		}
	}
	row.Strategy = customStrategy(row, scale)
	row.SelectableFields = customFields(v.SelectableFields)
	printCustom(row, v.AdditionalPrinterColumns)
	return row, nil
}

// customStrategy is the sentence of lifecycle.go for objects without a type.
// Upstream: kubernetes@v1.36 k8s.io/apiextensions-apiserver/pkg/registry/customresource/strategy.go
func customStrategy(row *Row, scale *custom.ScaleOf) Strategy {
	s := Strategy{
		RequireResourceVersion: true,
		Default:                onCustom(row.Custom.Schema.Default),
		PrepareCreate: onCustom(func(u *unstructured.Unstructured) {
			if row.Status {
				delete(u.Object, "status")
			}
			u.SetGeneration(1)
		}),
		PrepareUpdate: onCustomUpdate(func(u, old *unstructured.Unstructured) {
			if row.Status {
				keepKey(u, old, "status")
			}
			u.SetGeneration(old.GetGeneration())
			if !sameContent(u.Object, old.Object) {
				u.SetGeneration(old.GetGeneration() + 1)
			}
		}),
		Validate: func(obj Object) field.ErrorList {
			u := obj.(*unstructured.Unstructured)
			errs := row.Custom.Schema.Validate(u)
			if scale != nil {
				errs = append(errs, scale.Check(u, true)...)
			}
			return errs
		},
		ValidateUpdate: func(obj, old Object) field.ErrorList {
			u := obj.(*unstructured.Unstructured)
			errs := row.Custom.Schema.ValidateUpdate(u, old.(*unstructured.Unstructured))
			if scale != nil {
				errs = append(errs, scale.Check(u, true)...)
			}
			return errs
		},
	}
	if !row.Status {
		return s
	}
	// A write to /status changes nothing else, not even metadata.
	s.PrepareStatus = onCustomUpdate(func(u, old *unstructured.Unstructured) {
		status, found := u.Object["status"]
		managed := u.GetManagedFields()
		u.Object = old.DeepCopy().Object
		u.SetManagedFields(managed)
		if delete(u.Object, "status"); found {
			u.Object["status"] = status
		}
	})
	s.ValidateStatus = func(obj, old Object) field.ErrorList {
		u := obj.(*unstructured.Unstructured)
		errs := row.Custom.Schema.ValidateStatus(u, old.(*unstructured.Unstructured))
		if scale != nil {
			errs = append(errs, scale.Check(u, false)...)
		}
		return errs
	}
	return s
}

func onCustom(f func(*unstructured.Unstructured)) func(Object) {
	return func(obj Object) { f(obj.(*unstructured.Unstructured)) }
}

func onCustomUpdate(f func(u, old *unstructured.Unstructured)) func(obj, old Object) {
	return func(obj, old Object) { f(obj.(*unstructured.Unstructured), old.(*unstructured.Unstructured)) }
}

func keepKey(u, old *unstructured.Unstructured, name string) {
	delete(u.Object, name)
	if value, found := old.Object[name]; found {
		u.Object[name] = value
	}
}
