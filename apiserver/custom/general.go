package custom

import (
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kube-openapi/pkg/validation/strfmt"
	"k8s.io/kube-openapi/pkg/validation/validate"

	"tinykube/api/extensions"
)

// The rules for every schema, inside of conditions or outside.

var schemaTypes = []string{"array", "boolean", "integer", "number", "object", "string"}

// scope is what the place of a schema in the whole means for it.
type scope struct {
	root       bool
	inMetadata bool
	noDefaults string // why there may be none; "" means there may
}

// checkGeneral checks a schema and all below it.
func checkGeneral(path *field.Path, s *props, at scope) field.ErrorList {
	errs := checkSupported(path, s, at)
	if s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil {
		below := scope{inMetadata: at.inMetadata, noDefaults: at.noDefaults}
		if at.inMetadata {
			below.noDefaults = "inside additionalProperties applying to object metadata"
		}
		errs = append(errs, checkGeneral(path.Child("additionalProperties"), s.AdditionalProperties.Schema, below)...)
	}
	for name, property := range s.Properties {
		below := scope{inMetadata: at.inMetadata, noDefaults: at.noDefaults}
		if (at.root || s.XEmbeddedResource) && slices.Contains(metaFields, name) {
			below.inMetadata = true
			if at.root {
				below.noDefaults = "in top-level " + name
			}
		}
		errs = append(errs, checkGeneral(path.Child("properties").Key(name), &property, below)...)
	}
	at.root = false
	for name, list := range map[string][]props{"allOf": s.AllOf, "oneOf": s.OneOf, "anyOf": s.AnyOf} {
		for i := range list {
			errs = append(errs, checkGeneral(path.Child(name).Index(i), &list[i], at)...)
		}
	}
	if s.Not != nil {
		errs = append(errs, checkGeneral(path.Child("not"), s.Not, at)...)
	}
	if s.Items != nil && s.Items.Schema != nil {
		errs = append(errs, checkGeneral(path.Child("items"), s.Items.Schema, at)...)
	}
	errs = append(errs, checkListType(path, s)...)
	if s.XMapType != nil {
		errs = append(errs, mustBeType(path, s.Type, "object", "x-kubernetes-map-type")...)
		if !slices.Contains([]string{"atomic", "granular"}, *s.XMapType) {
			errs = append(errs, field.NotSupported(path.Child("x-kubernetes-map-type"), *s.XMapType, []string{"atomic", "granular"}))
		}
	}
	return errs
}

func checkSupported(path *field.Path, s *props, at scope) field.ErrorList {
	var errs field.ErrorList
	if s.Type != "" && !slices.Contains(schemaTypes, s.Type) {
		errs = append(errs, field.NotSupported(path.Child("type"), s.Type, schemaTypes))
	}
	if s.Default != nil && at.noDefaults != "" {
		errs = append(errs, field.Forbidden(path.Child("default"), "must not be set "+at.noDefaults))
	}
	for _, forbidden := range []struct {
		name string
		set  bool
	}{
		{"id", s.ID != ""}, {"additionalItems", s.AdditionalItems != nil}, {"patternProperties", len(s.PatternProperties) > 0},
		{"definitions", len(s.Definitions) > 0}, {"dependencies", s.Dependencies != nil}, {"$ref", s.Ref != nil},
	} {
		if forbidden.set {
			errs = append(errs, field.Forbidden(path.Child(forbidden.name), forbidden.name+" is not supported"))
		}
	}
	if s.Type == "null" {
		errs = append(errs, field.Forbidden(path.Child("type"), "type cannot be set to null, use nullable as an alternative"))
	}
	if s.Items != nil && len(s.Items.JSONSchemas) > 0 {
		errs = append(errs, field.Forbidden(path.Child("items"), "items must be a schema object and not an array"))
	}
	if at.inMetadata && s.XEmbeddedResource {
		errs = append(errs, field.Forbidden(path.Child("x-kubernetes-embedded-resource"), "must not be used inside of resource meta"))
	}
	if s.UniqueItems {
		errs = append(errs, field.Forbidden(path.Child("uniqueItems"), "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"))
	}
	if a := s.AdditionalProperties; a != nil && len(s.Properties) > 0 && (!a.Allows || a.Schema != nil) {
		errs = append(errs, field.Forbidden(path.Child("additionalProperties"), "additionalProperties and properties are mutual exclusive"))
	}
	if s.XPreserveUnknownFields != nil && !*s.XPreserveUnknownFields {
		errs = append(errs, field.Invalid(path.Child("x-kubernetes-preserve-unknown-fields"), false, "must be true or undefined"))
	}
	return errs
}

func mustBeType(path *field.Path, got, want, because string) field.ErrorList {
	problem := "must be " + want + " if " + because + " is specified"
	switch got {
	case want:
		return nil
	case "":
		return field.ErrorList{field.Required(path.Child("type"), problem)}
	}
	return field.ErrorList{field.Invalid(path.Child("type"), got, problem)}
}

// checkListType checks what a list says about how it merges.
func checkListType(path *field.Path, s *props) field.ErrorList {
	var errs field.ErrorList
	kind, keys := "", path.Child("x-kubernetes-list-map-keys")
	if s.XListType != nil {
		kind = *s.XListType
		errs = append(errs, mustBeType(path, s.Type, "array", "x-kubernetes-list-type")...)
		if known := []string{"atomic", "set", "map"}; !slices.Contains(known, kind) {
			errs = append(errs, field.NotSupported(path.Child("x-kubernetes-list-type"), kind, known))
		}
	}
	if len(s.XListMapKeys) > 0 && kind != "map" {
		problem := "must be map if x-kubernetes-list-map-keys is non-empty"
		if s.XListType == nil {
			return append(errs, field.Required(path.Child("x-kubernetes-list-type"), problem))
		}
		return append(errs, field.Invalid(path.Child("x-kubernetes-list-type"), kind, problem))
	}
	if kind == "map" && len(s.XListMapKeys) == 0 {
		errs = append(errs, field.Required(keys, "must not be empty if x-kubernetes-list-type is map"))
	}
	if s.Items == nil || s.Items.Schema == nil {
		if kind == "map" {
			errs = append(errs, field.Required(path.Child("items"), "must have a schema if x-kubernetes-list-type is map"))
		}
		return errs
	}
	switch items := s.Items.Schema; kind {
	case "set":
		errs = append(errs, checkSetItems(path.Child("items"), items)...)
	case "map":
		errs = append(errs, checkMapItems(path, s.XListMapKeys, items)...)
	}
	return errs
}

// checkSetItems: what is in a set is whole, or it could not be found again.
func checkSetItems(path *field.Path, items *props) field.ErrorList {
	var errs field.ErrorList
	const problem = "must be atomic as item of a list with x-kubernetes-list-type=set"
	switch {
	case items.Type == "array" && items.XListType != nil && *items.XListType != "atomic":
		errs = append(errs, field.Invalid(path.Child("x-kubernetes-list-type"), items.XListType, problem))
	case items.Type == "object" && (items.XMapType == nil || *items.XMapType != "atomic"):
		errs = append(errs, field.Invalid(path.Child("x-kubernetes-map-type"), items.XListType, problem))
	}
	if items.Nullable {
		errs = append(errs, field.Forbidden(path.Child("nullable"), "cannot be nullable when x-kubernetes-list-type is set"))
	}
	return errs
}

// checkMapItems: keys are scalars that every item has.
func checkMapItems(path *field.Path, keys []string, items *props) field.ErrorList {
	var errs field.ErrorList
	if items.Nullable {
		errs = append(errs, field.Forbidden(path.Child("items", "nullable"), "cannot be nullable when x-kubernetes-list-type is map"))
	}
	if items.Type != "object" {
		return append(errs, field.Invalid(path.Child("items", "type"), items.Type, "must be object if parent array's x-kubernetes-list-type is map"))
	}
	listKeys := path.Child("x-kubernetes-list-map-keys")
	for i, name := range keys {
		if slices.Contains(keys[:i], name) {
			errs = append(errs, field.Invalid(listKeys, keys, "must not contain duplicate entries"))
		}
		key, found := items.Properties[name]
		at := path.Child("items", "properties").Key(name)
		if !found {
			errs = append(errs, field.Invalid(listKeys, keys, "entries must all be names of item properties"))
			continue
		}
		if key.Type == "array" || key.Type == "object" {
			errs = append(errs, field.Invalid(at.Child("type"), items.Type, "must be a scalar type if parent array's x-kubernetes-list-type is map"))
		}
		if key.Default == nil && !slices.Contains(items.Required, name) {
			errs = append(errs, field.Required(at.Child("default"), "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property"))
		}
		if key.Nullable {
			errs = append(errs, field.Forbidden(at.Child("nullable"), "this property is in x-kubernetes-list-map-keys, so it cannot be nullable"))
		}
	}
	return errs
}

// checkDefaults: a default must be a value that the schema would accept, and
// would not prune.
func checkDefaults(path *field.Path, s *props) field.ErrorList {
	var errs field.ErrorList
	if s.Default != nil {
		value, n := s.Default.Value(), nodeOf(&props{Type: s.Type, Items: s.Items, Properties: s.Properties, AdditionalProperties: s.AdditionalProperties,
			XPreserveUnknownFields: s.XPreserveUnknownFields, XEmbeddedResource: s.XEmbeddedResource})
		p := pruner{}
		p.prune(runtime.DeepCopyJSONValue(value), n)
		at := path.Child("default")
		if len(p.unknown) > 0 {
			errs = append(errs, field.Invalid(at, value, "must not have unknown fields"))
		}
		if checker, err := checkable(s); err != nil {
			errs = append(errs, field.Invalid(at, value, err.Error()))
		} else {
			errs = append(errs, resultErrors(at, validate.NewSchemaValidator(checker, nil, "", strfmt.Default).Validate(value))...)
		}
	}
	if s.Items != nil && s.Items.Schema != nil {
		errs = append(errs, checkDefaults(path.Child("items"), s.Items.Schema)...)
	}
	for name, below := range s.Properties {
		errs = append(errs, checkDefaults(path.Child("properties").Key(name), &below)...)
	}
	return errs
}

// ScaleOf reads and writes an object's replicas where its definition says.
type ScaleOf struct {
	*extensions.CustomResourceSubresourceScale
}

// Get returns the numbers of spec and status, and the selector.
func (s ScaleOf) Get(u *unstructured.Unstructured) (spec, status int32, selector string) {
	read := func(path string) int32 {
		n, _, _ := unstructured.NestedInt64(u.Object, scalePath(path)...)
		return int32(n)
	}
	if s.LabelSelectorPath != nil && *s.LabelSelectorPath != "" {
		selector, _, _ = unstructured.NestedString(u.Object, scalePath(*s.LabelSelectorPath)...)
	}
	return read(s.SpecReplicasPath), read(s.StatusReplicasPath), selector
}

// Set writes the number of spec.
func (s ScaleOf) Set(u *unstructured.Unstructured, replicas int32) error {
	return unstructured.SetNestedField(u.Object, int64(replicas), scalePath(s.SpecReplicasPath)...)
}

// Check checks the numbers of an object; of those in spec only if asked to.
func (s ScaleOf) Check(u *unstructured.Unstructured, spec bool) field.ErrorList {
	var errs field.ErrorList
	if spec {
		errs = checkReplicas(u, s.SpecReplicasPath)
	}
	return append(errs, checkReplicas(u, s.StatusReplicasPath)...)
}
