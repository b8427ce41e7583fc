package apiserver

// The OpenAPI of custom kinds: their definitions bring the schema, in nearly
// the form in which it is published; what every object has is added.

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"tinykube/apiserver/custom"
	"tinykube/apiserver/resources"
	"tinykube/apiserver/schema"
)

// with adds rows. The documents of the rows before are shared, so that a new
// definition costs no more than its own.
func (o *openAPI) with(rows []*resources.Row) *openAPI {
	out := &openAPI{rows: append(o.rows[:len(o.rows):len(o.rows)], rows...), v3: newOpenAPI(rows).v3, converter: o.converter}
	maps.Copy(out.v3, o.v3)
	out.v2 = sync.OnceValue(func() *packedV2 { return packV2(out.rows) })
	return out
}

// customModel names the schema of a custom kind where otherwise a Go type does.
type customModel string

// modelOf is upstream's name for a custom kind: com.example.stable.v1.CronTab.
func modelOf(row *resources.Row, kind string) customModel {
	parts := strings.Split(row.Group, ".")
	slices.Reverse(parts)
	return customModel(strings.Join(parts, ".") + "." + row.Version + "." + kind)
}

// bodyOf stands for a row's objects in a document.
func bodyOf(row *resources.Row) any {
	if row.Custom != nil {
		return modelOf(row, row.Kind)
	}
	return row.New()
}

// listOf stands for a row's lists.
func listOf(row *resources.Row) any {
	if row.Custom != nil {
		return modelOf(row, listKind(row))
	}
	return row.NewList()
}

// listKind is the kind of a row's lists.
func listKind(row *resources.Row) string {
	if row.ListKind != "" {
		return row.ListKind
	}
	return row.Kind + "List"
}

// addCustom adds the schemas of a custom kind and of its list.
func addCustom(c schema.Components, row *resources.Row) {
	c.Add(reflect.TypeFor[metav1.ObjectMeta]())
	s := &spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}}}
	if declared, err := custom.OpenAPI(row.Custom.OpenAPI); err == nil && row.Custom.OpenAPI != nil {
		s = declared
		addEmbedded(s)
		addMetaFields(s)
	}
	list := &spec.Schema{SchemaProps: spec.SchemaProps{
		Type: []string{"object"}, Description: listKind(row) + " is a list of " + row.Kind, Required: []string{"items"},
		Properties: map[string]spec.Schema{
			"metadata": described(refTo(&metav1.ListMeta{}), "metadata of the list"),
			"items": {SchemaProps: spec.SchemaProps{
				Type: []string{"array"}, Description: "List of " + row.Plural + ".",
				Items: &spec.SchemaOrArray{Schema: ptrTo(refTo(bodyOf(row)))},
			}},
		},
	}}
	c.Add(reflect.TypeFor[metav1.ListMeta]())
	addTypeFields(list)
	for kind, s := range map[string]*spec.Schema{row.Kind: s, listKind(row): list} {
		s.AddExtension("x-kubernetes-group-version-kind", []any{map[string]any{"group": row.Group, "version": row.Version, "kind": kind}})
		c[string(modelOf(row, kind))] = s
	}
}

// addMetaFields adds what every object has, whatever its definition says of it.
func addMetaFields(s *spec.Schema) {
	addTypeFields(s)
	s.SetProperty("metadata", described(refTo(&metav1.ObjectMeta{}), "metadata is what every object has: names, labels, annotations, owners."))
}

func addTypeFields(s *spec.Schema) {
	text := spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"string"}}}
	docs := metav1.TypeMeta{}.SwaggerDoc()
	for _, name := range []string{"apiVersion", "kind"} {
		s.SetProperty(name, described(text, docs[name]))
	}
}

// addEmbedded does the same for objects inside of an object.
func addEmbedded(s *spec.Schema) {
	for name, below := range s.Properties {
		addEmbedded(&below)
		s.Properties[name] = below
	}
	if s.Items != nil && s.Items.Schema != nil {
		addEmbedded(s.Items.Schema)
	}
	if s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil {
		addEmbedded(s.AdditionalProperties.Schema)
	}
	if embedded, _ := s.Extensions.GetBool("x-kubernetes-embedded-resource"); !embedded {
		return
	}
	addMetaFields(s)
	for _, name := range []string{"apiVersion", "kind"} {
		if !slices.Contains(s.Required, name) {
			s.Required = append(s.Required, name)
		}
	}
}

// described gives a schema a text; a reference needs a wrapping for that.
func described(s spec.Schema, text string) spec.Schema {
	if s.Ref.String() != "" {
		s = spec.Schema{SchemaProps: spec.SchemaProps{AllOf: []spec.Schema{s}, Default: map[string]any{}}}
	}
	s.Description = text
	return s
}

func ptrTo[T any](value T) *T { return &value }

// customConverter is what server-side apply needs to merge one custom kind. A
// kind without a schema is merged by what the objects look like.
func customConverter(row *resources.Row) (managedfields.TypeConverter, error) {
	if row.Custom.OpenAPI == nil {
		return managedfields.NewDeducedTypeConverter(), nil
	}
	// Managers speak of the version in which they wrote.
	return managedfields.NewTypeConverter(componentsOf(row.Custom.Versions), row.Custom.PreserveUnknown)
}
