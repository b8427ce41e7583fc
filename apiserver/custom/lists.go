package custom

import (
	"encoding/json"
	"reflect"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// checkLists checks that sets have no item twice, and that of a list that is a
// map no two items have the same keys: an apply would not know which is meant.
// Upstream: kubernetes@v1.36 k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype/validation.go
func checkLists(path *field.Path, value any, n *node) field.ErrorList {
	if n == nil {
		return nil
	}
	var errs field.ErrorList
	switch value := value.(type) {
	case map[string]any:
		for name, below := range value {
			if known, declared := n.fields[name]; declared {
				errs = append(errs, checkLists(child(path, name), below, known)...)
			} else {
				errs = append(errs, checkLists(path.Key(name), below, n.values)...)
			}
		}
	case []any:
		switch n.listType {
		case "set":
			for _, i := range repeated(value) {
				errs = append(errs, field.Duplicate(path.Index(i), value[i]))
			}
		case "map":
			errs = append(errs, checkListMap(path, value, n.listKeys)...)
		}
		for i, below := range value {
			errs = append(errs, checkLists(path.Index(i), below, n.items)...)
		}
	}
	return errs
}

func checkListMap(path *field.Path, list []any, keys []string) field.ErrorList {
	found := make([]any, len(list))
	for i, item := range list {
		object, ok := item.(map[string]any)
		if !ok && item != nil {
			return field.ErrorList{field.Invalid(path.Index(i), item, "must be an object for an array of list-type map")}
		}
		key := map[string]any{}
		for _, name := range keys {
			if value, ok := object[name]; ok {
				key[name] = value
			}
		}
		found[i] = key
	}
	var errs field.ErrorList
	for _, i := range repeated(found) {
		errs = append(errs, field.Duplicate(path.Index(i), found[i]))
	}
	return errs
}

// repeated returns where a value is for the second time.
func repeated(list []any) []int {
	seen := make(map[string]int, len(list))
	var out []int
	for i, value := range list {
		data, err := json.Marshal(value)
		if err != nil {
			continue
		}
		seen[string(data)]++
		if seen[string(data)] == 2 {
			out = append(out, i)
		}
	}
	return out
}

// splitPath takes the path of an error apart: a.b[0].c is a, b, [0], c.
func splitPath(path string) []string {
	var out []string
	for part := range strings.SplitSeq(path, ".") {
		name, rest, indexed := strings.Cut(part, "[")
		if name != "" {
			out = append(out, name)
		}
		for indexed {
			var index string
			index, rest, _ = strings.Cut(rest, "]")
			out = append(out, "["+index+"]")
			_, rest, indexed = strings.Cut(rest, "[")
		}
	}
	return out
}

// same reports whether the value at a path is what it was. Items of a list can
// be told apart only if the list is a map; otherwise the whole list counts.
func same(a, b any, n *node, path []string) bool {
	if len(path) == 0 {
		return reflect.DeepEqual(a, b)
	}
	if index, ok := strings.CutPrefix(path[0], "["); ok {
		listA, okA := a.([]any)
		listB, okB := b.([]any)
		i, err := strconv.Atoi(strings.TrimSuffix(index, "]"))
		if !okA || !okB || err != nil || n == nil || n.listType != "map" || i >= len(listA) || i >= len(listB) {
			return reflect.DeepEqual(a, b)
		}
		return same(listA[i], listB[i], n.items, path[1:])
	}
	mapA, okA := a.(map[string]any)
	mapB, okB := b.(map[string]any)
	if !okA || !okB {
		return reflect.DeepEqual(a, b)
	}
	valueA, okA := mapA[path[0]]
	valueB, okB := mapB[path[0]]
	if okA != okB {
		return false
	}
	var below *node
	if n != nil {
		below, _ = n.field(path[0])
	}
	return same(valueA, valueB, below, path[1:])
}
