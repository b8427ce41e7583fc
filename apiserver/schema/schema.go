package schema

import (
	"cmp"
	"encoding/json"
	"reflect"
	"strings"

	"k8s.io/kube-openapi/pkg/validation/spec"

	"tinykube/api/extensions"
)

// Components are named schemas that refer to each other.
type Components map[string]*spec.Schema

// RefPrefix begins every reference from one schema to another.
const RefPrefix = "#/components/schemas/"

// Add derives the schema of t, a struct type, and of all it refers to, and
// returns its name, such as io.k8s.api.core.v1.Pod.
func (c Components) Add(t reflect.Type) string {
	name := Name(t)
	if _, done := c[name]; done {
		return name
	}
	s := &spec.Schema{}
	c[name] = s // before its fields: a type may refer to itself
	s.Description = cmp.Or(docOf(t)[""], plainDocs[name], marksOf(key(t)).words)
	if types, format, ok := customType(t); ok {
		s.Format = format
		if len(types) == 1 {
			s.Type = types
			return name
		}
		for _, alternative := range types {
			s.OneOf = append(s.OneOf, spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{alternative}}})
		}
		return name
	}
	s.Type = []string{"object"}
	if mapType := marksOf(key(t)).mapType; mapType != "" {
		s.AddExtension("x-kubernetes-map-type", mapType)
	}
	c.addFields(s, t)
	return name
}

// addFields adds a struct's fields, those of inlined structs included.
func (c Components) addFields(s *spec.Schema, t reflect.Type) {
	docs := docOf(t)
	for i := range t.NumField() {
		field := t.Field(i)
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		if !field.IsExported() || name == "-" {
			continue
		}
		if field.Anonymous && name == "" {
			c.addFields(s, deref(field.Type))
			continue
		}
		if name == "" {
			name = field.Name
		}
		m := marksOf(key(t) + "." + name)
		omitted := strings.Contains(options, "omitempty")
		if m.required || !m.optional && !omitted {
			s.Required = append(s.Required, name)
		}
		property := c.typeSchema(field.Type)
		property.Description = cmp.Or(docs[name], m.words)
		property.Default = m.value
		if property.Default == nil {
			property.Default = zeroDefault(field.Type, omitted)
		}
		extend(&property, m, field.Tag)
		if s.Properties == nil {
			s.Properties = map[string]spec.Schema{}
		}
		s.Properties[name] = wrapRef(property)
	}
}

// extend adds what says how to merge and patch a field.
func extend(s *spec.Schema, m *marks, tag reflect.StructTag) {
	if m.listType != "" {
		s.AddExtension("x-kubernetes-list-type", m.listType)
	}
	if m.listMapKeys != nil {
		s.AddExtension("x-kubernetes-list-map-keys", m.listMapKeys)
	}
	if m.mapType != "" {
		s.AddExtension("x-kubernetes-map-type", m.mapType)
	}
	if strategy := tag.Get("patchStrategy"); strategy != "" {
		s.AddExtension("x-kubernetes-patch-strategy", strategy)
	}
	if mergeKey := tag.Get("patchMergeKey"); mergeKey != "" {
		s.AddExtension("x-kubernetes-patch-merge-key", mergeKey)
	}
}

// wrapRef hides a reference that has siblings in an allOf: in OpenAPI 3.0 the
// siblings of a $ref are ignored.
func wrapRef(s spec.Schema) spec.Schema {
	if s.Ref.String() == "" || s.Description == "" && s.Default == nil && s.Extensions == nil {
		return s
	}
	s.AllOf = []spec.Schema{{SchemaProps: spec.SchemaProps{Ref: s.Ref}}}
	s.Ref = spec.Ref{}
	return s
}

// typeSchema is the schema of a value of type t, by reference for structs.
func (c Components) typeSchema(t reflect.Type) spec.Schema {
	t = deref(t)
	if name, format := basicType(t); name != "" {
		return spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{name}, Format: format}}
	}
	switch t.Kind() {
	case reflect.Struct:
		return spec.Schema{SchemaProps: spec.SchemaProps{Ref: spec.MustCreateRef(RefPrefix + c.Add(t))}}
	case reflect.Slice:
		items := c.typeSchema(t.Elem())
		return spec.Schema{SchemaProps: spec.SchemaProps{
			Type: []string{"array"}, Items: &spec.SchemaOrArray{Schema: &items},
		}}
	case reflect.Map:
		values := c.typeSchema(t.Elem())
		return spec.Schema{SchemaProps: spec.SchemaProps{
			Type: []string{"object"}, AdditionalProperties: &spec.SchemaOrBool{Allows: true, Schema: &values},
		}}
	}
	return spec.Schema{} // anything at all
}

// basicType names what JSON has a type for.
func basicType(t reflect.Type) (name, format string) {
	switch t.Kind() {
	case reflect.String:
		return "string", ""
	case reflect.Bool:
		return "boolean", ""
	case reflect.Int64, reflect.Uint64:
		return "integer", "int64"
	case reflect.Int, reflect.Int32, reflect.Uint32, reflect.Int16, reflect.Uint16, reflect.Int8, reflect.Uint8:
		return "integer", "int32"
	case reflect.Float64:
		return "number", "double"
	case reflect.Float32:
		return "number", "float"
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return "string", "byte"
		}
	}
	return "", ""
}

var unmarshaler = reflect.TypeFor[json.Unmarshaler]()

// zeroDefault is the default that a field without omitempty has because its
// zero value is always written. A struct is written even with omitempty.
func zeroDefault(t reflect.Type, omitted bool) any {
	if t.Kind() == reflect.Pointer || reflect.PointerTo(t).Implements(unmarshaler) {
		return nil
	}
	switch {
	case t.Kind() == reflect.Struct:
		return map[string]any{}
	case omitted:
		return nil
	case t.Kind() == reflect.String:
		return ""
	case t.Kind() == reflect.Bool:
		return false
	}
	if name, _ := basicType(t); name == "integer" || name == "number" {
		return 0
	}
	return nil
}

// customType asks types with a JSON form of their own, such as Time.
func customType(t reflect.Type) (types []string, format string, ok bool) {
	v := reflect.New(t).Interface()
	simple, ok := v.(interface{ OpenAPISchemaType() []string })
	if !ok {
		return nil, "", false
	}
	types = simple.OpenAPISchemaType()
	if f, ok := v.(interface{ OpenAPISchemaFormat() string }); ok {
		format = f.OpenAPISchemaFormat()
	}
	if several, ok := v.(interface{ OpenAPIV3OneOfTypes() []string }); ok {
		types = several.OpenAPIV3OneOfTypes()
	}
	return types, format, true
}

// docOf returns a type's texts by JSON name; "" is the type's own.
func docOf(t reflect.Type) map[string]string {
	if documented, ok := reflect.New(t).Interface().(interface{ SwaggerDoc() map[string]string }); ok {
		return documented.SwaggerDoc()
	}
	return nil
}

// Name is the name of a type's schema, such as io.k8s.api.core.v1.Pod.
func Name(t reflect.Type) string {
	if named, ok := reflect.New(t).Interface().(interface{ OpenAPIModelName() string }); ok {
		return named.OpenAPIModelName()
	}
	if t.PkgPath() == reflect.TypeFor[extensions.APIService]().PkgPath() {
		return extensionName(t.Name())
	}
	return strings.ReplaceAll(strings.ReplaceAll(key(t), "k8s.io", "io.k8s"), "/", ".")
}

// extensionName is upstream's name of one of our own nouns.
func extensionName(name string) string {
	const registration, definition = "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.", "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1."
	if strings.HasPrefix(name, "APIService") || name == "ServiceReference" {
		return registration + name
	}
	return definition + strings.Replace(name, "WebhookServiceReference", "ServiceReference", 1)
}

func key(t reflect.Type) string { return t.PkgPath() + "." + t.Name() }

func deref(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t
}

// plainDocs describes the few types that carry no text of their own.
var plainDocs = map[string]string{
	"io.k8s.apimachinery.pkg.api.resource.Quantity":   "Quantity is a number with a suffix: 100m, 2Gi, 1e3.",
	"io.k8s.apimachinery.pkg.util.intstr.IntOrString": "IntOrString is a number or a string, such as a port or its name, or 3 or 25%.",
	"io.k8s.apimachinery.pkg.apis.meta.v1.Time":       "Time is an RFC 3339 time with seconds.",
	"io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime":  "MicroTime is an RFC 3339 time with microseconds.",
	"io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1":   "FieldsV1 is a set of fields as nested objects whose keys say f:field, k:{keys}, v:value or i:index.",
	"io.k8s.apimachinery.pkg.runtime.RawExtension":    "RawExtension is an object of any kind.",
	"io.k8s.apimachinery.pkg.version.Info":            "Info is the version of a program.",
}
