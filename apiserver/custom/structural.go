package custom

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"tinykube/api/extensions"
)

// A schema is structural if it says of each field what it is, once, outside of
// every allOf, anyOf, oneOf and not. Inside of those only values are
// restricted. Then there is one answer to "what is this field?", which
// pruning, defaulting and merging need.
// Upstream: kubernetes@v1.36 k8s.io/apiextensions-apiserver/pkg/apiserver/schema/validation.go

type props = extensions.JSONSchemaProps

// level is where in an object a schema is.
type level int

const (
	rootLevel level = iota
	itemLevel
	fieldLevel
)

// checkSchema says what is wrong with a version's schema.
func checkSchema(path *field.Path, validation *extensions.CustomResourceValidation, hasStatus bool) field.ErrorList {
	root := validation.OpenAPIV3Schema
	var errs field.ErrorList
	if hasStatus {
		errs = append(errs, checkRootForStatus(path, root)...)
	}
	if root.Nullable {
		errs = append(errs, field.Forbidden(field.NewPath(path.String()+".nullable"), "nullable cannot be true at the root"))
	}
	refers := false // to what it is: its structure is not here
	forEachProps(root, func(s *props) { refers = refers || s.Ref != nil })
	if !refers {
		structure := checkStructure(path, root, rootLevel)
		slices.SortFunc(structure, func(a, b *field.Error) int { return strings.Compare(a.Error(), b.Error()) })
		errs = append(errs, structure...)
	}
	general := checkGeneral(path, root, scope{root: true})
	slices.SortFunc(general, func(a, b *field.Error) int { return strings.Compare(a.Error(), b.Error()) })
	errs = append(errs, general...)
	if len(errs) == 0 {
		errs = append(errs, checkDefaults(path, root)...)
	}
	if len(errs) == 0 {
		if _, err := Compile(validation, false); err != nil {
			errs = append(errs, field.Invalid(path, "", fmt.Sprintf("error building validator: %v", err)))
		}
	}
	return errs
}

// allowedAtRoot are the fields, in Go's names, that a root schema may have
// beside a status: /status is checked by properties.status alone, so that
// nothing above it may speak of it.
var allowedAtRoot = []string{
	"Description", "Type", "Format", "Title", "Maximum", "ExclusiveMaximum", "Minimum", "ExclusiveMinimum", "MaxLength", "MinLength",
	"Pattern", "MaxItems", "MinItems", "UniqueItems", "MultipleOf", "Required", "Items", "Properties", "ExternalDocs", "Example",
	"XPreserveUnknownFields", "XValidations",
}

func checkRootForStatus(path *field.Path, root *props) field.ErrorList {
	v := reflect.ValueOf(root).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		switch {
		case v.Field(i).IsZero():
		case name == "Type" && root.Type != "object":
			return field.ErrorList{field.Invalid(field.NewPath(path.String()+".type"), root.Type, `only "object" is allowed as the type at the root of the schema if the status subresource is enabled`)}
		case !slices.Contains(allowedAtRoot, name):
			return field.ErrorList{field.Invalid(path, *root, fmt.Sprintf("only %v fields are allowed at the root of the schema if the status subresource is enabled", allowedAtRoot))}
		}
	}
	return nil
}

// checkStructure checks a schema that is outside of every condition.
func checkStructure(path *field.Path, s *props, at level) field.ErrorList {
	var errs field.ErrorList
	preserve := s.XPreserveUnknownFields != nil && *s.XPreserveUnknownFields
	if s.Type == "array" && s.Items == nil {
		errs = append(errs, field.Required(path.Child("items"), "must be specified"))
	}
	if s.Items != nil && s.Items.Schema != nil {
		errs = append(errs, checkStructure(path.Child("items"), s.Items.Schema, itemLevel)...)
	}
	for name, below := range s.Properties {
		errs = append(errs, checkStructure(path.Child("properties").Key(name), &below, fieldLevel)...)
	}
	if additional := s.AdditionalProperties; additional != nil {
		if at == rootLevel {
			errs = append(errs, field.Forbidden(path.Child("additionalProperties"), "must not be used at the root"))
		}
		if additional.Schema != nil {
			errs = append(errs, checkStructure(path.Child("additionalProperties"), additional.Schema, fieldLevel)...)
		}
	}
	if s.XIntOrString && preserve {
		errs = append(errs, field.Invalid(path.Child("x-kubernetes-preserve-unknown-fields"), true, "must be false if x-kubernetes-int-or-string is true"))
	}
	if s.XIntOrString && s.XEmbeddedResource {
		errs = append(errs, field.Invalid(path.Child("x-kubernetes-embedded-resource"), true, "must be false if x-kubernetes-int-or-string is true"))
	}
	errs = append(errs, checkConditions(path, s)...)
	errs = append(errs, checkType(path, s, at, preserve)...)
	return append(errs, checkMetaFields(path, s, at)...)
}

func checkType(path *field.Path, s *props, at level, preserve bool) field.ErrorList {
	var errs field.ErrorList
	kind := path.Child("type")
	switch {
	case s.XEmbeddedResource && s.Type == "":
		errs = append(errs, field.Required(kind, "must be object if x-kubernetes-embedded-resource is true"))
	case s.XEmbeddedResource && s.Type != "object":
		errs = append(errs, field.Invalid(kind, s.Type, "must be object if x-kubernetes-embedded-resource is true"))
	case s.Type == "" && !s.XIntOrString && !preserve:
		where := map[level]string{rootLevel: "at the root", itemLevel: "for specified array items", fieldLevel: "for specified object fields"}
		errs = append(errs, field.Required(kind, "must not be empty "+where[at]))
	}
	if s.XEmbeddedResource && s.AdditionalProperties != nil {
		errs = append(errs, field.Forbidden(path.Child("additionalProperties"), "must not be used if x-kubernetes-embedded-resource is set"))
	}
	if at == rootLevel && s.Type != "" && s.Type != "object" {
		errs = append(errs, field.Invalid(kind, s.Type, "must be object at the root"))
	}
	if s.XEmbeddedResource && !preserve && len(s.Properties) == 0 {
		errs = append(errs, field.Required(path.Child("properties"), "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields"))
	}
	return errs
}

// checkMetaFields: kind, apiVersion and metadata are what they are; of
// metadata only name and generateName may be restricted.
func checkMetaFields(path *field.Path, s *props, at level) field.ErrorList {
	if at != rootLevel && !s.XEmbeddedResource {
		return nil
	}
	var errs field.ErrorList
	for _, name := range []string{"kind", "apiVersion"} {
		if below, found := s.Properties[name]; found && below.Type != "string" {
			errs = append(errs, field.Invalid(path.Child("properties").Key(name).Child("type"), below.Type, "must be string"))
		}
	}
	metadata, found := s.Properties["metadata"]
	if !found {
		return errs
	}
	below := path.Child("properties").Key("metadata")
	if metadata.Type != "object" {
		errs = append(errs, field.Invalid(below.Child("type"), metadata.Type, "must be object"))
	}
	if at != rootLevel {
		return errs
	}
	for name := range metadata.Properties {
		if name != "name" && name != "generateName" {
			return append(errs, onlyNames(below))
		}
	}
	metadata.Properties, metadata.Type, metadata.Default = nil, "", nil
	if !reflect.DeepEqual(metadata, props{}) {
		errs = append(errs, onlyNames(below))
	}
	return errs
}

func onlyNames(path *field.Path) *field.Error {
	return field.Forbidden(path, "must not specify anything other than name and generateName, but metadata is implicitly specified")
}

// intOrString is the one condition in which a type may be named.
func isIntOrString(list []props) bool {
	return len(list) == 2 && reflect.DeepEqual(list[0], props{Type: "integer"}) && reflect.DeepEqual(list[1], props{Type: "string"})
}

// checkConditions checks what is inside allOf, anyOf, oneOf and not.
func checkConditions(path *field.Path, s *props) field.ErrorList {
	var errs field.ErrorList
	inside := func(name string, list []props) {
		for i := range list {
			errs = append(errs, checkNested(path.Child(name).Index(i), &list[i], name == "allOf" && i == 0 && s.XIntOrString)...)
		}
	}
	if !s.XIntOrString || !isIntOrString(s.AnyOf) {
		inside("anyOf", s.AnyOf)
	}
	inside("allOf", s.AllOf)
	inside("oneOf", s.OneOf)
	if s.Not != nil {
		errs = append(errs, checkNested(path.Child("not"), s.Not, false)...)
	}
	if s.Pattern != "" {
		if _, err := regexp.Compile(s.Pattern); err != nil {
			errs = append(errs, field.Invalid(path.Child("pattern"), s.Pattern, fmt.Sprintf("must be a valid regular expression, but isn't: %v", err)))
		}
	}
	return errs
}

// checkNested checks a schema inside of a condition: it may restrict values,
// and say nothing else.
func checkNested(path *field.Path, s *props, mayBeIntOrString bool) field.ErrorList {
	var errs field.ErrorList
	if !mayBeIntOrString || !isIntOrString(s.AnyOf) {
		errs = append(errs, checkConditions(path, s)...)
	}
	if s.Items != nil && s.Items.Schema != nil {
		errs = append(errs, checkNested(path.Child("items"), s.Items.Schema, false)...)
	}
	for name, below := range s.Properties {
		errs = append(errs, checkNested(path.Child("properties").Key(name), &below, false)...)
	}
	for _, forbidden := range []struct {
		name, problem string
		set           bool
	}{
		{"type", "must be empty", s.Type != ""},
		{"additionalProperties", "must be undefined", s.AdditionalProperties != nil && (s.AdditionalProperties.Schema != nil || s.AdditionalProperties.Allows)},
		{"default", "must be undefined", s.Default != nil},
		{"title", "must be empty", s.Title != ""},
		{"description", "must be empty", s.Description != ""},
		{"nullable", "must be false", s.Nullable},
		{"x-kubernetes-preserve-unknown-fields", "must be false", s.XPreserveUnknownFields != nil && *s.XPreserveUnknownFields},
		{"x-kubernetes-embedded-resource", "must be false", s.XEmbeddedResource},
		{"x-kubernetes-int-or-string", "must be false", s.XIntOrString},
		{"x-kubernetes-list-map-keys", "must be empty", len(s.XListMapKeys) > 0},
		{"x-kubernetes-list-type", "must be undefined", s.XListType != nil},
		{"x-kubernetes-map-type", "must be undefined", s.XMapType != nil},
		{"x-kubernetes-validations", "must be empty", len(s.XValidations) > 0},
	} {
		if forbidden.set {
			errs = append(errs, field.Forbidden(path.Child(forbidden.name), forbidden.problem+" to be structural"))
		}
	}
	if _, found := s.Properties["metadata"]; found {
		errs = append(errs, field.Forbidden(path.Child("properties").Key("metadata"), "must not be specified in a nested context"))
	}
	return errs
}
