package custom

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"
)

// Prune does to an object what decoding into a struct would: fields that the
// schema does not know go, nulls that mean nothing go, and metadata is
// metadata. It returns the paths of what was unknown, in order.
//
// lenient drops metadata that cannot be read, as for what lies in etcd; a
// client is told instead.
func (s *Schema) Prune(u *unstructured.Unstructured, lenient bool) ([]string, error) {
	p := pruner{}
	if err := p.rootMetadata(u.Object, lenient); err != nil {
		return nil, err
	}
	if s != nil {
		p.prune(u.Object, s.root)
		dropNulls(u.Object, s.root)
		if err := p.embedded(nil, u.Object, s.root, true, lenient); err != nil {
			return nil, err
		}
	}
	slices.Sort(p.unknown)
	return p.unknown, nil
}

// metaFields are in every object without being declared.
var metaFields = []string{"apiVersion", "kind", "metadata"}

// pruner walks an object beside its schema.
type pruner struct {
	path    []string // of the value at hand: .name or [index]
	unknown []string
}

func (p *pruner) at(segment string, f func()) {
	p.path = append(p.path, segment)
	f()
	p.path = p.path[:len(p.path)-1]
}

func (p *pruner) found(name string) {
	path := strings.Join(p.path, "") + "." + name
	p.unknown = append(p.unknown, strings.TrimPrefix(path, "."))
}

// prune removes from a value what n does not know; a nil n knows nothing.
func (p *pruner) prune(value any, n *node) {
	switch value := value.(type) {
	case map[string]any:
		for name, below := range value {
			if n != nil && n.embedded && slices.Contains(metaFields, name) {
				continue
			}
			var known *node
			allowed := false
			if n != nil {
				known, allowed = n.field(name)
			}
			switch {
			case allowed:
				p.at("."+name, func() { p.prune(below, known) })
			case n == nil || !n.preserve:
				if len(p.path) > 0 || !slices.Contains(metaFields, name) {
					p.found(name)
				}
				delete(value, name)
			}
		}
	case []any:
		var items *node
		if n != nil {
			items = n.items
			if n.preserve && items == nil {
				return
			}
		}
		for i, below := range value {
			p.at("["+strconv.Itoa(i)+"]", func() { p.prune(below, items) })
		}
	}
}

// dropNulls removes fields that are null where null is not a value and no
// default could take its place: to a client that writes structs, null and
// nothing are the same.
func dropNulls(value any, n *node) {
	if n == nil {
		return
	}
	switch value := value.(type) {
	case map[string]any:
		for name, below := range value {
			known, _ := n.field(name)
			if below == nil && known != nil && !known.nullable && known.def == nil {
				delete(value, name)
				continue
			}
			dropNulls(below, known)
		}
	case []any:
		for _, below := range value {
			dropNulls(below, n.items)
		}
	}
}

// Default fills in what is missing, or null where null is not a value.
func (s *Schema) Default(u *unstructured.Unstructured) {
	if s != nil {
		setDefaults(u.Object, s.root)
	}
}

func setDefaults(value any, n *node) {
	if n == nil {
		return
	}
	missing := func(value any, n *node) bool { return value == nil && n != nil && !n.nullable }
	switch value := value.(type) {
	case map[string]any:
		for name, known := range n.fields {
			if below, ok := value[name]; known.def != nil && (!ok || missing(below, known)) {
				value[name] = runtime.DeepCopyJSONValue(known.def)
			}
		}
		for name, below := range value {
			known, _ := n.field(name)
			if _, declared := n.fields[name]; !declared && missing(below, known) {
				value[name] = runtime.DeepCopyJSONValue(known.def)
			}
			setDefaults(value[name], known)
		}
	case []any:
		for i := range value {
			if missing(value[i], n.items) {
				value[i] = runtime.DeepCopyJSONValue(n.items.def)
			}
			setDefaults(value[i], n.items)
		}
	}
}

// rootMetadata brings an object's own metadata into shape.
func (p *pruner) rootMetadata(object map[string]any, lenient bool) error {
	unknown, err := coerceMetadata(object, "metadata", lenient)
	p.unknown = append(p.unknown, unknown...)
	return err
}

// embedded brings kind and metadata of objects inside an object into shape.
func (p *pruner) embedded(path *field.Path, value any, n *node, root, lenient bool) error {
	if n == nil {
		return nil
	}
	switch value := value.(type) {
	case map[string]any:
		if n.embedded && !root {
			if err := p.embeddedObject(path, value, lenient); err != nil {
				return err
			}
		}
		for name, below := range value {
			known, _ := n.field(name)
			if err := p.embedded(child(path, name), below, known, false, lenient); err != nil {
				return err
			}
		}
	case []any:
		for i, below := range value {
			if err := p.embedded(path.Index(i), below, n.items, false, lenient); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *pruner) embeddedObject(path *field.Path, object map[string]any, lenient bool) error {
	for _, name := range []string{"apiVersion", "kind"} {
		value, found := object[name]
		if _, text := value.(string); !found || text {
			continue
		}
		if !lenient {
			return field.Invalid(child(path, name), value, "must be a string")
		}
		delete(object, name)
	}
	unknown, err := coerceMetadata(object, child(path, "metadata").String(), lenient)
	p.unknown = append(p.unknown, unknown...)
	if err != nil {
		return field.Invalid(child(path, "metadata"), object["metadata"], err.Error())
	}
	return nil
}

// coerceMetadata reads metadata as ObjectMeta and writes it back, and returns
// the paths of what ObjectMeta does not have.
func coerceMetadata(object map[string]any, path string, lenient bool) (unknown []string, err error) {
	raw, found := object["metadata"]
	if !found {
		return nil, nil
	}
	data, err := json.Marshal(raw)
	if err != nil {
		return nil, err
	}
	meta := &metav1.ObjectMeta{}
	strict, err := kjson.UnmarshalStrict(data, meta)
	if err != nil && lenient {
		meta, strict, err = readableMetadata(raw), nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, e := range strict {
		if known, ok := e.(kjson.FieldError); ok {
			unknown = append(unknown, path+"."+known.FieldPath())
		}
	}
	clean, err := runtime.DefaultUnstructuredConverter.ToUnstructured(meta)
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", path, err)
	}
	if meta.CreationTimestamp.IsZero() {
		delete(clean, "creationTimestamp")
	}
	object["metadata"] = clean
	return unknown, nil
}

// readableMetadata takes what can be read, field by field.
func readableMetadata(raw any) *metav1.ObjectMeta {
	meta := &metav1.ObjectMeta{}
	fields, _ := raw.(map[string]any)
	for name, value := range fields {
		data, err := json.Marshal(map[string]any{name: value})
		if err != nil {
			continue
		}
		if kjson.UnmarshalCaseSensitivePreserveInts(data, &metav1.ObjectMeta{}) == nil {
			kjson.UnmarshalCaseSensitivePreserveInts(data, meta)
		}
	}
	return meta
}

// child is path.name, also below nothing.
func child(path *field.Path, name string) *field.Path {
	if path == nil {
		return field.NewPath(name)
	}
	return path.Child(name)
}

func withoutHyphens(s string) string { return strings.ReplaceAll(s, "-", "") }
