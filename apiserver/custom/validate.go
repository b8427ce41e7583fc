package custom

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	openapierrors "k8s.io/kube-openapi/pkg/validation/errors"
	"k8s.io/kube-openapi/pkg/validation/validate"
)

// Validate says what of a new object the schema forbids. The object's own
// metadata is checked like every kind's, elsewhere.
func (s *Schema) Validate(u *unstructured.Unstructured) field.ErrorList {
	if s == nil {
		return nil
	}
	errs := resultErrors(nil, s.whole.Validate(u.Object))
	errs = append(errs, checkEmbedded(nil, u.Object, s.root, true)...)
	return append(errs, checkLists(nil, u.Object, s.root)...)
}

// ValidateUpdate says what of a change the schema forbids. What was wrong
// before and has not changed is let pass, so that an object from before a
// stricter schema can still be written.
//
// Simplified: upstream compares value by value while it validates; here the
// errors about values that did not change are taken out afterwards. Where a
// condition (anyOf, oneOf, not) spans several fields, upstream may let pass
// what we refuse.
func (s *Schema) ValidateUpdate(u, old *unstructured.Unstructured) field.ErrorList {
	if s == nil {
		return nil
	}
	errs := s.unless(resultErrors(nil, s.whole.Validate(u.Object)), u, old)
	errs = append(errs, checkEmbedded(nil, u.Object, s.root, true)...)
	return append(errs, s.newListErrors(u, old)...)
}

// ValidateStatus is ValidateUpdate for a write to /status.
func (s *Schema) ValidateStatus(u, old *unstructured.Unstructured) field.ErrorList {
	if s == nil {
		return nil
	}
	var errs field.ErrorList
	if status, found := u.Object["status"]; found && s.status != nil {
		errs = s.unless(resultErrors(field.NewPath("status"), s.status.Validate(status)), u, old)
	}
	return append(errs, s.newListErrors(u, old)...)
}

// newListErrors are broken promises about lists, unless there were some before.
func (s *Schema) newListErrors(u, old *unstructured.Unstructured) field.ErrorList {
	errs := checkLists(nil, u.Object, s.root)
	if len(errs) > 0 && len(checkLists(nil, old.Object, s.root)) > 0 {
		return nil
	}
	return errs
}

// unless takes out errors about values that are as they were.
func (s *Schema) unless(errs field.ErrorList, u, old *unstructured.Unstructured) field.ErrorList {
	return slices.DeleteFunc(errs, func(e *field.Error) bool {
		path := splitPath(e.Field)
		if e.Type == field.ErrorTypeRequired && len(path) > 0 {
			path = path[:len(path)-1] // it is about what should contain it
		}
		return same(u.Object, old.Object, s.root, path)
	})
}

// resultErrors are the validator's complaints as upstream words them.
func resultErrors(path *field.Path, result *validate.Result) field.ErrorList {
	var errs field.ErrorList
	for _, err := range result.Errors {
		known, ok := err.(*openapierrors.Validation)
		if !ok {
			errs = append(errs, field.Invalid(path, "", err.Error()))
			continue
		}
		at := path
		if known.Name != "" && known.Name != "." {
			at = child(at, strings.TrimPrefix(known.Name, "."))
		}
		errs = append(errs, fieldError(at, known))
	}
	return errs
}

// Upstream: kubernetes@v1.36 k8s.io/apiextensions-apiserver/pkg/apiserver/validation/validation.go kubeOpenAPIResultToFieldErrors
func fieldError(at *field.Path, err *openapierrors.Validation) *field.Error {
	number := func(v any) int {
		if n, ok := v.(int64); ok {
			return int(n)
		}
		return -1
	}
	value := err.Value
	if value == nil {
		value = ""
	}
	switch err.Code() {
	case openapierrors.RequiredFailCode:
		return field.Required(at, "")
	case openapierrors.EnumFailCode:
		allowed := make([]string, len(err.Values))
		for i, v := range err.Values {
			text, ok := v.(string)
			if !ok {
				data, _ := json.Marshal(v)
				text = string(data)
			}
			allowed[i] = text
		}
		return field.NotSupported(at, err.Value, allowed)
	case openapierrors.TooLongFailCode:
		return field.TooLong(at, "", number(err.Valid))
	case openapierrors.MaxItemsFailCode, openapierrors.TooManyPropertiesCode:
		return field.TooMany(at, number(err.Value), number(err.Valid))
	case openapierrors.InvalidTypeCode:
		return field.TypeInvalid(at, value, err.Error())
	}
	return field.Invalid(at, value, err.Error())
}

// checkEmbedded checks kind and metadata of objects inside an object.
func checkEmbedded(path *field.Path, value any, n *node, root bool) field.ErrorList {
	if n == nil {
		return nil
	}
	var errs field.ErrorList
	switch value := value.(type) {
	case map[string]any:
		if n.embedded && !root {
			errs = append(errs, checkEmbeddedObject(path, value)...)
		}
		for name, below := range value {
			if known, declared := n.fields[name]; declared {
				errs = append(errs, checkEmbedded(child(path, name), below, known, false)...)
			} else {
				errs = append(errs, checkEmbedded(path.Key(name), below, n.values, false)...)
			}
		}
	case []any:
		for i, below := range value {
			errs = append(errs, checkEmbedded(path.Index(i), below, n.items, false)...)
		}
	}
	return errs
}

func checkEmbeddedObject(path *field.Path, object map[string]any) field.ErrorList {
	var errs field.ErrorList
	text := func(name string, check func(string) string) {
		at := child(path, name)
		value, found := object[name]
		text, ok := value.(string)
		switch {
		case !found:
			errs = append(errs, field.Required(at, ""))
		case !ok:
			errs = append(errs, field.Invalid(at, value, "must be a string"))
		case text == "":
			errs = append(errs, field.Invalid(at, text, "must not be empty"))
		default:
			if problem := check(text); problem != "" {
				errs = append(errs, field.Invalid(at, text, problem))
			}
		}
	}
	text("apiVersion", func(version string) string {
		if _, err := schema.ParseGroupVersion(version); err != nil {
			return err.Error()
		}
		return ""
	})
	text("kind", mixedCaseLabel)
	if _, found := object["metadata"].(map[string]any); found {
		inner := &unstructured.Unstructured{Object: map[string]any{"metadata": object["metadata"]}}
		if inner.GetName() == "" { // it need not have one yet
			inner = inner.DeepCopy()
			inner.SetName("fakename")
		}
		errs = append(errs, validation.ValidateObjectMetaAccessor(inner, inner.GetNamespace() != "", pathSegment, child(path, "metadata"))...)
	}
	return errs
}

// pathSegment refuses names that could not be part of a URL.
func pathSegment(name string, prefix bool) []string {
	if prefix {
		return nil
	}
	if name == "." || name == ".." || strings.ContainsAny(name, "/%") {
		return []string{fmt.Sprintf("may not be %q or contain '/' or '%%'", name)}
	}
	return nil
}

func mixedCaseLabel(kind string) string {
	if problems := utilvalidation.IsDNS1035Label(strings.ToLower(kind)); len(problems) > 0 {
		return "may have mixed case, but should otherwise match: " + strings.Join(problems, ",")
	}
	return ""
}

// checkReplicas checks a number that /scale shows or sets.
func checkReplicas(u *unstructured.Unstructured, path string) field.ErrorList {
	at := field.NewPath(path)
	n, _, err := unstructured.NestedInt64(u.Object, scalePath(path)...)
	switch {
	case err != nil:
		return field.ErrorList{field.Invalid(at, n, err.Error())}
	case n < 0:
		return field.ErrorList{field.Invalid(at, n, "should be a non-negative integer")}
	case n > math.MaxInt32:
		return field.ErrorList{field.Invalid(at, n, fmt.Sprintf("should be less than or equal to %v", math.MaxInt32))}
	}
	return nil
}
