package resources

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/version"

	"tinykube/api/extensions"
	"tinykube/apiserver/custom"
)

// How objects of a custom kind are printed, selected and warned about.

// sameContent compares everything but metadata.
func sameContent(a, b map[string]any) bool {
	count := func(m map[string]any) int {
		if _, has := m["metadata"]; has {
			return len(m) - 1
		}
		return len(m)
	}
	if count(a) != count(b) {
		return false
	}
	for name, value := range a {
		other, has := b[name]
		if name != "metadata" && (!has || !reflect.DeepEqual(value, other)) {
			return false
		}
	}
	return true
}

// customFields are the fields that the definition lets clients select by.
func customFields(selectable []extensions.SelectableField) func(Object) fields.Set {
	if len(selectable) == 0 {
		return nil
	}
	return func(obj Object) fields.Set {
		set := fields.Set{}
		for _, f := range selectable {
			name := strings.TrimPrefix(f.JSONPath, ".")
			value, found, err := unstructured.NestedFieldNoCopy(obj.(*unstructured.Unstructured).Object, strings.Split(name, ".")...)
			set[name] = ""
			if found && err == nil {
				set[name] = custom.Text(value)
			}
		}
		return set
	}
}

// ageColumn is what kinds print that declare no columns.
var ageColumn = []extensions.CustomResourceColumnDefinition{{
	Name: "Age", Type: "date", JSONPath: ".metadata.creationTimestamp",
	Description: "The time since the object was created.",
}}

// printCustom gives a row the columns of its definition. A path that cannot be
// read leaves only the name, as upstream does.
func printCustom(row *Row, declared []extensions.CustomResourceColumnDefinition) {
	if len(declared) == 0 {
		declared = ageColumn
	}
	row.Columns = []metav1.TableColumnDefinition{{Name: "Name", Type: "string", Format: "name", Description: "Name of the object, unique in its namespace."}}
	var paths []*custom.Path
	for _, c := range declared {
		path, err := custom.ParsePath(c.JSONPath)
		if err != nil {
			paths, row.Columns = nil, row.Columns[:1]
			break
		}
		description := c.Description
		if description == "" {
			description = "Custom resource definition column (in JSONPath format): " + c.JSONPath
		}
		paths = append(paths, path)
		row.Columns = append(row.Columns, metav1.TableColumnDefinition{Name: c.Name, Type: c.Type, Format: c.Format, Description: description, Priority: c.Priority})
	}
	columns := row.Columns
	row.Cells = func(obj Object, now time.Time) []any {
		out := []any{obj.GetName()}
		for i, path := range paths {
			found := path.Find(obj.(*unstructured.Unstructured).Object)
			if len(found) == 0 {
				out = append(out, nil)
				continue
			}
			out = append(out, customCell(columns[i+1].Type, found[0], now))
		}
		return out
	}
}

// customCell is a value in a column of a type; a value of another type is nothing.
// Upstream: kubernetes@v1.36 k8s.io/apiextensions-apiserver/pkg/registry/customresource/tableconvertor/tableconvertor.go cellForJSONValue
func customCell(kind string, value any, now time.Time) any {
	switch kind {
	case "string":
		return custom.Text(value)
	case "integer":
		switch n := value.(type) {
		case int64:
			return n
		case float64:
			return int64(n)
		}
	case "number":
		switch n := value.(type) {
		case int64:
			return float64(n)
		case float64:
			return n
		}
	case "boolean":
		if b, ok := value.(bool); ok {
			return b
		}
	case "date":
		text, ok := value.(string)
		if !ok {
			return nil
		}
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return "<invalid>"
		}
		return duration.HumanDuration(now.Sub(at))
	}
	return nil
}

// deprecation is the warning of a deprecated version: its own, or one that
// names what to use instead.
// Upstream: kubernetes@v1.36 k8s.io/apiextensions-apiserver/pkg/apiserver/customresource_handler.go defaultDeprecationWarning
func deprecation(d *extensions.CustomResourceDefinition, v *extensions.CustomResourceDefinitionVersion) string {
	if v.DeprecationWarning != nil {
		return *v.DeprecationWarning
	}
	text := fmt.Sprintf("%s/%s %s is deprecated", d.Spec.Group, v.Name, d.Spec.Names.Kind)
	newest := ""
	for _, other := range d.Spec.Versions {
		if other.Served && !other.Deprecated && version.CompareKubeAwareVersionStrings(v.Name, other.Name) < 0 &&
			(newest == "" || version.CompareKubeAwareVersionStrings(newest, other.Name) < 0) {
			newest = other.Name
		}
	}
	if newest != "" {
		text += fmt.Sprintf("; use %s/%s %s", d.Spec.Group, newest, d.Spec.Names.Kind)
	}
	return text
}
