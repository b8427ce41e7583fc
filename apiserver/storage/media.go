package storage

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kjson "sigs.k8s.io/json"

	"tinykube/apiserver/resources"
)

// Two serialized forms exist, on the wire and in etcd:
//
//	JSON      {"kind":"Pod","apiVersion":"v1","metadata":{…},…}
//	protobuf  "k8s\0" + Unknown{ typeMeta{apiVersion, kind}, raw: Pod }
//
// The envelope makes protobuf self-describing: the message itself has no kind.

// JSONMediaType and ProtobufMediaType are the forms' names.
const (
	JSONMediaType     = "application/json"
	ProtobufMediaType = "application/vnd.kubernetes.protobuf"
)

// protobufMagic starts every protobuf body of a Kubernetes object.
// Spec: Kubernetes API concepts, "Kubernetes Protobuf encoding".
var protobufMagic = []byte("k8s\x00")

// IsProtobuf reports whether data starts with the protobuf envelope's magic.
func IsProtobuf(data []byte) bool { return bytes.HasPrefix(data, protobufMagic) }

// protobufMessage is what every generated API type can do.
type protobufMessage interface {
	Marshal() ([]byte, error)
	Unmarshal([]byte) error
}

// EncodeJSON serializes an object with its kind and apiVersion, without a
// newline at the end.
func EncodeJSON(obj runtime.Object, gvk schema.GroupVersionKind) ([]byte, error) {
	obj.GetObjectKind().SetGroupVersionKind(gvk)
	if u, ok := obj.(*unstructured.Unstructured); ok {
		return encodeCustom(u)
	}
	return json.Marshal(obj)
}

// encodeCustom serializes an object without a Go type: as upstream, with its
// fields in the order of the alphabet, except that metadata is never later
// than third, where the resourceVersion goes.
func encodeCustom(u *unstructured.Unstructured) ([]byte, error) {
	out := []byte{'{'}
	add := func(name string, value any) error {
		data, err := json.Marshal(value)
		if len(out) > 1 {
			out = append(out, ',')
		}
		quoted, _ := json.Marshal(name)
		out = append(append(out, quoted...), ':')
		out = append(out, data...)
		return err
	}
	metadata := u.Object["metadata"]
	if metadata == nil {
		metadata = map[string]any{}
	}
	err := errors.Join(add("apiVersion", u.GetAPIVersion()), add("kind", u.GetKind()), add("metadata", metadata))
	for _, name := range slices.Sorted(maps.Keys(u.Object)) {
		switch name {
		case "apiVersion", "kind", "metadata":
		default:
			err = errors.Join(err, add(name, u.Object[name]))
		}
	}
	return append(out, '}'), err
}

// EncodeProtobuf serializes an object in its envelope.
func EncodeProtobuf(obj runtime.Object, gvk schema.GroupVersionKind) ([]byte, error) {
	raw, err := marshalRaw(obj)
	if err != nil {
		return nil, err
	}
	return append(AppendEnvelope(nil, gvk, len(raw)), raw...), nil
}

func marshalRaw(obj any) ([]byte, error) {
	message, ok := obj.(protobufMessage)
	if !ok {
		return nil, fmt.Errorf("%T has no protobuf form", obj)
	}
	return message.Marshal()
}

// AppendEnvelope appends everything of a protobuf envelope that comes before
// the raw message, which must follow with exactly size bytes.
//
// Spec: runtime.Unknown{1: typeMeta{1: apiVersion, 2: kind}, 2: raw}
func AppendEnvelope(out []byte, gvk schema.GroupVersionKind, size int) []byte {
	version, kind := gvk.GroupVersion().String(), gvk.Kind
	meta := make([]byte, 0, len(version)+len(kind)+4)
	meta = AppendProtobufBytes(meta, 1, version)
	meta = AppendProtobufBytes(meta, 2, kind)
	out = append(out, protobufMagic...)
	out = AppendProtobufBytes(out, 1, string(meta))
	return AppendProtobufHeader(out, 2, size)
}

// AppendProtobufHeader appends the tag and length of a length-delimited field.
func AppendProtobufHeader(out []byte, field, size int) []byte {
	out = append(out, byte(field<<3|2))
	return binary.AppendUvarint(out, uint64(size))
}

// AppendProtobufBytes appends a whole length-delimited field.
func AppendProtobufBytes(out []byte, field int, value string) []byte {
	return append(AppendProtobufHeader(out, field, len(value)), value...)
}

// DecodeProtobuf decodes an enveloped object into obj and returns the kind the
// envelope names.
func DecodeProtobuf(data []byte, obj any) (schema.GroupVersionKind, error) {
	var unknown runtime.Unknown
	if !IsProtobuf(data) {
		return schema.GroupVersionKind{}, fmt.Errorf("provided data does not appear to be a protobuf message, expected prefix %v", protobufMagic)
	}
	if err := unknown.Unmarshal(data[len(protobufMagic):]); err != nil {
		return schema.GroupVersionKind{}, err
	}
	gvk := schema.FromAPIVersionAndKind(unknown.APIVersion, unknown.Kind)
	message, ok := obj.(protobufMessage)
	if !ok {
		return gvk, fmt.Errorf("%T has no protobuf form", obj)
	}
	return gvk, message.Unmarshal(unknown.Raw)
}

// decode turns a stored or shipped value into an object.
func decode(row *resources.Row, data []byte) (resources.Object, error) {
	obj := row.New()
	if IsProtobuf(data) {
		if _, err := DecodeProtobuf(data, obj); err != nil {
			return nil, err
		}
		obj.GetObjectKind().SetGroupVersionKind(row.GVK())
		return obj, nil
	}
	if u, ok := obj.(*unstructured.Unstructured); ok { // its own decoder would look for lists
		return obj, kjson.UnmarshalCaseSensitivePreserveInts(data, &u.Object)
	}
	return obj, kjson.UnmarshalCaseSensitivePreserveInts(data, obj)
}

// decodeStored is decode for what lies in etcd, where other versions may be.
func decodeStored(row *resources.Row, data []byte) (resources.Object, error) {
	if row.Read != nil && !IsProtobuf(data) {
		return row.Read(data)
	}
	return decode(row, data)
}
