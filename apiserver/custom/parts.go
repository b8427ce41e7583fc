package custom

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"tinykube/api/extensions"
)

// The smaller parts of a definition: columns, scale, selectable fields, and
// what this server does not do.

var (
	columnTypes   = []string{"boolean", "date", "integer", "number", "string"}
	columnFormats = []string{"byte", "date", "date-time", "double", "float", "int32", "int64", "password"}
)

// maxSelectable is how many fields may be selected by.
const maxSelectable = 8

func checkColumn(path *field.Path, c *extensions.CustomResourceColumnDefinition) field.ErrorList {
	var errs field.ErrorList
	if c.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	}
	oneOfTypes := "must be one of " + strings.Join(columnTypes, ",")
	if c.Type == "" {
		errs = append(errs, field.Required(path.Child("type"), oneOfTypes))
	} else if !slices.Contains(columnTypes, c.Type) {
		errs = append(errs, field.Invalid(path.Child("type"), c.Type, oneOfTypes))
	}
	if c.Format != "" && !slices.Contains(columnFormats, c.Format) {
		errs = append(errs, field.Invalid(path.Child("format"), c.Format, "must be one of "+strings.Join(columnFormats, ",")))
	}
	if c.JSONPath == "" {
		return append(errs, field.Required(path.Child("JSONPath"), ""))
	}
	return append(errs, checkSimplePath(path.Child("JSONPath"), c.JSONPath)...)
}

func checkSimplePath(path *field.Path, text string) field.ErrorList {
	switch {
	case text == "":
		return field.ErrorList{field.Invalid(path, text, "must not be empty")}
	case text[0] != '.':
		return field.ErrorList{field.Invalid(path, text, "must be a simple json path starting with .")}
	}
	return nil
}

func checkScale(path *field.Path, s *extensions.CustomResourceSubresourceScale) field.ErrorList {
	below := func(name, text, problem string, roots ...string) field.ErrorList {
		at := path.Child("scale." + name)
		if text == "" {
			return field.ErrorList{field.Required(at, "")}
		}
		if errs := checkSimplePath(at, text); len(errs) > 0 {
			return errs
		}
		if !slices.ContainsFunc(roots, func(root string) bool { return strings.HasPrefix(text, root) }) {
			return field.ErrorList{field.Invalid(at, text, "should be a json path under "+problem)}
		}
		return nil
	}
	errs := below("specReplicasPath", s.SpecReplicasPath, ".spec", ".spec.")
	errs = append(errs, below("statusReplicasPath", s.StatusReplicasPath, ".status", ".status.")...)
	if s.LabelSelectorPath != nil && *s.LabelSelectorPath != "" {
		errs = append(errs, below("labelSelectorPath", *s.LabelSelectorPath, "either .spec or .status", ".spec.", ".status.")...)
	}
	return errs
}

func checkSelectable(path *field.Path, v *extensions.CustomResourceDefinitionVersion) field.ErrorList {
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, f := range v.SelectableFields {
		at := path.Index(i).Child("jsonPath")
		kind, problem := leafType(v.Schema, f.JSONPath)
		switch {
		case f.JSONPath == "":
			errs = append(errs, field.Required(at, ""))
			continue
		case problem != "":
			errs = append(errs, field.Invalid(at, f.JSONPath, "is an invalid path: "+problem))
			continue
		case strings.HasPrefix(f.JSONPath, ".metadata"):
			errs = append(errs, field.Invalid(at, f.JSONPath, "must not point to fields in metadata"))
		}
		if !slices.Contains([]string{"string", "boolean", "integer"}, kind) {
			errs = append(errs, field.Invalid(at, f.JSONPath, "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed."))
		}
		if seen[f.JSONPath] {
			errs = append(errs, field.Duplicate(at, f.JSONPath))
		}
		seen[f.JSONPath] = true
	}
	if len(seen) > maxSelectable {
		errs = append(errs, field.TooMany(path, len(seen), maxSelectable))
	}
	return errs
}

// leafType walks a schema along a path of names.
func leafType(validation *extensions.CustomResourceValidation, path string) (kind, problem string) {
	if validation == nil || validation.OpenAPIV3Schema == nil {
		return "", "there is no schema"
	}
	at := *validation.OpenAPIV3Schema
	for _, name := range scalePath(path) {
		below, ok := at.Properties[name]
		if !ok {
			return "", "does not refer to a valid field"
		}
		at = below
	}
	return at.Type, ""
}

// Groups of the Kubernetes project are protected: somebody must have approved
// what is defined there, or say that nobody has.
// Upstream: kubernetes@v1.36 k8s.io/apiextensions-apiserver/pkg/apihelpers/helpers.go GetAPIApprovalState
const approvalAnnotation = "api-approved.kubernetes.io"

type approval struct {
	protected       bool
	status          metav1.ConditionStatus
	reason, message string
}

func approvalOf(d *extensions.CustomResourceDefinition) approval {
	group := d.Spec.Group
	protected := group == "k8s.io" || group == "kubernetes.io" || strings.HasSuffix(group, ".k8s.io") || strings.HasSuffix(group, ".kubernetes.io")
	if !protected {
		return approval{}
	}
	const see = "see https://github.com/kubernetes/enhancements/pull/1111"
	text := d.Annotations[approvalAnnotation]
	switch parsed, err := url.ParseRequestURI(text); {
	case text == "":
		return approval{true, metav1.ConditionFalse, "MissingAnnotation", fmt.Sprintf("protected groups must have approval annotation %q, %s", approvalAnnotation, see)}
	case strings.HasPrefix(text, "unapproved"):
		return approval{true, metav1.ConditionFalse, "UnapprovedAnnotation", fmt.Sprintf("not approved: %q", text)}
	case err == nil && parsed.Host != "" && parsed.Scheme != "":
		return approval{true, metav1.ConditionTrue, "ApprovedAnnotation", fmt.Sprintf("approved in %v", text)}
	}
	return approval{true, metav1.ConditionFalse, "InvalidAnnotation", fmt.Sprintf(
		"protected groups must have approval annotation %q with either a URL or a reason starting with \"unapproved\", %s", approvalAnnotation, see)}
}

// checkApproval refuses a definition in a protected group that nobody approved.
func checkApproval(d *extensions.CustomResourceDefinition) field.ErrorList {
	path := field.NewPath("metadata", "annotations").Key(approvalAnnotation)
	switch a := approvalOf(d); a.reason {
	case "MissingAnnotation":
		return field.ErrorList{field.Required(path, a.message)}
	case "InvalidAnnotation":
		return field.ErrorList{field.Invalid(path, d.Annotations[approvalAnnotation], a.message)}
	}
	return nil
}

// What is left out is said, where the author looks.
const (
	unsupportedConversion = "conversion by webhook is not supported by this server; use None, which changes only apiVersion"
	unsupportedRules      = "x-kubernetes-validations are stored and not evaluated by this server"
)

// Warnings are what the author of a definition should know.
func Warnings(d *extensions.CustomResourceDefinition) []string {
	var out []string
	rules := false
	for _, v := range d.Spec.Versions {
		if v.Schema == nil {
			continue
		}
		forEachProps(v.Schema.OpenAPIV3Schema, func(s *extensions.JSONSchemaProps) {
			rules = rules || len(s.XValidations) > 0
			var types []string
			if s.Type != "" {
				types = []string{s.Type}
			}
			if s.Format != "" && !KnownFormat(types, s.Format) {
				out = append(out, fmt.Sprintf("unrecognized format %q", s.Format))
			}
		})
	}
	slices.Sort(out)
	if rules {
		out = append(out, unsupportedRules)
	}
	return slices.Compact(out)
}

// HasRules reports whether a definition has rules that are not evaluated.
func HasRules(d *extensions.CustomResourceDefinition) bool {
	return slices.Contains(Warnings(d), unsupportedRules)
}

// forEachProps visits a schema and all below it.
func forEachProps(s *extensions.JSONSchemaProps, visit func(*extensions.JSONSchemaProps)) {
	if s == nil {
		return
	}
	visit(s)
	for _, list := range [][]extensions.JSONSchemaProps{s.AllOf, s.AnyOf, s.OneOf} {
		for i := range list {
			forEachProps(&list[i], visit)
		}
	}
	forEachProps(s.Not, visit)
	if s.Items != nil {
		forEachProps(s.Items.Schema, visit)
	}
	if s.AdditionalProperties != nil {
		forEachProps(s.AdditionalProperties.Schema, visit)
	}
	for _, below := range s.Properties {
		forEachProps(&below, visit)
	}
}
