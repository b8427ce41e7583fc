package apiserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/mergepatch"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"

	"tinykube/apiserver/resources"
)

// A patch is an update whose new object is computed here, from the present
// one, instead of by the client. All four kinds are a function
//
//	patch : JSON of the present object → JSON of the new one
//
// after which everything is as for an update. If somebody else writes in
// between, the function is applied again to the newer object; so a patch never
// conflicts unless it names a resourceVersion.

// maxPatchOperations bounds a JSON patch, of which each operation may copy
// the whole object.
// Upstream: kubernetes@v1.36 k8s.io/apiserver/pkg/endpoints/handlers/patch.go maxJSONPatchOperations
const maxPatchOperations = 10000

// limitCopies bounds what the copies of a JSON patch add up to: each may double
// the object, and thirty would make a gigabyte of a byte. The library has one
// limit for the whole program.
// Upstream: kubernetes@v1.36 k8s.io/apiserver/pkg/server/config.go JSONPatchMaxCopyBytes
var limitCopies = sync.OnceFunc(func() { jsonpatch.AccumulatedCopySizeLimit = maxBody })

// patchFunc applies a patch to the JSON of an object.
type patchFunc func(original []byte) ([]byte, error)

// patch answers PATCH on an object or one of its subresources.
//
// LAB 03 patch: an apply patch has a function of its own, and so has the patch
// of a scale. For the others: read the body, make a function of it, and let
// updateObject call that with the present object, as often as it likes.
func (s *Server) patch(q *request) error {
	media := bodyMediaType(q.Request)
	if types.PatchType(media) == types.ApplyYAMLPatchType {
		return s.apply(q)
	}
	data, err := q.readBody()
	if err != nil {
		return err
	}
	q.audit.patched(data, media)
	apply, err := q.patchFunc(types.PatchType(media), data)
	if err != nil {
		return err
	}
	if q.subresource == "scale" {
		return s.patchScale(q, apply)
	}
	item, err := s.updateObject(q, func(old resources.Object) (resources.Object, error) {
		return q.patched(old, apply)
	})
	if err != nil {
		return q.named(err)
	}
	return q.sendItem(http.StatusOK, item)
}

// patched applies a patch to an object and decodes what comes out.
//
// LAB 03 patched: old is shared with every reader of the cache, so decode into a
// new object (patchInto does). It must be in the place that the request names,
// and have the name that it had.
func (q *request) patched(old resources.Object, apply patchFunc) (resources.Object, error) {
	obj := q.row.New()
	if err := q.patchInto(old, obj, apply, q.row.GVK()); err != nil {
		return nil, err
	}
	if err := q.sameNamespace(obj); err != nil {
		return nil, err
	}
	if obj.GetName() != old.GetName() {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", obj.GetName(), q.name))
	}
	return obj, nil
}

// patchInto is patched for any kind.
func (q *request) patchInto(old, obj runtime.Object, apply patchFunc, gvk schema.GroupVersionKind) error {
	original, err := json.Marshal(old)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	changed, err := apply(original)
	if err != nil {
		return err
	}
	refuse := func(err error) error { return q.invalidPatch(changed, err) }
	_, strict, err := decodeJSON(changed, obj)
	if err != nil {
		return refuse(q.inPatch(changed, obj, err))
	}
	if kind := obj.GetObjectKind().GroupVersionKind(); kind != gvk {
		return refuse(fmt.Errorf("no kind %q is registered for version %q", kind.Kind, kind.GroupVersion()))
	}
	unknown, err := q.coerce(obj)
	if err != nil {
		return err
	}
	return q.strictness(slices.Concat(q.patching.repeated, strict, unknown), refuse)
}

// invalidPatch says that a patch makes something that is no object of its kind.
// Upstream names no kind here, and shows what came out, or a strategic patch.
func (q *request) invalidPatch(changed []byte, err error) error {
	shown := q.patching.shown
	if shown == "" {
		shown = string(changed)
	}
	return apierrors.NewInvalid(schema.GroupKind{}, "", field.ErrorList{field.Invalid(field.NewPath("patch"), shown, err.Error())})
}

// inPatch is what is wrong with the outcome of a strategic patch in the words
// of upstream's other decoder, of maps.
func (q *request) inPatch(changed []byte, obj runtime.Object, err error) error {
	var content map[string]any
	if q.patching.shown == "" || kjson.UnmarshalCaseSensitivePreserveInts(changed, &content) != nil {
		return err
	}
	if inMap := runtime.DefaultUnstructuredConverter.FromUnstructured(content, obj); inMap != nil {
		return inMap
	}
	return err
}

// patchFunc reads a patch.
func (q *request) patchFunc(kind types.PatchType, data []byte) (patchFunc, error) {
	switch kind {
	case types.JSONPatchType:
		return jsonPatch(data)
	case types.MergePatchType:
		if _, err := q.readPatch(data); err != nil {
			return nil, apierrors.NewBadRequest("error decoding patch: " + err.Error())
		}
		return func(original []byte) ([]byte, error) {
			out, err := jsonpatch.MergePatch(original, data)
			if err != nil {
				return nil, apierrors.NewBadRequest(err.Error())
			}
			return out, nil
		}, nil
	case types.StrategicMergePatchType:
		if q.row.Custom != nil && q.subresource != "scale" {
			break
		}
		patch, err := q.readPatch(data)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		q.patching.shown = fmt.Sprintf("%+v", patch)
		var into any = q.row.New()
		return func(original []byte) ([]byte, error) {
			out, err := strategicpatch.StrategicMergePatch(original, data, into)
			switch {
			case mergepatch.IsPreconditionFailed(err), errors.Is(err, mergepatch.ErrBadJSONDoc), errors.Is(err, mergepatch.ErrBadPatchFormatForPrimitiveList),
				errors.Is(err, mergepatch.ErrBadPatchFormatForRetainKeys), errors.Is(err, mergepatch.ErrBadPatchFormatForSetElementOrderList),
				errors.Is(err, mergepatch.ErrUnsupportedStrategicMergePatchFormat):
				return nil, apierrors.NewBadRequest(err.Error())
			case err != nil:
				return nil, unprocessable(err)
			}
			return out, nil
		}, nil
	}
	if q.row.Custom == nil {
		return nil, unsupported("415: Unsupported Media Type", &metav1.StatusDetails{})
	}
	return nil, unsupportedMediaType(string(types.JSONPatchType), string(types.MergePatchType), string(types.ApplyYAMLPatchType))
}

// jsonPatch reads a list of operations.
// Spec: RFC 6902.
func jsonPatch(data []byte) (patchFunc, error) {
	limitCopies()
	operations, err := jsonpatch.DecodePatch(data)
	if err != nil {
		return nil, apierrors.NewBadRequest("error decoding patch: " + err.Error())
	}
	if len(operations) > maxPatchOperations {
		return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf(
			"The allowed maximum operations in a JSON patch is %d, got %d", maxPatchOperations, len(operations)))
	}
	return func(original []byte) ([]byte, error) {
		out, err := operations.Apply(original)
		if err != nil {
			return nil, unprocessable(err)
		}
		return out, nil
	}, nil
}

// unprocessable says that a patch is well formed and does not fit the object.
func unprocessable(err error) error {
	return apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", err.Error(), 0, false)
}

// readPatch refuses a patch that is not an object before it is applied.
func (q *request) readPatch(data []byte) (object map[string]any, err error) {
	q.patching.repeated, err = kjson.UnmarshalStrict(data, &object)
	return object, err
}
