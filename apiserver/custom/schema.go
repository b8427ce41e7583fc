package custom

import (
	"encoding/json"
	"fmt"
	"slices"

	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kube-openapi/pkg/validation/strfmt"
	"k8s.io/kube-openapi/pkg/validation/validate"

	"tinykube/api/extensions"
)

// Schema is a version's schema in the two forms in which it is used: a tree to
// walk objects by, and a validator. A nil Schema knows nothing and keeps
// everything.
type Schema struct {
	root *node
	// whole checks an object, status only its status.
	whole, status *validate.SchemaValidator
}

// node is what the tree says about one field.
type node struct {
	fields map[string]*node
	items  *node // of a list
	// values is of a map's values; open maps without one have values that
	// nothing is known of.
	values *node
	open   bool

	preserve bool // unknown fields below stay
	embedded bool // is an object with kind and metadata of its own
	nullable bool
	def      any // default; nil if there is none
	listType string
	listKeys []string
}

// Compile makes a Schema of what a version declares; nil for none. preserve is
// spec.preserveUnknownFields, which only definitions from long ago may set.
func Compile(validation *extensions.CustomResourceValidation, preserve bool) (*Schema, error) {
	if validation == nil || validation.OpenAPIV3Schema == nil {
		return nil, nil
	}
	root := validation.OpenAPIV3Schema
	s := &Schema{root: nodeOf(root)}
	s.root.embedded = true
	s.root.preserve = s.root.preserve || preserve
	whole, err := checkable(root)
	if err != nil {
		return nil, err
	}
	s.whole = validate.NewSchemaValidator(whole, nil, "", strfmt.Default)
	if status, ok := root.Properties["status"]; ok {
		part, err := checkable(&status)
		if err != nil {
			return nil, err
		}
		s.status = validate.NewSchemaValidator(part, nil, "", strfmt.Default)
	}
	return s, nil
}

// nodeOf reads the structural part of a schema.
func nodeOf(in *extensions.JSONSchemaProps) *node {
	if in == nil {
		return nil
	}
	n := &node{
		preserve: in.XPreserveUnknownFields != nil && *in.XPreserveUnknownFields,
		embedded: in.XEmbeddedResource, nullable: in.Nullable,
		def: in.Default.Value(), listKeys: in.XListMapKeys,
	}
	if in.XListType != nil {
		n.listType = *in.XListType
	}
	if in.Items != nil {
		n.items = nodeOf(in.Items.Schema)
	}
	if additional := in.AdditionalProperties; additional != nil {
		n.open, n.values = true, nodeOf(additional.Schema)
	}
	if len(in.Properties) > 0 {
		n.fields = make(map[string]*node, len(in.Properties))
		for name, field := range in.Properties {
			n.fields[name] = nodeOf(&field)
		}
	}
	// Defaults are given out as the schema would keep them.
	if n.def != nil {
		p := pruner{}
		p.prune(n.def, n)
		dropNulls(n.def, n)
	}
	return n
}

// field is what is known of a field, and whether it is allowed.
func (n *node) field(name string) (*node, bool) {
	if field, ok := n.fields[name]; ok {
		return field, true
	}
	return n.values, n.open
}

// OpenAPI is a schema as kube-openapi's type, by way of JSON: field for field
// the two are the same, and what only Kubernetes has becomes an extension.
func OpenAPI(in *extensions.JSONSchemaProps) (*spec.Schema, error) {
	data, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	out := &spec.Schema{}
	if err := json.Unmarshal(data, out); err != nil {
		return nil, fmt.Errorf("read the schema: %w", err)
	}
	return out, nil
}

// checkable is a schema as the validator wants it.
func checkable(in *extensions.JSONSchemaProps) (*spec.Schema, error) {
	out, err := OpenAPI(in)
	if err != nil {
		return nil, err
	}
	forEach(out, func(s *spec.Schema) {
		if both, _ := s.Extensions.GetBool("x-kubernetes-int-or-string"); both {
			s.Type = spec.StringOrArray{"integer", "string"}
		}
		if !KnownFormat(s.Type, s.Format) {
			s.Format = "" // means nothing here, and must not be guessed at
		}
	})
	return out, nil
}

// forEach visits a schema and all below it.
func forEach(s *spec.Schema, visit func(*spec.Schema)) {
	if s == nil {
		return
	}
	visit(s)
	for _, list := range [][]spec.Schema{s.AllOf, s.AnyOf, s.OneOf} {
		for i := range list {
			forEach(&list[i], visit)
		}
	}
	forEach(s.Not, visit)
	if s.Items != nil {
		forEach(s.Items.Schema, visit)
	}
	if s.AdditionalProperties != nil {
		forEach(s.AdditionalProperties.Schema, visit)
	}
	for name, field := range s.Properties {
		forEach(&field, visit)
		s.Properties[name] = field
	}
}

// stringFormats are the formats of strings that are checked; hyphens in their
// names do not count.
// Upstream: kubernetes@v1.36 k8s.io/apiextensions-apiserver/pkg/apiserver/validation/formats.go
var stringFormats = []string{
	"bsonobjectid", "uri", "email", "hostname", "ipv4", "ipv6", "cidr", "mac", "uuid", "uuid3", "uuid4", "uuid5",
	"isbn", "isbn10", "isbn13", "creditcard", "ssn", "hexcolor", "rgbcolor", "byte", "password", "date", "duration",
	"datetime", "k8sshortname", "k8slongname",
}

// KnownFormat reports whether a format is checked on values of a type.
func KnownFormat(types []string, format string) bool {
	kind := ""
	if len(types) == 1 {
		kind = types[0]
	}
	switch kind {
	case "", "string":
		return slices.Contains(stringFormats, withoutHyphens(format))
	case "integer":
		return format == "int32" || format == "int64"
	case "number":
		return format == "float" || format == "double"
	}
	return false
}
