package extensions

import (
	"bytes"
	"encoding/json"
	"errors"
)

// JSONSchemaProps is the dialect of JSON Schema in which an object is
// described: OpenAPI v3's, with Kubernetes' own additions at the end.
type JSONSchemaProps struct {
	ID               string   `json:"id,omitempty"`               // Not used.
	Schema           string   `json:"$schema,omitempty"`          // Not used.
	Ref              *string  `json:"$ref,omitempty"`             // Must not be used: schemas are written out.
	Description      string   `json:"description,omitempty"`      // What kubectl explain says.
	Type             string   `json:"type,omitempty"`             // array, boolean, integer, number, object or string.
	Format           string   `json:"format,omitempty"`           // A closer look at the type: int32, date-time, ip, …; those that are not known are ignored.
	Title            string   `json:"title,omitempty"`            // A short description.
	Default          *JSON    `json:"default,omitempty"`          // Value of the field if it is not set.
	Maximum          *float64 `json:"maximum,omitempty"`          // Largest number.
	ExclusiveMaximum bool     `json:"exclusiveMaximum,omitempty"` // Whether it must be less than maximum.
	Minimum          *float64 `json:"minimum,omitempty"`          // Smallest number.
	ExclusiveMinimum bool     `json:"exclusiveMinimum,omitempty"` // Whether it must be more than minimum.
	MaxLength        *int64   `json:"maxLength,omitempty"`        // Longest string, in characters.
	MinLength        *int64   `json:"minLength,omitempty"`        // Shortest string, in characters.
	Pattern          string   `json:"pattern,omitempty"`          // Regular expression that a string must match somewhere.
	MaxItems         *int64   `json:"maxItems,omitempty"`         // Longest list.
	MinItems         *int64   `json:"minItems,omitempty"`         // Shortest list.
	UniqueItems      bool     `json:"uniqueItems,omitempty"`      // Must be false: say x-kubernetes-list-type: set.
	MultipleOf       *float64 `json:"multipleOf,omitempty"`       // What a number must be a multiple of.
	// +listType=atomic
	Enum          []JSON `json:"enum,omitempty"`          // The values that are allowed.
	MaxProperties *int64 `json:"maxProperties,omitempty"` // How many fields there may be.
	MinProperties *int64 `json:"minProperties,omitempty"` // How many fields there must be.
	// +listType=atomic
	Required []string                `json:"required,omitempty"` // Fields that must be there.
	Items    *JSONSchemaPropsOrArray `json:"items,omitempty"`    // Schema of the items of a list.
	// +listType=atomic
	AllOf []JSONSchemaProps `json:"allOf,omitempty"` // Schemas that must all match.
	// +listType=atomic
	OneOf []JSONSchemaProps `json:"oneOf,omitempty"` // Schemas of which exactly one must match.
	// +listType=atomic
	AnyOf                []JSONSchemaProps                       `json:"anyOf,omitempty"`                // Schemas of which at least one must match.
	Not                  *JSONSchemaProps                        `json:"not,omitempty"`                  // Schema that must not match.
	Properties           map[string]JSONSchemaProps              `json:"properties,omitempty"`           // Schemas of the fields, by name.
	AdditionalProperties *JSONSchemaPropsOrBool                  `json:"additionalProperties,omitempty"` // Schema of all other fields, as of a map.
	PatternProperties    map[string]JSONSchemaProps              `json:"patternProperties,omitempty"`    // Must not be used.
	Dependencies         map[string]JSONSchemaPropsOrStringArray `json:"dependencies,omitempty"`         // Must not be used.
	AdditionalItems      *JSONSchemaPropsOrBool                  `json:"additionalItems,omitempty"`      // Must not be used.
	Definitions          map[string]JSONSchemaProps              `json:"definitions,omitempty"`          // Must not be used.
	ExternalDocs         *ExternalDocumentation                  `json:"externalDocs,omitempty"`         // Where to read more.
	Example              *JSON                                   `json:"example,omitempty"`              // An example of a value.
	Nullable             bool                                    `json:"nullable,omitempty"`             // Whether null is a value.

	XPreserveUnknownFields *bool `json:"x-kubernetes-preserve-unknown-fields,omitempty"` // Whether fields that no schema names are kept, here.
	XEmbeddedResource      bool  `json:"x-kubernetes-embedded-resource,omitempty"`       // Whether it is a whole object, with apiVersion, kind and metadata.
	XIntOrString           bool  `json:"x-kubernetes-int-or-string,omitempty"`           // Whether it is a number or a string.
	// +listType=atomic
	XListMapKeys []string `json:"x-kubernetes-list-map-keys,omitempty"` // Fields by which items of a map-like list are told apart.
	XListType    *string  `json:"x-kubernetes-list-type,omitempty"`     // atomic, set or map: how lists are merged.
	XMapType     *string  `json:"x-kubernetes-map-type,omitempty"`      // granular or atomic: how objects are merged.
	// +listType=map
	// +listMapKey=rule
	XValidations []ValidationRule `json:"x-kubernetes-validations,omitempty" patchStrategy:"merge" patchMergeKey:"rule"` // Rules in the Common Expression Language; they are stored and not applied.
}

// ValidationRule is a rule in the Common Expression Language.
type ValidationRule struct {
	Rule              string  `json:"rule"`                        // Expression that must be true; self is the value.
	Message           string  `json:"message,omitempty"`           // What is said otherwise.
	MessageExpression string  `json:"messageExpression,omitempty"` // Expression that makes what is said otherwise.
	Reason            *string `json:"reason,omitempty"`            // Reason of the error for programs.
	FieldPath         string  `json:"fieldPath,omitempty"`         // Field that the error is about, below this one.
	OptionalOldSelf   *bool   `json:"optionalOldSelf,omitempty"`   // Whether the rule also holds for values that are new.
}

// ExternalDocumentation refers to a text elsewhere.
type ExternalDocumentation struct {
	Description string `json:"description,omitempty"` // What is there.
	URL         string `json:"url,omitempty"`         // Where it is.
}

// JSON is any value.
type JSON struct{ Raw []byte }

// JSONSchemaPropsOrArray is one schema for all items, or one for each.
type JSONSchemaPropsOrArray struct {
	Schema      *JSONSchemaProps
	JSONSchemas []JSONSchemaProps
}

// JSONSchemaPropsOrBool is a schema, or whether anything goes.
type JSONSchemaPropsOrBool struct {
	Allows bool
	Schema *JSONSchemaProps
}

// JSONSchemaPropsOrStringArray is a schema or a list of names.
type JSONSchemaPropsOrStringArray struct {
	Schema   *JSONSchemaProps
	Property []string
}

// OpenAPISchemaType is none: these are any JSON.
func (JSON) OpenAPISchemaType() []string { return nil }

// OpenAPISchemaType is none.
func (JSONSchemaPropsOrArray) OpenAPISchemaType() []string { return nil }

// OpenAPISchemaType is none.
func (JSONSchemaPropsOrBool) OpenAPISchemaType() []string { return nil }

// OpenAPISchemaType is none.
func (JSONSchemaPropsOrStringArray) OpenAPISchemaType() []string { return nil }

// MarshalJSON writes the value as it is.
func (j JSON) MarshalJSON() ([]byte, error) {
	if len(j.Raw) == 0 {
		return []byte("null"), nil
	}
	return j.Raw, nil
}

// UnmarshalJSON keeps the value as it is; null is nothing.
func (j *JSON) UnmarshalJSON(data []byte) error {
	j.Raw = nil
	if !bytes.Equal(data, []byte("null")) {
		j.Raw = append(j.Raw, data...)
	}
	return nil
}

// MarshalJSON writes whichever is set.
func (s JSONSchemaPropsOrArray) MarshalJSON() ([]byte, error) {
	if len(s.JSONSchemas) > 0 {
		return json.Marshal(s.JSONSchemas)
	}
	return json.Marshal(s.Schema)
}

// UnmarshalJSON reads either.
func (s *JSONSchemaPropsOrArray) UnmarshalJSON(data []byte) error {
	*s = JSONSchemaPropsOrArray{}
	switch first(data) {
	case '{':
		return json.Unmarshal(data, &s.Schema)
	case '[':
		return json.Unmarshal(data, &s.JSONSchemas)
	}
	return nil
}

// MarshalJSON writes the schema if there is one.
func (s JSONSchemaPropsOrBool) MarshalJSON() ([]byte, error) {
	if s.Schema != nil {
		return json.Marshal(s.Schema)
	}
	return json.Marshal(s.Allows)
}

// UnmarshalJSON reads either; a schema allows.
func (s *JSONSchemaPropsOrBool) UnmarshalJSON(data []byte) error {
	*s = JSONSchemaPropsOrBool{}
	switch first(data) {
	case '{':
		s.Allows = true
		return json.Unmarshal(data, &s.Schema)
	case 't', 'f':
		return json.Unmarshal(data, &s.Allows)
	}
	return errors.New("boolean or JSON schema expected")
}

// MarshalJSON writes whichever is set.
func (s JSONSchemaPropsOrStringArray) MarshalJSON() ([]byte, error) {
	if len(s.Property) > 0 {
		return json.Marshal(s.Property)
	}
	return json.Marshal(s.Schema)
}

// UnmarshalJSON reads either.
func (s *JSONSchemaPropsOrStringArray) UnmarshalJSON(data []byte) error {
	*s = JSONSchemaPropsOrStringArray{}
	if first(data) == '[' {
		return json.Unmarshal(data, &s.Property)
	}
	return json.Unmarshal(data, &s.Schema)
}

// first is the first byte of a JSON value.
func first(data []byte) byte {
	if data = bytes.TrimSpace(data); len(data) > 0 {
		return data[0]
	}
	return 0
}

// Value is the JSON as Go knows it, numbers without a point as int64.
func (j *JSON) Value() any {
	if j == nil || len(j.Raw) == 0 {
		return nil
	}
	var out any
	if err := unmarshalNumbers(j.Raw, &out); err != nil {
		return nil
	}
	return out
}
