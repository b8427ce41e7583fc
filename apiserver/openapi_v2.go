package apiserver

// OpenAPI v2, for clients from before v3: the same schemas as "definitions".
// They ask for it as protobuf.

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	openapiv2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/proto"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"tinykube/apiserver/resources"
	"tinykube/apiserver/schema"
)

// protobufV2 is what clients ask for with an "@" before v1.0. A media type may
// not have one, so the answer says it with a dot.
const protobufV2 = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"

// packedV2 is the document in both of its forms.
type packedV2 struct{ json, protobuf *packed }

func (o *openAPI) serveV2(w http.ResponseWriter, r *http.Request) {
	documents := o.v2()
	if strings.Contains(r.Header.Get("Accept"), "proto-openapi.spec.v2") {
		servePacked(w, r, documents.protobuf, protobufV2)
		return
	}
	servePacked(w, r, documents.json, "application/json")
}

// packV2 makes the document. It has definitions but, of the paths, only what a
// client needs to learn that an object can be patched.
//
// Simplified: code generators that still read v2 find no operations.
func packV2(rows []*resources.Row) *packedV2 {
	definitions := map[string]*spec.Schema{}
	for name, s := range componentsOf(rows) {
		definitions[name] = schemaV2(s)
	}
	data, err := json.Marshal(map[string]any{
		"swagger": "2.0", "info": map[string]string{"title": "Kubernetes", "version": "unversioned"},
		"paths": map[string]any{}, "definitions": definitions,
	})
	if err != nil {
		panic(fmt.Sprintf("encode the OpenAPI v2 document: %v", err))
	}
	parsed, err := openapiv2.ParseDocument(data)
	if err != nil {
		panic(fmt.Sprintf("parse the OpenAPI v2 document: %v", err))
	}
	wire, err := proto.Marshal(parsed)
	if err != nil {
		panic(fmt.Sprintf("encode the OpenAPI v2 document: %v", err))
	}
	return &packedV2{json: packBytes(data), protobuf: packBytes(wire)}
}

// schemaV2 undoes what v3 has and v2 has not: oneOf, and references wrapped to
// let them have siblings.
func schemaV2(s *spec.Schema) *spec.Schema {
	out := *s
	if len(out.OneOf) > 0 {
		out.OneOf, out.Type = nil, []string{"string"}
	}
	if len(out.AllOf) == 1 {
		out.Ref, out.AllOf = out.AllOf[0].Ref, nil
	}
	out.Default = nil
	if ref := out.Ref.String(); ref != "" {
		out.Ref = spec.MustCreateRef("#/definitions/" + strings.TrimPrefix(ref, schema.RefPrefix))
	}
	if out.Items != nil {
		out.Items = &spec.SchemaOrArray{Schema: schemaV2(out.Items.Schema)}
	}
	if a := out.AdditionalProperties; a != nil && a.Schema != nil {
		out.AdditionalProperties = &spec.SchemaOrBool{Allows: true, Schema: schemaV2(a.Schema)}
	}
	if out.Properties != nil {
		properties := make(map[string]spec.Schema, len(out.Properties))
		for field, property := range out.Properties {
			properties[field] = *schemaV2(&property)
		}
		out.Properties = properties
	}
	return &out
}
