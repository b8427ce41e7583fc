package custom

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"unicode"

	"k8s.io/apimachinery/pkg/api/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"tinykube/api/extensions"
)

// What authors get wrong in a definition, in upstream's words.
// Upstream: kubernetes@v1.36 k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation/validation.go

// Complete fills in what a definition leaves out.
func Complete(d *extensions.CustomResourceDefinition) {
	names := &d.Spec.Names
	if names.Singular == "" {
		names.Singular = strings.ToLower(names.Kind)
	}
	if names.ListKind == "" && names.Kind != "" {
		names.ListKind = names.Kind + "List"
	}
	if d.Spec.Conversion == nil {
		d.Spec.Conversion = &extensions.CustomResourceConversion{Strategy: extensions.NoneConverter}
	}
	if storage := d.StorageVersion(); len(d.Status.StoredVersions) == 0 && storage != "" {
		d.Status.StoredVersions = []string{storage}
	}
}

// NoteStorage adds the storage version to those in which objects may lie in
// etcd; who migrates them takes the old ones out.
func NoteStorage(d *extensions.CustomResourceDefinition) {
	if storage := d.StorageVersion(); storage != "" && !slices.Contains(d.Status.StoredVersions, storage) {
		d.Status.StoredVersions = append(d.Status.StoredVersions, storage)
	}
}

// Check says what is wrong with a new definition.
func Check(d *extensions.CustomResourceDefinition) field.ErrorList {
	errs := checkName(d)
	errs = append(errs, checkSpec(d)...)
	errs = append(errs, checkNames(&d.Status.AcceptedNames, field.NewPath("status", "acceptedNames"))...)
	errs = append(errs, checkStoredVersions(d)...)
	return append(errs, checkApproval(d)...)
}

// CheckUpdate says what is wrong with a change of a definition.
func CheckUpdate(d, old *extensions.CustomResourceDefinition) field.ErrorList {
	errs := checkSpec(d)
	spec, names := field.NewPath("spec"), field.NewPath("spec", "names")
	if old.Is(extensions.Established) { // what is stored depends on these
		errs = append(errs, validation.ValidateImmutableField(d.Spec.Scope, old.Spec.Scope, spec.Child("scope"))...)
		errs = append(errs, validation.ValidateImmutableField(d.Spec.Names.Kind, old.Spec.Names.Kind, names.Child("kind"))...)
	}
	errs = append(errs, validation.ValidateImmutableField(d.Spec.Group, old.Spec.Group, spec.Child("group"))...)
	errs = append(errs, validation.ValidateImmutableField(d.Spec.Names.Plural, old.Spec.Names.Plural, names.Child("plural"))...)
	errs = append(errs, checkNames(&d.Status.AcceptedNames, field.NewPath("status", "acceptedNames"))...)
	if approvalOf(d).reason != approvalOf(old).reason {
		errs = append(errs, checkApproval(d)...)
	}
	return append(errs, checkStoredVersions(d)...)
}

// CheckStatus says what is wrong with a write to /status.
func CheckStatus(d, _ *extensions.CustomResourceDefinition) field.ErrorList {
	return checkNames(&d.Status.AcceptedNames, field.NewPath("status", "acceptedNames"))
}

// checkName: the name must be plural.group, so that two definitions of one
// resource are one object.
func checkName(d *extensions.CustomResourceDefinition) field.ErrorList {
	if d.Name == "" || d.Name == d.Spec.Names.Plural+"."+d.Spec.Group {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("metadata", "name"), d.Name, `must be spec.names.plural+"."+spec.group`)}
}

func checkSpec(d *extensions.CustomResourceDefinition) field.ErrorList {
	path, spec := field.NewPath("spec"), &d.Spec
	var errs field.ErrorList
	if spec.Group == "" {
		errs = append(errs, field.Required(path.Child("group"), ""))
	} else if problems := utilvalidation.IsDNS1123Subdomain(spec.Group); len(problems) > 0 {
		errs = append(errs, field.Invalid(path.Child("group"), spec.Group, strings.Join(problems, ",")))
	} else if !strings.Contains(spec.Group, ".") {
		errs = append(errs, field.Invalid(path.Child("group"), spec.Group, "should be a domain with at least one dot"))
	}
	errs = append(errs, oneOf(path.Child("scope"), spec.Scope, extensions.ClusterScoped, extensions.NamespaceScoped)...)
	if spec.PreserveUnknownFields {
		errs = append(errs, field.Invalid(path.Child("preserveUnknownFields"), true, "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead"))
	}
	errs = append(errs, checkVersions(path.Child("versions"), spec.Versions)...)
	for _, required := range []struct{ name, value string }{
		{"plural", spec.Names.Plural}, {"singular", spec.Names.Singular}, {"kind", spec.Names.Kind}, {"listKind", spec.Names.ListKind},
	} {
		if required.value == "" {
			errs = append(errs, field.Required(path.Child("names", required.name), ""))
		}
	}
	errs = append(errs, checkNames(&spec.Names, path.Child("names"))...)
	return append(errs, checkConversion(path.Child("conversion"), spec.Conversion)...)
}

func oneOf[T ~string](path *field.Path, value T, allowed ...T) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	if slices.Contains(allowed, value) {
		return nil
	}
	return field.ErrorList{field.NotSupported(path, value, allowed)}
}

func checkVersions(path *field.Path, versions []extensions.CustomResourceDefinitionVersion) field.ErrorList {
	var errs field.ErrorList
	stored, seen, unique := 0, map[string]bool{}, true
	shared := sharedParts(versions)
	for i := range versions {
		v, at := &versions[i], path.Index(i)
		if v.Storage {
			stored++
		}
		unique = unique && !seen[v.Name]
		seen[v.Name] = true
		if problems := utilvalidation.IsDNS1035Label(v.Name); len(problems) > 0 {
			errs = append(errs, field.Invalid(at.Child("name"), v.Name, strings.Join(problems, ",")))
			if i == 0 {
				errs = append(errs, field.Invalid(field.NewPath("spec", "version"), v.Name, strings.Join(problems, ",")))
			}
		}
		errs = append(errs, checkVersion(at, v, shared, i == 0)...)
	}
	if !unique {
		errs = append(errs, field.Invalid(path, versions, "must contain unique version names"))
	}
	if stored != 1 {
		errs = append(errs, field.Invalid(path, versions, "must have exactly one version marked as storage version"))
	}
	return errs
}

// sharedParts says which parts all versions have in common. Upstream keeps
// these once, beside the versions, and names them so in its errors.
func sharedParts(versions []extensions.CustomResourceDefinitionVersion) map[string]bool {
	out := map[string]bool{"schema": true, "subresources": true, "additionalPrinterColumns": true, "selectableFields": true}
	for i := range versions {
		a, b := &versions[0], &versions[i]
		out["schema"] = out["schema"] && reflect.DeepEqual(a.Schema, b.Schema)
		out["subresources"] = out["subresources"] && reflect.DeepEqual(a.Subresources, b.Subresources)
		out["additionalPrinterColumns"] = out["additionalPrinterColumns"] && reflect.DeepEqual(a.AdditionalPrinterColumns, b.AdditionalPrinterColumns)
		out["selectableFields"] = out["selectableFields"] && reflect.DeepEqual(a.SelectableFields, b.SelectableFields)
	}
	return out
}

// checkVersion checks a version; of what is shared, only the first.
func checkVersion(path *field.Path, v *extensions.CustomResourceDefinitionVersion, shared map[string]bool, first bool) field.ErrorList {
	errs := checkDeprecation(path.Child("deprecationWarning"), v)
	check := func(part string, f func(at *field.Path) field.ErrorList) {
		switch {
		case !shared[part]:
			errs = append(errs, f(path.Child(part))...)
		case first && part == "schema":
			errs = append(errs, f(field.NewPath("spec", "validation"))...)
		case first:
			errs = append(errs, f(field.NewPath("spec", part))...)
		}
	}
	if v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
		detail := "schemas are required"
		if shared["schema"] {
			detail = ""
		}
		errs = append(errs, field.Required(path.Child("schema", "openAPIV3Schema"), detail))
	} else {
		check("schema", func(at *field.Path) field.ErrorList {
			return checkSchema(at.Child("openAPIV3Schema"), v.Schema, v.Subresources != nil && v.Subresources.Status != nil)
		})
	}
	if v.Subresources != nil && v.Subresources.Scale != nil {
		check("subresources", func(at *field.Path) field.ErrorList { return checkScale(at, v.Subresources.Scale) })
	}
	check("additionalPrinterColumns", func(at *field.Path) (errs field.ErrorList) {
		for i := range v.AdditionalPrinterColumns {
			errs = append(errs, checkColumn(at.Index(i), &v.AdditionalPrinterColumns[i])...)
		}
		return errs
	})
	check("selectableFields", func(at *field.Path) field.ErrorList { return checkSelectable(at, v) })
	return errs
}

func checkDeprecation(path *field.Path, v *extensions.CustomResourceDefinitionVersion) field.ErrorList {
	text := v.DeprecationWarning
	if text == nil {
		return nil
	}
	var problem string
	switch {
	case !v.Deprecated:
		problem = "can only be set for deprecated versions"
	case len(*text) > 256:
		problem = "must be <= 256 characters long"
	case *text == "":
		problem = "must not be an empty string"
	default:
		i := strings.IndexFunc(*text, func(r rune) bool { return !unicode.IsPrint(r) })
		if i < 0 {
			return nil
		}
		problem = fmt.Sprintf("must only contain printable UTF-8 characters; non-printable character found at index %d", i)
	}
	return field.ErrorList{field.Invalid(path, text, problem)}
}

// checkNames checks the form of names; some may be missing.
func checkNames(names *extensions.CustomResourceDefinitionNames, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	label := func(at *field.Path, name string) {
		if problems := utilvalidation.IsDNS1035Label(name); name != "" && len(problems) > 0 {
			errs = append(errs, field.Invalid(at, name, strings.Join(problems, ",")))
		}
	}
	label(path.Child("plural"), names.Plural)
	label(path.Child("singular"), names.Singular)
	for _, kind := range []struct{ name, value string }{{"kind", names.Kind}, {"listKind", names.ListKind}} {
		if problem := mixedCaseLabel(kind.value); kind.value != "" && problem != "" {
			errs = append(errs, field.Invalid(path.Child(kind.name), kind.value, problem))
		}
	}
	for i, name := range names.ShortNames {
		label(path.Child("shortNames").Index(i), name)
	}
	if names.Kind != "" && names.Kind == names.ListKind {
		errs = append(errs, field.Invalid(path.Child("listKind"), names.ListKind, "kind and listKind may not be the same"))
	}
	for i, name := range names.Categories {
		label(path.Child("categories").Index(i), name)
	}
	return errs
}

func checkConversion(path *field.Path, c *extensions.CustomResourceConversion) field.ErrorList {
	if c == nil {
		return nil
	}
	errs := oneOf(path.Child("strategy"), c.Strategy, extensions.NoneConverter, extensions.WebhookConverter)
	switch {
	case c.Strategy == extensions.WebhookConverter:
		errs = append(errs, field.Forbidden(path.Child("strategy"), unsupportedConversion))
	case c.Webhook != nil:
		errs = append(errs, field.Forbidden(path.Child("webhook"), "should not be set when strategy is not set to Webhook"))
	}
	return errs
}

func checkStoredVersions(d *extensions.CustomResourceDefinition) field.ErrorList {
	path, stored := field.NewPath("status", "storedVersions"), d.Status.StoredVersions
	if len(stored) == 0 {
		return field.ErrorList{field.Invalid(path, stored, "must have at least one stored version")}
	}
	var errs field.ErrorList
	if storage := d.StorageVersion(); storage != "" && !slices.Contains(stored, storage) {
		errs = append(errs, field.Invalid(path, stored, "must have the storage version "+storage))
	}
	for i, name := range stored {
		if !slices.ContainsFunc(d.Spec.Versions, func(v extensions.CustomResourceDefinitionVersion) bool { return v.Name == name }) {
			errs = append(errs, field.Invalid(path.Index(i), name, fmt.Sprintf("missing from spec.versions; %[1]s was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in %[1]s and removes %[1]s from status.storedVersions", name)))
		}
	}
	return errs
}
