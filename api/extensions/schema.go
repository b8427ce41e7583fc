package extensions

import (
	"bytes"
	"encoding/json"
	"errors"
)

// JSONSchemaProps is the dialect of JSON Schema in which an object is
// described: OpenAPI v3's, with Kubernetes' own additions at the end.
type JSONSchemaProps struct {
	ID               string   `json:"id,omitempty"`
	Schema           string   `json:"$schema,omitempty"`
	Ref              *string  `json:"$ref,omitempty"`
	Description      string   `json:"description,omitempty"`
	Type             string   `json:"type,omitempty"`
	Format           string   `json:"format,omitempty"`
	Title            string   `json:"title,omitempty"`
	Default          *JSON    `json:"default,omitempty"`
	Maximum          *float64 `json:"maximum,omitempty"`
	ExclusiveMaximum bool     `json:"exclusiveMaximum,omitempty"`
	Minimum          *float64 `json:"minimum,omitempty"`
	ExclusiveMinimum bool     `json:"exclusiveMinimum,omitempty"`
	MaxLength        *int64   `json:"maxLength,omitempty"`
	MinLength        *int64   `json:"minLength,omitempty"`
	Pattern          string   `json:"pattern,omitempty"`
	MaxItems         *int64   `json:"maxItems,omitempty"`
	MinItems         *int64   `json:"minItems,omitempty"`
	UniqueItems      bool     `json:"uniqueItems,omitempty"`
	MultipleOf       *float64 `json:"multipleOf,omitempty"`
	// +listType=atomic
	Enum          []JSON `json:"enum,omitempty"`
	MaxProperties *int64 `json:"maxProperties,omitempty"`
	MinProperties *int64 `json:"minProperties,omitempty"`
	// +listType=atomic
	Required []string                `json:"required,omitempty"`
	Items    *JSONSchemaPropsOrArray `json:"items,omitempty"`
	// +listType=atomic
	AllOf []JSONSchemaProps `json:"allOf,omitempty"`
	// +listType=atomic
	OneOf []JSONSchemaProps `json:"oneOf,omitempty"`
	// +listType=atomic
	AnyOf                []JSONSchemaProps                       `json:"anyOf,omitempty"`
	Not                  *JSONSchemaProps                        `json:"not,omitempty"`
	Properties           map[string]JSONSchemaProps              `json:"properties,omitempty"`
	AdditionalProperties *JSONSchemaPropsOrBool                  `json:"additionalProperties,omitempty"`
	PatternProperties    map[string]JSONSchemaProps              `json:"patternProperties,omitempty"`
	Dependencies         map[string]JSONSchemaPropsOrStringArray `json:"dependencies,omitempty"`
	AdditionalItems      *JSONSchemaPropsOrBool                  `json:"additionalItems,omitempty"`
	Definitions          map[string]JSONSchemaProps              `json:"definitions,omitempty"`
	ExternalDocs         *ExternalDocumentation                  `json:"externalDocs,omitempty"`
	Example              *JSON                                   `json:"example,omitempty"`
	Nullable             bool                                    `json:"nullable,omitempty"`

	XPreserveUnknownFields *bool `json:"x-kubernetes-preserve-unknown-fields,omitempty"`
	XEmbeddedResource      bool  `json:"x-kubernetes-embedded-resource,omitempty"`
	XIntOrString           bool  `json:"x-kubernetes-int-or-string,omitempty"`
	// +listType=atomic
	XListMapKeys []string `json:"x-kubernetes-list-map-keys,omitempty"`
	XListType    *string  `json:"x-kubernetes-list-type,omitempty"`
	XMapType     *string  `json:"x-kubernetes-map-type,omitempty"`
	// +listType=map
	// +listMapKey=rule
	XValidations []ValidationRule `json:"x-kubernetes-validations,omitempty" patchStrategy:"merge" patchMergeKey:"rule"`
}

// ValidationRule is a rule in the Common Expression Language.
type ValidationRule struct {
	Rule              string  `json:"rule"`
	Message           string  `json:"message,omitempty"`
	MessageExpression string  `json:"messageExpression,omitempty"`
	Reason            *string `json:"reason,omitempty"`
	FieldPath         string  `json:"fieldPath,omitempty"`
	OptionalOldSelf   *bool   `json:"optionalOldSelf,omitempty"`
}

// ExternalDocumentation refers to a text elsewhere.
type ExternalDocumentation struct {
	Description string `json:"description,omitempty"`
	URL         string `json:"url,omitempty"`
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
