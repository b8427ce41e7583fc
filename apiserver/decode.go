package apiserver

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"tinykube/apiserver/resources"
	"tinykube/apiserver/storage"
)

// maxBody is upstream's limit for a request's body.
// Upstream: kubernetes@v1.36 k8s.io/apiserver/pkg/server/config.go MaxRequestBodyBytes
const maxBody = 3 * 1024 * 1024

// readBody reads a whole body, up to the limit, in bounded time.
func (q *request) readBody() ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(q.Body, maxBody+1))
	if errors.Is(err, os.ErrDeadlineExceeded) || q.Context().Err() != nil {
		return nil, errTimeout
	}
	if err != nil {
		return nil, apierrors.NewBadRequest("cannot read the body of the request: " + err.Error())
	}
	if len(data) > maxBody {
		return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", maxBody))
	}
	return data, nil
}

// decodeBody reads an object of the row's kind from the request's body: JSON,
// YAML or protobuf.
func (q *request) decodeBody() (resources.Object, error) {
	data, err := q.readBody()
	if err != nil {
		return nil, err
	}
	obj := q.row.New()
	return obj, q.decodeAs(data, bodyMediaType(q.Request), obj, q.row.GVK())
}

// decodeAs decodes data into obj, which must be of kind want if data names a
// kind at all.
func (q *request) decodeAs(data []byte, media string, obj runtime.Object, want schema.GroupVersionKind) error {
	var got schema.GroupVersionKind
	var strict []error
	var err error
	switch media {
	case storage.ProtobufMediaType:
		got, err = storage.DecodeProtobuf(data, obj)
	case yamlMediaType:
		got, strict, err = decodeYAML(data, obj)
	case storage.JSONMediaType:
		got, strict, err = decodeJSON(data, obj)
	default:
		return unsupportedMediaType(storage.JSONMediaType, yamlMediaType, storage.ProtobufMediaType)
	}
	if errors.Is(err, errNoKind) {
		return unrecognized(want, err, data)
	} else if err != nil {
		return cannotHandle(got, want, err)
	}
	if u, ok := obj.(*unstructured.Unstructured); ok && media != storage.ProtobufMediaType {
		if err := checkCustomKind(u, got, want, data); err != nil {
			return err
		}
	}
	if got.Empty() {
		got = want
	}
	if got != want {
		return apierrors.NewBadRequest(fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)",
			describeKind(got), describeKind(want)))
	}
	obj.GetObjectKind().SetGroupVersionKind(want)
	q.audit.requested(obj)
	unknown, err := q.coerce(obj)
	if err != nil {
		return err
	}
	return q.strictness(append(strict, unknown...), func(err error) error { return cannotHandle(want, want, err) })
}

// checkCustomKind: an object without a Go type must say what it is.
func checkCustomKind(u *unstructured.Unstructured, got, want schema.GroupVersionKind, data []byte) error {
	switch {
	case got.Kind == "":
		return unrecognized(want, fmt.Errorf("Object 'Kind' is missing in '%s'", bytes.TrimSpace(data)), data)
	case got.GroupVersion() != want.GroupVersion():
		return apierrors.NewBadRequest(fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)",
			got.GroupVersion(), want.GroupVersion()))
	case got.Kind != want.Kind:
		return apierrors.NewInvalid(got.GroupKind(), u.GetName(), field.ErrorList{field.Invalid(field.NewPath("kind"), got.Kind, "must be "+want.Kind)})
	}
	return nil
}

// coerce does to an object of a custom kind what decoding into a Go type does
// to others, and returns what a strict reader would object to.
func (q *request) coerce(obj runtime.Object) ([]error, error) {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return nil, nil
	}
	unknown, err := q.row.Custom.Schema.Prune(u, false)
	if err != nil {
		return nil, cannotHandle(q.row.GVK(), q.row.GVK(), err)
	}
	var strict []error
	for _, path := range unknown {
		strict = append(strict, fmt.Errorf("unknown field %q", path))
	}
	return strict, nil
}

func describeKind(gvk schema.GroupVersionKind) string {
	return gvk.GroupVersion().String() + ", Kind=" + gvk.Kind
}

// strictness does what fieldValidation says about unknown and repeated fields.
func (q *request) strictness(found []error, refuse func(error) error) error {
	if len(found) == 0 {
		return nil
	}
	switch q.options.fieldValidation {
	case metav1.FieldValidationIgnore:
		return nil
	case metav1.FieldValidationStrict:
		return refuse(runtime.NewStrictDecodingError(found))
	}
	for _, err := range found {
		for line := range strings.Lines(strings.TrimPrefix(err.Error(), "yaml: unmarshal errors:\n")) {
			q.warn(strings.TrimSpace(line))
		}
	}
	return nil
}

// errNoKind is said of what is no object at all.
var errNoKind = errors.New("couldn't get version/kind")

// unrecognized shows the beginning of what came, as text if it may be some.
func unrecognized(want schema.GroupVersionKind, err error, data []byte) error {
	const most = 30
	shown, more := data, ""
	if len(data) > most {
		shown, more = data[:most], " ..."
	}
	summary := fmt.Sprintf("%x", shown)
	switch {
	case len(data) == 0:
		summary = "<empty>"
	case data[0] == '{':
		summary = string(shown)
	}
	return apierrors.NewBadRequest(fmt.Sprintf("the object provided is unrecognized (must be of type %s): %v (%s%s)", want.Kind, err, summary, more))
}

// cannotHandle says which kind could not be read, and where.
func cannotHandle(got, want schema.GroupVersionKind, err error) error {
	if got.Kind == "" {
		got = want
	}
	return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", got.Kind, got.Version, want.Kind, err))
}

// decodeJSON returns the kind that the data names, and what a strict reader
// would object to. The kind of what can be read is in the object; only for
// what cannot is the data read once more.
func decodeJSON(data []byte, obj any) (schema.GroupVersionKind, []error, error) {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		obj = &u.Object // read it as a map: its schema comes later
	}
	strict, err := kjson.UnmarshalStrict(data, obj)
	if typed, ok := obj.(runtime.Object); ok && err == nil {
		return typed.GetObjectKind().GroupVersionKind(), strict, nil
	}
	var meta struct {
		APIVersion string `json:"apiVersion,omitempty"`
		Kind       string `json:"kind,omitempty"`
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(data, &meta); err != nil {
		return schema.GroupVersionKind{}, nil, fmt.Errorf("%w; json parse error: %w", errNoKind, err)
	}
	return schema.FromAPIVersionAndKind(meta.APIVersion, meta.Kind), strict, err
}

// decodeYAML reads YAML by way of JSON; a repeated key is a strict error only.
func decodeYAML(data []byte, obj any) (schema.GroupVersionKind, []error, error) {
	var strict []error
	converted, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		if !strings.Contains(err.Error(), "already set in map") && !strings.Contains(err.Error(), "already defined") {
			return schema.GroupVersionKind{}, nil, err
		}
		strict = append(strict, err)
		if converted, err = yaml.YAMLToJSON(data); err != nil {
			return schema.GroupVersionKind{}, nil, err
		}
	}
	kind, more, err := decodeJSON(converted, obj)
	return kind, append(strict, more...), err
}

// writeOptions are the parameters that every write understands.
type writeOptions struct {
	dryRun          bool
	fieldValidation string // Ignore, Warn or Strict
	fieldManager    string
	force           bool // of an apply
}

// readWriteOptions reads them from the URL.
func readWriteOptions(r *http.Request, query url.Values) (writeOptions, error) {
	var o metav1.PatchOptions // it has all that the others have
	if err := metav1.Convert_url_Values_To_v1_PatchOptions(&query, &o, nil); err != nil {
		return writeOptions{}, apierrors.NewBadRequest(err.Error())
	}
	kind, errs := "", field.ErrorList(nil)
	switch r.Method {
	case http.MethodPost:
		kind, errs = "CreateOptions", validation.ValidateCreateOptions(&metav1.CreateOptions{DryRun: o.DryRun, FieldManager: o.FieldManager, FieldValidation: o.FieldValidation})
	case http.MethodPut:
		kind, errs = "UpdateOptions", validation.ValidateUpdateOptions(&metav1.UpdateOptions{DryRun: o.DryRun, FieldManager: o.FieldManager, FieldValidation: o.FieldValidation})
	case http.MethodPatch:
		kind, errs = "PatchOptions", validation.ValidatePatchOptions(&o, types.PatchType(bodyMediaType(r)))
	}
	if err := invalidOptions(kind, errs); err != nil {
		return writeOptions{}, err
	}
	out := writeOptions{dryRun: len(o.DryRun) > 0, fieldValidation: o.FieldValidation, fieldManager: o.FieldManager, force: o.Force != nil && *o.Force}
	if out.fieldValidation == "" {
		out.fieldValidation = metav1.FieldValidationWarn
	}
	if out.fieldManager == "" {
		out.fieldManager, _, _ = strings.Cut(r.UserAgent(), "/")
	}
	return out, nil
}

// invalidOptions is the answer to parameters with errors, nil if there are none.
func invalidOptions(kind string, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: kind}, "", errs)
}
